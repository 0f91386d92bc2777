"""Replies of Flower nodes as they come, pulled so that no node can hold up the others.

``Grid.pull_messages`` can block for minutes: a node that announces a reply and does not finish its
upload keeps the call busy until Flower gives the upload up (180 s), and every other reply of that
call waits with it. The collector therefore pulls one message at a time from a few daemon threads.
A thread whose pull takes longer than `stuck_after` seconds keeps that message and is replaced.

A reply belongs to the message whose id it carries, never to the node that it says it is from:
errors that the SuperLink makes come from node 1, and Flower binds no reply to its sender.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from flwr.app import Message
from flwr.serverapp import Grid

__all__ = ["Collector", "Reply", "ReplyKind"]

_LOG = logging.getLogger("flwr.rtc_flower")
_LONGEST_PAUSE = 5.0


class ReplyKind(enum.Enum):
    """What came back."""

    CONTENT = "content"
    """Records of a node; they can still be anything."""
    ERROR = "error"
    """An error reply of Flower: the app raised, the node is gone, the message has expired."""
    UNREACHABLE = "unreachable"
    """Flower did not take the message; nothing was sent and nothing will come."""
    UNKNOWN = "unknown"
    """A reply to no message that is outstanding: never sent, answered before, or forged."""


@dataclass(frozen=True)
class Reply:
    """One thing that came back.

    Attributes
    ----------
    kind : ReplyKind
        What it is.
    message_id : str
        Id of the message that it answers; ``""`` for one that was not taken.
    node_id : int or None
        Flower id of the node that the message was sent to, not what the reply says; None for
        an unknown reply.
    message : Message or None
        The reply as Flower delivered it; None for a message that was not taken.
    """

    kind: ReplyKind
    message_id: str
    node_id: int | None
    message: Message | None


class _Worker:
    """What a pulling thread is doing."""

    def __init__(self) -> None:
        self.message_id: str | None = None
        self.since = 0.0
        self.rests_until = 0.0
        self.failures = 0
        self.replaced = False


class Collector:
    """Sends messages and hands their replies out in the order in which they arrive.

    One thread uses it (`send`, `reply`, `forget`); others pull.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    workers : int, optional
        Threads that pull, besides those that are stuck. 0 pulls in the thread that calls
        `reply`, so that a run in memory can be repeated exactly; a stuck pull then blocks it.
    poll : float, optional
        Seconds between two pulls of one message, and that a worker rests after an empty pull.
        Among ``n`` messages a reply is noticed within about ``poll * (1 + n / workers)``.
    stuck_after : float, optional
        Seconds after which a worker that has not come back from a pull is replaced. There is
        never more than one thread per stuck message besides the `workers`.
    clock : Callable[[], float], optional
        Monotonic time in seconds.
    sleep : Callable[[float], None], optional
        How to wait when `workers` is 0.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        workers: int = 8,
        poll: float = 0.2,
        stuck_after: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers is {workers}, expected 0 or more")
        if poll <= 0 or stuck_after <= 0:
            raise ValueError(f"poll is {poll}, stuck_after is {stuck_after}, expected more than 0")
        self._grid, self._clock, self._sleep = grid, clock, sleep
        self._size, self._poll, self._stuck_after = workers, poll, stuck_after
        self._lock = threading.Lock()
        self._due_changed = threading.Condition(self._lock)
        self._arrival = threading.Condition(self._lock)
        self._outstanding: dict[str, int] = {}
        self._in_pull: set[str] = set()
        self._forgotten: set[str] = set()
        self._due: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._arrived: deque[Reply] = deque()
        self._workers: list[_Worker] = []
        self._caller = _Worker()
        self._closed = False

    def __enter__(self) -> Self:
        """Return the collector itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the collector."""
        self.close()

    def close(self) -> None:
        """Stop pulling; threads that are stuck in a pull end with it, and never block an exit."""
        with self._lock:
            self._closed = True
            self._due_changed.notify_all()
            self._arrival.notify_all()

    @property
    def outstanding(self) -> frozenset[str]:
        """Ids of the messages that have neither been answered nor forgotten."""
        with self._lock:
            return frozenset(self._outstanding)

    def send(self, messages: Iterable[Message]) -> list[str]:
        """Push messages and start to pull their replies.

        Returns
        -------
        list of str
            An id per message; ``""`` for one that Flower did not take, which is also the next
            reply (`ReplyKind.UNREACHABLE`).

        Raises
        ------
        RuntimeError
            The collector is closed.
        Exception
            What ``grid.push_messages`` raises; no message is then outstanding.
        """
        if self._closed:
            raise RuntimeError("send on a collector that is closed")
        batch = list(messages)
        ids = _ids_of(batch, [str(i or "") for i in self._grid.push_messages(batch)])
        with self._lock:
            for message, message_id in zip(batch, ids, strict=True):
                self._expect(message_id, message.metadata.dst_node_id)
            self._hire()
            self._due_changed.notify_all()
        return ids

    def reply(self, timeout: float) -> Reply | None:
        """Return the next reply, or None after `timeout` seconds.

        Returns None at once when nothing is outstanding. 0 asks for what is there already.
        """
        end = self._clock() + timeout
        while True:
            with self._lock:
                if self._arrived:
                    return self._arrived.popleft()
                left = end - self._clock()
                if self._closed or not self._outstanding or left <= 0:
                    return None
                if self._size:
                    self._replace_stuck()
                    # Short waits: a clock that was handed in may run faster than this one.
                    self._arrival.wait(min(left, self._poll))
                    continue
            self._pull_here(left)

    def replies(self, timeout: float) -> Iterator[Reply]:
        """Yield replies until `timeout` seconds are over or nothing is outstanding."""
        end = self._clock() + timeout
        while (reply := self.reply(end - self._clock())) is not None:
            yield reply

    def forget(self, message_id: str) -> None:
        """Stop pulling a message; a reply that is on its way is dropped without a report."""
        with self._lock:
            known = self._outstanding.pop(message_id, None) is not None
            if known and message_id in self._in_pull:
                self._forgotten.add(message_id)

    # --- what the threads do; `_lock` is held where the docstring says so ---

    def _expect(self, message_id: str, node_id: int) -> None:
        """Note a message that was pushed; the lock is held."""
        if message_id:
            self._outstanding[message_id] = node_id
            self._plan(message_id, self._clock())
        else:
            _LOG.warning("node %d is unreachable: Flower did not take its message", node_id)
            self._arrived.append(Reply(ReplyKind.UNREACHABLE, "", node_id, None))

    def _plan(self, message_id: str, due: float) -> None:
        """Plan the next pull of a message; the lock is held."""
        heapq.heappush(self._due, (due, next(self._order), message_id))

    def _hire(self) -> None:
        """Start the workers that are missing; the lock is held."""
        while len(self._workers) < min(self._size, len(self._outstanding)):
            worker = _Worker()
            self._workers.append(worker)
            name = f"rtc-flower-collector-{next(self._order)}"
            threading.Thread(target=self._work, args=(worker,), name=name, daemon=True).start()

    def _replace_stuck(self) -> None:
        """Let fresh workers take the place of those that are stuck; the lock is held."""
        now = self._clock()
        for worker in list(self._workers):
            if worker.message_id is not None and now - worker.since > self._stuck_after:
                _LOG.warning(
                    "pulling the reply of node %s has taken %.1f s, others are pulled without it",
                    self._outstanding.get(worker.message_id, "(forgotten)"),
                    now - worker.since,
                )
                worker.replaced = True
                self._workers.remove(worker)
        self._hire()

    def _work(self, worker: _Worker) -> None:
        while True:
            with self._lock:
                while not self._closed and not worker.replaced and not self._take(worker):
                    self._due_changed.wait(self._rest(worker))
                if self._closed or worker.replaced:
                    return
            self._pull(worker)

    def _pull_here(self, left: float) -> None:
        with self._lock:
            taken = self._take(self._caller)
        self._pull(self._caller) if taken else self._sleep(min(left, self._poll))

    def _take(self, worker: _Worker) -> bool:
        """Give a worker the message that is due for the longest time; the lock is held."""
        while self._due and self._due[0][2] not in self._outstanding:
            heapq.heappop(self._due)
        if self._rest(worker) != 0:
            return False
        worker.message_id, worker.since = heapq.heappop(self._due)[2], self._clock()
        self._in_pull.add(worker.message_id)
        return True

    def _rest(self, worker: _Worker) -> float | None:
        """Seconds until a worker has something to do, `poll` at most; None while nothing is due."""
        if not self._due:
            return None
        wait = max(self._due[0][0], worker.rests_until) - self._clock()
        return min(max(wait, 0.0), self._poll)

    def _pull(self, worker: _Worker) -> None:
        message_id = worker.message_id
        assert message_id is not None
        messages: Sequence[Message] = ()
        failure: BaseException | None = None
        try:
            messages = list(self._grid.pull_messages([message_id]))
        except BaseException as error:
            # Some errors of Flower are no Exceptions; a worker that died of one would be missed.
            if worker is self._caller and not isinstance(error, Exception):
                raise
            failure = error
        with self._lock:
            worker.message_id = None
            self._in_pull.discard(message_id)
            if not self._closed:
                self._pulled(worker, message_id, messages, failure)

    def _pulled(
        self,
        worker: _Worker,
        message_id: str,
        messages: Sequence[Message],
        failure: BaseException | None,
    ) -> None:
        """Hand out what a pull brought and plan the next one; the lock is held."""
        pause = self._poll
        if failure is None:
            worker.failures = 0
        else:
            _LOG.warning("a pull failed and is repeated: %s: %s", type(failure).__name__, failure)
            worker.failures = min(worker.failures + 1, 16)
            pause = max(pause, min(pause * 2**worker.failures, _LONGEST_PAUSE))
        for message in messages:
            self._arrive(message)
        self._forgotten.discard(message_id)
        if message_id in self._outstanding:
            worker.rests_until = self._clock() + pause
            self._plan(message_id, worker.rests_until)
        self._arrival.notify_all()

    def _arrive(self, message: Message) -> None:
        """Queue a reply under the message that it answers; the lock is held."""
        message_id = message.metadata.reply_to_message_id
        node_id = self._outstanding.pop(message_id, None)
        if node_id is not None:
            kind = ReplyKind.ERROR if message.has_error() else ReplyKind.CONTENT
        elif message_id in self._forgotten:
            return
        else:
            kind = ReplyKind.UNKNOWN
            _LOG.warning("a reply to no outstanding message is ignored: %.80r", message_id)
        self._arrived.append(Reply(kind, message_id, node_id, message))


def _ids_of(batch: Sequence[Message], ids: list[str]) -> list[str]:
    """Match ids to messages.

    Flower's simulation leaves rejected messages out of what it returns, and a push that is too
    large returns nothing; both have set the id in the message by then.
    """
    if len(ids) == len(batch):
        return ids
    accepted = set(ids)
    own = (message.metadata.message_id for message in batch)
    return [message_id if message_id in accepted else "" for message_id in own]
