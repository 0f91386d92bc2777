"""Who is there: Flower's node ids, and the voters' keys behind them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from os import urandom

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.entries import Enrolment
from rtc_flower.errors import (
    FormatError,
    KeyFormatError,
    LedgerError,
    RtcFlowerError,
    SignatureError,
)
from rtc_flower.files import check_seen
from rtc_flower.keys import check_public_key
from rtc_flower.ledger import Ledger
from rtc_flower.roster import MemberState
from rtc_flower.strategies.collector import Collector, Reply, ReplyKind
from rtc_flower.strategies.events import told
from rtc_flower.wire import RECORD, HelloReply, HelloRequest, join_leaves, split_hashes

__all__ = ["Directory", "NodeInfo", "check_replica_size"]

_LOG = logging.getLogger("flwr.rtc_flower")
_HELLO = f"{MessageType.QUERY}.hello"
_REVOKED = "the key {} was revoked; the node needs a new one"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node that answered the hello.

    Attributes
    ----------
    node_id : int
        Flower's id, which changes with every start of the node.
    key : bytes
        Its Ed25519 public key, which does not.
    name : str
    seen_size : int
        Size of the checkpoint that it holds.
    replica_size : int
        Entries of its replica of the log.
    unproved : frozenset of bytes
        Task ids of its ballots in the log that it may have no receipt for.
    """

    node_id: int
    key: bytes
    name: str
    seen_size: int
    replica_size: int
    unproved: frozenset[bytes]


class Directory:
    """Greets every node that Flower shows, and keeps who answered.

    Parameters
    ----------
    grid, collector, ledger
    attempts : int
        Hellos sent to a node that answers with an error.
    clock : callable
        Monotonic seconds.
    seconds : float
        How long a hello is waited for.
    """

    def __init__(
        self,
        grid: Grid,
        collector: Collector,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        attempts: int = 3,
        seconds: float = 180.0,
    ) -> None:
        self._grid, self._collector, self._ledger = grid, collector, ledger
        self._clock, self._attempts, self._seconds = clock, attempts, seconds
        self._greeted: dict[int, int] = {}  # Flower id: hellos sent
        self._challenges: dict[str, tuple[int, bytes, float]] = {}
        self._online: set[int] = set()
        self.nodes: dict[bytes, NodeInfo] = {}
        self.refused: dict[int, str] = {}
        self._rivals: dict[int, bytes] = {}  # refused because another node has their key

    def refresh(self) -> None:
        """Look who is online and greet who is new."""
        try:
            self._online = {int(node_id) for node_id in self._grid.get_node_ids()}
        except Exception as error:  # the next look may succeed; a vote must not end with this one
            _LOG.warning("who is online could not be asked: %s: %s", type(error).__name__, error)
            return
        self._forget_late()
        self._free_rivals()
        waiting = {node_id for node_id, _, _ in self._challenges.values()}
        known = {node.node_id for node in self.nodes.values()}
        fresh = [
            node_id
            for node_id in sorted(self._online - waiting - known - set(self.refused))
            if self._greeted.get(node_id, 0) < self._attempts
        ]
        if fresh:
            self._greet(fresh)

    def _greet(self, node_ids: list[int]) -> None:
        messages, challenges = [], []
        for node_id in node_ids:
            self._greeted[node_id] = self._greeted.get(node_id, 0) + 1
            challenges.append(urandom(32))
            request = HelloRequest(
                self._ledger.leaf(0),
                join_leaves(self._ledger.rotations()),
                self._ledger.checkpoint,
                challenges[-1],
            )
            content = RecordDict({RECORD: ConfigRecord(request.record())})
            messages.append(Message(content, node_id, _HELLO, ttl=self._seconds))
        now = self._clock()
        for node_id, challenge, message_id in zip(
            node_ids, challenges, self._collector.send(messages), strict=True
        ):
            if message_id:
                self._challenges[message_id] = (node_id, challenge, now + self._seconds)

    def _forget_late(self) -> None:
        late = [mid for mid, (_, _, until) in self._challenges.items() if self._clock() > until]
        for message_id in late:
            self._collector.forget(message_id)
            node_id = self._challenges.pop(message_id)[0]
            self._greeted[node_id] -= 1  # it may be busy with an older message: greet it again
            _LOG.warning("node %d has not answered the hello; it is greeted again", node_id)

    def _free_rivals(self) -> None:
        """Greet a refused node again once the one with its key is gone: it may be its successor."""
        for node_id, key in list(self._rivals.items()):
            known = self.nodes.get(key)
            if known is None or known.node_id not in self._online:
                del self._rivals[node_id]
                self.refused.pop(node_id, None)
                self._greeted[node_id] = 0

    def take(self, reply: Reply) -> bool:
        """Take a reply if it answers a hello; return whether it did."""
        challenge = self._challenges.pop(reply.message_id, None)
        if challenge is None:
            return False
        node_id, nonce, _ = challenge
        if reply.kind is not ReplyKind.CONTENT or reply.message is None:
            why = reply.message.error.reason if reply.message else "unreachable"
            _LOG.warning("node %d answered the hello with an error: %s", node_id, told(why))
            return True
        try:
            self._admit(node_id, nonce, reply.message)
        except LedgerError:
            raise  # an old or forked ledger must not go on
        except RtcFlowerError as error:
            self._refuse(node_id, told(error))
        return True

    def _admit(self, node_id: int, nonce: bytes, message: Message) -> None:
        record = message.content.get(RECORD)
        if not isinstance(record, ConfigRecord):
            raise FormatError(f"expected a hello with the record {RECORD!r}")
        hello = HelloReply.read(dict(record))
        check_public_key(hello.key)
        replay = self._ledger.replay
        hello.check(ledger_id=replay.ledger_id, challenge=nonce)
        known = self.nodes.get(hello.key)
        if known is not None and known.node_id in self._online and known.node_id != node_id:
            self._rivals[node_id] = hello.key
            raise KeyFormatError(
                f"expected a key of its own, got that of {known.name!r}, which is online: "
                "two nodes share one state-dir, or one partition-id and have no state-dir"
            )
        members = {member.key: member.name for member in replay.roster.members}
        enrolment = replay.genesis.enrolment if replay.genesis else Enrolment.OPEN
        voting = replay.open_task.ranks if replay.open_task else []
        if hello.key in self._revoked() and hello.key not in voting:
            raise KeyFormatError(_REVOKED.format(hello.key.hex()))
        if enrolment is Enrolment.ROSTER and hello.key not in members:
            raise KeyFormatError(
                f"the key {hello.key.hex()} is not enrolled; ask the roster's admin"
            )
        known_name = members.get(hello.key)
        name = self._free_name(hello.name) if known_name is None else known_name
        seen_size = self._seen(hello.checkpoint, name)
        check_replica_size(hello.replica_size, self._ledger)
        # Also what came since it looked: if it does not keep those ballots, somebody has its key.
        bare = split_hashes(hello.unproved)
        stored = self._ledger.ballots_of(hello.key)
        unproved = frozenset(task for task, at in stored if at >= seen_size or task in bare)
        self.nodes[hello.key] = NodeInfo(
            node_id, hello.key, name, seen_size, hello.replica_size, unproved
        )
        _LOG.info("%s is here (key %s...)", name, hello.key.hex()[:8])

    def _seen(self, note: str, name: str) -> int:
        """Size of the checkpoint a node holds; stops everything if this ledger is behind it."""
        if not note:
            return 0
        replay = self._ledger.replay
        held = Checkpoint.parse(note)
        if held.ledger_id != replay.ledger_id:  # the server may have signed it, for another ledger
            raise FormatError("expected the checkpoint that it holds of this ledger, got another's")
        try:
            Checkpoint.verify(note, replay.key_at(held.size))
        except SignatureError as error:  # not ours, as far as this ledger tells: it is refused
            if held.size <= replay.size:
                raise
            raise SignatureError(
                f"it holds a checkpoint of {held.size} entries under a key that this ledger of "
                f"{replay.size} does not name. If the server's key was ever rotated, this may be "
                "an old copy: stop, and compare it with that node's checkpoint"
            ) from error
        check_seen(note, replay, source=f"node {name}")
        return held.size

    def _free_name(self, wanted: str) -> str:
        taken = {m.name for m in self._ledger.replay.roster.members}
        taken |= {node.name for node in self.nodes.values()}
        printable = "".join(c for c in wanted if c.isprintable())
        base = printable.encode()[:40].decode(errors="ignore") or "node"  # rosters count bytes
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        return name

    def _refuse(self, node_id: int, why: str) -> None:
        self.refused[node_id] = why
        _LOG.warning("node %d is refused: %s", node_id, why)

    def _revoked(self) -> set[bytes]:
        members = self._ledger.replay.roster.members
        return {member.key for member in members if member.state is MemberState.REVOKED}

    def part_with_revoked(self) -> None:
        """Refuse those from now on who were revoked while a task was open that they vote on."""
        for key in self._revoked() & set(self.nodes):
            self._refuse(self.nodes.pop(key).node_id, _REVOKED.format(key.hex()))

    def online(self) -> dict[bytes, NodeInfo]:
        """Voters by key whose node Flower shows."""
        return {key: node for key, node in self.nodes.items() if node.node_id in self._online}

    def enrol(self) -> None:
        """Under open enrolment: put the newcomers into the roster, all in one entry."""
        known = {member.key for member in self._ledger.replay.roster.members}
        newcomers = [(n.key, n.name) for n in self.online().values() if n.key not in known]
        if newcomers:
            self._ledger.enrol(newcomers)

    def drop(self, key: bytes) -> None:
        """Greet a voter anew before it is asked again: what it has seen is not certain."""
        node = self.nodes.pop(key, None)
        if node is not None:
            self._greeted[node.node_id] = 0

    def saw(
        self,
        key: bytes,
        size: int,
        *,
        replica: int | None = None,
        stored: Iterable[bytes] = (),
        proved: Iterable[bytes] = (),
    ) -> None:
        """Note that a voter has verified a checkpoint of ``size`` entries.

        Parameters
        ----------
        replica : int, optional
            Entries of its replica now.
        stored, proved : iterable of bytes
            Task ids of its ballots that were stored, and that it has a receipt for.
        """
        node = self.nodes.get(key)
        if node is not None:
            self.nodes[key] = replace(
                node,
                seen_size=max(size, node.seen_size),
                replica_size=node.replica_size if replica is None else replica,
                unproved=node.unproved.union(stored).difference(proved),
            )


def check_replica_size(size: int, ledger: Ledger) -> None:
    """Refuse what no node can have of this log, nor SQLite count; `FormatError`."""
    if not 0 <= size <= ledger.replay.size:
        raise FormatError(f"expected a replica of 0 to {ledger.replay.size} entries, got {size}")
