"""Stop rules: which samples of a task are decided after a ballot was counted.

Everything here is decided by integers, so that every verifier on every machine repeats the same
decision. A rule sees four numbers of a sample: the votes of its longest fork (``a``) and of its
second longest (``b``), the members of the electorate who could still vote (``r``), and the
ballots counted so far.

``certain`` is the paper's eq. (9) as it must be meant: no fork can possibly become longer.
``certified`` adds a without-replacement e-value with a Beta(4, 1) prior; ``docs/theory.md``
derives it. ``paper`` is the lead of section 4.5. ``all`` never fires.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import factorial, perm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtc_flower.errors import TaskError

Ints = NDArray[np.integer[Any]]

LARGEST_CERTIFIED = 1_000  # the electorate that `certified` accepts: larger tables cost minutes
MAX_CLASSES = 1_000
U32_MAX = 2**32 - 1
_PRIOR = 4  # on the leader's share, Beta(4, 1): any prior is valid, this one stops early


class Rule(IntEnum):
    """Stop rule of a task; the value is what TASK stores, the lower-case name what users write."""

    CERTAIN = 1
    CERTIFIED = 2
    PAPER = 3
    ALL = 4

    @property
    def usual_order(self) -> Order:
        """Invitation where a decision freezes a sample: lazy and Sybil nodes answer first."""
        return Order.INVITATION if self in (Rule.CERTIFIED, Rule.PAPER) else Order.ARRIVAL


class Order(IntEnum):
    """Order in which ballots are counted; the value is what TASK stores."""

    ARRIVAL = 0
    INVITATION = 1


@dataclass(frozen=True, slots=True)
class StopRule:
    """The stop rule of one task with the integers that TASK fixes before any vote.

    Parameters
    ----------
    rule : Rule
        When a sample is decided.
    k : int
        Number of classes, 2 to 1,000.
    inv_delta : int
        1 / delta of `certified`: the outcome of a sample differs from the full vote with
        probability at most delta. 2 or more.
    lead : int
        Lead in votes at which `paper` fires (section 4.5: 21). 1 or more.
    min_ballots : int
        Turnout floor: no rule fires before so many ballots are counted. 1 or more.

    Raises
    ------
    TaskError
        If a parameter is out of its range.
    """

    rule: Rule
    k: int
    inv_delta: int = 1_000
    lead: int = 21
    min_ballots: int = 1

    def __post_init__(self) -> None:
        check_range("classes", self.k, 2, MAX_CLASSES)
        check_range("inv_delta", self.inv_delta, 2, U32_MAX)
        check_range("lead", self.lead, 1, U32_MAX)
        check_range("min_ballots", self.min_ballots, 1, U32_MAX)

    @property
    def freezes(self) -> bool:
        """Whether a decided sample mints no further block, so that the longest fork stays it."""
        return self.rule in (Rule.CERTIFIED, Rule.PAPER)

    def check(self, order: Order, electorate: int) -> None:
        """Refuse a task in which this rule would be void or could never fire.

        Parameters
        ----------
        order : Order
            Counting order of the task.
        electorate : int
            Members of the electorate.

        Raises
        ------
        TaskError
            If a rule that freezes is combined with order `arrival` (lazy and Sybil nodes answer
            first), if `min_ballots` exceeds the electorate, or if the electorate is too large
            for the exact table of `certified`.
        """
        if self.freezes and order != Order.INVITATION:
            name = self.rule.name.lower()
            raise TaskError(f"rule {name} needs counting order invitation, got arrival")
        if self.min_ballots > electorate:
            raise TaskError(f"min_ballots is {self.min_ballots}, the electorate {electorate}")
        if self.rule is Rule.CERTIFIED and electorate > LARGEST_CERTIFIED:
            what = f"an electorate of at most {LARGEST_CERTIFIED}, got {electorate}"
            raise TaskError(f"rule certified takes {what}")

    def fires(
        self, leader: Ints, runner_up: Ints, remaining: int, counted: int
    ) -> NDArray[np.bool_]:
        """Which samples are decided now.

        Parameters
        ----------
        leader, runner_up : integer arrays, shape (n,)
            Votes of the longest and of the second longest fork of every sample.
        remaining : int
            Members of the electorate who could still vote, invited or not.
        counted : int
            Ballots counted so far, abstentions included.

        Returns
        -------
        bool array, shape (n,)
        """
        if counted < self.min_ballots or self.rule is Rule.ALL or not leader.size:
            return np.zeros(leader.shape, dtype=np.bool_)
        if self.rule is Rule.CERTAIN:
            return np.asarray(leader.astype(np.int64) - runner_up > remaining)
        if self.rule is Rule.PAPER:
            return np.asarray(leader.astype(np.int64) - runner_up >= self.lead)
        row = least_leaders(remaining, counted, self.k, self.inv_delta)
        return np.asarray(leader >= row[runner_up])


def certified_int(a: int, b: int, r: int, k: int, inv_delta: int) -> bool:
    """Whether a sample is certified, in exact integers.

    True when ``a - b > r`` or when the e-value against every composition of the electorate in
    which the leader does not win reaches ``(k - 1) * inv_delta``. The least e-value over the
    unknown final number M of votes for the pair lies at an even M = 2m; with falling factorials
    the test is ``4 b! (2m)_(a+b) >= (k-1) inv_delta (a+b+4)_(b+1) (m)_a (m)_b``.

    Parameters
    ----------
    a, b : int
        Votes of the leader and of the runner-up.
    r : int
        Members of the electorate who could still vote.
    k : int
        Number of classes.
    inv_delta : int
        1 / delta.

    Returns
    -------
    bool
    """
    if a <= b:
        return False
    if a - b > r:
        return True
    n, square = a + b, (a - b) ** 2
    m = (n + r) // 2
    if square < n:
        m = min(m, (n * n - square) // (2 * (n - square)))
    m = max(m, a)
    evidence = _PRIOR * factorial(b) * perm(2 * m, n)
    return evidence >= (k - 1) * inv_delta * perm(n + _PRIOR, b + 1) * perm(m, a) * perm(m, b)


@lru_cache(maxsize=4_096)
def least_leaders(remaining: int, counted: int, k: int, inv_delta: int) -> NDArray[np.int64]:
    """Least leader count that is certified, for every runner-up count.

    Parameters
    ----------
    remaining, counted : int
        Members of the electorate who could still vote; ballots counted.
    k, inv_delta : int
        Classes and 1 / delta.

    Returns
    -------
    int64 array, shape (counted // 2 + 1,), read-only
        Entry b; ``counted + 1`` where no leader of at most ``counted - b`` votes is certified.
        Both the entries (in b) and the test (in the leader) are monotone, so that one walk
        upwards finds the row.
    """
    row = np.full(counted // 2 + 1, counted + 1, dtype=np.int64)
    a = 1
    for b in range(len(row)):
        a = max(a, b + 1)
        while a + b <= counted and not certified_int(a, b, remaining, k, inv_delta):
            a += 1
        if a + b > counted:
            break
        row[b] = a
    row.setflags(write=False)
    return row


def check_range(name: str, value: object, low: int, high: int) -> None:
    """Refuse a parameter that is no integer from ``low`` to ``high``; `TaskError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise TaskError(f"{name} must be an integer in {low} to {high}, got {value!r}")
