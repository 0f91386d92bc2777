"""Votes through Flower's own programs, for the tests that need processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtc_flower.deployment import Deployment, Node
from rtc_flower.files import reading

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MNIST_VOTE = EXAMPLES / "mnist-vote"
ODD_MODELS = Path(__file__).parent / "apps" / "odd_models"
PATIENCE = 180.0  # seconds for what takes ten on a quiet machine

Value = str | int | float | bool


@dataclass
class Vote:
    """A vote on digits: where it happens, its nodes' models, and what the server is told.

    Attributes
    ----------
    folder : Path
        The deployment's working folder; state and events lie in it.
    models : list of str
        One node each; ``odd_models:...`` misbehaves.
    config : dict
        Run configuration beyond what every vote has.
    """

    folder: Path
    models: list[str]
    config: dict[str, Value] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.folder / "server"

    @property
    def ledger(self) -> Path:
        return self.server / "ledger.db"

    def state(self, index: int) -> Path:
        return self.folder / "nodes" / str(index)

    def name(self, index: int) -> str:
        return f"{self.models[index].rpartition(':')[2].lower()}-{index}"

    def names(self) -> list[str]:
        return [self.name(index) for index in range(len(self.models))]

    def node(
        self, index: int, config: dict[str, Value] | None = None, *, late: bool = False
    ) -> Node:
        """A node; an odd one also has the package that its model is in."""
        model = self.models[index]
        settings: dict[str, Value] = {
            "partition-id": index,
            "num-partitions": 10,
            "dataset": "digits",
            "model": model,
            "name": self.name(index),
            "state-dir": str(self.state(index)),
        }
        path = [ODD_MODELS] if ":" in model else []
        settings |= config or {}
        return Node(settings, {"ODD_MODELS": str(self.folder)}, path, late=late)

    def run_config(self) -> dict[str, Value]:
        shared: dict[str, Value] = {
            "state-dir": str(self.server),
            "dataset": "digits",
            "num-partitions": 10,
            "min-nodes": len(self.models),
            "events": str(self.folder / "events.jsonl"),
        }
        return shared | self.config

    def deployment(self, nodes: list[Node] | None = None) -> Deployment:
        return Deployment(
            MNIST_VOTE,
            [self.node(i) for i in range(len(self.models))] if nodes is None else nodes,
            work_dir=self.folder,
            run_config=self.run_config(),
            wait_for_nodes=False,
        )

    # What the nodes of `odd_models` tell and are told

    def release(self) -> None:
        """Let the nodes that wait go on."""
        (self.folder / "release").touch()

    def trains(self, index: int) -> bool:
        return (self.folder / f"training-{index}").exists()

    # What happened

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def told(self, what: str, task: int = 1) -> list[str]:
        """Names of the nodes of whom this was told, in order."""
        return [e["node"] for e in self.events() if e["what"] == what and e["task"] == task]

    def why(self, what: str, node: str, task: int = 1) -> list[str]:
        """Details of what was told of a node."""
        return [
            e["detail"]
            for e in self.events()
            if (e["what"], e["node"], e["task"]) == (what, node, task)
        ]


class Running:
    """A run of a deployment that is followed in the background.

    `Deployment.run` yields lines; what a test waits for need not be one.
    """

    def __init__(self, deployment: Deployment, **run_config: Value) -> None:
        self.lines: list[str] = []
        self._error: BaseException | None = None
        self._run = deployment.run(run_config, timeout=2 * PATIENCE)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for line in self._run:
                self.lines.append(line)
        except BaseException as error:
            self._error = error

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition while the run goes on."""
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert self._thread.is_alive(), f"the run is over: {self._error or self.lines[-10:]}"
            assert time.monotonic() < give_up, "\n".join(self.lines[-20:])
            time.sleep(0.1)

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def finish(self) -> list[str]:
        """Wait for the end; raises what the run raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.lines


def leaves(ledger: Path) -> list[bytes]:
    """Every entry of the log, as it is stored."""
    with reading(ledger) as connection:
        return [bytes(row[0]) for row in connection.execute("SELECT leaf FROM entry ORDER BY idx")]


def signed_bytes(state_dir: Path) -> set[bytes]:
    """Every ballot that a node has signed, as it keeps them."""
    return {path.read_bytes() for path in state_dir.glob("ledgers/*/*.ballot")}
