"""Nodes that differ: lazy and Sybil nodes, unequal or correlated accuracies, noised votes.

Sections 4.2 and 4.4 argue with expected fork lengths (eqs. 2, 3, 7, 8). The functions here give
the probabilities behind them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from rtc_flower.theory.counting import Floats, Rivals, log_binomial
from rtc_flower.theory.domains import (
    check_at_least,
    check_classes,
    check_nodes,
    check_probability,
    check_rival,
)
from rtc_flower.theory.plurality import plurality_from_pmf

__all__ = [
    "ForkLengths",
    "betabinom_accuracy",
    "effective_votes",
    "expected_fork_lengths",
    "heterogeneous_accuracy",
    "icc",
    "mixed_accuracy",
    "rr_accuracy",
]


def heterogeneous_accuracy(ps: ArrayLike, k: int) -> float:
    """Accuracy of the plurality of nodes with different accuracies, random ties.

    A weaker node, even one above 1/k, can lower it: {.99} has .99, {.99, .5, .5} only .82 at
    k = 10. Claim (2) of section 4.1 holds for enough equal nodes, not for one more.

    Parameters
    ----------
    ps : array_like, shape (nodes,)
        Accuracy of each node.
    k : int
        Classes, 2 or more; a wrong vote is uniform over the other k - 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is out of range or there is no node.
    """
    check_classes(k)
    accuracies = np.asarray(ps, dtype=float)
    if accuracies.ndim != 1 or accuracies.size < 1:
        raise ValueError(f"ps must hold 1 node or more, got shape {accuracies.shape}")
    pmf = np.ones(1)
    for p in accuracies:
        check_probability("ps", float(p))
        pmf = np.append(pmf * (1 - p), 0.0) + np.append(0.0, pmf * p)
    return plurality_from_pmf(pmf, k)


class ForkLengths(NamedTuple):
    """Expected fork lengths: the target's, another wrong class's, and the Sybils' class's."""

    target: float
    other: float
    wrong: float


def expected_fork_lengths(
    honest: int, p: float, lazy: int, k: int, sybil: int = 0, p_w: float | None = None
) -> ForkLengths:
    """Equations (2) and (7), (3), and (8): expected lengths of the forks.

    Parameters
    ----------
    honest, lazy, sybil : int
        Nodes of each type, 0 or more.
    p : float
        Accuracy of an honest node.
    k : int
        Classes, 2 or more.
    p_w : float, optional
        Probability that an honest node votes for the Sybils' class; ``(1-p)/(k-1)`` if not given.

    Returns
    -------
    ForkLengths
        `target`: eqs. (2) and (7). `other`: eq. (3), the mean of all wrong forks before the
        Sybils vote. `wrong`: eq. (8).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    _check_counts(honest=honest, lazy=lazy, sybil=sybil)
    check_classes(k)
    check_probability("p", p)
    share = (1 - p) / (k - 1)
    rival = share if p_w is None else check_rival(p, p_w)
    guess = lazy / k
    return ForkLengths(honest * p + guess, honest * share + guess, honest * rival + sybil + guess)


def mixed_accuracy(honest: int, p: float, lazy: int, sybil: int, k: int) -> float:
    """Accuracy with lazy nodes that guess and Sybils that all vote for one wrong class.

    The probability behind eqs. (2), (3), (7) and (8), random ties. Lazy nodes leave the expected
    gap as it is but widen its spread: 11 honest nodes at p = 0.5, k = 10 have 0.948 alone and
    0.476 beside 100 lazy ones.

    Parameters
    ----------
    honest, lazy, sybil : int
        Nodes of each type, 0 or more, at least one in all.
    p : float
        Accuracy of an honest node, its errors uniform over the wrong classes.
    k : int
        Classes, 2 or more.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    _check_counts(honest=honest, lazy=lazy, sybil=sybil)
    check_nodes(honest + lazy + sybil, "honest + lazy + sybil")
    check_classes(k)
    check_probability("p", p)
    n = honest + lazy
    right = np.exp(log_binomial(np.arange(honest + 1), honest, p))
    guessed = np.exp(log_binomial(np.arange(lazy + 1), lazy, 1 / k))
    pmf = np.convolve(right, guessed)
    rows = np.flatnonzero(pmf > pmf.max() * 1e-40)
    sizes = np.array([1, k - 2]) if k > 2 else np.array([1])
    rivals = Rivals(np.full(len(sizes), 1 / (k - 1)), sizes)
    caps = np.stack([rows - sybil, rows], axis=1)[:, : len(sizes)]
    wins = np.exp(rivals.log_below(n - rows, caps, "random"))
    return min(1.0, float(pmf[rows] @ wins))


def rr_accuracy(p: Any, k: int, eps: Any) -> Any:
    """Accuracy of one node under k-ary randomised response.

    The node keeps its label with probability ``e^eps / (e^eps + k - 1)`` and else votes for a
    uniform other one: ``1/k + (p - 1/k)(e^eps - 1)/(e^eps + k - 1)``. Every answered task spends
    `eps`.

    Parameters
    ----------
    p : float or array
        Accuracy before the noise.
    k : int
        Classes, 2 or more.
    eps : float or array
        Privacy parameter, 0 or more; infinity is no noise.

    Returns
    -------
    float or float64 array

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_classes(k)
    accuracy, budget = np.asarray(p, dtype=float), np.asarray(eps, dtype=float)
    if not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise ValueError(f"p must be in [0, 1], got {p!r}")
    if not (budget >= 0).all():
        raise ValueError(f"eps must be 0 or more, got {eps!r}")
    keep = expit(budget - np.log(k - 1))
    out = accuracy * keep + (1 - accuracy) * (1 - keep) / (k - 1)
    return float(out) if out.ndim == 0 else out


def betabinom_accuracy(n: int, k: int, p: float, icc: float) -> float:
    """Accuracy of the plurality when nodes fail on the same samples.

    A sample's difficulty is drawn from a Beta distribution with mean `p` and intra-class
    correlation `icc`; given it, nodes are independent and wrong labels uniform. Still
    optimistic where wrong nodes agree on the same wrong label, as they do on MNIST.

    Parameters
    ----------
    n, k, p
        Nodes, classes, mean accuracy, as for `plurality_accuracy`.
    icc : float
        Intra-class correlation of correctness, 0 (independent) to 1 (all right or all wrong).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_nodes(n)
    check_classes(k)
    check_probability("p", p)
    check_probability("icc", icc)
    votes = np.arange(n + 1)
    if icc == 0.0 or p in (0.0, 1.0):
        return plurality_from_pmf(_normalised(log_binomial(votes, n, p)), k)
    if icc == 1.0:
        return p
    alpha, beta = p * (1 / icc - 1), (1 - p) * (1 / icc - 1)
    m = votes[:-1]
    steps = np.log((n - m) * (alpha + m)) - np.log((m + 1) * (beta + n - m - 1))
    return plurality_from_pmf(_normalised(np.concatenate([[0.0], np.cumsum(steps)])), k)


def _normalised(logs: Floats) -> Floats:
    weights: Floats = np.exp(logs - logs.max())
    weights /= weights.sum()
    return weights


def effective_votes(n: Any, icc: Any) -> Any:
    """Independent votes that n correlated ones are worth: ``n / (1 + (n-1) icc)``.

    Parameters
    ----------
    n : int or integer array
        Nodes, 1 or more.
    icc : float or array
        Intra-class correlation of correctness, 0 to 1.

    Returns
    -------
    float or float64 array

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    nodes, correlation = np.asarray(n, dtype=float), np.asarray(icc, dtype=float)
    if not (nodes >= 1).all():
        raise ValueError(f"n must be an integer of 1 or more, got {n!r}")
    if not ((correlation >= 0) & (correlation <= 1)).all():
        raise ValueError(f"icc must be in [0, 1], got {icc!r}")
    out = nodes / (1 + (nodes - 1) * correlation)
    return float(out) if out.ndim == 0 else out


def icc(votes: ArrayLike, truth: ArrayLike | None = None) -> float:
    """Intra-class correlation of the nodes' correctness, by one-way analysis of variance.

    Parameters
    ----------
    votes : integer or bool array_like, shape (nodes, samples)
        With `truth`: the class each node voted for. Without: 1 where the node was right, 0 where
        it was wrong. Negative entries abstained.
    truth : integer array_like, shape (samples,), optional
        The class that counts as right, for example the outcome of the full vote.

    Returns
    -------
    float
        0 for independent nodes, 1 when all are right and wrong together; may be slightly
        negative.

    Raises
    ------
    ValueError
        If the shapes do not fit, an entry without `truth` is above 1, fewer than two samples
        have two votes, or all votes are right or all wrong, where it is undefined.
    """
    matrix = np.asarray(votes)
    if matrix.ndim != 2:
        raise ValueError(f"votes must be a matrix of nodes x samples, got shape {matrix.shape}")
    cast = matrix >= 0
    if truth is None:
        if matrix.size and int(matrix.max()) > 1:
            raise ValueError(f"votes without truth must be 0 or 1, got {matrix.max()}")
        right = matrix == 1
    else:
        labels = np.asarray(truth)
        if labels.shape != matrix.shape[1:]:
            raise ValueError(f"truth must have shape {matrix.shape[1:]}, got {labels.shape}")
        right = (matrix == labels) & cast
    size = cast.sum(axis=0).astype(float)
    hits = right.sum(axis=0)[size > 0].astype(float)
    size = size[size > 0]
    groups, total = len(size), float(size.sum())
    if groups < 2 or total <= groups:
        raise ValueError(f"votes must hold 2 samples with 2 votes, got shape {matrix.shape}")
    mean, share = float(hits.sum() / total), hits / size
    if mean in (0.0, 1.0):
        raise ValueError(f"votes must be right and wrong somewhere, got accuracy {mean:g}")
    between = float((size * (share - mean) ** 2).sum()) / (groups - 1)
    within = float((hits * (1 - share)).sum()) / (total - groups)
    weight = (total - float((size**2).sum()) / total) / (groups - 1)
    return (between - within) / (between + (weight - 1) * within)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        check_at_least(name, value, 0)
