"""Simulated nodes that break the rules of ballots: malformed, equivocating, copying.

They work on the ballot that an honest voter signed, with its key; see `rtc_flower.voters`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, RecordDict

from rtc_flower.ballot import Ballot, sign
from rtc_flower.clients.app import make_client_app, state_directory
from rtc_flower.encoding import TAG_HEADER, Reader
from rtc_flower.entries import Task
from rtc_flower.errors import FormatError
from rtc_flower.keys import SigningKey, load_or_create_key
from rtc_flower.memory_node import SimulatedNode
from rtc_flower.voters import asked_to_vote, honest, repeating
from rtc_flower.wire import RECORD, BallotReply, VoteRequest, read_leaf

__all__ = ["MALFORMATIONS", "Spy", "copying", "equivocating", "malformed"]

NODE_KEY = "node.key"


def _resigned(ballot: Ballot, key: SigningKey, votes: bytes = b"", **changed: Any) -> bytes:
    """Sign a ballot again with some fields changed."""
    header = ballot.header
    fields: dict[str, Any] = {
        "ledger_id": header.ledger_id,
        "task_id": header.task_id,
        "n": header.n,
        "seen": (header.seen_size, header.seen_root),
    }
    return sign(key, votes or ballot.votes, meta=ballot.meta, **(fields | changed)).encode()


def _recoded(ballot: Ballot, key: SigningKey, task: Task, code: int) -> bytes:
    """Put ``code`` in the place of the first vote, and sign."""
    codes = task.codec.decode(ballot.votes, task.n)
    codes[0] = code
    return _resigned(ballot, key, task.codec.encode(codes))


def _flipped(ballot: Ballot) -> bytes:
    content = bytearray(ballot.encode())
    content[len(ballot.header.encode()) + 10] ^= 1
    return bytes(content)


MALFORMATIONS: dict[str, Callable[[Ballot, SigningKey, Task], bytes]] = {
    "size": lambda ballot, key, task: ballot.encode() + bytes(4096),
    "rubbish": lambda ballot, key, task: bytes(len(ballot.encode())),
    "short": lambda ballot, key, task: _resigned(ballot, key, ballot.votes[:-1], n=task.n - 1),
    "signature": lambda ballot, key, task: _flipped(ballot),
    "ledger": lambda ballot, key, task: _resigned(ballot, key, ledger_id=bytes(32)),
    "task": lambda ballot, key, task: _resigned(ballot, key, task_id=bytes(32)),
    "voter": lambda ballot, key, task: _resigned(ballot, SigningKey.generate()),
    "class": lambda ballot, key, task: _recoded(ballot, key, task, task.k),
    "not-asked": lambda ballot, key, task: _recoded(ballot, key, task, task.codec.not_asked),
    "seen-small": lambda ballot, key, task: _resigned(ballot, key, seen=(1, bytes(32))),
    "seen-large": lambda ballot, key, task: _resigned(ballot, key, seen=(2**40, bytes(32))),
    "seen-root": lambda ballot, key, task: _resigned(
        ballot, key, seen=(ballot.header.seen_size, bytes(32))
    ),
}
"""What `malformed` does to a ballot: each is properly signed, unless that is its fault."""


def malformed(how: str, *, accuracy: float = 0.9, seed: int = 0) -> SimulatedNode:
    """Spoil every ballot in one way of `MALFORMATIONS`."""
    if how not in MALFORMATIONS:
        raise ValueError(f"how is {how!r}, expected one of {', '.join(MALFORMATIONS)}")
    node = honest(accuracy, seed=seed)
    return replace(
        node,
        app=_Resigning(node.app, MALFORMATIONS[how]),
        node_config={"name": f"malformed-{how}"},
    )


def equivocating(
    accuracy: float = 0.9, *, seed: int = 0, victim: int | None = None
) -> SimulatedNode:
    """Sign two different ballots for one task, and another each time it is asked again.

    Both are sent in reply to the one message, which Flower does not deliver twice.

    Parameters
    ----------
    victim : int, optional
        Position of a node in whose name the second is sent instead, so that it reaches the
        strategy.
    """
    node = honest(accuracy, seed=seed)
    app = _Resigning(node.app, _Shifting())
    return replace(
        node, app=app, second=app.again, forge=victim, node_config={"name": "equivocating"}
    )


class _Shifting:
    """The honest votes at the first call, then those with every class moved up by 1, 2, ..."""

    def __init__(self) -> None:
        self._calls = -1

    def __call__(self, ballot: Ballot, key: SigningKey, task: Task) -> bytes:
        self._calls += 1
        codes = task.codec.decode(ballot.votes, task.n)
        moved = np.where(codes < task.k, (codes + self._calls) % task.k, codes)
        return _resigned(ballot, key, task.codec.encode(moved))


class _Resigning:
    """An app whose ballots are changed after its voter has signed them."""

    def __init__(
        self,
        app: Callable[[Message, Context], Message],
        change: Callable[[Ballot, SigningKey, Task], bytes],
    ) -> None:
        self._app, self._change = app, change
        self._signed: Message | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        self._signed = self._app(message, context)
        return self.again(message, context)

    def again(self, message: Message, context: Context) -> Message:
        """Change what the voter signed last once more; a node's voter answers a message once."""
        if self._signed is None:
            raise RuntimeError("again before the first reply")
        reply = self._signed
        record = reply.content.get(RECORD) if reply.has_content() else None
        if not isinstance(record, ConfigRecord) or set(record) != {"ballot"}:
            return reply
        ballot = Ballot.read(Reader(BallotReply.read(dict(record)).ballot))
        key = load_or_create_key(state_directory(context) / NODE_KEY)
        task, _ = read_leaf(VoteRequest.read(message.content.config_records[RECORD]).task, Task)
        changed = BallotReply(self._change(ballot, key, task)).record()
        return Message(RecordDict({RECORD: ConfigRecord(changed)}), reply_to=message)


# -- copying ---------------------------------------------------------------------------------


class Spy:
    """Everything that a copying node was sent, and the ballots it found there.

    Attributes
    ----------
    seen : list of bytes
        Every byte string and text of every message, in order.
    ballots : list of Ballot
        Ballots of others that were among them.
    """

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.ballots: list[Ballot] = []

    def look(self, message: Message) -> None:
        """Search a message."""
        for record in message.content.config_records.values():
            for value in record.values():
                if isinstance(value, (bytes, str)):
                    self._search(value if isinstance(value, bytes) else value.encode())

    def _search(self, content: bytes) -> None:
        self.seen.append(content)
        start = content.find(TAG_HEADER)
        while start >= 0:
            with contextlib.suppress(FormatError):
                self.ballots.append(Ballot.read(Reader(content[start:])))
            start = content.find(TAG_HEADER, start + 1)

    def plurality(self, task: Task, task_id: bytes) -> npt.NDArray[Any] | None:
        """Class (n,) with the most votes among the ballots found; None where there is none."""
        found = [ballot for ballot in self.ballots if ballot.header.task_id == task_id]
        if not found:
            return None
        codes = np.stack([task.codec.decode(ballot.votes, task.n) for ballot in found])
        counts = np.stack([(codes == c).sum(axis=0) for c in range(task.k)])
        return np.asarray(counts.argmax(axis=0))


def copying(spy: Spy, *, delay: float = 0.0, seed: int = 0) -> SimulatedNode:
    """Vote for what most others voted, as far as a node can know; guess otherwise.

    Votes are sealed until CLOSE, so this node is as good as a lazy one. The ballots that it is
    to find without that protection can be given to ``spy`` beforehand.

    Parameters
    ----------
    spy : Spy
        Searches every message that the node is sent.
    delay : float
        Seconds that it holds its vote back.
    """

    def app(message: Message, context: Context) -> Message:
        spy.look(message)
        found = None
        if asked_to_vote(message):
            found = spy.plurality(
                *read_leaf(VoteRequest.read(message.content.config_records[RECORD]).task, Task)
            )
        return make_client_app(lambda _: repeating(found, seed=seed))(message, context)

    return SimulatedNode(app, node_config={"name": "copying"}, when=asked_to_vote, delay=delay)
