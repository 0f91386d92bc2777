"""Lazy nodes and Sybils among the 40 real nodes of `accuracy.py`: accuracy against theory.

A lazy node votes uniformly at random; Sybils vote together for one wrong class per sample, drawn
anew for each sample, which leaks nothing of the truth. They take the places of nodes drawn at
random, and so do the counting orders. Nothing is trained here: the ballots come from the cache.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from accuracy import CLASSES, MIXES, NODES, ballots
from common import Cache, Votes, first_count, main, mnist, options, spread

from rtc_flower.theory import betabinom_accuracy, expected_fork_lengths, icc, mixed_accuracy

__all__ = ["attacked"]

LAZY = (0, 10, 25, 40, 50, 60, 75)
SYBIL = (0, 10, 20, 25, 30, 35, 40, 45, 50, 60)
BOTH = ((25, 10), (25, 25), (25, 30), (25, 40), (50, 10), (50, 20), (50, 25))


def attacked(votes: Votes, truth: Votes, lazy: int, sybil: int, rng: np.random.Generator) -> Votes:
    """Return the ballots with so many rows replaced, in a random counting order."""
    n = votes.shape[1]
    cast = votes[rng.permutation(len(votes))].copy()
    cast[:lazy] = rng.integers(0, CLASSES, (lazy, n))
    cast[lazy : lazy + sybil] = (truth + rng.integers(1, CLASSES, n)) % CLASSES
    return np.asarray(cast[rng.permutation(len(cast))])


def row(
    votes: Votes, truth: Votes, shares: tuple[float, float], *, draws: int, seed: int
) -> dict[str, Any]:
    """Measured accuracy and what the formulas say, for shares of lazy nodes and Sybils in %."""
    nodes = len(votes)
    lazy, sybil = (round(share * nodes / 100) for share in shares)
    honest = nodes - lazy - sybil
    rng = np.random.default_rng([seed, lazy, sybil])
    measured = [
        float((first_count(attacked(votes, truth, lazy, sybil, rng), CLASSES) == truth).mean())
        for _ in range(draws)
    ]
    p = float((votes == truth).mean())
    gap = expected_fork_lengths(honest, p, lazy, CLASSES, sybil=sybil)
    rival = max(gap.other, gap.wrong)
    return {
        "lazy": lazy,
        "sybil": sybil,
        "honest": honest,
        "accuracy": spread(measured),
        "expected_target": gap.target,
        "expected_rival": rival,
        "expectation_says": "target" if gap.target > rival else "rival",
        "theory_independent": mixed_accuracy(honest, p, lazy, sybil, CLASSES),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every mix of attackers on every seed's ballots."""
    cache = Cache(arguments.cache_dir)
    by_seed: dict[str, Any] = {}
    for seed in arguments.seeds:
        record = ballots(
            arguments.mix,
            seed,
            cache=cache,
            data=lambda: mnist(arguments.data_dir),
            nodes=arguments.nodes,
            samples=arguments.samples,
            scale=arguments.scale,
        )
        votes, truth = record.votes, record.truth
        right = (votes == truth).astype(int)
        settings: dict[str, list[tuple[float, float]]] = {
            "lazy": [(share, 0) for share in LAZY],
            "sybil": [(0, share) for share in SYBIL],
            "both": list(BOTH),
        }
        by_seed[str(seed)] = {
            **{
                name: [row(votes, truth, pair, draws=arguments.draws, seed=seed) for pair in pairs]
                for name, pairs in settings.items()
            },
            "mean_node": float(right.mean()),
            "theory_correlated_no_attack": betabinom_accuracy(
                len(votes), CLASSES, float(right.mean()), max(0.0, icc(right))
            ),
        }
        for name in settings:
            shown = {
                f"{r['lazy']}/{r['sybil']}/{r['honest']}": round(100 * r["accuracy"]["mean"], 1)
                for r in by_seed[str(seed)][name]
            }
            print(seed, name, "(lazy/Sybil/honest: %)", shown, flush=True)
    return {
        "benchmark": "robustness",
        "settings": {"mix": arguments.mix, "nodes": arguments.nodes, "draws": arguments.draws},
        "seeds": arguments.seeds,
        **{name: _over_seeds(by_seed, name) for name in ("lazy", "sybil", "both")},
        "by_seed": by_seed,
    }


def _over_seeds(by_seed: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Mean over seeds of each row; least and greatest over all draws."""
    rows = []
    for group in zip(*(seed[name] for seed in by_seed.values()), strict=True):
        of = [one["accuracy"] for one in group]
        rows.append(
            {
                **group[0],
                "accuracy": float(np.mean([one["mean"] for one in of])),
                "least": min(one["min"] for one in of),
                "greatest": max(one["max"] for one in of),
                "theory_independent": float(np.mean([one["theory_independent"] for one in group])),
            }
        )
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--mix", choices=sorted(MIXES), default="plain")
    parser.add_argument("--draws", type=int, default=10, help="per setting (%(default)s)")
    _cached(parser)
    return parser


def _cached(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=NODES, help="as of accuracy.py (%(default)s)")
    parser.add_argument("--samples", type=int, help="as of accuracy.py; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="as of accuracy.py (%(default)s)")


if __name__ == "__main__":
    main(measure, _parser())
