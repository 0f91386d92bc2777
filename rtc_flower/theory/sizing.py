"""How many nodes are needed: for an accuracy, and against Sybils."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rtc_flower.theory.domains import (
    check_at_least,
    check_classes,
    check_open,
    check_probability,
    check_rival,
)
from rtc_flower.theory.plurality import (
    plurality_accuracy,
    plurality_failure,
    win_probabilities,
)

__all__ = ["honest_needed", "nodes_needed"]

_MOST_CLASSES = 1_000
_MOST_HONEST = 1_000_000
_MOST_NODES = 10_000_000


def nodes_needed(k: int, p: float, level: float) -> int:
    """Smallest number of nodes whose plurality reaches an accuracy, random ties.

    Parameters
    ----------
    k : int
        Classes, 2 or more.
    p : float
        Accuracy of a node.
    level : float
        Accuracy to reach, in (0, 1).

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If an argument is out of range, or no number of nodes up to 10 million is enough: by
        eq. (1), none is for ``p <= 1/k``.
    """
    check_classes(k)
    check_probability("p", p)
    check_open("level", level)
    if p >= level:
        return 1
    if p <= 1 / k:
        raise ValueError(f"p must be above 1/k = {1 / k:.6g} to reach level {level}, got {p}")

    fails = 1 - level

    def log_excess(n: int) -> float:
        # Near 1 the accuracy has no digits left; elsewhere it is the cheaper of the two.
        failure = 1 - plurality_accuracy(n, k, p) if fails > 1e-6 else plurality_failure(n, k, p)
        return float(np.log(max(failure, 1e-300)) - np.log(fails * (1 + 1e-13)))

    return _first_below(log_excess, most=_MOST_NODES, what=f"p = {p}")


def _first_below(log_excess: Callable[[int], float], *, most: int, what: str) -> int:
    """Smallest n >= 1 at which a decreasing function, about linear, is at most 0.

    Parameters
    ----------
    log_excess : callable
        The function.
    most : int
        Largest n to try.
    what : str
        Subject of the error.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the function is still positive at `most`.
    """
    low, high = 0, 1
    above, below = np.inf, log_excess(1)
    while below > 0:
        low, above = high, below
        if low >= most:
            raise ValueError(f"{what} needs more than {most} nodes")
        high = min(2 * high, most)
        below = log_excess(high)
    nudge = 0
    while high - low > 1:
        middle = (low + high) // 2
        if nudge < 12 and np.isfinite(above):
            # Secant, displaced so that the next one closes in from the other side.
            guess = low + round((high - low) * above / (above - below))
            middle = min(max(guess + (nudge if nudge % 2 else -nudge), low + 1), high - 1)
        nudge += 1
        value = log_excess(middle)
        if value > 0:
            low, above = middle, value
        else:
            high, below = middle, value
    return high


def honest_needed(sybil: int, p: float, p_w: float, level: float | None = None) -> int:
    """Honest nodes needed against Sybils (section 4.4), in expectation or with a probability.

    Without `level` it is the paper's: the smallest integer above ``sybil / (p - p_w)``. That makes
    the expected gap positive; the target then wins with a probability of 0.57 to 0.73 only.

    Parameters
    ----------
    sybil : int
        Sybil nodes, 0 or more.
    p, p_w : float
        Probabilities that an honest node votes for the target and for the Sybils' class;
        ``p > p_w``.
    level : float, optional
        Probability in (0, 1) with which the target is to win, random ties. The honest votes that
        are left fall evenly on as few other classes as keep each at most as likely as `p_w`
        (all wrong classes alike where `p_w` is ``(1-p)/(k-1)``).

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If an argument is out of range, or no number up to a million is enough.
    """
    check_at_least("sybil", sybil, 0)
    check_probability("p", p)
    check_rival(p, p_w)
    if p <= p_w:
        raise ValueError(f"p must be above p_w = {p_w} for honest nodes to win, got {p}")
    if level is None:
        # The bound is exclusive; 20 / (0.6 - 0.4/9) must be 36 despite its rounding.
        return int(np.floor(sybil / (p - p_w) + 1e-9)) + 1
    check_open("level", level)
    rest = max(0.0, 1 - p - p_w)
    others = 0
    if rest > 1e-12:
        others = _MOST_CLASSES - 2 if p_w == 0 else int(np.ceil(rest / p_w - 1e-9))
        others = min(max(others, 1), _MOST_CLASSES - 2)
    probs = np.array([p, p_w] + [rest / max(others, 1)] * others)
    probs /= probs.sum()
    offsets = np.zeros(probs.size, dtype=np.int64)
    offsets[1] = sybil

    def log_excess(n: int) -> float:
        win = win_probabilities(n, probs, offsets)
        failure = max(float(win[1:].sum()), 1e-300)
        return float(np.log(failure) - np.log((1 - level) * (1 + 1e-13)))

    return _first_below(log_excess, most=_MOST_HONEST, what=f"sybil = {sybil}")
