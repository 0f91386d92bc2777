"""What all benchmarks share: the machine, a cache that tells settings apart, and whole JSON files.

A benchmark is a script that prints a table and writes one JSON file: the figures, the settings
that they were made with, and the machine with its load, since a figure without them says little.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import logging
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rtc_flower.clients.data import Dataset, load
from rtc_flower.clients.models import networks
from rtc_flower.clients.models.neural import CNN
from rtc_flower.errors import DataError, RtcFlowerError
from rtc_flower.files import write_atomically

__all__ = [
    "Cache",
    "PlainCNN",
    "Stopwatch",
    "code_digest",
    "first_count",
    "machine",
    "main",
    "mnist",
    "options",
    "pin",
    "say",
    "spread",
]

Votes = NDArray[np.int64]


class PlainCNN(CNN):
    """The benchmarks' plain CNN: two 5 x 5 convolutions of 8 and 16 channels, two layers (54,000).

    The paper names its CNN by these words alone. It is the product's with half the channels, since
    a seed of the accuracy benchmark trains a hundred of them.
    """

    kind = "plain-cnn"

    def _build(self, shape: tuple[int, int], classes: int) -> nn.Module:
        return networks.convolutional(shape, classes, width=8)


def mnist(data_dir: Path | None = None) -> Dataset:
    """Load MNIST; `DataError` with what to set where it is missing."""
    return load("mnist", data_dir)


def say(text: str) -> None:
    """Tell progress on standard error, with the time of day."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions; and how busy the machine is now."""
    import psutil

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("flwr", "numpy", "scikit-learn", "torch")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def pin(cores: Sequence[int]) -> None:
    """Keep this process and its children on some cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _stolen() -> float:
    """Core seconds that the host took from this virtual machine; 0 where none can be told."""
    import psutil

    return float(getattr(psutil.cpu_times(), "steal", 0.0))


class Stopwatch:
    """Wall seconds of a benchmark, and how busy the machine was with other things."""

    def __init__(self) -> None:
        self._begin, self._load, self._stolen = time.perf_counter(), os.getloadavg(), _stolen()

    def report(self) -> dict[str, Any]:
        """Machine, seconds, load averages over 1, 5 and 15 minutes, and what its host took.

        ``stolen_share`` is the share of all cores' seconds in which a virtual machine's host ran
        others although this machine had work.
        """
        seconds = time.perf_counter() - self._begin
        return {
            "machine": machine(),
            "seconds": round(seconds, 1),
            "stolen_share": (_stolen() - self._stolen) / (seconds * (os.cpu_count() or 1)),
            "load_average": {"before": list(self._load), "after": list(os.getloadavg())},
        }


class Cache:
    """Folders of expensive results, each with the settings that it was made with.

    Parameters
    ----------
    directory : Path
        Made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    def folder(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Return the folder for ``name``, new or made with these very settings.

        Raises
        ------
        DataError
            If it was made with other settings: what is in it answers another question.
        """
        folder, wanted = self.directory / name, json.loads(json.dumps(settings))
        stated = folder / "settings.json"
        if not stated.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(stated, json.dumps(wanted, indent=1) + "\n")
            return folder
        try:
            found = json.loads(stated.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{stated} cannot be read ({error}); delete {folder}") from error
        if found != wanted:
            other = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
            told = ", ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in other)
            raise DataError(
                f"{folder} was made with other settings ({told}): "
                "delete it, or name another --cache-dir"
            )
        return folder

    def result(
        self, name: str, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what ``make`` gave for these settings, once and for all runs."""
        path = self.folder(name, settings) / "result.json"
        if not path.exists():
            write_atomically(path, json.dumps(make()) + "\n")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def code_digest(*objects: Any) -> str:
    """Digest of functions' and classes' code without comments and docstrings (16 digits)."""
    digest = hashlib.sha256()
    for each in objects:
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def first_count(votes: Votes, classes: int) -> Votes:
    """Longest fork of every sample, rows in counting order; ties: first to reach the height."""
    from rtc_flower.stopping import Rule, StopRule, stop_positions

    return stop_positions(votes, StopRule(Rule.ALL, classes)).outcome


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation, least and greatest of some figures."""
    array = np.asarray(values, float)
    return {
        "mean": float(array.mean()),
        "sd": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "min": float(array.min()),
        "max": float(array.max()),
    }


def options(text: str | None) -> argparse.ArgumentParser:
    """Make a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument(
        "--data-dir", type=Path, help="folder that holds MNIST/raw; else RTC_FLOWER_DATA"
    )
    parser.add_argument(
        "--cache-dir", type=Path, default=Path(".cache"), help="kept between runs (%(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (%(default)s)"
    )
    parser.add_argument("--cores", type=int, nargs="+", help="keep to these processor cores")
    return parser


def main(measure: Callable[[argparse.Namespace], dict[str, Any]], parser: Any) -> None:
    """Run a benchmark: figures to ``--json``, whole or not at all; our errors become a line."""
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)  # the benchmark says what it does itself
    if arguments.cores:
        pin(arguments.cores)
    watch = Stopwatch()
    try:
        result = measure(arguments)
        result = {"command": _command(sys.argv), **result, **watch.report()}
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(arguments.json, json.dumps(result, indent=1) + "\n")
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        raise SystemExit(130) from None
    except RtcFlowerError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _command(argv: Sequence[str]) -> str:
    """Return the command without the places of this machine's files."""
    told, words = [f"python benchmarks/{Path(argv[0]).name}"], iter(argv[1:])
    for word in words:
        if word in ("--json", "--cache-dir", "--data-dir"):
            next(words, None)
        else:
            told.append(word)
    return " ".join(told)
