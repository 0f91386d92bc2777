"""What a simulated node runs, how it is configured, and how it misbehaves."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field

from flwr.app import Context, Message, MetricRecord, RecordDict

__all__ = ["APP_CRASHED", "NODE_UNAVAILABLE", "SimulatedNode", "make_rubbish"]

# Flower's codes of the error replies that a crash is reported with.
NODE_UNAVAILABLE = 5
APP_CRASHED = 8

_HUGE = 64 << 20
_RUBBISH = ("empty", "records", "bytes", "huge")


def _always(_: Message) -> bool:
    return True


@dataclass(frozen=True)
class SimulatedNode:
    """A node: what it runs, how it is configured, and how it misbehaves.

    Parameters
    ----------
    app : Callable[[Message, Context], Message]
        The node's ``ClientApp``.
    node_config, run_config : Mapping, optional
        What Flower would put into the ``Context``.
    when : Callable[[Message], bool], optional
        Messages that the faults below apply to; all of them by default. A node can so answer a
        hello honestly and fall silent when it is asked to vote.
    delay : float, optional
        Seconds before the app is called. Nothing sleeps under ``workers=1``: the message is
        handled once the grid's clock is that far.
    silent : bool, optional
        Never replies; the app is not called.
    crash_after : int, optional
        Crashes on every message after this many; 0 crashes on the first.
    crash_code : int, optional
        Error that a crash is reported with: 8, the app's process died, or 5, the node is gone
        (it is then no longer listed among the node ids).
    rubbish : str, optional
        What it replies in place of its app's answer: ``"empty"``, no records; ``"records"``, those
        of another program; ``"bytes"`` or ``"huge"``, the true ones with every byte string
        replaced by random bytes as long, or by 64 MiB of zeros.
    forge : int, optional
        Position, in order of joining, of the node in whose name it replies: the reply carries the
        id of the oldest message that this node was sent and has not answered. The SuperLink binds
        no reply to its sender, so the true reply is then refused as a duplicate.
    second : Callable[[Message, Context], Message], optional
        Makes a second reply to the same message, sent right after the first. The SuperLink takes
        one reply per message; with `forge` the second goes out in the other node's name, and the
        first in the node's own.
    stuck : float, optional
        Announces its reply and does not upload it: a pull of that message blocks for this many
        seconds from the announcement, then ends with error 3 (180 s in a deployment).
    tamper : Callable[[Message], Message], optional
        Changes the reply last; anything that the fields above do not cover.
    joins_after : int, optional
        Joins when the grid has accepted this many messages. See also `InMemoryGrid.join`.
    """

    app: Callable[[Message, Context], Message]
    _: KW_ONLY
    node_config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    run_config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    when: Callable[[Message], bool] = _always
    delay: float = 0.0
    silent: bool = False
    crash_after: int | None = None
    crash_code: int = APP_CRASHED
    rubbish: str | None = None
    forge: int | None = None
    second: Callable[[Message, Context], Message] | None = None
    stuck: float = 0.0
    tamper: Callable[[Message], Message] | None = None
    joins_after: int = 0

    def __post_init__(self) -> None:
        for name in ("delay", "stuck", "joins_after", "crash_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if self.crash_code not in (NODE_UNAVAILABLE, APP_CRASHED):
            raise ValueError(f"crash_code is {self.crash_code}, expected 5 or 8")
        if self.rubbish not in (None, *_RUBBISH):
            raise ValueError(f"rubbish is {self.rubbish!r}, expected one of {_RUBBISH}")


def make_rubbish(kind: str, message: Message, reply: Message, noise: random.Random) -> RecordDict:
    """Make the records that a node sends in place of its reply."""
    if kind == "empty":
        return RecordDict()
    if kind == "records":
        return RecordDict({"weather": MetricRecord({"rain": 0.5, "wind": [1.0, 2.0]})})
    content = copy.deepcopy(reply.content if reply.has_content() else message.content)
    for record in content.config_records.values():
        for key, value in record.items():
            if isinstance(value, bytes):
                record[key] = noise.randbytes(len(value)) if kind == "bytes" else bytes(_HUGE)
    return content
