"""A hospital: the model and the table that its node configuration names, and no code here."""

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.configured import configured_contract

app = make_client_app(configured_contract)
