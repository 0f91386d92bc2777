"""One node, or the central machine, as a process of its own: it trains, predicts and is watched."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import PlainCNN, mnist, pin

from rtc_flower.clients.data import fingerprint, partition
from rtc_flower.clients.models import create
from rtc_flower.clients.store import ModelStore
from rtc_flower.errors import DataError

__all__ = ["estimator", "measure_process", "worker"]

_SAMPLE_EVERY = 0.2  # seconds between two looks at a process


def estimator(kind: str, *, epochs: int | None, seed: int, threads: int = 1) -> Any:
    """Return an untrained model: the plain CNN, or one of the demo's."""
    chosen: dict[str, Any] = {"seed": seed, "threads": threads}
    if epochs is not None and kind != "svm":
        chosen["epochs"] = epochs
    if kind == "plain":
        return PlainCNN(augment=False, **chosen)
    return create(kind, **chosen)


def worker(spec: dict[str, Any], out: Path) -> None:
    """Train and predict as one node or as the central machine, and write what it took."""
    pin(spec["cores"])
    data = mnist(spec["data_dir"])
    size, part = spec["size"], spec["part"]
    private = partition(data, part, 50_000 // size, samples_per_node=size, seed=spec["seed"])
    if spec["share"] < 1:
        kept = int(size * spec["share"])
        private = type(private)(private.x[:kept], private.y[:kept])
    asked = data.test.x[: spec["samples"]]
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, taken = _now(), list[Any]()
    while len(taken) < spec["repeats"] and not _agree(taken):  # the same model each time
        model = estimator(
            spec["model"],
            epochs=spec["epochs"],
            seed=1000 * spec["seed"] + part,
            threads=len(spec["cores"]),
        )
        marks = [_now()]
        model.fit(private.x, private.y)
        marks.append(_now())
        votes = model.predict(asked)
        marks.append(_now())
        taken.append(np.diff(marks, axis=0))
    all_of_them = _now()[0] - begun[0]
    with tempfile.TemporaryDirectory() as folder:
        ModelStore(folder).put(model, fingerprint(private.x, private.y))
        stored = sum(path.stat().st_size for path in Path(folder).iterdir())
    np.save(out.with_suffix(".npy"), votes)
    (train_cpu, train_wall), (predict_cpu, predict_wall) = np.median(taken, axis=0).tolist()
    out.write_text(
        json.dumps(
            {
                "accuracy": float((votes == data.test.y[: len(asked)]).mean()),
                "train_cpu": train_cpu,
                "predict_cpu": predict_cpu,
                "train_wall": train_wall,
                "predict_wall": predict_wall,
                "train_cpu_runs": [float(run[0, 0]) for run in taken],
                "process_cpu": time.process_time() - all_of_them + train_cpu + predict_cpu,
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "idle_rss_mib": idle / 1024,
                "model_bytes": stored,
                "load": os.getloadavg()[0],
            }
        )
    )


def _agree(taken: list[Any]) -> bool:
    """Whether the first two trainings took the same processor seconds but for 5 %."""
    seconds = [run[0, 0] for run in taken]
    return len(seconds) == 2 and max(seconds) <= 1.05 * min(seconds)


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def measure_process(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Run one worker alone and watch it; returns its figures with a series over time."""
    command = [sys.executable, __file__, json.dumps(spec), str(out)]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(len(spec["cores"]))}
    process = subprocess.Popen(command, env=environment)
    series: list[tuple[float, float, float, float]] = []
    begin = time.perf_counter()
    try:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            series.append((time.perf_counter() - begin, *_seen(watched)))
            time.sleep(_SAMPLE_EVERY)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if process.returncode:
        raise DataError(f"a worker ended with exit code {process.returncode}: {spec}")
    found: dict[str, Any] = json.loads(out.read_text())
    step = max(1, len(series) // 150)
    found["series"] = [[round(value, 3) for value in row] for row in series[::step]]
    return found


def _seen(watched: psutil.Process) -> tuple[float, float, float]:
    """Processor seconds, resident MiB and MiB written so far."""
    try:
        with watched.oneshot():
            times = watched.cpu_times()
            memory = watched.memory_info().rss / 2**20
            written = watched.io_counters().write_bytes / 2**20
    except psutil.Error:
        return 0.0, 0.0, 0.0
    return times.user + times.system, memory, written


if __name__ == "__main__":
    worker(json.loads(sys.argv[1]), Path(sys.argv[2]))
