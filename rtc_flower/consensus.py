"""Pure replay of the log: forks, decisions and closings are a function of its entries.

`Replay` is fed one leaf after another. It repeats every decision, refuses an entry that the
rules forbid, and knows no file, clock, socket or signature. The rules are numbered R1 to R15 in
``docs/spec.md``; each check here carries its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatchmethod

import numpy as np
import numpy.typing as npt

from rtc_flower import entries, errors, merkle, tasks
from rtc_flower.ballot import Ballot
from rtc_flower.entries import Entry, Refusal
from rtc_flower.keys import check_public_key
from rtc_flower.roster import Roster
from rtc_flower.tally import Counted, Tally

MAX_REFUSALS = 4
# Bytes 16 of leaves; what passes with its task: INVITE, BALLOT, ABSENT, REFUSED.
_TASK, _PASSING = b"\3", (b"\4", b"\5", b"\6", b"\7")
_RULES: dict[int, str] = {
    Refusal.CONTEXT: "R6",
    Refusal.DUPLICATE: "R7",
    Refusal.SEEN: "R9",
}  # others: R8


def rule_of(error: errors.ReplayError | errors.BallotError) -> str:
    """Number of the rule of replay that ``error`` reports."""
    return error.rule if isinstance(error, errors.ReplayError) else _RULES.get(error.reason, "R8")


def _expect(rule: str, holds: bool, what: str) -> None:
    if not holds:
        raise errors.ReplayError(rule, f"expected {what}")


@dataclass(frozen=True, slots=True)
class Applied:
    """What one entry did.

    Attributes
    ----------
    index : int
        Its position in the log.
    entry : Entry
    counted : tuple of Counted
        Ballots that it caused to be counted, in counting order.
    """

    index: int
    entry: Entry
    counted: tuple[Counted, ...]


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
    due : Close or None
        The CLOSE that must be the next entry.
    accused : set of (bytes, bytes)
        Task id and voter of every EVIDENCE.
    """

    def __init__(self) -> None:
        self.genesis: entries.Genesis | None = None
        self.ledger_id = b""
        self.roster = Roster()
        self.tally: Tally | None = None
        self.tree = merkle.Tree()
        self.roots = [self.tree.root()]
        self.last_close = b""
        self.next_row = 1
        self.server_keys: list[tuple[int, bytes]] = []
        self.due: entries.Close | None = None
        self.accused: set[tuple[bytes, bytes]] = set()
        self._task_ids: list[bytes] = []

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.tree.size

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
        if genesis is not None and genesis.enrolment is entries.Enrolment.ROSTER:
            return genesis.admin_key
        return self.server_key

    @property
    def open_task(self) -> Tally | None:
        """The task that is open, if any."""
        return self.tally if self.tally and not self.tally.closed else None

    @property
    def number(self) -> int:
        """Number of the last task posted, from 1; 0 before."""
        return len(self._task_ids)

    @property
    def current(self) -> Tally:
        """The last task posted; `RuntimeError` when there is none."""
        if self.tally is None:
            raise RuntimeError("no task was posted on this ledger")
        return self.tally

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
        entry, _ = entries.decode_leaf(leaf)
        hashed = merkle.leaf_hash(leaf)
        first = (self.size == 0) == isinstance(entry, entries.Genesis)
        _expect("R1", first, "GENESIS as the first entry and nowhere else")
        if self.due is not None and entry != self.due:
            raise errors.ReplayError("R12", f"expected {self.due}, due now, got {entry!s:.400}")
        counted = self._take(entry, hashed) or ()
        self._log(hashed)
        self.due = self.open_task.due() if self.open_task else None
        return Applied(self.size - 1, entry, counted)

    def skip(self, leaf: bytes) -> None:
        """Hash ``leaf`` into the tree and let it have no effect: for entries of a newer version."""
        self._log(merkle.leaf_hash(leaf))

    def resume(self, leaves: Iterable[bytes]) -> None:
        """Take a log that was checked before, from GENESIS on: only its last task is counted again.

        Afterwards everything is as if `apply` had been given every leaf (docs/adr/0008).
        """
        last: list[bytes] = []  # from the newest TASK on
        for leaf in leaves:
            if leaf[16:17] == _TASK:
                for old in last:
                    self._recall(old)
                last = []
            last.append(leaf)
        for leaf in last:
            self.apply(leaf)

    def _recall(self, leaf: bytes) -> None:
        """Let ``leaf``, of a task before the last, have the effects that outlast its task."""
        hashed = merkle.leaf_hash(leaf)
        if leaf[16:17] not in _PASSING:
            entry, _ = entries.decode_leaf(leaf)
            if isinstance(entry, entries.Close):
                self._named("R13", entry.task_id).closed, self.last_close = entry, hashed
            else:
                self._take(entry, hashed)
        self._log(hashed)

    def _log(self, hashed: bytes) -> None:
        self.tree.append(hashed)
        self.roots.append(self.tree.root())

    @singledispatchmethod
    def _take(self, entry: entries.Unknown, hashed: bytes) -> tuple[Counted, ...] | None:
        """Check one entry and let it take effect; the ballots that it caused to be counted."""
        raise errors.UnsupportedError(f"entry {self.size} is of the unknown type {entry.number}")

    @_take.register
    def _genesis(self, entry: entries.Genesis, hashed: bytes) -> None:
        try:
            for key in (entry.server_key, *((entry.admin_key,) if any(entry.admin_key) else ())):
                check_public_key(key)
        except errors.KeyFormatError as error:
            raise errors.ReplayError("R1", str(error)) from error
        by_admin = entry.enrolment is entries.Enrolment.ROSTER
        good = by_admin == any(entry.admin_key) and entry.admin_key != entry.server_key
        _expect("R1", good, "an admin key, not the server's, under roster only")
        self.genesis, self.ledger_id, self.last_close = entry, hashed, hashed
        self.server_keys.append((1, entry.server_key))

    @_take.register
    def _roster(self, entry: Roster, _: bytes) -> None:
        try:
            entry.check_follows(self.roster)
        except (errors.FormatError, errors.KeyFormatError) as error:
            raise errors.ReplayError("R2", str(error)) from error
        self.roster = entry

    @_take.register
    def _task(self, entry: entries.Task, hashed: bytes) -> None:
        _expect("R3", not self.open_task, "no TASK while another is open")
        tasks.check_task(entry, roster=self.roster, last_close=self.last_close)
        place = {"index": self.size, "first_row": self.next_row}
        self.tally = Tally(entry, task_id=hashed, roster=self.roster, **place)
        self.next_row += len(self.tally.ranks) * entry.n
        self._task_ids.append(hashed)

    def _named(self, rule: str, task_id: bytes) -> Tally:
        """The open task, which ``task_id`` must name."""
        tally = self.open_task
        if tally is None or task_id != tally.task_id:
            raise errors.ReplayError(rule, f"expected the open task, got {task_id.hex()[:16]}...")
        return tally

    @_take.register
    def _invite(self, entry: entries.Invite, _: bytes) -> None:
        tally = self._named("R5", entry.task_id)
        left = len(tally.ranks) - tally.invited
        _expect("R5", 1 <= entry.more <= left, f"1 to {left} more ranks, got {entry.more}")
        tally.invite(entry.more)

    def check_ballot(self, ballot: Ballot) -> npt.NDArray[np.uint16]:
        """Votes (n,) of a ballot that may be the next entry (R6 to R9); its signature aside.

        Raises
        ------
        BallotError
            With the reason for REFUSED.
        """
        tally, header = self.tally, ballot.header
        if tally is None or header.ledger_id != self.ledger_id or header.task_id != tally.task_id:
            got = f"ledger {header.ledger_id.hex()[:16]}..., task {header.task_id.hex()[:16]}..."
            what = f"expected a ballot for this ledger's current task, got one for {got}"
            raise errors.BallotError(Refusal.CONTEXT, what)
        votes = tally.check_ballot(ballot)
        if not tally.index < header.seen_size <= self.size:
            what = f"expected a seen size in ({tally.index}, {self.size}], got {header.seen_size}"
            raise errors.BallotError(Refusal.SEEN, what)
        if header.seen_root != self.roots[header.seen_size]:
            what = f"expected this log's root at size {header.seen_size}, got another: "
            raise errors.BallotError(Refusal.SEEN, what + "the node has seen a different history")
        return votes

    @_take.register
    def _ballot(self, entry: Ballot, _: bytes) -> tuple[Counted, ...]:
        votes = self.check_ballot(entry)
        return self.current.take_ballot(entry.header, votes, index=self.size)

    @_take.register
    def _absent(self, entry: entries.Absent, _: bytes) -> tuple[Counted, ...]:
        tally = self._named("R10", entry.task_id)
        unsettled = tally.is_invited(entry.voter) and not tally.is_settled(entry.voter)
        name = entry.voter.hex()[:16]
        _expect("R10", unsettled, f"an invited, unsettled voter, got {name}...")
        return tally.take_absence(entry)

    @_take.register
    def _refused(self, entry: entries.Refused, _: bytes) -> None:
        tally, name = self._named("R11", entry.task_id), entry.voter.hex()[:16]
        _expect("R11", tally.is_invited(entry.voter), f"an invited voter, got {name}...")
        _expect("R11", entry.size < 2**63, f"a size below 2**63, got {entry.size}")
        few = tally.refusals[entry.voter] < MAX_REFUSALS
        _expect("R11", few, f"at most {MAX_REFUSALS} refusals of a voter")
        tally.refusals[entry.voter] += 1

    @_take.register
    def _close(self, entry: entries.Close, hashed: bytes) -> None:
        tally = self._named("R13", entry.task_id)
        if self.due is None and entry != tally.close(entries.CloseReason.ABORTED):
            raise errors.ReplayError("R13", f"expected no CLOSE yet but an abort, got {entry}")
        tally.closed = entry
        self.last_close = hashed

    @_take.register
    def _evidence(self, entry: entries.Evidence, _: bytes) -> None:
        """Evidence never changes a count: the ballot that was stored first stays."""
        first, second = entry.first, entry.second
        case, other = (first.task_id, first.voter), (second.task_id, second.voter)
        same = (first.ledger_id, case) == (second.ledger_id, other)
        _expect("R14", same, "two headers of one voter for one task")
        ours = first.ledger_id == self.ledger_id and first.task_id in self._task_ids
        _expect("R14", ours, "headers for a task of this ledger")
        enrolled = any(member.key == first.voter for member in self.roster.members)
        _expect("R14", enrolled, "headers of an enrolled voter")
        _expect("R14", first.ballot_id != second.ballot_id, "two different ballots")
        _expect("R14", case not in self.accused, "one EVIDENCE for a voter and task")
        self.accused.add(case)

    @_take.register
    def _server_key(self, entry: entries.ServerKey, _: bytes) -> None:
        try:
            check_public_key(entry.key)
        except errors.KeyFormatError as error:
            raise errors.ReplayError("R15", str(error)) from error
        used = {key for _, key in self.server_keys} | {self.roster_key}
        _expect("R15", entry.key not in used, "a new server key, got one that was used before")
        self.server_keys.append((self.size + 1, entry.key))
