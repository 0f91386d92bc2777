"""Algorithm 1 of the paper, corrected, and how many partitions it visits."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import comb

from rtc_flower.theory.domains import (
    check_at_least,
    check_classes,
    check_nodes,
    check_probability,
)

__all__ = ["algorithm1", "partition_count"]

_MOST_PARTITIONS = 5_000_000


def partition_count(n: int, k: int) -> int:
    """Partitions of n into at most k parts: the leaves that Algorithm 1 visits.

    Parameters
    ----------
    n, k : int
        Nodes and classes, 1 or more.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_nodes(n)
    check_at_least("k", k, 1)
    ways = [1] + [0] * n
    for part in range(1, min(k, n) + 1):
        for total in range(part, n + 1):
            ways[total] += ways[total - part]
    return ways[n]


def algorithm1(n: int, k: int, p: float) -> float:
    """Algorithm 1 of the paper, corrected: the plurality accuracy by enumerating partitions.

    As printed it never uses `p`, loses its accumulator and counts a tie fully for the target.
    Here a partition of the votes into fork lengths, the target's first, weighs the ways to deal
    the votes and the other lengths to the other classes, divided by the number of forks that
    share the greatest length. Exact rational arithmetic; a cross-check, since the partitions
    grow like ``n ** (k - 1)``.

    Parameters
    ----------
    n, k, p
        As for `plurality_accuracy`.

    Returns
    -------
    float
        The correctly rounded probability.

    Raises
    ------
    ValueError
        If an argument is out of range, or there are more than 5 million partitions.
    """
    check_classes(k)
    check_probability("p", p)
    leaves = partition_count(n, k)
    if leaves > _MOST_PARTITIONS:
        raise ValueError(f"n = {n}, k = {k} has {leaves} partitions, at most {_MOST_PARTITIONS}")
    target = Fraction(p)
    other = (1 - target) / (k - 1)
    total = Fraction(0)
    for most in range(-(-n // k), n + 1):
        ways = sum(
            (Fraction(deals, tied) for deals, tied in _deals(n - most, most, k - 1)), Fraction(0)
        )
        total += ways * comb(n, most) * target**most * other ** (n - most)
    return float(total)


def _deals(left: int, most: int, classes: int) -> list[tuple[int, int]]:
    """Ways to deal `left` votes on `classes` with none above `most`, by the number of ties.

    Returns pairs (ways, forks that share the greatest length, the target's included).
    """
    out: Counter[int] = Counter()

    def decompose(remaining: int, cap: int, free: int, ways: int, tied: int) -> None:
        if remaining == 0:
            out[tied] += ways
            return
        if cap * free < remaining:
            return
        for size in range(min(cap, remaining), -(-remaining // free) - 1, -1):
            deals, rest, sharing = ways, remaining, 0
            while rest >= size and sharing < free:
                deals *= comb(rest, size)
                rest -= size
                sharing += 1
                choices = comb(free, sharing)
                again = tied + sharing if size == most else tied
                decompose(rest, size - 1, free - sharing, deals * choices, again)

    if left == 0:
        return [(1, 1)]
    decompose(left, most, classes, 1, 1)
    return [(ways, tied) for tied, ways in out.items()]
