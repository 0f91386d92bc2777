"""A node with a contract for each kind of task that it serves."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flwr.app import Context

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.configured import configured_contract
from rtc_flower.clients.contract import Contract


def contracts(context: Context) -> Mapping[str, Contract]:
    """One model, trained for each kind on the node's own digits; a kind not held is declined."""
    digit = configured_contract(context)

    def evenness() -> tuple[Any, Any]:
        X, y = digit.load()
        return X, y % 2

    held = {"digit": digit, "parity": replace(digit, load=evenness)}
    served = str(context.node_config.get("kinds", "digit,parity")).split(",")
    return {kind: contract for kind, contract in held.items() if kind in served}


app = make_client_app(contracts)
