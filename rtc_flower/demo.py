"""The main job on one machine: a real SuperLink, real SuperNodes, and what they decided."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtc_flower.clients.data import Dataset, load, partition, tasks
from rtc_flower.clients.models import composition
from rtc_flower.deployment import Deployment, Node
from rtc_flower.display import draw_forks, records_table, report_view
from rtc_flower.errors import DataError, DeploymentError
from rtc_flower.files import write_atomically
from rtc_flower.reading import NodeVotes, forks_of, list_tasks, votes_of
from rtc_flower.verify import verify

__all__ = ["DemoOptions", "DemoResult", "NodeResult", "find_app", "run_demo"]

_DEFAULT_NODES = {"digits": 6, "mnist": 10}
_CLOSE_CALLS = 3
_STARTING = 300.0  # seconds that nodes have to connect, whatever they have to vote


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What a demo runs.

    Attributes
    ----------
    dataset : str
        ``auto``, ``mnist`` or ``digits``.
    nodes : int or None
        The dataset's default: 10 for MNIST, 6 for digits.
    state_dir : Path
        Receives ledger, nodes' keys and logs; absolute.
    data_dir : Path or None
    download, quick : bool
    seed : int
    deadline : float
        Seconds that a node has.
    """

    state_dir: Path
    dataset: str = "auto"
    nodes: int | None = None
    data_dir: Path | None = None
    download: bool = False
    quick: bool = False
    seed: int = 0
    deadline: float = 900.0


@dataclass(frozen=True)
class NodeResult:
    """One row of the demo's table."""

    name: str
    model: str
    samples: int
    accuracy: float | None
    agreement: float | None
    status: str


@dataclass(frozen=True)
class DemoResult:
    """What ``demo --json`` writes; accuracies are shares of the samples decided."""

    dataset: str
    nodes: list[NodeResult]
    consensus_accuracy: float
    mean_node_accuracy: float
    best_node_accuracy: float
    samples_decided: int
    run_seconds: float
    ledger_seconds: float
    ledger: str
    verify: str
    quick: bool
    seed: int


@dataclass
class _Progress:
    """What is known of every node while the run goes on; rich renders it."""

    models: dict[str, str]
    samples: int
    state: dict[str, str] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    headline: str = "starting a SuperLink and the SuperNodes"
    begin: float = field(default_factory=time.monotonic)
    ledger_seconds: float = 0.0

    def take(self, event: dict[str, Any]) -> str:
        """Note an event; return the line for output that is no terminal."""
        node, what, now = event["node"], event["what"], time.monotonic()
        self.ledger_seconds = event["ledger_seconds"]
        if what == "asked":
            self.state[node] = "training"
            self.since[node] = now
        elif node:
            self.state[node] = {"ballot": "voted", "late": "voted late"}.get(
                what, f"{what} ({event['detail']})"
            )
            self.took[node] = now - self.since.get(node, now)
        self.headline = (
            f"{event['ballots']} of {event['voters']} ballots, "
            f"{event['decided']:,} of {event['samples']:,} samples decided"
        )
        return f"{now - self.begin:6.1f} s  {what} {node} {event['detail']}".rstrip()

    def __rich__(self) -> RenderableType:
        now = time.monotonic()
        table = Table(header_style="bold")
        for heading in ("node", "model", "seconds", "status"):
            table.add_column(heading, justify="right" if heading == "seconds" else "left")
        for name, model in self.models.items():
            state = self.state.get(name, "starting")
            running = now - self.since[name] if name in self.since else None
            seconds = self.took.get(name, running)
            colour = {"voted": "green", "training": "yellow", "starting": "dim"}.get(state, "red")
            shown = "" if seconds is None else f"{seconds:.0f}"
            table.add_row(name, model, shown, Text(state, style=colour))
        headline = Text(f"{now - self.begin:.0f} s   {self.headline}", style="bold")
        return Group(headline, table)


def find_app() -> Path:
    """Folder of the Flower app that the demo runs.

    Raises
    ------
    DeploymentError
        If this is no checkout with its examples.
    """
    app = Path(__file__).resolve().parents[1] / "examples" / "mnist-vote"
    if not (app / "pyproject.toml").is_file():
        raise DeploymentError(
            f"the example app is not at {app}: run the demo from a checkout of the repository "
            "(pip install -e .)"
        )
    return app


def run_demo(options: DemoOptions, console: Console) -> DemoResult:
    """Run the demo and print what it shows.

    Raises
    ------
    DataError, DeploymentError
        With what to do; no process is left behind.
    """
    begin = time.monotonic()
    dataset = load(options.dataset, options.data_dir, download=options.download)
    count = _DEFAULT_NODES[dataset.name] if options.nodes is None else options.nodes
    if count < 1:
        raise DataError(f"nodes must be at least 1, got {count}")
    if not 0 < options.deadline < math.inf:
        raise DataError(f"deadline must be above 0 seconds, got {options.deadline:g}")
    if (options.state_dir / "server" / "ledger.db").exists():
        console.print(f"going on with the ledger in {options.state_dir}")
    models = {f"{m}-{i}": m for i, m in enumerate(composition(dataset.name, count))}
    task = tasks(dataset, count, seed=options.seed)[0]
    private = len(partition(dataset, 0, count, seed=options.seed).y)
    _introduce(console, dataset, options, count, private, len(task.y))
    progress = _run(options, dataset, models, console)
    ledger = options.state_dir / "server" / "ledger.db"
    number = list_tasks(ledger)[-1].task  # a ledger that the demo goes on with has others before
    votes = votes_of(ledger, number)
    if not votes.names:
        told = ", ".join(f"{name}: {reason}" for name, reason in votes.absent.items())
        raise DeploymentError(
            f"no node voted ({told}); the ledger is {ledger}, the nodes' logs are in "
            f"{options.state_dir / 'logs'}. Raise --deadline if they need more time"
        )
    rows = _node_results(votes, models, private, task.y)
    report = verify(ledger)
    accuracies = [row.accuracy for row in rows if row.accuracy is not None]
    result = DemoResult(
        dataset=dataset.name,
        nodes=rows,
        consensus_accuracy=float((votes.classes == task.y).mean()),
        mean_node_accuracy=float(np.mean(accuracies)),
        best_node_accuracy=float(np.max(accuracies)),
        samples_decided=int((votes.classes >= 0).sum()),
        run_seconds=time.monotonic() - begin,
        ledger_seconds=progress.ledger_seconds,
        ledger=str(ledger),
        verify=report.summary,
        quick=options.quick,
        seed=options.seed,
    )
    _print(result, votes, number, task.y, console)
    console.print(f"\n[bold]rtc-flower verify {ledger}[/]")
    console.print(report_view(report))
    return result


def save_json(result: DemoResult, path: Path) -> None:
    """Write the result, whole or not at all."""
    write_atomically(path, json.dumps(asdict(result), indent=2) + "\n")


def _introduce(
    console: Console, dataset: Dataset, options: DemoOptions, nodes: int, private: int, n: int
) -> None:
    if options.dataset == "auto" and dataset.name == "digits":
        console.print(
            "MNIST was not found (set RTC_FLOWER_DATA or pass --data-dir, or --download); "
            "taking scikit-learn's digits instead"
        )
    quick = " Quick: the models train less, so expect less." if options.quick else ""
    console.print(
        f"[bold]{nodes} nodes[/], each with {private:,} private {dataset.name} samples and a model "
        f"of its own, vote on [bold]{n:,}[/] samples. No data and no weights leave a node.{quick}"
    )


@contextmanager
def _shown(progress: _Progress, console: Console) -> Iterator[None]:
    if not console.is_terminal:
        yield
        return
    with Live(progress, console=console, refresh_per_second=4):
        yield


def _run(
    options: DemoOptions, dataset: Dataset, models: dict[str, str], console: Console
) -> _Progress:
    """Start the deployment and follow it to its end."""
    state = options.state_dir
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"--state-dir {state}: expected a folder that this user may write ({error.strerror})"
        ) from error
    events = state / "events.jsonl"
    events.unlink(missing_ok=True)
    count = len(models)
    shared: dict[str, str | int | float | bool] = {
        "dataset": dataset.name,
        "data-dir": str(options.data_dir.resolve()) if options.data_dir else "",
        "num-partitions": count,
        "seed": options.seed,
    }
    nodes = [
        Node(
            {
                **shared,
                "partition-id": i,
                "model": model,
                "name": name,
                "quick": options.quick,
                "state-dir": str(state / "nodes" / str(i)),
            }
        )
        for i, (name, model) in enumerate(models.items())
    ]
    run_config = {
        **shared,
        "state-dir": str(state / "server"),
        "min-nodes": count,
        "deadline": options.deadline,
        "wait-seconds": max(options.deadline, _STARTING),
        "audit": "full",
        "events": str(events),
    }
    progress = _Progress(models, samples=0)
    deployment = Deployment(
        find_app(), nodes, work_dir=state, run_config=run_config, wait_for_nodes=False
    )
    with _shown(progress, console), deployment:
        read = 0
        for _ in deployment.run():
            read = _follow(events, read, progress, console)
    return progress


def _follow(events: Path, read: int, progress: _Progress, console: Console) -> int:
    """Take the events behind ``read`` bytes; return how many were read."""
    if not events.exists():
        return read
    with events.open() as file:
        file.seek(read)
        for line in iter(file.readline, ""):
            if not line.endswith("\n"):
                break
            said = progress.take(json.loads(line))
            if not console.is_terminal:
                console.print(said, markup=False)
            read = file.tell()
    return read


def _node_results(
    votes: NodeVotes, models: dict[str, str], private: int, truth: np.ndarray[Any, Any]
) -> list[NodeResult]:
    rows = []
    for name, model in models.items():
        if name not in votes.names:
            status = f"absent ({votes.absent.get(name, 'not counted')})"
            rows.append(NodeResult(name, model, private, None, None, status))
            continue
        number = votes.names.index(name)
        cast = votes.votes[number]
        rows.append(
            NodeResult(
                name=name,
                model=model,
                samples=private,
                accuracy=float((cast == truth).mean()),
                agreement=float((cast == votes.classes).mean()),
                status="voted" if votes.counted[number] else "voted, not counted",
            )
        )
    return rows


def _print(
    result: DemoResult,
    votes: NodeVotes,
    number: int,
    truth: np.ndarray[Any, Any],
    console: Console,
) -> None:
    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.2%}"

    console.print(
        records_table(
            {
                "node": row.name,
                "model": row.model,
                "private samples": row.samples,
                "accuracy": share(row.accuracy),
                "agrees with outcome": share(row.agreement),
                "status": row.status,
            }
            for row in result.nodes
        )
    )
    gain = 100 * (result.consensus_accuracy - result.best_node_accuracy)
    console.print(
        f"[bold]consensus {result.consensus_accuracy:.2%}[/] on {result.samples_decided:,} samples;"
        f" mean node {result.mean_node_accuracy:.2%}, best node {result.best_node_accuracy:.2%}"
        f" ({gain:+.2f} points above the best); {result.run_seconds:.0f} s, of which "
        f"{result.ledger_seconds:.2f} s in the ledger"
    )
    row = next(row for row in list_tasks(Path(result.ledger)) if row.task == number)
    console.print(
        f"{row.cosigned} of {row.enrolled} nodes repeated every decision from their own copy of "
        "the log and cosigned it"
    )
    console.print("\n[bold]the closest calls[/]")
    for sample in _closest(votes):
        console.print(
            draw_forks(forks_of(Path(result.ledger), number, sample), task=number, sample=sample)
        )
        right = votes.class_names[int(truth[sample])]
        console.print(f"  the truth, which no node and no ledger knows: {right!r}", style="dim")


def _closest(votes: NodeVotes) -> list[int]:
    """Samples with the smallest lead, the most contested first."""
    counted = votes.votes[votes.counted]
    classes = len(votes.class_names)
    counts = np.stack([(counted == c).sum(axis=0) for c in range(classes)])
    top = np.sort(counts, axis=0)
    lead, support = top[-1] - top[-2], top[-1]
    return [int(i) for i in np.lexsort((-support, lead))[:_CLOSE_CALLS]]
