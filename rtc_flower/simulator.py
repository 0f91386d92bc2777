"""Simulate votes in one process: real ClientApps and the real strategy, ledger and verifier.

A population is a list of nodes; `simulate` runs tasks on it and returns what the strategy
returns. The ledger is an ordinary one, which anybody can verify.

::

    from rtc_flower.simulator import honest, labelled_task, silent, simulate, sybil

    truth = numpy.random.default_rng(0).integers(0, 10, 1000)
    nodes = [honest(0.8, seed=i) for i in range(8)] + [sybil(), sybil(), silent()]
    result = simulate([labelled_task(truth, 10)], nodes, state_dir=Path("/tmp/vote"))
    accuracy = (result.tasks[0].outcomes.classes == truth).mean()
    assert verify(result.ledger).summary == "ok"

How nodes behave is told in `rtc_flower.voters` and `rtc_flower.rogue_voters`, and what else can
befall them in `SimulatedNode`; a node with a model of its own is a
``SimulatedNode(make_client_app(...))``. Nothing runs in the background and no time passes but on
a clock of the simulation, so a deadline of an hour costs a second, and the same seed gives the same
outcomes under the counting order ``arrival``. Keys, salts and TASK's random bytes are fresh in
each run; the order of invitation follows from them. Nodes that compute at the same time, in real
time, are those of an `InMemoryGrid` with several workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from rtc_flower.memory_grid import InMemoryGrid
from rtc_flower.memory_node import SimulatedNode
from rtc_flower.rogue_voters import MALFORMATIONS, Spy, copying, equivocating, malformed
from rtc_flower.samples import Samples
from rtc_flower.strategies.collector import Collector
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteResult, VoteTask
from rtc_flower.voters import (
    asked_to_vote,
    crashing,
    forging,
    honest,
    lazy,
    silent,
    slow,
    sybil,
)

__all__ = [
    "MALFORMATIONS",
    "InMemoryGrid",
    "SimulatedClock",
    "SimulatedNode",
    "Spy",
    "asked_to_vote",
    "copying",
    "crashing",
    "equivocating",
    "forging",
    "honest",
    "labelled_task",
    "lazy",
    "malformed",
    "population",
    "silent",
    "simulate",
    "slow",
    "sybil",
]

_POLL = 0.05  # simulated seconds between two pulls of one message


class SimulatedClock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds since the simulation began."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += max(0.0, seconds)

    def collector(self, grid: Grid) -> Collector:
        """Make a collector that pulls in the caller's thread and waits on this clock."""
        return Collector(grid, workers=0, poll=_POLL, clock=self, sleep=self.sleep)


def labelled_task(
    truth: npt.ArrayLike, classes: int | Sequence[str], *, first: int = 0, kind: str = "default"
) -> VoteTask:
    """Make a task whose samples show their class to the nodes of `rtc_flower.voters`.

    Parameters
    ----------
    truth : array_like of int (n,)
        The true class of every sample.
    classes : int or sequence of str
        Number of classes, or their names.
    first : int
        Number of the first sample. Nodes err by the number of a sample: let the tasks of a pool
        count on, or they err alike in each.
    kind : str
        Kind of contract asked for.
    """
    labels = np.asarray(truth)
    count = classes if isinstance(classes, int) else len(classes)
    columns = (labels, first + np.arange(len(labels)), np.full(len(labels), count))
    return VoteTask(Samples(np.stack(columns, axis=1).astype(np.int32)), classes, kind)


def population(nodes: Sequence[SimulatedNode], state_dir: Path) -> list[SimulatedNode]:
    """Give every node its partition, a name and a state directory, where it has none.

    The node at position 3 is ``nodes/3`` under ``state_dir``, and is called by its behaviour and
    position: ``silent-3``.
    """
    return [_placed(node, position, state_dir) for position, node in enumerate(nodes)]


def _placed(node: SimulatedNode, position: int, state_dir: Path) -> SimulatedNode:
    given = {
        "partition-id": position,
        "state-dir": str(state_dir / "nodes" / str(position)),
        **node.node_config,
        "name": f"{node.node_config.get('name', 'node')}-{position}",
    }
    return replace(node, node_config=given)


def simulate(
    tasks: Sequence[VoteTask],
    nodes: Sequence[SimulatedNode],
    *,
    state_dir: Path,
    seed: int = 0,
    min_nodes: int | None = None,
    deadline: float = 60.0,
    clock: SimulatedClock | None = None,
    strategy: Callable[..., ProofOfPrediction] = ProofOfPrediction,
    **options: Any,
) -> VoteResult:
    """Let a population vote on tasks.

    Run it again with the same ``state_dir`` and it goes on with the same ledger and the same
    nodes, under new Flower ids if ``seed`` is another: a restart.

    Parameters
    ----------
    tasks : sequence of VoteTask
    nodes : sequence of SimulatedNode
    state_dir : Path
        Absolute. The server's files are in it, those of the nodes under ``nodes/``.
    seed : int
        Draws node ids and who answers first.
    min_nodes : int, optional
        All that are there from the start by default.
    deadline : float
        Simulated seconds that an invited node has.
    clock : SimulatedClock, optional
    strategy : callable, optional
        A subclass of `ProofOfPrediction`.
    **options
        Further parameters of `ProofOfPrediction`: ``rule``, ``wave_size``, ``on_event``, ...

    Returns
    -------
    VoteResult
    """
    clock = clock or SimulatedClock()
    if min_nodes is None:
        min_nodes = sum(node.joins_after == 0 for node in nodes)
    made = strategy(
        tasks,
        state_dir,
        min_nodes=min_nodes,
        deadline=deadline,
        collector=clock.collector,
        clock=clock,
        sleep=clock.sleep,
        **options,
    )
    with InMemoryGrid(population(nodes, state_dir), seed=seed, workers=1, clock=clock) as grid:
        return made.start(grid)
