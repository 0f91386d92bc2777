"""What an audit round costs: bytes and processor seconds per node, off, light and full.

    python benchmarks/audit.py --json FILE

Nodes vote on 10,000 samples in this process; the audit's messages are counted as they are
serialised. The seconds are the nodes' processor time beyond that of the same vote without an
audit; the vote itself is timed as well, since an audit that is off must not slow it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import main, say
from counting import recorded_vote

N, K = 10_000, 10


def votes_of(nodes: int) -> Any:
    """Nodes that are right in 9 of 10 samples."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, K, N)
    right = rng.random((nodes, N)) < 0.9
    return np.where(right, truth, rng.integers(0, K, (nodes, N)))


def vote(nodes: int, audit: str) -> dict[str, float]:
    """One vote with one audit round."""
    names = [str(number) for number in range(K)]
    with tempfile.TemporaryDirectory() as scratch:
        result, grid, seconds = recorded_vote(
            votes_of(nodes), None, names, state_dir=Path(scratch), audit=audit, rule="all"
        )
    if any(found.verdict != "ok" for found in result.tasks[0].audits):
        raise RuntimeError(f"an honest server was not believed: {result.tasks[0].audits}")
    return {
        "down": grid.down["evaluate"] / nodes,
        "up": grid.up["evaluate"] / nodes,
        "vote_bytes": (grid.down["train"] + grid.up["train"]) / nodes,
        "node_seconds": seconds["nodes"] / nodes,
        "wall": seconds["wall"],
    }


def row(nodes: int, runs: int) -> list[dict[str, Any]]:
    """The three kinds of audit, taking turns."""
    found: dict[str, list[dict[str, float]]] = {"off": [], "light": [], "full": []}
    for _ in range(runs):
        for audit in found:
            found[audit].append(vote(nodes, audit))
    middle = {
        audit: {key: statistics.median(run[key] for run in runs_) for key in runs_[0]}
        for audit, runs_ in found.items()
    }
    return [
        {
            "nodes": nodes,
            "audit": audit,
            "bytes_down_per_node": round(figures["down"]),
            "bytes_up_per_node": round(figures["up"]),
            "vote_bytes_per_node": round(figures["vote_bytes"]),
            "audit_seconds_per_node": figures["node_seconds"] - middle["off"]["node_seconds"],
            "wall_seconds": figures["wall"],
        }
        for audit, figures in middle.items()
    ]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rows for 10 and 40 nodes."""
    rows = []
    print("| nodes | audit | bytes to a node | from it | of the vote | seconds a node | wall |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for nodes in options.nodes:
        say(f"{nodes} nodes x {N:,} votes")
        for each in row(nodes, options.runs):
            rows.append(each)
            print(
                f"| {nodes} | {each['audit']} | {each['bytes_down_per_node']:,} "
                f"| {each['bytes_up_per_node']:,} | {each['vote_bytes_per_node']:,} "
                f"| {each['audit_seconds_per_node']:.3f} | {each['wall_seconds']:.2f} |"
            )
    return {"samples": N, "runs": options.runs, "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 40], help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="turns of each kind (%(default)s)")
    main(measure, parser)
