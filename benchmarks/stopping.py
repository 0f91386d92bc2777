"""How many votes each stop rule saves, and what it costs, on the ballots of `accuracy.py`.

40 real nodes, 10,000 samples, random counting orders. Then the same with Sybils that answer first,
against the random order that ``invitation`` draws: rules other than ``certain`` are only as good
as the order. Last, the vote is held again in waves, and nodes that were never asked are counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import CLASSES, MIXES, NODES, Record, ballots
from common import Cache, Votes, main, mnist, options
from counting import recorded_vote

from rtc_flower.stopping import Rule, StopRule, least_leaders, stop_positions
from rtc_flower.verify import verify

RULES = {
    "certain": StopRule(Rule.CERTAIN, CLASSES),
    "paper": StopRule(Rule.PAPER, CLASSES, lead=21),
    "certified": StopRule(Rule.CERTIFIED, CLASSES, inv_delta=100),
    "all": StopRule(Rule.ALL, CLASSES),
}


def tops(votes: Votes) -> Any:
    """Which classes are the longest fork of the full vote, ties included (classes, samples)."""
    counts = np.stack([(votes == label).sum(axis=0) for label in range(CLASSES)])
    return counts == counts.max(axis=0)


def one_rule(votes: Votes, truth: Votes, rule: StopRule, orders: list[Any]) -> dict[str, Any]:
    """Figures of one rule over all orders."""
    full = tops(votes)
    used, decided, differ, error, decided_used, decided_error = [], [], [], [], [], []
    for order in orders:
        stopped = stop_positions(votes[order], rule)
        fired = stopped.position > 0
        needed = np.where(fired, stopped.position, len(votes))
        wrong = stopped.outcome != truth
        used.append(float(needed.mean()))
        decided.append(float(fired.mean()))
        agrees = full[stopped.outcome, np.arange(votes.shape[1])]
        differ.append(int(np.count_nonzero(fired & ~agrees)))
        error.append(float(wrong.mean()))
        if fired.any():
            decided_used.append(float(stopped.position[fired].mean()))
            decided_error.append(float(wrong[fired].mean()))
    return {
        "mean_votes": float(np.mean(used)),
        "mean_votes_of_decided": float(np.mean(decided_used)) if decided_used else None,
        "share_decided": float(np.mean(decided)),
        "differing_samples": max(differ),
        "differing_samples_mean": float(np.mean(differ)),
        "error": float(np.mean(error)),
        "error_of_decided": float(np.mean(decided_error)) if decided_error else None,
    }


def sybils_first(
    honest: Votes, truth: Votes, sybils: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Share of samples that each rule gives to the Sybils, by counting order."""
    lie = (truth + rng.integers(1, CLASSES, len(truth))) % CLASSES
    attack = np.tile(lie, (sybils, 1))
    first = np.concatenate([attack, honest[rng.permutation(len(honest))]])
    drawn = first[rng.permutation(len(first))]
    found: dict[str, Any] = {"honest": len(honest), "sybils": sybils}
    for name, rule in RULES.items():
        found[name] = {
            order: float((stop_positions(votes, rule).outcome == lie).mean())
            for order, votes in (("sybils_first", first), ("invitation", drawn))
        }
    return found


def timing() -> dict[str, Any]:
    """Milliseconds of a rule on 10,000 samples after a ballot, and of its whole table."""
    rng = np.random.default_rng(0)
    leader = rng.integers(10, 20, 10_000)
    runner = rng.integers(0, 8, 10_000)
    warm = {}
    for name, rule in RULES.items():
        rule.fires(leader, runner, 12, 28)
        begin = time.process_time()
        for _ in range(50):
            rule.fires(leader, runner, 12, 28)
        warm[name] = 1000 * (time.process_time() - begin) / 50
    tables = {}
    for nodes in (40, 100, 300, 1_000):
        least_leaders.cache_clear()
        begin = time.process_time()
        for counted in range(1, nodes + 1):
            least_leaders(nodes - counted, counted, CLASSES, 100)
        tables[str(nodes)] = time.process_time() - begin
    return {"fires_ms_10000_samples": warm, "table_seconds": tables}


def waves(record: Record) -> dict[str, Any]:
    """Hold the vote in waves of 5 until 99 % are decided, through strategy and ledger."""
    found = {}
    for rule in ("certain", "certified"):
        with tempfile.TemporaryDirectory() as folder:
            result, _, _ = recorded_vote(
                record.votes,
                None,
                CLASSES,
                state_dir=Path(folder),
                rule=rule,
                order="invitation",
                inv_delta=100,
                wave_size=5,
                close_when=0.99,
                audit="off",
            )
            if verify(result.ledger).summary != "ok":
                raise RuntimeError("a ledger of the strategy does not verify")
        task = result.tasks[0]
        right = task.outcomes.classes == record.truth
        found[rule] = {
            "never_asked": len(task.idle),
            "asked": len(record.votes) - len(task.idle),
            "reason": task.reason,
            "accuracy": float(right.mean()),
            "cpu_seconds_saved": record.seconds * len(task.idle) / len(record.votes),
            "cpu_seconds_full": record.seconds,
        }
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rules on all mixes and seeds that are asked for."""
    cache = Cache(arguments.cache_dir)
    kept: dict[str, Record] = {}
    by_seed: dict[str, Any] = {}
    for seed in arguments.seeds:
        kept[str(seed)] = record = ballots(
            arguments.mix,
            seed,
            cache=cache,
            data=lambda: mnist(arguments.data_dir),
            nodes=arguments.nodes,
            samples=arguments.samples,
            scale=arguments.scale,
        )
        votes, truth = record.votes, record.truth
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(len(votes)) for _ in range(arguments.orders)]
        rules = {name: one_rule(votes, truth, rule, orders) for name, rule in RULES.items()}
        by_seed[str(seed)] = {
            "rules": rules,
            "sybils": sybils_first(votes[: 5 * len(votes) // 8], truth, 3 * len(votes) // 8, rng),
            "waves": waves(record),
        }
        for name, found in rules.items():
            print(
                f"seed {seed} {name:9}: {found['mean_votes']:.2f} votes, "
                f"{found['share_decided']:.2%} decided, differs on {found['differing_samples']}, "
                f"error {found['error']:.2%}",
                flush=True,
            )
    figures = ("mean_votes", "mean_votes_of_decided", "share_decided", "error", "error_of_decided")
    return {
        "benchmark": "stopping",
        "settings": {
            "mix": arguments.mix,
            "nodes": arguments.nodes,
            "orders": arguments.orders,
            "lead": 21,
            "delta": 0.01,
            "prior": "Beta(4, 1)",
        },
        "seeds": arguments.seeds,
        **{key: {name: _mean(by_seed, name, key) for name in RULES} for key in figures},
        "differing_samples": {
            name: max(row["rules"][name]["differing_samples"] for row in by_seed.values())
            for name in RULES
        },
        "sybils_first": [row["sybils"] for row in by_seed.values()] + _hundred(kept),
        "waves": {seed: row["waves"] for seed, row in by_seed.items()},
        "timing": timing(),
        "by_seed": by_seed,
    }


def _hundred(kept: dict[str, Record]) -> list[dict[str, Any]]:
    """75 honest nodes of two seeds against 25 Sybils: an electorate where the lead can fire."""
    if len(kept) < 2:
        return []
    one, two, *_ = kept.values()
    honest = np.concatenate([one.votes, two.votes])[:75]
    if len(honest) < 75:
        return []
    return [sybils_first(honest, one.truth, 25, np.random.default_rng(100))]


def _mean(by_seed: dict[str, Any], rule: str, key: str) -> float | None:
    found = [row["rules"][rule][key] for row in by_seed.values()]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--mix", choices=sorted(MIXES), default="plain")
    parser.add_argument("--orders", type=int, default=20, help="counting orders (%(default)s)")
    parser.add_argument("--nodes", type=int, default=NODES, help="as of accuracy.py (%(default)s)")
    parser.add_argument("--samples", type=int, help="as of accuracy.py; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="as of accuracy.py (%(default)s)")
    return parser


if __name__ == "__main__":
    main(measure, _parser())
