"""The demo as a user runs it, once per seed: accuracies, and seconds of the whole command.

    python benchmarks/demo.py --dataset mnist --json FILE

Every run is `rtc-flower demo` with its SuperLink and SuperNodes; nothing is kept between runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import main, options, say

from rtc_flower.errors import DeploymentError

MEDIANS = (
    "command_seconds",
    "run_seconds",
    "ledger_seconds",
    "consensus_accuracy",
    "mean_node_accuracy",
    "best_node_accuracy",
    "above_mean_points",
    "above_best_points",
)


def demo(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command once; returns its JSON with what follows from it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo.json"
        command = [sys.executable, "-m", "rtc_flower", "demo", "--dataset", arguments.dataset]
        command += ["--seed", str(seed), "--state-dir", folder + "/run", "--json", str(out)]
        command += ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []
        command += ["--quick"] if arguments.quick else []
        say(f"{arguments.dataset} demo, seed {seed}")
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        taken = time.perf_counter() - begin
        if done.returncode:
            raise DeploymentError(f"the demo ended with exit code {done.returncode}: {done.stdout}")
        found: dict[str, Any] = json.loads(out.read_text())
    del found["ledger"]  # its folder is gone
    accuracy = found["consensus_accuracy"]
    return {
        **found,
        "command_seconds": taken,
        "above_mean_points": 100 * (accuracy - found["mean_node_accuracy"]),
        "above_best_points": 100 * (accuracy - found["best_node_accuracy"]),
        "ledger_share": found["ledger_seconds"] / found["run_seconds"],
        "least_accuracy": {
            model: min(n["accuracy"] for n in found["nodes"] if n["model"] == model)
            for model in sorted({node["model"] for node in found["nodes"]})
        },
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One demo per seed, and medians."""
    by_seed = {}
    for seed in arguments.seeds:
        by_seed[str(seed)] = row = demo(seed, arguments)
        print(
            f"seed {seed}: consensus {row['consensus_accuracy']:.2%}, "
            f"{row['above_mean_points']:+.2f} points over the mean node, "
            f"{row['above_best_points']:+.2f} over the best; {row['command_seconds']:.0f} s, "
            f"{row['ledger_share']:.1%} of it in the ledger; verify {row['verify']}",
            flush=True,
        )
    medians = {name: statistics.median(row[name] for row in by_seed.values()) for name in MEDIANS}
    print(
        f"median: consensus {medians['consensus_accuracy']:.2%}, {medians['command_seconds']:.0f} s"
    )
    return {
        "benchmark": "demo",
        "settings": {"dataset": arguments.dataset, "quick": arguments.quick},
        "seeds": arguments.seeds,
        "medians": medians,
        "by_seed": by_seed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--dataset", choices=("mnist", "digits"), default="digits")
    parser.add_argument("--quick", action="store_true", help="trains less, as the demo's option")
    return parser


if __name__ == "__main__":
    main(measure, _parser())
