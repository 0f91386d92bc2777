"""Makes docs/results.md, its plots and the README's claims from the figures of the benchmarks.

``--run`` first runs every benchmark, each into ``docs/results/<name>.json``; what is in the cache
is not measured again, and an interrupted run goes on. A figure without a measurement is said to be
missing: no number is in the page that is not in a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from common import Stopwatch, say
from results_page import ORDER, WHOLE, claims, page
from results_plots import PLOTS, draw
from results_words import Figures

from rtc_flower.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def claim(readme: Path, found: dict[str, Figures]) -> None:
    """Write the README's claims between their marks, where there is such a README."""
    text = readme.read_text() if readme.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        write_atomically(readme, f"{before}{BEGIN}\n{claims(found)}\n{END}{after}")


class Runs:
    """Runs benchmarks as a user would, two at a time where each can have a core of its own.

    The ledger and the plain nodes of `speedup.py` are measured alone. Then every core takes one
    piece of work after another, the longest first. What starts Flower's processes comes last,
    alone.
    """

    def __init__(self, figures: Path, arguments: argparse.Namespace) -> None:
        self._figures, self._arguments = figures, arguments

    def all(self) -> None:
        """Run everything that is asked for in the page."""
        self._run("ledger", [], json=True)  # before 20 SuperNodes have heated the machine
        self._run("speedup", [], ["--no-strong", "--no-flower"])
        strong, *others = [["--one-core", "--no-flower", "--seeds", str(seed)] for seed in SEEDS]
        work: list[Callable[[list[int]], None]] = [
            partial(self._run, "speedup", options=strong),
            self._votes,
            *(partial(self._run, "speedup", options=options) for options in others),
            *(
                partial(self._run, "fedavg", options=["--no-flower", "--seeds", str(seed)])
                for seed in SEEDS
            ),
            partial(self._run, "audit", json=True),
        ]
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        free: SimpleQueue[int] = SimpleQueue()
        for core in cores[:2]:
            free.put(core)

        def on_a_core(piece: Callable[[list[int]], None]) -> None:
            core = free.get()
            try:
                piece([core])
            finally:
                free.put(core)

        with ThreadPoolExecutor(len(cores[:2])) as lanes:
            ends = [lanes.submit(on_a_core, piece) for piece in work]
            try:
                for end in ends:
                    end.result()
            finally:
                lanes.shutdown(cancel_futures=True)
        for name in ("speedup", "fedavg", "overhead"):
            self._run(name, [], json=True)

    def _votes(self, cores: list[int]) -> None:
        for name in ("accuracy", "robustness", "stopping", "waves"):
            self._run(name, cores, json=True)

    def _run(
        self, name: str, cores: list[int], options: Sequence[str] = (), json: bool = False
    ) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
        command += ["--json", str(self._figures / f"{name}.json")] if json else []
        command += ["--cores", *map(str, cores)] if cores else []
        if name != "ledger":  # it keeps nothing and needs no data
            command += ["--cache-dir", str(self._arguments.cache_dir)]
            if self._arguments.data_dir:
                command += ["--data-dir", str(self._arguments.data_dir)]
        say(f"{name}: {' '.join(command[1:])}")
        subprocess.run(command, check=True)


def main() -> None:
    """Run what was asked for, then write the plots and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of results.md")
    parser.add_argument("--cache-dir", type=Path, default=Path(".cache"))
    parser.add_argument("--data-dir", type=Path, help="folder that holds MNIST/raw")
    arguments = parser.parse_args()
    figures = arguments.docs / "results"
    for folder in (figures, arguments.docs / "img"):
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        cache: Path = arguments.cache_dir
        fresh, watch = not cache.exists() or not any(cache.iterdir()), Stopwatch()
        try:
            Runs(figures, arguments).all()
        except subprocess.CalledProcessError as error:
            program = Path(error.cmd[1]).name
            raise SystemExit(f"error: {program} ended with exit code {error.returncode}") from None
        except KeyboardInterrupt:
            raise SystemExit("interrupted; the same command goes on where it stopped") from None
        whole = watch.report()
        say(f"all benchmarks took {whole['seconds'] / 60:.0f} minutes")
        if fresh:
            write_atomically(figures / f"{WHOLE}.json", json.dumps(whole, indent=1) + "\n")
    found: dict[str, Figures] = {}
    for name in (*ORDER, WHOLE):
        path = figures / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    for name in found.keys() & PLOTS.keys():
        draw(name, found[name], arguments.docs / "img" / f"results-{name}.png")
    write_atomically(arguments.docs / "results.md", page(found))
    claim(arguments.docs.resolve().parent / "README.md", found)
    say(f"wrote {arguments.docs / 'results.md'} from {', '.join(found) or 'nothing'}")


if __name__ == "__main__":
    main()
