"""Accuracy of the plurality of independent, equally good nodes (section 4.1)."""

from __future__ import annotations

from collections import Counter
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import pdtr

from rtc_flower.theory.counting import Floats, Ints, Rivals, Tie, log_binomial, sum_unimodal
from rtc_flower.theory.domains import (
    check_classes,
    check_distribution,
    check_nodes,
    check_probability,
    check_tie,
)

__all__ = [
    "plurality_accuracy",
    "plurality_failure",
    "plurality_from_pmf",
    "plurality_profile",
    "win_probabilities",
]


_LOG_SMALLEST = -760.0


@overload
def plurality_accuracy(n: int, k: int, p: float, tie: Tie = ...) -> float: ...
@overload
def plurality_accuracy(n: int, k: int, p: NDArray[Any], tie: Tie = ...) -> Floats: ...
def plurality_accuracy(
    n: int, k: int, p: float | NDArray[Any], tie: Tie = "random"
) -> float | Floats:
    """Probability that the target has the longest fork: what Algorithm 1 is meant to compute.

    Every node votes for the target with probability `p`, else for one of the other classes
    uniformly (simplifications (1) and (2) of section 4.1).

    Parameters
    ----------
    n : int
        Nodes, 1 or more.
    k : int
        Classes, 2 or more.
    p : float or array
        Accuracy of a node, 0 to 1. For an array the votes' profile is computed once.
    tie : {"random", "fail", "success"}
        What a tie for the longest fork is worth: 1/T among T (the same as first to reach, when
        votes are exchangeable), nothing, or everything.

    Returns
    -------
    float, or float64 array of the shape of `p`
        Relative accuracy about 1e-12.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_nodes(n)
    check_classes(k)
    check_tie(tie)
    if np.ndim(p) == 0:
        accuracy = check_probability("p", float(p))
        probs = np.full(k, (1 - accuracy) / (k - 1))
        probs[0] = accuracy
        return min(1.0, float(np.exp(_log_win(n, probs, np.zeros(k, dtype=np.int64), 0, tie))))
    many = np.asarray(p, dtype=float)
    profile = plurality_profile(n, k, tie)
    votes = np.arange(n + 1)
    out = [
        np.exp(log_binomial(votes, n, check_probability("p", float(one)))) @ profile
        for one in many.ravel()
    ]
    return np.minimum(1.0, np.asarray(out)).reshape(many.shape)


def plurality_failure(n: int, k: int, p: float) -> float:
    """Probability that a wrong class wins, random ties, with its own relative accuracy.

    ``1 - plurality_accuracy`` has no digits left below 1e-16; this sums positive terms.

    Parameters
    ----------
    n, k, p
        As for `plurality_accuracy`.

    Returns
    -------
    float
        0.0 below the smallest double.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_nodes(n)
    check_classes(k)
    check_probability("p", p)
    if p == 1.0:
        return 0.0
    probs = np.full(k, (1 - p) / (k - 1))
    probs[0] = p
    log_one = _log_win(n, probs, np.zeros(k, dtype=np.int64), 1, "random")
    return min(1.0, float(np.exp(log_one + np.log(k - 1))))


def plurality_profile(n: int, k: int, tie: Tie = "random") -> Floats:
    """Probability that the target wins, given that it has m of the n votes.

    Independent of the nodes' accuracy: the other votes fall uniformly on the other classes.

    Parameters
    ----------
    n, k, tie
        As for `plurality_accuracy`.

    Returns
    -------
    float64 array, shape (n + 1,)
        Entry m; 1 for ``2 m > n`` and 0 for ``m k < n``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_nodes(n)
    check_classes(k)
    check_tie(tie)
    votes = np.arange(n + 1)
    out = (2 * votes > n).astype(float)
    rows = np.flatnonzero((votes * k >= n) & (2 * votes <= n))
    rivals = Rivals(np.array([1 / (k - 1)]), np.array([k - 1]))
    out[rows] = np.exp(rivals.log_below(n - rows, rows[:, None], tie))
    np.minimum(out, 1.0, out=out)
    return out


def plurality_from_pmf(pmf: ArrayLike, k: int, tie: Tie = "random") -> float:
    """Accuracy for any distribution of the number of target votes.

    The wrong votes must be uniform over the wrong classes given their number.

    Parameters
    ----------
    pmf : array_like, shape (n + 1,)
        Probability of 0, 1, ..., n target votes; sums to 1.
    k, tie
        As for `plurality_accuracy`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `pmf` is not a distribution over at least one vote, or another argument is out of
        range.
    """
    weights = np.asarray(pmf, dtype=float)
    if weights.ndim != 1 or weights.size < 2:
        raise ValueError(f"pmf must hold n + 1 >= 2 entries, got shape {weights.shape}")
    check_distribution("pmf", weights)
    return min(1.0, float(weights @ plurality_profile(weights.size - 1, k, tie)))


def win_probabilities(
    n: int, probs: ArrayLike, offsets: ArrayLike | None = None, tie: Tie = "random"
) -> Floats:
    """Probability of each class to have the longest fork, for any class probabilities.

    Parameters
    ----------
    n : int
        Nodes, 1 or more.
    probs : array_like, shape (k,)
        Probability that a node votes for each class; sums to 1.
    offsets : array_like of int, shape (k,), optional
        Votes that each class has beforehand, for example those of Sybil nodes.
    tie : {"random", "fail", "success"}
        As for `plurality_accuracy`.

    Returns
    -------
    float64 array, shape (k,)
        Sums to 1 with random ties.

    Raises
    ------
    ValueError
        If `probs` is not a distribution over at least two classes, an offset is negative, or
        another argument is out of range.
    """
    check_nodes(n)
    check_tie(tie)
    weights = np.asarray(probs, dtype=float)
    if weights.ndim != 1 or weights.size < 2:
        raise ValueError(f"probs must hold at least 2 classes, got shape {weights.shape}")
    check_distribution("probs", weights)
    ahead: NDArray[Any] = np.zeros(weights.size) if offsets is None else np.asarray(offsets)
    if ahead.shape != weights.shape or (ahead < 0).any() or (ahead != np.floor(ahead)).any():
        raise ValueError(f"offsets must be {weights.size} integers >= 0, got {offsets!r}")
    fixed: Ints = ahead.astype(np.int64)
    # Classes that share probability and offset share the answer.
    pairs = [(float(w), int(o)) for w, o in zip(weights, fixed, strict=True)]
    answers = {
        pair: min(1.0, float(np.exp(_log_win(n, weights, fixed, pairs.index(pair), tie))))
        for pair in dict.fromkeys(pairs)
    }
    return np.array([answers[pair] for pair in pairs])


def _log_win(n: int, probs: Floats, offsets: Ints, c: int, tie: Tie) -> float:
    """Log probability that class c wins: a sum over its number of votes."""
    own = float(probs[c])
    gap = max(0.0, float(np.sqrt(probs.max()) - np.sqrt(own)))
    if not offsets.any() and n * np.log1p(-min(gap**2, 1 - 1e-16)) < _LOG_SMALLEST:
        return -np.inf  # Chernoff: it does not even beat the most likely class.
    if own == 0.0 and n > 0:
        low = high = 0
    else:
        low, high = 0, n
    groups = Counter(
        (float(w), int(o)) for j, (w, o) in enumerate(zip(probs, offsets, strict=True)) if j != c
    )
    rest = sum(w * size for (w, _), size in groups.items())
    keys = list(groups)
    sizes = np.array([groups[key] for key in keys])
    shares = np.array([w / rest if rest > 0 else 1.0 / sizes.sum() for w, _ in keys])
    rivals = Rivals(shares, sizes)
    ahead = np.array([o for _, o in keys]) - int(offsets[c])

    def log_term(x: Ints) -> Floats:
        return log_binomial(x, n, own) + rivals.log_below(n - x, x[:, None] - ahead, tie)

    x = np.arange(low, high + 1)
    with np.errstate(divide="ignore"):
        rough = np.log(pdtr(np.maximum(x[:, None] - ahead, 0), (n - x)[:, None] * shares))
    rough = np.where(x[:, None] >= ahead, np.maximum(rough, -1e6), -1e12)
    start = int(x[np.argmax(log_binomial(x, n, own) + rough @ sizes)])
    return sum_unimodal(log_term, low, high, start)
