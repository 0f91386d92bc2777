"""Flower's ``Grid`` in memory, running real ClientApps; see `rtc_flower.simulator`.

`InMemoryGrid` takes the place of the grid that Flower hands to a ServerApp, so that a strategy
and its nodes run in one process, without a SuperLink, SuperNodes or Ray. It keeps what a strategy
can notice of Flower 1.41's deployment mode: node ids of 64 bits, a node that handles one message
at a time, a state per node, replies that are delivered once, error replies with Flower's codes,
messages that expire, and a pull that blocks when a node does not finish its upload.

With ``workers=1`` nothing runs in the background: every pull first lets one node answer one
message, in an order drawn from the seed, so that a run can be repeated exactly.
"""

from __future__ import annotations

import contextlib
import copy
import heapq
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from rtc_flower.memory_node import APP_CRASHED, NODE_UNAVAILABLE, SimulatedNode, make_rubbish

__all__ = ["InMemoryGrid"]

_LOG = logging.getLogger("flwr.rtc_flower")

# Flower's codes of error replies.
_APP_RAISED = 2
_MESSAGE_UNAVAILABLE = 3

# What the SuperLink calls itself in the replies that it makes.
_SUPERLINK = 1


@dataclass
class _Job:
    """An instruction on its way to a node, and its reply on the way back."""

    message: Message
    reply_id: str
    expires: float
    reply: Message | None = None
    stuck_until: float | None = None


class _Node:
    """A node that has been given its id."""

    def __init__(self, node_id: int, spec: SimulatedNode, run_id: int) -> None:
        self.node_id = node_id
        self.spec = spec
        self.context = Context(
            run_id, node_id, dict(spec.node_config), RecordDict(), dict(spec.run_config)
        )
        self.queue: deque[_Job] = deque()
        self.lock = threading.Lock()
        self.accepted = self.received = 0
        self.gone = False


class InMemoryGrid(Grid):
    """Runs ClientApps in this process behind Flower's ``Grid`` interface.

    Parameters
    ----------
    nodes : Iterable[SimulatedNode]
        Nodes, in order of joining.
    seed : int, optional
        Node ids, message ids and, under ``workers=1``, the order of the replies follow from it.
        Every second node id is above 2**63.
    workers : int, optional
        Nodes that compute at the same time; all of them by default, a thread per message. 1 runs
        nothing in the background: each pull lets one node answer first.
    run_id : int, optional
        The run that contexts and messages belong to.
    clock : Callable[[], float], optional
        Seconds, which messages expire by and delays are counted in; see `SimulatedClock`.

    Notes
    -----
    A Flower message can be built only inside a run. The grid enters one when it is made and leaves
    it on `close`, so it has to be closed, best as a context manager.
    """

    def __init__(
        self,
        nodes: Iterable[SimulatedNode] = (),
        *,
        seed: int = 0,
        workers: int | None = None,
        run_id: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1, or None for all")
        self._seed, self._random = seed, random.Random(seed)
        self._sequential = workers == 1
        self._slots: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if workers is None else threading.Semaphore(workers)
        )
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._nodes: dict[int, _Node] = {}
        self._jobs: dict[str, _Job] = {}
        self._waiting: list[tuple[float, float, int, _Node]] = []
        self._accepted = 0
        self._run = Run.create_empty(run_id)
        self._outside = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = run_id, _SUPERLINK, 1
        for node in nodes:
            self.join(node)

    def __enter__(self) -> Self:
        """Return the grid itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the grid."""
        self.close()

    def close(self) -> None:
        """Leave the run: wake all that sleep; nodes that compute finish, their replies are lost."""
        if not self._closed.is_set():
            self._closed.set()
            TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = self._outside

    def join(self, node: SimulatedNode) -> int:
        """Add a node and return its id, an unsigned 64-bit integer."""
        with self._lock:
            # 62 random bits: no collisions, none of Flower's reserved ids.
            node_id = len(self._nodes) % 2 << 63 | 1 << 62 | self._random.getrandbits(62)
            self._nodes[node_id] = _Node(node_id, node, self._run.run_id)
        return node_id

    def set_run(self, run: Run) -> None:
        """Set the run that `run` describes; messages keep the run id given at the start."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return copy.copy(self._run)

    def get_node_ids(self) -> list[int]:
        """Ids of the nodes that are there now, in order of joining."""
        with self._lock:
            return [
                node.node_id
                for node in self._nodes.values()
                if not node.gone and node.spec.joins_after <= self._accepted
            ]

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; Flower deprecates this in favour of ``Message(...)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to their nodes.

        Returns
        -------
        list of str
            An id per message, which is also set in its metadata as Flower does; ``""`` where the
            node is unknown.

        Raises
        ------
        RuntimeError
            The grid is closed.
        """
        if self._closed.is_set():
            raise RuntimeError("push_messages on a grid that is closed")
        with self._lock:
            accepted = [self._accept(message) for message in messages]
        for node, _ in accepted:
            if node is not None and not self._sequential:
                threading.Thread(target=self._handle, args=(node,), daemon=True).start()
        return [message_id for _, message_id in accepted]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Deliver the replies that are there, each of them once.

        An id that is unknown, already delivered, or whose message has expired gives an error reply
        with code 3. Blocks only for nodes that are `stuck`.
        """
        if self._sequential:
            with self._lock:
                due = bool(self._waiting) and self._waiting[0][0] <= self._clock()
                node = heapq.heappop(self._waiting)[-1] if due else None
            if node is not None:
                self._handle(node)
        pulled = [self._pull(message_id) for message_id in dict.fromkeys(message_ids)]
        return [reply for reply in pulled if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and pull until every reply is there or `timeout` seconds are over."""
        waiting = dict.fromkeys(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and not self._closed.is_set() and (end is None or time.monotonic() < end):
            for reply in self.pull_messages(waiting):
                replies.append(reply)
                waiting.pop(reply.metadata.reply_to_message_id, None)
            if waiting and not self._sequential:
                self._closed.wait(0.01)
        return replies

    # --- instructions, from the push to the node ---

    def _accept(self, message: Message) -> tuple[_Node | None, str]:
        """Queue a message for its node; the lock is held."""
        if message.metadata.ttl <= 0:
            raise ValueError(f"ttl is {message.metadata.ttl}, expected more than 0 s")
        node = self._nodes.get(message.metadata.dst_node_id)
        if node is None or node.spec.joins_after > self._accepted:
            return None, ""
        message_id = self._new_id()
        message.metadata.__dict__["_message_id"] = message_id
        # The node works on its own copy, as it would after a transfer; bytes are shared.
        now = self._clock()
        job = _Job(copy.deepcopy(message), self._new_id(), now + message.metadata.ttl)
        self._jobs[message_id] = job
        node.queue.append(job)
        self._accepted += 1
        if self._sequential:
            slow = node.spec.delay and node.spec.when(message)
            due = now + node.spec.delay if slow else 0.0
            entry = (due, self._draw(node), self._accepted, node)
            heapq.heappush(self._waiting, entry)
        return node, message_id

    def _draw(self, node: _Node) -> float:
        """Place of a node's next message among those due: by node, not by who was sent to first."""
        node.accepted += 1
        return random.Random(f"{self._seed} {node.node_id} {node.accepted}").random()

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(256):064x}"

    def _handle(self, node: _Node) -> None:
        """Let a node answer its oldest message, after those that it is already working on."""
        with node.lock, self._slots:
            job = node.queue.popleft()
            if self._closed.is_set() or self._expired(job):
                return
            for reply in self._replies(node, job.message):
                if not self._closed.is_set():
                    self._store(node, job, reply)

    # --- replies, from the node to the pull ---

    def _replies(self, node: _Node, message: Message) -> Iterator[Message]:
        """Everything that a node sends back: nothing, a reply, or two."""
        reply = self._reply(node, message)
        if reply is None:
            return
        yield reply
        if node.spec.second is not None and node.spec.when(message):
            another = node.spec.second(message, node.context)
            if node.spec.forge is not None:
                self._forge(node.spec.forge, another)
            yield another

    def _reply(self, node: _Node, message: Message) -> Message | None:
        """Answer a message as the node would, faults included; None for no reply."""
        spec, number = node.spec, node.received
        node.received += 1
        if not spec.when(message):
            return self._run_app(node, message)
        if spec.delay and not self._sequential:
            self._closed.wait(spec.delay)
        if spec.silent:
            return None
        if spec.crash_after is not None and number >= spec.crash_after:
            return self._crash(node, message)
        reply = self._run_app(node, message)
        if spec.rubbish is not None:
            noise = random.Random(node.node_id + number)
            reply = Message(make_rubbish(spec.rubbish, message, reply, noise), reply_to=message)
        if spec.forge is not None and spec.second is None:
            self._forge(spec.forge, reply)
        return reply if spec.tamper is None else spec.tamper(reply)

    def _run_app(self, node: _Node, message: Message) -> Message:
        try:
            reply = node.spec.app(message, node.context)
        except Exception as error:
            _LOG.warning("the app of node %d raised", node.node_id, exc_info=error)
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(_APP_RAISED, reason), reply_to=message)
        if not isinstance(reply, Message):
            # The app's process ends without a reply, which the SuperNode notices.
            return Message(Error(APP_CRASHED, "ClientApp stopped responding."), reply_to=message)
        return reply

    def _crash(self, node: _Node, message: Message) -> Message:
        if node.spec.crash_code != NODE_UNAVAILABLE:
            error = Error(node.spec.crash_code, "ClientApp stopped responding.")
            return Message(error, reply_to=message)
        node.gone = True
        error = Error(NODE_UNAVAILABLE, "Error: Node Unavailable")
        return self._superlink_error(message.metadata.message_id, error)

    def _forge(self, position: int, reply: Message) -> None:
        """Put the id of another node's open message, and its name, into a reply."""
        with self._lock:
            victim = list(self._nodes)[position]
            for message_id, job in self._jobs.items():
                if job.message.metadata.dst_node_id == victim and job.reply is None:
                    reply.metadata.__dict__["_reply_to_message_id"] = message_id
                    reply.metadata.__dict__["_src_node_id"] = victim
                    return

    def _store(self, node: _Node, job: _Job, reply: Message) -> None:
        reply = copy.deepcopy(reply)
        reply.metadata.__dict__["_message_id"] = job.reply_id
        with self._lock:
            target = self._jobs.get(reply.metadata.reply_to_message_id)
            if target is None or target.reply is not None:
                _LOG.warning("a reply of node %d is refused: unknown or duplicate", node.node_id)
                return
            target.reply = reply
            if node.spec.stuck and node.spec.when(job.message):
                target.stuck_until = self._clock() + node.spec.stuck

    def _pull(self, message_id: str) -> Message | None:
        with self._lock:
            job = self._jobs.get(message_id)
        if job is not None and not self._expired(job):
            if job.reply is None:
                return None
            if job.stuck_until is not None:
                self._closed.wait(max(0.0, job.stuck_until - self._clock()))
        with self._lock:
            job = self._jobs.pop(message_id, None)
        if job is None or job.reply is None or job.stuck_until is not None or self._expired(job):
            error = Error(_MESSAGE_UNAVAILABLE, "Error: Message Unavailable")
            return self._superlink_error(message_id, error)
        return job.reply

    def _expired(self, job: _Job) -> bool:
        return job.expires < self._clock()

    def _superlink_error(self, reply_to: str, error: Error) -> Message:
        """Build an error reply that no node sent; its source is 1."""
        metadata = Metadata(
            run_id=self._run.run_id,
            message_id=f"error-{reply_to}",
            src_node_id=_SUPERLINK,
            dst_node_id=_SUPERLINK,
            reply_to_message_id=reply_to,
            group_id="",
            created_at=self._clock(),
            ttl=0,
            message_type="system",
        )
        return Message(error=error, metadata=metadata)  # type: ignore[call-overload,no-any-return]
