"""Nodes that never trained: a task in waves against the full vote, with 40 nodes on MNIST.

Invitations go out five at a time, `certified` decides, and the task closes when 99 % of the samples
are decided. The nodes that were never invited did not train; the full vote of the same 40 nodes
is that of `accuracy.py` (cached in ``--cache-dir``), so that both are measured alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from accuracy import CLASSES, MIXES, NODES, ballots, estimator
from common import Cache, first_count, main, mnist, options, say

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.contract import Contract
from rtc_flower.clients.data import PAPER_PARTS, Dataset, paper_parts, tasks
from rtc_flower.errors import DataError
from rtc_flower.simulator import SimulatedNode, simulate
from rtc_flower.strategies.proof_of_prediction import Decided, VoteTask
from rtc_flower.verify import verify


def wave_vote(
    mix: str, seed: int, data: Dataset, arguments: argparse.Namespace
) -> tuple[Decided, float]:
    """Hold the vote in waves; return what was decided and the processor seconds it took."""
    parts = paper_parts(data, seed=seed)
    asked = tasks(data, PAPER_PARTS, samples_per_node=2_500, samples_per_task=arguments.samples)

    def node(i: int) -> SimulatedNode:
        part = parts[i % PAPER_PARTS]
        app = make_client_app(
            lambda context: Contract(
                estimator(mix, i, seed, arguments.scale), lambda: (part.x, part.y)
            )
        )
        return SimulatedNode(app, node_config={"name": "node"})

    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(
            [VoteTask(asked[0].x, data.class_names)],
            [node(i) for i in range(arguments.nodes)],
            state_dir=Path(folder),
            seed=seed,
            rule="certified",
            wave_size=arguments.wave_size,
            close_when=arguments.close_when,
            audit="off",
        )
        report = verify(result.ledger)
        if report.summary != "ok":
            raise DataError(f"expected a ledger that verifies, got {report.summary}")
    return result.tasks[0], time.process_time() - begin


def one_seed(seed: int, data: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare one vote in waves with the full vote of the same nodes."""
    full = ballots(
        arguments.mix,
        seed,
        cache=Cache(arguments.cache_dir),
        data=lambda: data,
        nodes=arguments.nodes,
        samples=arguments.samples,
        scale=arguments.scale,
    )
    decided, seconds = wave_vote(arguments.mix, seed, data, arguments)
    outcome = first_count(full.votes, CLASSES)
    found = {
        "idle_nodes": len(decided.idle),
        "nodes": arguments.nodes,
        "reason": decided.reason,
        "accuracy": float((decided.outcomes.classes == full.truth).mean()),
        "full_accuracy": float((outcome == full.truth).mean()),
        "differing_samples": int((decided.outcomes.classes != outcome).sum()),
        "cpu_seconds": seconds,
        "full_cpu_seconds": full.seconds,
        "cpu_seconds_saved": full.seconds - seconds,
    }
    say(f"seed {seed}: {found}")
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold a vote in waves per seed."""
    data = mnist(arguments.data_dir)
    seeds = {str(seed): one_seed(seed, data, arguments) for seed in arguments.seeds}
    return {
        "benchmark": "waves",
        "settings": {
            "mix": arguments.mix,
            "nodes": arguments.nodes,
            "wave_size": arguments.wave_size,
            "close_when": arguments.close_when,
            "samples": arguments.samples or 10_000,
            "rule": "certified, inv-delta 1000",
        },
        "seeds": arguments.seeds,
        "by_seed": seeds,
    }


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--mix", choices=sorted(MIXES), default="plain")
    parser.add_argument("--nodes", type=int, default=NODES, help="nodes (%(default)s)")
    parser.add_argument("--wave-size", type=int, default=5, help="nodes a wave (%(default)s)")
    parser.add_argument(
        "--close-when", type=float, default=0.99, help="share of decided samples (%(default)s)"
    )
    parser.add_argument("--samples", type=int, help="samples to decide; all 10,000 by default")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies epochs")
    return parser


if __name__ == "__main__":
    main(measure, _parser())
