"""Stop rules on a plain vote matrix, without a ledger.

The rules themselves are in `rtc_flower.rules`, which voting and verifying import; their names
are here as well, so that this module is all that an experiment with stop rules needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtc_flower.errors import TaskError
from rtc_flower.rules import (
    LARGEST_CERTIFIED,
    U32_MAX,
    Order,
    Rule,
    StopRule,
    certified_int,
    check_range,
    least_leaders,
)

__all__ = [
    "LARGEST_CERTIFIED",
    "Order",
    "Rule",
    "StopRule",
    "Stopped",
    "certified_int",
    "least_leaders",
    "paper_rule",
    "stop_positions",
]


class Stopped(NamedTuple):
    """What a stop rule makes of a vote matrix; every field has shape (samples,).

    Attributes
    ----------
    outcome : int64 array
        Class of the longest fork, the first to reach its height; -1 where nobody voted.
    position : int64 array
        Ballots counted when the sample was decided, from 1; 0 where it never was.
    used : int64 array
        Ballots counted for the sample: its position, or all that were counted.
    """

    outcome: NDArray[np.int64]
    position: NDArray[np.int64]
    used: NDArray[np.int64]


def stop_positions(votes: ArrayLike, rule: StopRule, *, close_min: int | None = None) -> Stopped:
    """Count a plain vote matrix under a stop rule, without a ledger.

    Parameters
    ----------
    votes : integer array, shape (nodes, samples)
        Class voted for, rows in counting order, the whole electorate; negative = abstained.
    rule : StopRule
        The rule and its parameters.
    close_min : int, optional
        Decided samples that suffice to close the task; None waits for all of them.

    Returns
    -------
    Stopped
        A decided sample keeps the class it was decided with; the others get the longest fork
        when the counting ended.

    Raises
    ------
    ValueError
        If `votes` is not an integer matrix, holds a class of `rule.k` or above, or `close_min`
        is not in 1 to samples.
    """
    matrix = np.asarray(votes)
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"votes must be an integer matrix, got {matrix.dtype} {matrix.shape}")
    if matrix.size and int(matrix.max()) >= rule.k:
        raise ValueError(f"votes hold class {matrix.max()}, expected below {rule.k}")
    nodes, n = matrix.shape
    enough = n if close_min is None else close_min
    if close_min is not None and not 1 <= close_min <= n:
        raise ValueError(f"close_min must be in 1 to {n}, got {close_min}")
    counts = np.zeros((n, rule.k), dtype=np.int64)
    first = np.full(n, -1, dtype=np.int64)
    leader, runner_up, position = (np.zeros(n, dtype=np.int64) for _ in range(3))
    counted = 0
    for counted, ballot in enumerate(matrix, start=1):
        open_ = np.flatnonzero((ballot >= 0) & (position == 0))
        cast = ballot[open_].astype(np.int64)
        counts[open_, cast] += 1
        height = counts[open_, cast]
        ahead, own = height > leader[open_], cast == first[open_]
        # A new leader leaves the old one behind as runner-up; ties stay with the first to reach.
        rival = np.where(ahead, leader[open_], height)
        runner_up[open_] = np.where(own, runner_up[open_], np.maximum(runner_up[open_], rival))
        leader[open_] = np.maximum(leader[open_], height)
        first[open_] = np.where(ahead, cast, first[open_])
        fired = rule.fires(leader, runner_up, nodes - counted, counted)
        position[fired & (position == 0)] = counted
        if n and np.count_nonzero(position) >= enough:
            break
    return Stopped(first, position, np.where(position > 0, position, counted))


def paper_rule(
    k: int,
    *,
    lead: int = 21,
    ratio: float | None = None,
    risk: float | None = None,
    sybil: int = 0,
    p: float | None = None,
    p_w: float | None = None,
) -> StopRule:
    """Rule `paper` with its integers computed before the task (sections 4.3 to 4.5).

    Parameters
    ----------
    k : int
        Number of classes.
    lead : int
        Lead in votes, unless `ratio` and `risk` are given: then the z of eq. (6).
    ratio, risk : float, optional
        Declared ratio of the strongest rival's probability to the target's, and the bound on
        eq. (6) that z must keep.
    sybil : int
        Declared Sybil nodes; `min_ballots` becomes the honest nodes that eqs. (7) and (8) ask
        for, plus the Sybils.
    p, p_w : float, optional
        Probabilities that an honest node votes for the target and for the Sybils' class
        (default: the wrong classes share ``1 - p``). `p` is required with Sybils.

    Returns
    -------
    StopRule

    Raises
    ------
    TaskError
        If a value is out of range, only one of `ratio` and `risk` is given, or no number of
        honest nodes is enough.
    """
    check_range("k", k, 2, 1_000)
    check_range("sybil", sybil, 0, U32_MAX)
    if (ratio is None) != (risk is None):
        raise TaskError(f"ratio and risk go together, got {ratio} and {risk}")
    if sybil and p is None:
        raise TaskError(f"rule paper needs p, the honest nodes' accuracy, with sybil = {sybil}")
    # theory needs scipy, which only this function and the planning commands need.
    from rtc_flower.theory import honest_needed, z_for_risk

    try:
        if ratio is not None and risk is not None:
            lead = z_for_risk(ratio, risk, kind="nakamoto")
        if p is None:
            return StopRule(Rule.PAPER, k, lead=lead)
        rival = (1 - p) / (k - 1) if p_w is None else p_w
        floor = honest_needed(sybil, p, rival) + sybil
    except ValueError as error:
        raise TaskError(f"rule paper: {error}") from error
    return StopRule(Rule.PAPER, k, lead=lead, min_ballots=floor)
