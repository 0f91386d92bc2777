"""Counting one task: who is invited, whose ballot counts when, what is decided, when it closes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from rtc_flower.ballot import Ballot, Header
from rtc_flower.encoding import TAG_OUTCOMES, TAG_RANKS, digest
from rtc_flower.entries import AbsenceReason, Absent, Close, CloseReason, Refusal, Task
from rtc_flower.errors import BallotError, FormatError
from rtc_flower.forks import Blocks, Forks
from rtc_flower.roster import Roster
from rtc_flower.rules import Rule

# Class, support, runner-up, how, decided at.
_OUTCOME = np.dtype(">u2, >u4, >u4, u1, >u4")


class How(IntEnum):
    """What decided a sample."""

    CERTAIN = 1
    CERTIFIED = 2
    LEAD = 3
    FULL = 4
    OPEN = 5
    NONE = 6


_HOW_OF_RULE = {Rule.CERTAIN: How.CERTAIN, Rule.CERTIFIED: How.CERTIFIED, Rule.PAPER: How.LEAD}


@dataclass(frozen=True, slots=True)
class Counted:
    """A ballot that was counted.

    Attributes
    ----------
    index : int
        Its position in the log.
    position : int
        Counting position, from 0.
    blocks : Blocks
    decided : int
        Samples decided once it was counted.
    """

    index: int
    position: int
    blocks: Blocks
    decided: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Per sample: the longest fork and what decided it; every array has shape (n,).

    Attributes
    ----------
    classes : ndarray of uint16
        Class of the longest fork; ``NO_CLASS`` where nobody voted.
    support, runner_up : ndarray of int32
        Lengths of the longest and of the second longest fork.
    how : ndarray of uint8
        `How`.
    decided_at : ndarray of int32
        Ballots counted when the sample was decided; all that were counted where it was not.
    """

    classes: npt.NDArray[np.uint16]
    support: npt.NDArray[np.int32]
    runner_up: npt.NDArray[np.int32]
    how: npt.NDArray[np.uint8]
    decided_at: npt.NDArray[np.int32]

    def digest(self, task_id: bytes) -> bytes:
        """What CLOSE states of these outcomes (32 bytes)."""
        columns = [getattr(self, field.name) for field in fields(self)]
        return digest(TAG_OUTCOMES, task_id, np.rec.fromarrays(columns, dtype=_OUTCOME).tobytes())


def invitation_order(task_id: bytes, keys: list[bytes]) -> list[bytes]:
    """Voters by rank: sorted by H(tag || task_id || key), so TASK's random bytes shuffle them."""
    return sorted(keys, key=lambda key: digest(TAG_RANKS, task_id, key))


class Tally:
    """State of one task.

    Attributes
    ----------
    task : Task
    task_id : bytes
        Leaf hash of TASK.
    index : int
        Position of TASK in the log.
    first_row : int
        Block row of sample 0 at counting position 0.
    ranks : list of bytes
        Voters' keys in invitation order.
    invited : int
        Ranks invited so far.
    ballots : dict of bytes to int
        Log position of every ballot stored, by voter; late and uncounted ones too.
    absent : dict of bytes to AbsenceReason
    refusals : Counter of bytes
    counted : int
        Ballots counted.
    passed : int
        Members who can vote no more: counted or absent, in counting order.
    decided : ndarray of bool (n,)
    forks : Forks
    closed : Close or None
    """

    def __init__(
        self, task: Task, *, task_id: bytes, index: int, roster: Roster, first_row: int
    ) -> None:
        self.task, self.task_id, self.index, self.first_row = task, task_id, index, first_row
        keys = [roster.members[int(i)].key for i in np.flatnonzero(task.members())]
        self.ranks = invitation_order(task_id, keys)
        self._rank = {key: rank for rank, key in enumerate(self.ranks)}
        self.invited = 0
        self._waves: list[tuple[int, npt.NDArray[np.bool_]]] = []  # (ranks up to, not asked)
        self.ballots: dict[bytes, int] = {}
        self.absent: dict[bytes, AbsenceReason] = {}
        self.refusals: Counter[bytes] = Counter()
        self._waiting: dict[bytes, tuple[int, bytes, npt.NDArray[np.uint16]]] = {}
        self.counted = self.passed = 0
        self.forks = Forks(task_id, task.n, task.k)
        self.decided = np.zeros(task.n, bool)
        self._how = np.zeros(task.n, np.uint8)
        self._decided_at = np.zeros(task.n, np.int32)
        self.closed: Close | None = None

    # -- who may vote on what -------------------------------------------------------------

    def invite(self, more: int) -> None:
        """Ask ``more`` further ranks for the samples undecided now."""
        self.invited += more
        self._waves.append((self.invited, self.decided))  # one array until more is decided

    def is_invited(self, voter: bytes) -> bool:
        """Whether ``voter`` has been invited."""
        return self._rank.get(voter, self.invited) < self.invited

    def is_settled(self, voter: bytes) -> bool:
        """Whether ``voter`` has a ballot or an absence."""
        return voter in self.ballots or voter in self.absent

    def asked(self, voter: bytes) -> npt.NDArray[np.bool_]:
        """Samples (n,) that an invited voter is asked."""
        rank = self._rank[voter]
        return ~next(decided for end, decided in self._waves if rank < end)

    def outstanding(self) -> list[bytes]:
        """Invited voters that are not settled, by rank."""
        return [key for key in self.ranks[: self.invited] if not self.is_settled(key)]

    def check_ballot(self, ballot: Ballot) -> npt.NDArray[np.uint16]:
        """Votes (n,) of a ballot that this task may take (R6 to R8).

        Raises
        ------
        BallotError
        """
        voter, n, codec = ballot.header.voter, self.task.n, self.task.codec
        name = f"{voter.hex()[:16]}..."
        if not self.is_invited(voter):
            raise BallotError(Refusal.CONTEXT, f"expected an invited voter, got {name}")
        if voter in self.ballots:
            raise BallotError(Refusal.DUPLICATE, f"expected one ballot of {name}, got a second")
        if ballot.header.n != n:
            raise BallotError(Refusal.FORMAT, f"expected {n} votes, got {ballot.header.n}")
        try:
            votes = codec.decode(ballot.votes, n)
        except FormatError as error:
            raise BallotError(Refusal.FORMAT, str(error)) from error
        odd = (votes >= self.task.k) & (votes != codec.abstain) & (votes != codec.not_asked)
        if odd.any():
            sample, k = int(odd.argmax()), self.task.k
            what = f"expected a class below {k}, got {votes[sample]} for sample {sample}"
            raise BallotError(Refusal.CLASS, what)
        wrong = (votes == codec.not_asked) == self.asked(voter)
        if wrong.any():
            what = f"exactly where it was not asked; sample {wrong.argmax()} differs"
            raise BallotError(Refusal.NOT_ASKED, f"expected NOT-ASKED {what}")
        return votes

    # -- counting -------------------------------------------------------------------------

    def take_ballot(
        self, header: Header, votes: npt.NDArray[np.uint16], *, index: int
    ) -> tuple[Counted, ...]:
        """Store a checked ballot; count what has become countable."""
        self.ballots[header.voter] = index
        if self.closed or header.voter in self.absent:  # late
            return ()
        self._waiting[header.voter] = (index, header.ballot_id, votes)
        return self._advance(header.voter)

    def take_absence(self, entry: Absent) -> tuple[Counted, ...]:
        """Settle a voter without a ballot; count what has become countable."""
        self.absent[entry.voter] = entry.reason
        return self._advance(entry.voter)

    def _advance(self, voter: bytes) -> tuple[Counted, ...]:
        """Pass ``voter`` (arrival), or every rank that can be passed in order (invitation)."""
        if not self.task.by_invitation:
            return self._pass(voter)
        counted: list[Counted] = []
        while not self._finished():
            voter = self.ranks[self.passed]
            if voter not in self._waiting and voter not in self.absent:
                break
            counted += self._pass(voter)
        return tuple(counted)

    def _pass(self, voter: bytes) -> tuple[Counted, ...]:
        self.passed += 1
        if voter not in self._waiting:
            self._decide()
            return ()
        index, ballot_id, votes = self._waiting.pop(voter)
        where = votes < self.task.k
        if self.task.stop_rule.freezes:
            where &= ~self.decided
        blocks = self.forks.mint(ballot_id, votes, where)
        self.counted += 1
        self._decide()
        decided = int(np.count_nonzero(self.decided))
        return (Counted(index, self.counted - 1, blocks, decided),)

    def _decide(self) -> None:
        """Let the stop rule decide samples; a decision is final."""
        rule, forks = self.task.stop_rule, self.forks
        left = len(self.ranks) - self.passed
        fired = rule.fires(forks.leader_votes, forks.runner_votes, left, self.counted)
        fresh = fired & ~self.decided
        if fresh.any():
            certain = forks.leader_votes - forks.runner_votes > left
            how = _HOW_OF_RULE[rule.rule]
            self._how[fresh] = how
            if how is How.CERTIFIED:  # says so only of what is not certain anyway
                self._how[fresh & certain] = How.CERTAIN
            self._decided_at[fresh] = self.counted
            self.decided = self.decided | fresh  # waves keep the array as it was

    # -- closing --------------------------------------------------------------------------

    def _finished(self) -> CloseReason | None:
        """The first reason that holds, tested after every passed rank."""
        decided = int(np.count_nonzero(self.decided))
        if decided == self.task.n:
            return CloseReason.DECIDED
        if decided >= self.task.close_min:
            return CloseReason.ENOUGH
        return CloseReason.EXHAUSTED if self.passed == len(self.ranks) else None

    def due(self) -> Close | None:
        """The CLOSE that must come next, if one is due."""
        reason = self._finished()
        return self.close(reason) if reason else None

    def close(self, reason: CloseReason) -> Close:
        """What a CLOSE says now."""
        uncounted, uninvited = len(self.ballots) - self.counted, len(self.ranks) - self.invited
        counts = (self.counted, uncounted, len(self.absent), uninvited)
        if reason is CloseReason.ABORTED:
            return Close(self.task_id, reason, *counts)
        digests = (self.outcomes().digest(self.task_id), self.forks.tips_hash(self.task_id))
        return Close(self.task_id, reason, *counts, *digests)

    def outcomes(self) -> Outcomes:
        """The longest forks as they stand."""
        forks = self.forks
        rest = How.FULL if self.passed == len(self.ranks) else How.OPEN
        undecided = np.where(forks.leader_votes > 0, rest, How.NONE)
        return Outcomes(
            classes=forks.leader.copy(),
            support=forks.leader_votes.copy(),
            runner_up=forks.runner_votes.copy(),
            how=np.where(self.decided, self._how, undecided).astype(np.uint8),
            decided_at=np.where(self.decided, self._decided_at, self.counted).astype(np.int32),
        )
