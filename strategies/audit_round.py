"""After a task has closed: nodes check the log, keep receipts, and cosign the checkpoint."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from rtc_flower.entries import decode_leaf
from rtc_flower.errors import FormatError, RtcFlowerError
from rtc_flower.ledger import Ledger
from rtc_flower.strategies.collector import Collector, Reply, ReplyKind
from rtc_flower.strategies.directory import Directory, NodeInfo, check_replica_size
from rtc_flower.strategies.events import told
from rtc_flower.wire import (
    RECORD,
    AuditReply,
    AuditRequest,
    SentReceipt,
    join_leaves,
)

__all__ = ["AuditRound", "Audited"]

_LOG = logging.getLogger("flwr.rtc_flower")
_ATTEMPTS = 3
_NO_ANSWER = ("deadline", "error")


@dataclass(frozen=True, slots=True)
class Audited:
    """What one node found.

    Attributes
    ----------
    node : str
    verdict : str
        ``ok``, the number of what failed, ``error`` or ``deadline``.
    detail : str
    cosigned : bool
    """

    node: str
    verdict: str
    detail: str = ""
    cosigned: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    key: bytes
    size: int
    proving: frozenset[bytes]  # tasks whose receipts were sent


class AuditRound:
    """Sends the audit of the last task to every voter that owes nothing, and collects verdicts.

    Parameters
    ----------
    ledger, directory, collector
    full : bool
        Whether nodes get the new entries and repeat every decision.
    seconds : float
        How long verdicts are waited for.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        directory: Directory,
        collector: Collector,
        *,
        full: bool,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._ledger, self._directory, self._collector = ledger, directory, collector
        self._full, self._clock = full, clock
        self._seconds, self._until = seconds, clock() + seconds
        self._attempts: dict[bytes, int] = {}
        self._asked: dict[str, _Asked] = {}
        self._packed: dict[tuple[int, int], bytes] = {}
        self.found: dict[bytes, Audited] = {}
        self.ask()
        kind = "full" if full else "light"
        _LOG.info("audit (%s): %d nodes asked, up to %g s", kind, len(self._asked), seconds)

    @property
    def done(self) -> bool:
        """Whether nothing is waited for any more."""
        return not self._asked or self._clock() >= self._until

    def ask(self) -> None:
        """Ask every node that owes nothing, also one whose ballot has just come late, once."""
        tally = self._ledger.tally
        owing = set(tally.ranks[: tally.invited]) - set(tally.ballots)
        members = {member.key for member in self._ledger.replay.roster.members}
        for key, node in self._directory.online().items():
            # Who has just come for the first time is enrolled with the next task.
            if key in members - owing and key not in self._attempts:
                self._ask(node)

    def unheard(self) -> set[bytes]:
        """Voters of whom it is not certain what they have seen: no answer, or something is bad."""
        return {key for key, audited in self.found.items() if audited.verdict != "ok"}

    def close(self) -> None:
        """Give up on nodes that have not answered."""
        for message_id, asked in self._asked.items():
            self._collector.forget(message_id)
            self.found[asked.key] = Audited(self._name(asked.key), "deadline")
        self._asked.clear()
        silent = [f"{a.node} ({a.verdict})" for a in self.found.values() if a.verdict in _NO_ANSWER]
        if silent:
            _LOG.warning("audit: no verdict from %s", ", ".join(sorted(silent)))

    def _ask(self, node: NodeInfo) -> None:
        self._attempts[node.key] = self._attempts.get(node.key, 0) + 1
        # The last task's in any case: nobody must be shown a ballot that it did not sign.
        proving = node.unproved | {self._ledger.tally.task_id}
        content = RecordDict({RECORD: ConfigRecord(self._request(node, proving).record())})
        message = Message(content, node.node_id, MessageType.EVALUATE, ttl=self._seconds + 5)
        (message_id,) = self._collector.send([message])
        if message_id:
            self._asked[message_id] = _Asked(node.key, self._ledger.replay.size, proving)
        else:
            self.found[node.key] = Audited(node.name, "error", "unreachable")

    def _request(self, node: NodeInfo, proving: frozenset[bytes]) -> AuditRequest:
        ledger = self._ledger
        return AuditRequest(
            genesis=ledger.leaf(0),
            rotations=join_leaves(ledger.rotations()),
            checkpoint=ledger.checkpoint,
            seen_size=node.seen_size,
            consistency=b"".join(ledger.replay.tree.consistency_proof(node.seen_size)),
            receipts=self._receipts(node.key, proving),
            full=self._full,
            replica_size=node.replica_size,
            entries=self._entries(node.replica_size) if self._full else b"",
        )

    def _entries(self, start: int) -> bytes:
        """Return the compressed log from an entry on: much smaller, since ballots agree."""
        missing = start, self._ledger.replay.size
        if missing not in self._packed:  # most nodes lack the same: compressed once for all
            self._packed[missing] = zlib.compress(join_leaves(self._ledger.leaves(start)))
        return self._packed[missing]

    def _receipts(self, voter: bytes, tasks: frozenset[bytes]) -> bytes:
        """Receipts of a voter's ballots for ``tasks``: the one it just cast, those it misses."""
        sent = []
        for task_id, index in self._ledger.ballots_of(voter):
            if task_id not in tasks:
                continue
            _, time_ms = decode_leaf(self._ledger.leaf(index))
            proof = tuple(self._ledger.replay.tree.inclusion_proof(index))
            sent.append(SentReceipt(task_id, index, time_ms, proof).encode())
        return b"".join(sent)

    def take(self, reply: Reply) -> bool:
        """Take a reply if it answers this audit; return whether it did."""
        asked = self._asked.pop(reply.message_id, None)
        if asked is None:
            return False
        key = asked.key
        if reply.kind is not ReplyKind.CONTENT or reply.message is None:
            why = reply.message.error.reason if reply.message else "unreachable"
            self.found[key] = Audited(self._name(key), "error", told(why))
            return True
        try:
            record = reply.message.content.get(RECORD)
            if not isinstance(record, ConfigRecord):
                raise FormatError("expected an audit reply")
            self._answer(asked, AuditReply.read(dict(record)))
        except RtcFlowerError as error:
            self.found[key] = Audited(self._name(key), "error", told(error))
        return True

    def _answer(self, asked: _Asked, answer: AuditReply) -> None:
        key, size = asked.key, asked.size
        check_replica_size(answer.replica_size, self._ledger)
        if answer.verdict == "behind" and key in self._directory.nodes:
            self._directory.saw(key, 0, replica=answer.replica_size)
            if self._attempts[key] < _ATTEMPTS:
                self._ask(self._directory.nodes[key])
                return
        if answer.verdict == "ok":
            replica = answer.replica_size if self._full else None
            self._directory.saw(key, size, replica=replica, proved=asked.proving)
        if answer.cosignature:
            self._ledger.cosign(size, answer.cosignature, voter=key)
        name, cosigned = self._name(key), bool(answer.cosignature)
        found = Audited(name, told(answer.verdict), told(answer.detail), cosigned)
        self.found[key] = found
        if found.verdict != "ok":
            _LOG.error("%s reports %s: %s", name, found.verdict, found.detail)
        elif found.detail:
            _LOG.warning("%s reports: %s", name, found.detail)

    def _name(self, key: bytes) -> str:
        members = self._ledger.replay.roster.members
        return next((m.name for m in members if m.key == key), key.hex()[:8])
