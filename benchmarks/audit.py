"""What an audit round costs: bytes and processor seconds per node, off, light and full.

    python benchmarks/audit.py --json FILE

Nodes vote on 10,000 samples in this process; messages are counted as they are serialised. The vote
round is timed apart from its audit, for an audit that is off must cost the vote nothing. Medians
of runs that take turns; all seconds are the processor's. Then many tasks on one ledger: what an
audit costs behind a hundred of them, over what the first ones cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import main, options, say
from counting import recorded_vote

from rtc_flower.strategies import proof_of_prediction
from rtc_flower.strategies.audit_round import AuditRound

N, K = 10_000, 10
KINDS = ("off", "light", "full")
LIFE = 5, 1_000  # nodes and samples of each task of a long life
ENDS = 10  # tasks at its beginning and its end that are averaged


class TimedAudit(AuditRound):
    """An audit round whose processor seconds, the nodes' included, are added up."""

    spent = 0.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._begin = time.process_time()
        super().__init__(*arguments, **named)

    def close(self) -> None:
        """End the round."""
        super().close()
        TimedAudit.spent += time.process_time() - self._begin


def votes_of(nodes: int, samples: int = N) -> Any:
    """Nodes that are right in 9 of 10 samples."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, K, samples)
    right = rng.random((nodes, samples)) < 0.9
    return np.where(right, truth, rng.integers(0, K, (nodes, samples)))


def vote(nodes: int, audit: str) -> dict[str, float]:
    """One vote with one audit round."""
    names = [str(number) for number in range(K)]
    TimedAudit.spent = 0.0
    with (
        tempfile.TemporaryDirectory() as scratch,
        mock.patch.object(proof_of_prediction, "AuditRound", TimedAudit),
    ):
        result, grid, seconds = recorded_vote(
            votes_of(nodes), None, names, state_dir=Path(scratch), audit=audit, rule="all"
        )
    audits = result.tasks[0].audits
    if len(audits) != nodes * (audit != "off") or any(found.verdict != "ok" for found in audits):
        raise RuntimeError(f"an honest server was not believed by {nodes} nodes: {audits}")
    return {
        "bytes_down_per_node": grid.down["evaluate"] / nodes,
        "bytes_up_per_node": grid.up["evaluate"] / nodes,
        "vote_bytes_per_node": (grid.down["train"] + grid.up["train"]) / nodes,
        "node_seconds": seconds["node_audits"] / nodes,
        "audit_seconds": TimedAudit.spent,
        "vote_seconds": seconds["nodes"] + seconds["coordination"] - TimedAudit.spent,
    }


def rows_of(nodes: int, runs: int) -> list[dict[str, Any]]:
    """The three kinds of audit, taking turns."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for turn in range(runs):
        for kind in KINDS if turn % 2 else KINDS[::-1]:
            found[kind].append(vote(nodes, kind))
    off = [run["vote_seconds"] for run in found["off"]]
    rows = []
    for kind, measured in found.items():
        middle = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        ratios = [run["vote_seconds"] / alone for run, alone in zip(measured, off, strict=True)]
        spread = [min(run["vote_seconds"] for run in measured),
                  max(run["vote_seconds"] for run in measured)]  # fmt: skip
        rows.append(
            {"nodes": nodes, "audit": kind, **middle, "vote_seconds_spread": spread,
             "vote_ratio_to_off": statistics.median(ratios)}
        )  # fmt: skip
    return rows


def life(audit: str, tasks: int) -> dict[str, Any]:
    """One ledger that grows: an audit of its first tasks, and of its last."""
    nodes, samples = LIFE
    votes, names = votes_of(nodes, samples), [str(number) for number in range(K)]
    spent, sent = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(tasks):
            _, grid, seconds = recorded_vote(
                votes, None, names, state_dir=Path(scratch), seed=number, audit=audit, rule="all"
            )
            spent.append(seconds["node_audits"] / nodes)
            sent.append(grid.down["evaluate"] / nodes)
    ends = min(ENDS, tasks // 2)
    first, last = statistics.median(spent[:ends]), statistics.median(spent[-ends:])
    return {
        "audit": audit,
        "first_seconds": first,
        "last_seconds": last,
        "seconds_ratio": last / first,
        "first_bytes": statistics.median(sent[:ends]),
        "last_bytes": statistics.median(sent[-ends:]),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows for 10 and 40 nodes, and of a ledger that grows."""
    rows = []
    vote(2, "full")  # imports, and what is compiled once
    print(
        "| nodes | audit | bytes to a node | from it | of the vote | s a node | vote, s | ratio |"
    )
    print(f"|{' --- |' * 8}")
    for nodes in arguments.nodes:
        say(f"{nodes} nodes x {N:,} votes")
        for row in rows_of(nodes, arguments.runs):
            rows.append(row)
            print(
                f"| {nodes} | {row['audit']} | {row['bytes_down_per_node']:,.0f} "
                f"| {row['bytes_up_per_node']:,.0f} | {row['vote_bytes_per_node']:,.0f} "
                f"| {row['node_seconds']:.3f} | {row['vote_seconds']:.2f} "
                f"| {row['vote_ratio_to_off']:.2f} |"
            )
    lives = []
    for kind in KINDS[1:]:
        say(f"{arguments.tasks} tasks of {LIFE[0]} nodes x {LIFE[1]:,} votes, audit {kind}")
        lives.append(life(kind, arguments.tasks))
        told = "{audit}: {first_seconds:.4f} s, {last_seconds:.4f} s, ratio {seconds_ratio:.2f}"
        print(told.format(**lives[-1]))
    settings = {"samples": N, "classes": K, "runs": arguments.runs, "rule": "all"}
    settings |= {"tasks": arguments.tasks, "life": list(LIFE)}
    return {
        "benchmark": "audit", "settings": settings, "seeds": [0], "rows": rows, "life": lives,
    }  # fmt: skip


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 40], help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="turns of each kind (%(default)s)")
    parser.add_argument("--tasks", type=int, default=100, help="of a long life (%(default)s)")
    main(measure, parser)
