"""What happens in a task, as it happens."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rtc_flower.wire import MAX_TEXT

__all__ = ["Event", "EventFile", "told"]


def told(text: object) -> str:
    """Words of a node, fit for a log and a terminal: on one line, cut at `MAX_TEXT` characters."""
    shown = (c if c.isprintable() else repr(c)[1:-1] for c in str(text)[:MAX_TEXT])
    return "".join(shown)[:MAX_TEXT]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a task, for progress displays and logs.

    Attributes
    ----------
    what : str
        ``posted``, ``asked``, ``ballot``, ``late``, ``refused``, ``absent`` or ``closed``.
    task : int
        Number of the task, from 1.
    node : str
        Name of the voter, or "".
    detail : str
    ballots, decided : int
        Ballots counted and samples decided so far; never classes, which are sealed.
    samples, voters : int
        Size of the task and of its electorate.
    ledger_seconds : float
        Time spent inside the ledger so far.
    """

    what: str
    task: int
    node: str = ""
    detail: str = ""
    ballots: int = 0
    decided: int = 0
    samples: int = 0
    voters: int = 0
    ledger_seconds: float = 0.0

    def __str__(self) -> str:
        who = f" {self.node}" if self.node else ""
        why = f" ({self.detail})" if self.detail else ""
        return (
            f"task {self.task}: {self.what}{who}{why}; {self.ballots} of {self.voters} ballots, "
            f"{self.decided} of {self.samples} samples decided"
        )


class EventFile:
    """Appends events to a file, a JSON object a line, for a display in another process.

    Parameters
    ----------
    path : str
        Empty for nowhere.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(event)) + "\n")
