"""The ClientApp of a node: Flower's messages in, the voter's answers out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from rtc_flower.clients.contract import Contract
from rtc_flower.clients.voter import Voter, read_server_key
from rtc_flower.errors import ContractError, DataError, FormatError
from rtc_flower.wire import RECORD, SAMPLES, AuditRequest, HelloRequest, VoteRequest

_LOG = logging.getLogger("flwr.rtc_flower")

__all__ = ["ContractFactory", "make_client_app", "state_directory"]

ContractFactory: TypeAlias = Callable[[Context], Contract | Mapping[str, Contract]]


def make_client_app(factory: ContractFactory) -> ClientApp:
    """Build a ClientApp that votes with its node's own contract.

    Parameters
    ----------
    factory : callable
        ``factory(context)`` returns the node's `Contract`, or a mapping of kinds of task to
        contracts. It is called for every task and not for a hello, so it may import what is
        heavy.

    Returns
    -------
    ClientApp
        Answers ``query.hello``, ``train`` (a vote) and ``evaluate`` (an audit). The node is
        configured by its node config: ``state-dir`` (see `state_directory`), ``name`` and
        ``server-key`` (hexadecimal; answer no other server).
    """
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        request = HelloRequest.read(_record(message, RECORD))
        return _reply(message, _voter(context).hello(request).record())

    @app.train()
    def vote(message: Message, context: Context) -> Message:
        request = VoteRequest.read(_record(message, RECORD))
        data = _record(message, SAMPLES).get("data")
        if not isinstance(data, bytes):
            raise FormatError("expected a record 'samples' with the bytes 'data'")
        contracts = _contracts(factory, context)
        reply = _voter(context).vote(request, data, contracts)
        return _reply(message, reply.record())

    @app.evaluate()
    def audit(message: Message, context: Context) -> Message:
        request = AuditRequest.read(_record(message, RECORD))
        return _reply(message, _voter(context).audit(request).record())

    return app


def _contracts(factory: ContractFactory, context: Context) -> Mapping[str, Contract]:
    """The node's contracts; a factory that fails becomes a signed decline, not a crash."""
    try:
        made = factory(context)
    except Exception as error:
        _LOG.exception("the node's contract could not be made")
        # Only our own words are sent: others may quote what is private.
        told = str(error) if isinstance(error, ContractError) else type(error).__name__
        return _Failed(f"the contract could not be made: {told}")
    return made if isinstance(made, Mapping) else _AnyKind(made)


class _Failed(dict[str, Contract]):
    """No contract for any kind of task, and why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __contains__(self, kind: object) -> bool:
        return True

    def __getitem__(self, kind: str) -> Contract:
        raise ContractError(self._why)


class _AnyKind(dict[str, Contract]):
    """One contract for every kind of task."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def __contains__(self, kind: object) -> bool:
        return True

    def __getitem__(self, kind: str) -> Contract:
        return self._contract


def _record(message: Message, name: str) -> dict[str, Any]:
    record = message.content.get(name)
    if not isinstance(record, ConfigRecord):
        raise FormatError(f"expected a message with the ConfigRecord {name!r}")
    return dict(record)


def _reply(message: Message, record: dict[str, Any]) -> Message:
    return Message(RecordDict({RECORD: ConfigRecord(record)}), reply_to=message)


def state_directory(context: Context) -> Path:
    """Where a node keeps its key and ballots.

    The node config's ``state-dir``; in simulation, where Flower configures no node, the run
    config's ``state-dir`` with ``nodes/<partition-id>`` added.

    Raises
    ------
    DataError
        If neither is set, or the path is not absolute.
    """
    own, shared = context.node_config.get("state-dir"), context.run_config.get("state-dir")
    if not own and not shared:
        raise DataError(
            "no state-dir: start the SuperNode with --node-config 'state-dir=\"/absolute/path\"' "
            "(in simulation: flwr run ... --run-config 'state-dir=\"/absolute/path\"')"
        )
    path = Path(str(own)) if own else Path(str(shared), "nodes", _partition(context))
    if not path.is_absolute():
        raise DataError(f"state-dir must be an absolute path, got {str(path)!r}")
    return path


def _partition(context: Context) -> str:
    return str(context.node_config.get("partition-id", context.node_id))


def _voter(context: Context) -> Voter:
    name = context.node_config.get("name") or f"node-{_partition(context)}"
    server_key = context.node_config.get("server-key")
    return Voter(
        state_directory(context),
        name=str(name)[:40],
        server_key=read_server_key(str(server_key)) if server_key else None,
    )
