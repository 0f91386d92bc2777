"""Pure replay of the log: forks, decisions and closings are a function of its entries.

`Replay` is fed one leaf after another. It repeats every decision, refuses an entry that the
rules forbid, and knows no file, clock, socket or signature. The rules are numbered R1 to R15 in
``docs/spec.md``; each check here carries its number.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtc_flower.ballot import Ballot
from rtc_flower.entries import (
    Absent,
    Close,
    CloseReason,
    Enrolment,
    Entry,
    Evidence,
    Genesis,
    Invite,
    Refusal,
    Refused,
    ServerKey,
    Task,
    Unknown,
    decode_leaf,
)
from rtc_flower.errors import (
    BallotError,
    FormatError,
    KeyFormatError,
    ReplayError,
    UnsupportedError,
)
from rtc_flower.keys import check_public_key
from rtc_flower.merkle import Tree, leaf_hash
from rtc_flower.roster import Roster
from rtc_flower.tally import Counted, Tally
from rtc_flower.tasks import check_task

__all__ = ["MAX_REFUSALS", "Applied", "Replay", "rule_of"]

MAX_REFUSALS = 4
_RULES = {
    Refusal.CONTEXT: "R6",
    Refusal.DUPLICATE: "R7",
    Refusal.FORMAT: "R8",
    Refusal.CLASS: "R8",
    Refusal.NOT_ASKED: "R8",
    Refusal.SEEN: "R9",
}


def rule_of(error: ReplayError | BallotError) -> str:
    """Number of the rule of replay that ``error`` reports."""
    return error.rule if isinstance(error, ReplayError) else _RULES[Refusal(error.reason)]


@dataclass(frozen=True, slots=True)
class Applied:
    """What one entry did.

    Attributes
    ----------
    index : int
        Its position in the log.
    leaf_hash : bytes
    entry : Entry
    counted : tuple of Counted
        Ballots that it caused to be counted, in counting order.
    due : Close or None
        The CLOSE that must be the next entry.
    """

    index: int
    leaf_hash: bytes
    entry: Entry
    counted: tuple[Counted, ...]
    due: Close | None


class Replay:
    """State of a ledger after a prefix of its log.

    Attributes
    ----------
    genesis : Genesis or None
    ledger_id : bytes
        Leaf hash of GENESIS.
    roster : Roster
    tally : Tally or None
        The last task posted, open or closed.
    tree : Tree
        Merkle tree over the entries.
    roots : list of bytes
        Root of every prefix; ``roots[size]``.
    last_close : bytes
        Leaf hash of the last CLOSE, or the ledger id.
    next_row : int
        First block row of the next task.
    server_keys : list of (int, bytes)
        Keys that signed checkpoints, each with the smallest size that it signs.
    """

    def __init__(self) -> None:
        self.genesis: Genesis | None = None
        self.ledger_id = b""
        self.roster = Roster()
        self.tally: Tally | None = None
        self.tree = Tree()
        self.roots = [self.tree.root()]
        self.last_close = b""
        self.next_row = 1
        self.server_keys: list[tuple[int, bytes]] = []
        self._task_ids: set[bytes] = set()
        self._accused: set[tuple[bytes, bytes]] = set()
        self._due: Close | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.tree.size

    @property
    def leaves(self) -> list[bytes]:
        """Leaf hash of every entry."""
        return self.tree.leaves

    @property
    def server_key(self) -> bytes:
        """The key that signs checkpoints now."""
        return self.server_keys[-1][1]

    def key_at(self, size: int) -> bytes:
        """The key that signs the checkpoint of ``size`` entries."""
        keys = (key for start, key in reversed(self.server_keys) if start <= size)
        return next(keys, self.server_keys[0][1])

    @property
    def roster_key(self) -> bytes:
        """The key that signs rosters: the admin's under roster enrolment, else the server's."""
        genesis = self.genesis
        if genesis is not None and genesis.enrolment is Enrolment.ROSTER:
            return genesis.admin_key
        return self.server_key

    @property
    def open_task(self) -> Tally | None:
        """The task that is open, if any."""
        return self.tally if self.tally and not self.tally.closed else None

    @property
    def due(self) -> Close | None:
        """The CLOSE that must be the next entry."""
        return self._due

    def apply(self, leaf: bytes) -> Applied:
        """Check ``leaf`` against the rules, then let it take effect.

        Raises
        ------
        FormatError
            If it does not decode (R0).
        ReplayError, BallotError
            If a rule forbids it; the state is as before.
        UnsupportedError
            If it is of a newer version.
        """
        entry, _ = decode_leaf(leaf)
        hashed = leaf_hash(leaf)
        if (self.size == 0) != isinstance(entry, Genesis):
            raise ReplayError("R1", "expected GENESIS as the first entry and nowhere else")
        if self._due is not None and entry != self._due:
            raise ReplayError("R12", f"expected {self._due}, which was due, got {entry}")
        counted = self._dispatch(entry, hashed)
        self._log(hashed)
        self._due = self.open_task.due() if self.open_task else None
        return Applied(self.size - 1, hashed, entry, counted, self._due)

    def skip(self, leaf: bytes) -> None:
        """Hash ``leaf`` into the tree and let it have no effect: for entries of a newer version."""
        self._log(leaf_hash(leaf))

    def _log(self, hashed: bytes) -> None:
        self.tree.append(hashed)
        self.roots.append(self.tree.root())

    def _dispatch(self, entry: Entry, hashed: bytes) -> tuple[Counted, ...]:
        match entry:
            case Genesis():
                self._genesis(entry, hashed)
            case Roster():
                self._roster(entry)
            case Task():
                self._task(entry, hashed)
            case Invite():
                self._invite(entry)
            case Ballot():
                return self._ballot(entry)
            case Absent():
                return self._absent(entry)
            case Refused():
                self._refused(entry)
            case Close():
                self._close(entry, hashed)
            case Evidence():
                self._evidence(entry)
            case ServerKey():
                self._server_key(entry)
            case Unknown():
                raise UnsupportedError(f"entry {self.size} is of the unknown type {entry.number}")
        return ()

    def _genesis(self, entry: Genesis, hashed: bytes) -> None:
        try:
            for key in (entry.server_key, *((entry.admin_key,) if any(entry.admin_key) else ())):
                check_public_key(key)
        except KeyFormatError as error:
            raise ReplayError("R1", str(error)) from error
        by_admin = entry.enrolment is Enrolment.ROSTER
        if by_admin == (entry.admin_key == bytes(32)) or entry.admin_key == entry.server_key:
            raise ReplayError("R1", "expected an admin key, not the server's, under roster only")
        self.genesis, self.ledger_id, self.last_close = entry, hashed, hashed
        self.server_keys.append((1, entry.server_key))

    def _roster(self, entry: Roster) -> None:
        try:
            entry.check_follows(self.roster)
        except (FormatError, KeyFormatError) as error:
            raise ReplayError("R2", str(error)) from error
        self.roster = entry

    def _task(self, entry: Task, hashed: bytes) -> None:
        if self.open_task:
            raise ReplayError("R3", "expected no TASK while another is open")
        check_task(entry, roster=self.roster, last_close=self.last_close)
        self.tally = Tally(
            entry, task_id=hashed, index=self.size, roster=self.roster, first_row=self.next_row
        )
        self.next_row += len(self.tally.ranks) * entry.n
        self._task_ids.add(hashed)

    def _named(self, rule: str, task_id: bytes) -> Tally:
        """The open task, which ``task_id`` must name."""
        tally = self.open_task
        if tally is None or task_id != tally.task_id:
            raise ReplayError(rule, f"expected the open task, got {task_id.hex()[:16]}...")
        return tally

    def _invite(self, entry: Invite) -> None:
        tally = self._named("R5", entry.task_id)
        left = len(tally.ranks) - tally.invited
        if not 1 <= entry.more <= left:
            raise ReplayError("R5", f"expected 1 to {left} more ranks, got {entry.more}")
        tally.invite(entry.more)

    def check_ballot(self, ballot: Ballot) -> Tally:
        """Refuse a ballot that may not be the next entry (R6 to R9); its signature aside.

        Raises
        ------
        BallotError
            With the reason for REFUSED.
        """
        tally, header = self.tally, ballot.header
        if tally is None or header.ledger_id != self.ledger_id or header.task_id != tally.task_id:
            raise BallotError(
                Refusal.CONTEXT,
                f"expected a ballot for this ledger's current task, got one for ledger "
                f"{header.ledger_id.hex()[:16]}..., task {header.task_id.hex()[:16]}...",
            )
        tally.check_ballot(ballot)
        if not tally.index < header.seen_size <= self.size:
            raise BallotError(
                Refusal.SEEN,
                f"expected a seen size in ({tally.index}, {self.size}], got {header.seen_size}",
            )
        if header.seen_root != self.roots[header.seen_size]:
            raise BallotError(
                Refusal.SEEN,
                f"expected this log's root at size {header.seen_size}, got another: "
                "the node has seen a different history",
            )
        return tally

    def _ballot(self, entry: Ballot) -> tuple[Counted, ...]:
        return self.check_ballot(entry).take_ballot(entry, index=self.size)

    def _absent(self, entry: Absent) -> tuple[Counted, ...]:
        tally = self._named("R10", entry.task_id)
        if not tally.is_invited(entry.voter) or tally.is_settled(entry.voter):
            raise ReplayError(
                "R10", f"expected an invited, unsettled voter, got {entry.voter.hex()[:16]}..."
            )
        return tally.take_absence(entry)

    def _refused(self, entry: Refused) -> None:
        tally = self._named("R11", entry.task_id)
        if not tally.is_invited(entry.voter):
            raise ReplayError("R11", f"expected an invited voter, got {entry.voter.hex()[:16]}...")
        if entry.size >= 2**63:
            raise ReplayError("R11", f"expected a size below 2**63, got {entry.size}")
        if tally.refusals[entry.voter] >= MAX_REFUSALS:
            raise ReplayError("R11", f"expected at most {MAX_REFUSALS} refusals of a voter")
        tally.refusals[entry.voter] += 1

    def _close(self, entry: Close, hashed: bytes) -> None:
        tally = self._named("R13", entry.task_id)
        if self._due is None and (
            entry.reason is not CloseReason.ABORTED or entry != tally.close(CloseReason.ABORTED)
        ):
            raise ReplayError("R13", f"expected no CLOSE yet but an abort, got {entry}")
        tally.closed = entry
        self.last_close = hashed

    def _evidence(self, entry: Evidence) -> None:
        """Evidence never changes a count: the ballot that was stored first stays."""
        first, second = entry.first, entry.second
        context = (first.ledger_id, first.task_id, first.voter)
        if context != (second.ledger_id, second.task_id, second.voter):
            raise ReplayError("R14", "expected two headers of one voter for one task")
        if first.ledger_id != self.ledger_id or first.task_id not in self._task_ids:
            raise ReplayError("R14", "expected headers for a task of this ledger")
        if first.voter not in {member.key for member in self.roster.members}:
            raise ReplayError("R14", "expected headers of an enrolled voter")
        if first.ballot_id == second.ballot_id:
            raise ReplayError("R14", "expected two different ballots")
        if (first.task_id, first.voter) in self._accused:
            raise ReplayError("R14", "expected one EVIDENCE for a voter and task")
        self._accused.add((first.task_id, first.voter))

    def is_accused(self, task_id: bytes, voter: bytes) -> bool:
        """Whether there is EVIDENCE against ``voter`` in that task."""
        return (task_id, voter) in self._accused

    def _server_key(self, entry: ServerKey) -> None:
        try:
            check_public_key(entry.key)
        except KeyFormatError as error:
            raise ReplayError("R15", str(error)) from error
        used = {key for _, key in self.server_keys} | {self.roster_key}
        if entry.key in used:
            raise ReplayError("R15", "expected a new server key, got one that was used before")
        self.server_keys.append((self.size + 1, entry.key))
