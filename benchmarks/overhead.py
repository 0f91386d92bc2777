"""What the protocol costs: a vote against Flower's plain round trip, and many nodes.

Vote tasks and plain exchanges of the same payload take turns in one run of real processes
(``apps/overhead``), so that whatever else the machine does meets both. Scale is measured in
memory, where nothing but strategy, ledger and nodes takes time, and once with real processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Cache, main, options, say, spread
from counting import recorded_vote

from rtc_flower.deployment import Deployment, Node
from rtc_flower.replaying import replay
from rtc_flower.verify import verify

APP = Path(__file__).resolve().parent / "apps" / "overhead"
SCALES = (10, 40, 100, 400)


def processes(nodes: int, pairs: int, samples: int, audit: str) -> dict[str, Any]:
    """Run the app on a SuperLink and SuperNodes of this machine; returns what it timed."""
    say(f"{nodes} SuperNodes, {pairs} tasks, audit {audit}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run: dict[str, str | int | float | bool] = {
            "state-dir": str(work / "server"),
            "pairs": pairs,
            "samples": samples,
            "min-nodes": nodes,
            "audit": audit,
            "out": str(work / "timings.json"),
        }
        configured = [
            Node({"state-dir": str(work / "nodes" / str(i)), "name": f"node-{i}"})
            for i in range(nodes)
        ]
        begin = time.perf_counter()
        with Deployment(
            APP, configured, work_dir=work / "flower", run_config=run, startup_timeout=300.0
        ) as running:
            started = time.perf_counter() - begin
            for _ in running.run(timeout=3_000):
                pass
        found: dict[str, Any] = json.loads((work / "timings.json").read_text())
        report = verify(work / "server" / "ledger.db")
        return {
            **found,
            "nodes": nodes,
            "samples": samples,
            "start_seconds": started,
            "verify": report.summary,
        }


def paired(found: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the median of the ratios of neighbours."""
    votes, plain = np.array(found["vote_seconds"]), np.array(found["plain_seconds"])
    return {
        **found,
        "vote_median": float(np.median(votes)),
        "plain_median": float(np.median(plain)),
        "ratio_of_medians": float(np.median(votes) / np.median(plain)),
        "median_of_ratios": float(np.median(votes / plain)),
    }


def scale_worker(nodes: int, samples: int) -> dict[str, Any]:
    """One vote of so many virtual nodes in this process."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, samples)
    wrong = rng.integers(0, 10, (nodes, samples))
    votes = np.where(rng.random((nodes, samples)) < 0.9, truth, wrong)
    x = rng.integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        result, _, spent = recorded_vote(
            votes, x, 10, state_dir=Path(folder), rule="all", audit="off"
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = result.ledger.stat().st_size
        begin = time.process_time()
        summary = verify(result.ledger).summary
        verifying = time.process_time() - begin
    return {
        "nodes": nodes,
        "samples": samples,
        "coordination_seconds": spent["coordination"],
        "seconds_per_ballot": spent["coordination"] / nodes,
        "ledger_seconds_per_ballot": result.ledger_seconds / nodes,
        "node_seconds_per_ballot": spent["nodes"] / nodes,
        "memory_above_start_mib": (peak - before) / 1024,
        "ledger_bytes": size,
        "ledger_bytes_per_vote": size / (nodes * samples),
        "verify": summary,
        "verify_seconds": verifying,
    }


def scaled(nodes: int, samples: int, runs: int) -> dict[str, Any]:
    """Median of several runs, each in a process of its own."""
    say(f"{nodes} virtual nodes")
    found = []
    for _ in range(runs):
        command = [sys.executable, __file__, "--worker", str(nodes), str(samples)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
    numbers = [name for name, value in found[0].items() if isinstance(value, (int, float))]
    return {
        **found[0],
        **{name: float(np.median([one[name] for one in found])) for name in numbers},
        "seconds_per_ballot_spread": spread([one["seconds_per_ballot"] for one in found]),
    }


def replayed(nodes: int, samples: int) -> dict[str, Any]:
    """Replay other people's votes: wall and processor seconds, verification included."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, samples)
    wrong = rng.integers(0, 10, (nodes, samples))
    votes = np.where(rng.random((nodes, samples)) < 0.9, truth, wrong)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "votes.npz"
        np.savez_compressed(path, votes=votes)
        begin, cpu = time.perf_counter(), time.process_time()
        result = replay(path, ledger=Path(folder) / "ledger.db")
        return {
            "nodes": nodes,
            "samples": samples,
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - cpu,
            "verify": result.verify,
        }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows; those of real processes unless left out."""
    cache = Cache(arguments.cache_dir)
    scale = [scaled(nodes, arguments.samples, arguments.runs) for nodes in arguments.scales]
    for one in scale:
        print(
            f"{one['nodes']:.0f} nodes: {1000 * one['seconds_per_ballot']:.2f} ms a ballot, "
            f"{one['memory_above_start_mib']:.0f} MiB, ledger {one['ledger_bytes']:,.0f} B",
            flush=True,
        )
    per_ballot = [one["seconds_per_ballot"] for one in scale]
    result: dict[str, Any] = {
        "benchmark": "overhead",
        "settings": {
            "samples": arguments.samples,
            "runs": arguments.runs,
            "pairs": arguments.pairs,
            "pair_nodes": arguments.pair_nodes,
            "pair_samples": arguments.pair_samples,
        },
        "seeds": [],
        "scale": scale,
        "seconds_per_ballot_ratio": per_ballot[-1] / per_ballot[0],
        "replay": replayed(40, 10_000 if arguments.samples >= 1_000 else arguments.samples),
        "round_trip": None,
        "audit": {},
        "many_processes": {},
    }
    if not arguments.no_flower:
        result |= _of_processes(arguments, cache)
    return result


def _of_processes(arguments: argparse.Namespace, cache: Cache) -> dict[str, Any]:
    nodes, samples = arguments.pair_nodes, arguments.pair_samples

    def kept(name: str, make: Callable[[], dict[str, Any]], **settings: Any) -> dict[str, Any]:
        return cache.result(f"overhead-{name}", settings, make)

    pairs = kept(
        "pairs",
        lambda: processes(nodes, arguments.pairs, samples, "off"),
        nodes=nodes,
        samples=samples,
        pairs=arguments.pairs,
    )
    result: dict[str, Any] = {"round_trip": paired(pairs), "audit": {}, "many_processes": {}}
    print(f"vote over plain round trip: {result['round_trip']['median_of_ratios']:.2f}", flush=True)
    for audit in ("light", "full"):
        result["audit"][audit] = kept(
            f"audit-{audit}",
            lambda audit=audit: processes(nodes, 3, samples, audit),  # type: ignore[misc]
            nodes=nodes,
            samples=samples,
        )
    for many in arguments.processes:
        pairs_here = 3 if many < 10 else 1  # each node starts a process per message, on few cores
        result["many_processes"][str(many)] = kept(
            f"processes-{many}",
            lambda many=many, n=pairs_here: processes(many, n, 1_000, "off"),  # type: ignore[misc]
            nodes=many,
            pairs=pairs_here,
        )
    return result


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--scales", type=int, nargs="+", default=list(SCALES))
    parser.add_argument("--samples", type=int, default=1_000, help="at scale (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="per scale (%(default)s)")
    parser.add_argument("--pairs", type=int, default=9, help="vote and plain (%(default)s)")
    parser.add_argument("--pair-nodes", type=int, default=4, help="SuperNodes (%(default)s)")
    parser.add_argument("--pair-samples", type=int, default=10_000, help="a task (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="*", default=[5, 20], help="SuperNodes")
    parser.add_argument("--no-flower", action="store_true", help="no run of Flower's processes")
    return parser


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(scale_worker(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(measure, _parser())
