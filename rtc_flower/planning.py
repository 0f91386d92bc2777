"""What to expect of a vote before it is held: the numbers behind ``rtc-flower plan``.

Pure; needs scipy through `rtc_flower.theory`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import ceil

import numpy as np

from rtc_flower.errors import TaskError
from rtc_flower.stopping import LARGEST_CERTIFIED, Rule, StopRule, paper_rule, stop_positions
from rtc_flower.theory import (
    betabinom_accuracy,
    effective_votes,
    expected_fork_lengths,
    honest_needed,
    mixed_accuracy,
    nodes_needed,
)

__all__ = ["Plan", "plan"]

_SAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to expect of an electorate.

    Attributes
    ----------
    electorate : int
        Honest, lazy and Sybil nodes.
    accuracy : float
        Probability that a sample's outcome is right, errors independent.
    accuracy_correlated : float or None
        The same with correlated errors; None with lazy or Sybil nodes, where it is not known.
    effective_votes : float
        Independent honest nodes that the correlated ones are worth.
    expected_lead : float
        Expected votes of the target's fork above the longest wrong one, eqs. (2), (3), (7), (8).
    nodes_needed : int or None
        Honest nodes for the target accuracy, independent errors; against the Sybils if there are
        any. None when no number is enough.
    nodes_needed_correlated : int or None
        The same with correlated errors, among honest nodes alone; None when no number up to 1,000
        is enough, or with Sybils.
    expected_votes : dict of str to float
        Ballots until a sample is decided, by rule, in random order; an undecided one takes all.
    share_decided : dict of str to float
        Samples that each rule decides.
    rule : str
        The rule to use: `certified` when it saves votes, else `certain`.
    inv_delta : int
        Its 1 / delta.
    """

    electorate: int
    accuracy: float
    accuracy_correlated: float | None
    effective_votes: float
    expected_lead: float
    nodes_needed: int | None
    nodes_needed_correlated: int | None
    expected_votes: dict[str, float]
    share_decided: dict[str, float]
    rule: str
    inv_delta: int


def plan(
    k: int,
    p: float,
    *,
    honest: int,
    lazy: int = 0,
    sybil: int = 0,
    icc: float = 0.0,
    target: float = 0.99,
    risk: float = 0.001,
    seed: int = 0,
) -> Plan:
    """Accuracy, nodes and votes to expect.

    Parameters
    ----------
    k : int
        Classes, 2 to 1,000.
    p : float
        Accuracy of an honest node.
    honest, lazy, sybil : int
        Nodes of each type; at least one honest.
    icc : float
        Intra-class correlation of the honest nodes' correctness, 0 to 1.
    target : float
        Accuracy wished for, in (0, 1).
    risk : float
        Probability per sample with which stopping early may change the outcome, in (0, 1).
    seed : int
        Seed of the 2,000 simulated samples that give the expected votes.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If an argument is out of range.
    TaskError
        If a stop rule cannot take the parameters.
    """
    for name, value in (("honest", honest), ("lazy", lazy), ("sybil", sybil)):
        least = 1 if name == "honest" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of {least} or more, got {value!r}")
    for name, share in (("target", target), ("risk", risk)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must be in (0, 1), got {share!r}")
    alone = betabinom_accuracy(honest, k, p, icc)  # checks k, p and icc
    electorate = honest + lazy + sybil
    inv_delta = max(2, ceil(1 / risk - 1e-9))
    votes = _simulate(k, p, honest, lazy, sybil, icc, seed)
    expected, decided = {}, {}
    for stop in _rules(k, p, sybil, inv_delta, electorate):
        stopped = stop_positions(votes, stop)
        name = stop.rule.name.lower()
        expected[name] = float(stopped.used.mean()) if stop.rule is not Rule.ALL else electorate
        decided[name] = float((stopped.position > 0).mean())
    saves = expected.get("certified", np.inf) < expected["certain"]
    lengths = expected_fork_lengths(honest, p, lazy, k, sybil)
    return Plan(
        electorate=electorate,
        accuracy=mixed_accuracy(honest, p, lazy, sybil, k),
        accuracy_correlated=None if lazy or sybil else alone,
        effective_votes=effective_votes(honest, icc),
        expected_lead=lengths.target - max(lengths.other, lengths.wrong),
        nodes_needed=_needed(k, p, sybil, target),
        nodes_needed_correlated=None if sybil else _needed_correlated(k, p, icc, target),
        expected_votes=expected,
        share_decided=decided,
        rule="certified" if saves else "certain",
        inv_delta=inv_delta,
    )


def _rules(k: int, p: float, sybil: int, inv_delta: int, electorate: int) -> list[StopRule]:
    rules = [StopRule(Rule.CERTAIN, k)]
    if electorate <= LARGEST_CERTIFIED:
        rules.append(StopRule(Rule.CERTIFIED, k, inv_delta=inv_delta))
    # Nodes that do no better than guessing: the paper has no rule for them.
    with suppress(TaskError):
        rules.append(paper_rule(k, sybil=sybil, p=p))
    return [*rules, StopRule(Rule.ALL, k)]


def _needed(k: int, p: float, sybil: int, target: float) -> int | None:
    try:
        if sybil:
            return honest_needed(sybil, p, (1 - p) / (k - 1), target)
        return nodes_needed(k, p, target)
    except ValueError:
        return None


def _needed_correlated(k: int, p: float, icc: float, target: float) -> int | None:
    if icc == 0:
        return _needed(k, p, 0, target)
    if betabinom_accuracy(1_000, k, p, icc) < target:
        return None
    low, high = 0, 1_000
    while high - low > 1:
        middle = (low + high) // 2
        enough = betabinom_accuracy(middle, k, p, icc) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def _simulate(
    k: int, p: float, honest: int, lazy: int, sybil: int, icc: float, seed: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Votes of a random counting order; class 0 is right, the Sybils say 1."""
    rng = np.random.default_rng(seed)
    ease = np.full(_SAMPLES, p)
    if icc == 1.0:
        ease = (rng.random(_SAMPLES) < p).astype(float)
    elif icc > 0 and 0 < p < 1:
        ease = rng.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), _SAMPLES)
    wrong = rng.integers(1, k, (honest, _SAMPLES))
    votes = np.concatenate(
        [
            np.where(rng.random((honest, _SAMPLES)) < ease, 0, wrong),
            rng.integers(0, k, (lazy, _SAMPLES)),
            np.ones((sybil, _SAMPLES), dtype=np.int64),
        ]
    )
    return rng.permuted(votes, axis=0)
