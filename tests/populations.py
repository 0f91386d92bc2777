"""Simulated populations: what they decide, and what is on disk afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from ledgers import log_of

from rtc_flower.ballot import Ballot
from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.contract import Contract
from rtc_flower.consensus import Replay
from rtc_flower.entries import Entry, Refusal, Refused, decode_leaf
from rtc_flower.keys import SigningKey
from rtc_flower.simulator import SimulatedNode, asked_to_vote, labelled_task, simulate
from rtc_flower.strategies.events import Event
from rtc_flower.strategies.proof_of_prediction import VoteResult, VoteTask
from rtc_flower.tally import invitation_order
from rtc_flower.verify import verify
from rtc_flower.wire import RECORD, SAMPLES, VoteRequest

Array = npt.NDArray[Any]


def labels(n: int = 60, k: int = 5, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, k, n)


def task(n: int = 60, k: int = 5, **options: Any) -> VoteTask:
    return labelled_task(labels(n, k), k, **options)


class Predicts:
    """An estimator of one function, which needs no training and keeps nothing."""

    def __init__(self, predict: Callable[[Any], Any]) -> None:
        self.predict = predict

    def fit(self, X: Any, y: Any) -> None:
        return None

    def dumps(self) -> bytes:
        return b""

    def loads(self, payload: bytes) -> None:
        return None


def contract(predict: Callable[[Any], Any], **fields: Any) -> Contract:
    return Contract(Predicts(predict), lambda: (np.zeros((1, 3)), np.zeros(1, int)), **fields)


def node_of(made: Contract | Mapping[str, Contract], **faults: Any) -> SimulatedNode:
    def factory(context: Context) -> Contract | Mapping[str, Contract]:
        return made

    return SimulatedNode(make_client_app(factory), when=asked_to_vote, **faults)


def truthful(**faults: Any) -> SimulatedNode:
    return node_of(contract(lambda X: X[:, 0]), **faults)


def entries(path: Path) -> list[Entry]:
    return [decode_leaf(leaf)[0] for leaf in log_of(path)]


def of_kind(path: Path, kind: type[Any]) -> list[Any]:
    return [entry for entry in entries(path) if isinstance(entry, kind)]


def replayed(path: Path) -> Replay:
    replay = Replay()
    for leaf in log_of(path):
        replay.apply(leaf)
    return replay


def node_names(path: Path) -> dict[bytes, str]:
    return {member.key: member.name for member in replayed(path).roster.members}


def refused(path: Path) -> list[tuple[str, Refusal]]:
    """Every REFUSED: in whose name, and why."""
    names = node_names(path)
    return [(names[entry.voter], Refusal(entry.reason)) for entry in of_kind(path, Refused)]


def ballots(path: Path) -> dict[str, Ballot]:
    """Ballots of a ledger with one task, by node."""
    names = node_names(path)
    return {names[ballot.header.voter]: ballot for ballot in of_kind(path, Ballot)}


def key_of(state_dir: Path, position: int) -> SigningKey:
    return SigningKey.load(state_dir / "nodes" / str(position) / "node.key")


def assert_verified(result: VoteResult) -> None:
    report = verify(result.ledger, held=result.checkpoint)
    assert report.summary == "ok", report.summary
    assert report.exit_code == 0


def run(
    tasks: Sequence[VoteTask], nodes: Sequence[SimulatedNode], state_dir: Path, **options: Any
) -> VoteResult:
    """Simulate, and verify the file that is left."""
    result = simulate(tasks, nodes, state_dir=state_dir, **options)
    assert_verified(result)
    return result


class KilledError(Exception):
    """The server's process dies here."""


def killed(
    tasks: Sequence[VoteTask],
    nodes: Sequence[SimulatedNode],
    state_dir: Path,
    *,
    after: str,
    count: int = 1,
    **options: Any,
) -> None:
    """Simulate until the ``count``-th event called ``after``, and die there."""
    seen: Iterator[int] = iter(range(1, 10**9))

    def die(event: Event) -> None:
        if event.what == after and next(seen) == count:
            raise KilledError

    try:
        simulate(tasks, nodes, state_dir=state_dir, on_event=die, **options)
    except KilledError:
        return
    raise AssertionError(f"fewer than {count} events {after!r}")


def ranks(state_dir: Path) -> list[int]:
    """Positions of the nodes in the invitation order of the task that is open."""
    tally = replayed(state_dir / "ledger.db").open_task
    assert tally is not None
    position = {
        key: int(name.rsplit("-", 1)[1])
        for key, name in node_names(state_dir / "ledger.db").items()
    }
    assert tally.ranks == invitation_order(tally.task_id, list(position))
    return [position[key] for key in tally.ranks]


def copied(source: Path, target: Path) -> Path:
    """Copy a server's and its nodes' state."""
    shutil.copytree(source, target)
    return target


def population_files(state_dir: Path, pattern: str) -> dict[str, bytes]:
    """Contents of the nodes' files, by path."""
    found = (state_dir / "nodes").rglob(pattern)
    return {str(path.relative_to(state_dir)): path.read_bytes() for path in found}


class Mailbox:
    """Records what a node is asked, in the place of its ``when``; the node stays silent."""

    def __init__(self) -> None:
        self.requests: list[tuple[VoteRequest, bytes]] = []

    def __call__(self, message: Message) -> bool:
        if not asked_to_vote(message):
            return False
        records = message.content.config_records
        data = records[SAMPLES]["data"]
        assert isinstance(data, bytes)
        self.requests.append((VoteRequest.read(dict(records[RECORD])), data))
        return True


def requested(
    tasks: Sequence[VoteTask], state_dir: Path, **options: Any
) -> tuple[VoteRequest, bytes]:
    """What the node at position 0 of two is asked first; it does not answer."""
    mailbox = Mailbox()
    app = truthful().app
    nodes = [SimulatedNode(app, silent=True, when=mailbox), truthful()]
    run(tasks, nodes, state_dir, **options)
    return mailbox.requests[0]
