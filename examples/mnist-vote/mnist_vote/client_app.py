"""A node: the model and the data that its configuration names."""

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.configured import configured_contract

app = make_client_app(configured_contract)
