"""A vote in this process with its bytes counted, and nodes that answer what was recorded."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.common.serde import message_to_proto

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.contract import Contract
from rtc_flower.samples import Samples
from rtc_flower.simulator import InMemoryGrid, SimulatedClock, SimulatedNode, population
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteResult, VoteTask
from rtc_flower.wire import SAMPLES

__all__ = ["CountingGrid", "Recorded", "message_bytes", "recorded_vote"]

RECORDED = "RTC_FLOWER_RECORDED"
"""Folder with a file of votes per node, for `Recorded` in a process of its own."""


def message_bytes(message: Message) -> int:
    """Bytes of a serialised Message."""
    return len(message_to_proto(message).SerializeToString())


class Recorded:
    """An estimator that answers votes found elsewhere: nothing is trained twice.

    Parameters
    ----------
    seed : int
        1,000 times the run's seed plus the node, as nodes are configured; its last three digits
        name the file ``<node>.npy`` under the folder that RTC_FLOWER_RECORDED names.
    votes : ndarray, optional
        The votes themselves.
    """

    description = "recorded"

    def __init__(self, *, seed: int = 0, votes: Any = None) -> None:
        self.seed, self._votes = seed, votes

    def fit(self, X: Any, y: Any) -> None:
        """Nothing to learn."""

    def predict(self, X: Any) -> Any:
        """Answer the recorded votes; those of some samples when asked by their numbers."""
        if self._votes is None:
            return np.load(Path(os.environ[RECORDED]) / f"{self.seed % 1000}.npy")
        return self._votes[X] if np.ndim(X) == 1 else self._votes


class CountingGrid(InMemoryGrid):
    """An in-memory grid that counts the bytes of messages by kind, samples apart.

    Attributes
    ----------
    down, up : Counter of str
        Bytes by message type, to and from all nodes; ``samples`` is the sample sets within.
    seconds : float
        Processor seconds spent telling the sample sets apart, which no vote needs.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.seconds = 0.0
        self.down: Counter[str] = Counter()
        self.up: Counter[str] = Counter()
        self._kinds: dict[str, str] = {}
        super().__init__(*args, **options)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Count and hand over."""
        sent = list(messages)
        sizes = []
        for message in sent:
            begin = time.process_time()
            samples = _samples_bytes(message)
            self.seconds += time.process_time() - begin
            sizes.append((message.metadata.message_type, message_bytes(message), samples))
        ids = super().push_messages(sent)
        for message_id, (kind, size, samples) in zip(ids, sizes, strict=True):
            self._kinds[message_id] = kind
            self.down[kind] += size - samples
            self.down["samples"] += samples
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Deliver and count."""
        replies = super().pull_messages(message_ids)
        for reply in replies:
            kind = self._kinds.get(reply.metadata.reply_to_message_id, "unknown")
            self.up[kind] += message_bytes(reply)
        return replies


def _samples_bytes(message: Message) -> int:
    """Bytes that the record with the samples adds to its message."""
    if not message.has_content() or not isinstance(message.content.get(SAMPLES), ConfigRecord):
        return 0
    kept = {name: record for name, record in message.content.items() if name != SAMPLES}
    bare = Message(RecordDict(kept), message.metadata.dst_node_id, MessageType.TRAIN)
    whole = Message(message.content, message.metadata.dst_node_id, MessageType.TRAIN)
    return message_bytes(whole) - message_bytes(bare)


class _Timed:
    """A node's app that adds up the processor seconds it takes, and those of audits apart."""

    def __init__(self, app: Any) -> None:
        self._app, self.seconds, self.audit_seconds = app, 0.0, 0.0

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        begin = time.process_time()
        try:
            reply: Message = self._app(message, context)
            return reply
        finally:
            spent = time.process_time() - begin
            self.seconds += spent
            if message.metadata.message_type == MessageType.EVALUATE:
                self.audit_seconds += spent


@cache
def _imports() -> None:
    """Hold the smallest vote once: what a process imports for its first is no vote's cost."""
    with tempfile.TemporaryDirectory() as folder:
        _vote(np.zeros((2, 2), int), np.zeros((2, 1), np.uint8), 2, state_dir=Path(folder), seed=0)


def recorded_vote(
    votes: Any, x: Any, classes: Any, *, state_dir: Path, seed: int = 0, **options: Any
) -> tuple[VoteResult, CountingGrid, dict[str, float]]:
    """Let nodes that answer rows of ``votes`` decide samples, through strategy and ledger.

    Parameters
    ----------
    x : ndarray or None
        What is sent. With None the samples are numbers alone, and a node can be asked for some.

    Returns
    -------
    VoteResult, CountingGrid, dict
        The last: processor seconds ``nodes`` (in their apps; ``node_audits`` of them in audits)
        and ``coordination`` (all else but `CountingGrid.seconds`: strategy, ledger, this grid), and
        wall seconds ``wall``.
    """
    _imports()
    return _vote(votes, x, classes, state_dir=state_dir, seed=seed, **options)


def _vote(
    votes: Any, x: Any, classes: Any, *, state_dir: Path, seed: int, **options: Any
) -> tuple[VoteResult, CountingGrid, dict[str, float]]:
    apps = [
        _Timed(
            make_client_app(
                lambda context, row=row: Contract(  # type: ignore[misc]
                    Recorded(votes=row),
                    lambda: (np.zeros((1, 1)), np.zeros(1, int)),
                    features=None if x is not None else _numbers,
                )
            )
        )
        for row in votes
    ]
    nodes = [SimulatedNode(app, node_config={"name": "node"}) for app in apps]
    clock = SimulatedClock()
    samples = Samples(ids=tuple(map(str, range(len(votes[0]))))) if x is None else x
    strategy = ProofOfPrediction(
        [VoteTask(samples, classes)],
        state_dir,
        min_nodes=len(nodes),
        collector=clock.collector,
        clock=clock,
        sleep=clock.sleep,
        **options,
    )
    begin, wall = time.process_time(), time.perf_counter()
    with CountingGrid(population(nodes, state_dir), seed=seed, workers=1, clock=clock) as grid:
        result = strategy.start(grid)
    spent = time.process_time() - begin
    inside = sum(app.seconds for app in apps)
    seconds = {
        "nodes": inside,
        "node_audits": sum(app.audit_seconds for app in apps),
        "coordination": spent - inside - grid.seconds,
        "wall": time.perf_counter() - wall,
    }
    return result, grid, seconds


def _numbers(ids: tuple[str, ...]) -> Any:
    return np.array([int(name) for name in ids])
