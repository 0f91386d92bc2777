"""The ledger's speed and size, beside raw SQLite and a Merkle log of another project.

    python benchmarks/ledger.py --json FILE

40 nodes vote on 10,000 samples. `append` goes through the public API with every check, durably:
one commit and one signed checkpoint per ballot, block rows kept. `raw` inserts the identical
tuples with the same pragmas and as many commits, and does nothing else. Every run is a process of
its own; the kinds take turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtc_flower.ballot import encode_meta, sign
from rtc_flower.entries import Task
from rtc_flower.files import write_atomically
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger, Posting
from rtc_flower.samples import Samples, samples_hash
from rtc_flower.wire import join_leaves

Figures = dict[str, Any]
NODES, N, K = 40, 10_000, 10
PYMERKLE = "pymerkle==7.0.0"
MIB = 2**20


# -- one run, in a process of its own --------------------------------------------------------


class Timer:
    """Wall and processor seconds of what runs inside."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._begin[0]
        self.cpu += time.process_time() - self._begin[1]


def electorate(seed: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Votes of nodes that are right in 4 of 10 samples; sample 0 stays open to the last ballot."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, N)
    votes = []
    for number in range(NODES):
        row = np.where(rng.random(N) < 0.4, truth, rng.integers(0, K, N)).astype(np.uint8)
        row[0] = number % 2
        votes.append(row)
    return votes


def run_append(folder: Path, *, tasks: int, blocks: bool) -> Figures:
    """Append ``tasks`` tasks through the public API."""
    timer, samples = Timer(), Samples(np.zeros((N, 4), np.uint8)).encode()
    nodes = [SigningKey(bytes([number + 1]) * 32) for number in range(NODES)]
    with Ledger.create(folder / "ledger.db", SigningKey(bytes(32)), blocks=blocks) as ledger:
        ledger.enrol([(key.public, f"node {number}") for number, key in enumerate(nodes)])
        for task in range(tasks):
            payloads = post(ledger, nodes, samples, seed=task)
            with timer:
                for key, payload in zip(nodes, payloads, strict=True):
                    ledger.submit(payload, voter=key.public)
            if ledger.tally.closed is None or ledger.tally.counted != NODES:
                raise RuntimeError("the task should have closed with its last ballot")
        sent = len(join_leaves(ledger.leaves(0)))
    votes = tasks * NODES * N
    return {
        "seconds": timer.wall,
        "cpu_seconds": timer.cpu,
        "votes": votes,
        "replica_bytes": sent,
        "file_bytes": (folder / "ledger.db").stat().st_size,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def post(ledger: Ledger, nodes: Sequence[SigningKey], samples: bytes, *, seed: int) -> list[bytes]:
    """Post a task, invite everybody, and sign their ballots."""
    names = tuple(str(number) for number in range(K))
    draft = Task(samples_hash(samples), N, names, close_min=N)
    tally = ledger.post(Posting(draft, samples), electorate=[key.public for key in nodes])
    ledger.invite(NODES)
    seen, meta = (ledger.replay.size, ledger.replay.roots[-1]), encode_meta("benchmark")
    context: Figures = {"ledger_id": ledger.replay.ledger_id, "task_id": tally.task_id, "n": N}
    return [
        sign(key, votes.tobytes(), meta=meta, seen=seen, **context).encode()
        for key, votes in zip(nodes, electorate(seed), strict=True)
    ]


def run_raw(folder: Path) -> Figures:
    """Insert the block rows of ``folder``'s ledger again, and nothing else."""
    with sqlite3.connect(folder / "ledger.db") as source:
        rows = source.execute("SELECT * FROM block WHERE id > 0 ORDER BY id").fetchall()
    ballots = [rows[start : start + N] for start in range(0, len(rows), N)]
    raw = sqlite3.connect(folder / "raw.db", isolation_level=None)
    raw.execute("PRAGMA synchronous = EXTRA")  # as the ledger does
    raw.execute(
        "CREATE TABLE block (id INTEGER PRIMARY KEY, class INTEGER NOT NULL, hash BLOB NOT NULL)"
        " STRICT"
    )
    timer = Timer()
    with timer:
        for ballot in ballots:
            raw.execute("BEGIN IMMEDIATE")
            raw.executemany("INSERT INTO block VALUES (?, ?, ?)", ballot)
            raw.execute("COMMIT")
    raw.close()
    return {"seconds": timer.wall, "cpu_seconds": timer.cpu, "votes": len(rows)}


RUNS: dict[str, Callable[[Path], Figures]] = {
    "append": lambda folder: run_append(folder, tasks=1, blocks=True),
    "append-10x": lambda folder: run_append(folder, tasks=10, blocks=True),
    "log-only": lambda folder: run_append(folder, tasks=1, blocks=False),
    "raw": run_raw,
}


# -- the comparison --------------------------------------------------------------------------


def child(kind: str, folder: Path) -> Figures:
    """One run of ``kind`` in a new process."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--run", kind, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def cold_verify(ledger: Path) -> Figures:
    """``rtc-flower verify`` from the start of the interpreter to its exit."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "rtc_flower", "verify", str(ledger), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) or report["verify"] != "ok":
        raise RuntimeError(f"the benchmark's ledger does not verify: {report['verify']}")
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "votes": report["votes"],
        "rss_mib": usage.ru_maxrss / 1024,
    }


def compare(folder: Path, runs: int) -> dict[str, list[Figures]]:
    """``runs`` turns of every kind."""
    found: dict[str, list[Figures]] = {}
    for turn in range(runs):
        place = folder / str(turn)
        for kind in ("append", "raw", "log-only"):
            at = place / ("log" if kind == "log-only" else "rows")
            found.setdefault(kind, []).append(child(kind, at))
        found.setdefault("verify", []).append(cold_verify(place / "rows" / "ledger.db"))
        shutil.rmtree(place)
    return found


def median(runs: Sequence[Figures], key: str) -> float:
    """Middle of one figure."""
    return float(statistics.median(run[key] for run in runs))


def rate(runs: Sequence[Figures]) -> float:
    """Votes per second of wall time, median."""
    return float(statistics.median(run["votes"] / run["seconds"] for run in runs))


def ratios(ours: Sequence[Figures], raw: Sequence[Figures], key: str) -> list[float]:
    """How fast ``ours`` was beside ``raw`` in each turn."""
    return [theirs[key] / mine[key] for mine, theirs in zip(ours, raw, strict=True)]


def large(folder: Path, turns: int) -> Figures:
    """Ten times the data: how much longer it takes, and what memory the verifier needs then.

    Every large run stands between two small ones, since a machine's speed drifts.
    """
    small, ten = [child("append", folder / "small")], []
    for _ in range(turns):
        shutil.rmtree(folder / "ten", ignore_errors=True)
        ten.append(child("append-10x", folder / "ten"))
        shutil.rmtree(folder / "small")
        small.append(child("append", folder / "small"))
    verified = cold_verify(folder / "ten" / "ledger.db")

    def times(key: str) -> list[float]:
        pairs = zip(ten, small, small[1:], strict=False)
        return [run[key] / statistics.mean((one[key], two[key])) for run, one, two in pairs]

    return {
        "time_ratio_10x": statistics.median(times("seconds")),
        "time_ratio_10x_turns": times("seconds"),
        "time_ratio_10x_cpu": statistics.median(times("cpu_seconds")),
        "peak_rss_mib_10x": median(ten, "rss_mib"),
        "verify_seconds_10x": verified["seconds"],
        "verify_rss_mib_10x": verified["rss_mib"],
    }


PEER = """
import sys, time, json
from pymerkle import SqliteTree
entries = [[b"%90d" % (ballot * 10_000 + i) for i in range(10_000)] for ballot in range(40)]
tree = SqliteTree(sys.argv[1])
begin = time.perf_counter()
for ballot in entries:
    tree.append_entries(ballot)
print(json.dumps({"seconds": time.perf_counter() - begin, "votes": 400_000}))
"""


def pymerkle(folder: Path) -> Figures:
    """Entries per second of the named peer, 10,000 a commit, in an environment of its own."""
    home = Path(tempfile.gettempdir()) / "rtc-flower-pymerkle"
    python = home / "bin" / "python"
    try:
        if not python.exists():
            venv.create(home, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q", PYMERKLE]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
        command = [str(python), "-c", PEER, str(folder / "peer.db")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"pymerkle_skipped": f"{PYMERKLE} cannot be installed here ({error})"}
    peer = json.loads(done.stdout)
    return {"pymerkle": PYMERKLE, "pymerkle_entries_per_second": peer["votes"] / peer["seconds"]}


def measure(options: argparse.Namespace) -> Figures:
    """All figures."""
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        folder = Path(scratch)
        runs = compare(folder, options.runs)
        append, verified = runs["append"], runs["verify"]
        votes, turns = append[0]["votes"], ratios(append, runs["raw"], "seconds")
        figures = {
            "append_votes_per_second": rate(append),
            "raw_votes_per_second": rate(runs["raw"]),
            "append_ratio": statistics.median(turns),
            "append_ratio_turns": turns,
            "append_ratio_cpu": statistics.median(ratios(append, runs["raw"], "cpu_seconds")),
            "log_only_votes_per_second": rate(runs["log-only"]),
            "verify_seconds": median(verified, "seconds"),
            "verify_seconds_turns": [run["seconds"] for run in verified],
            "verify_cpu_seconds": median(verified, "cpu_seconds"),
            "verify_rss_mib": median(verified, "rss_mib"),
            "replica_bytes_per_vote": append[0]["replica_bytes"] / votes,
            "file_bytes_per_vote": append[0]["file_bytes"] / votes,
            "log_only_bytes_per_vote": runs["log-only"][0]["file_bytes"] / votes,
            "peak_rss_mib": median(append, "rss_mib"),
            **pymerkle(folder),
        }
        if not options.small:
            figures |= large(folder, options.runs)
    return figures


def table(figures: Figures) -> str:
    """One figure a line."""
    width = max(map(len, figures))
    return "\n".join(
        f"{name:{width}}  {value:,.2f}" if isinstance(value, float) else f"{name:{width}}  {value}"
        for name, value in figures.items()
        if name != "machine"
    )


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--runs", type=int, default=5, help="turns of every kind (%(default)s)")
    parser.add_argument("--small", action="store_true", help="leave ten times the data out")
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(RUNS[options.run](options.folder)))
        return
    begin, busy = time.perf_counter(), os.getloadavg()
    try:
        figures = measure(options)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing was written") from None
    from common import machine  # only now: a child's peak memory is at least its parent's

    figures |= {
        "benchmark": "ledger",
        "command": "python benchmarks/ledger.py" + " --small" * options.small,
        "settings": {"runs": options.runs, "nodes": NODES, "samples": N},
        "seeds": [],
        "seconds": round(time.perf_counter() - begin, 1),
        "load_average": {"before": list(busy), "after": list(os.getloadavg())},
        "machine": machine(),
    }
    print(table(figures))
    if options.json:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
