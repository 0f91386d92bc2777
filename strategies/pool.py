"""Where a run stands in its pool of tasks: a killed one goes on instead of starting over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from rtc_flower.files import write_atomically
from rtc_flower.ledger import Posting

__all__ = ["PoolPosition"]


class PoolPosition:
    """Remembers the ledger's number of the pool's first task while the pool runs.

    Parameters
    ----------
    path : Path
        A small file beside the ledger; it decides nothing that the ledger says.
    postings : sequence of Posting
        The pool.
    """

    def __init__(self, path: Path, postings: Sequence[Posting]) -> None:
        self._path, self._count = path, len(postings)
        drafts = (posting.draft for posting in postings)
        parts = (d.samples_hash + repr((d.class_names, d.kind)).encode() for d in drafts)
        self._digest = sha256(b"".join(parts)).hexdigest()

    def posted(self, last: int) -> int:
        """How many of the pool's tasks an earlier run has posted; 0 when it is a new pool.

        Parameters
        ----------
        last : int
            Number of the ledger's last task.
        """
        try:
            kept = json.loads(self._path.read_text())
            first = int(kept["first"]) if kept["pool"] == self._digest else last + 1
        except (OSError, ValueError, KeyError, TypeError):
            first = last + 1
        done = last + 1 - first
        return done if 0 <= done <= self._count else 0

    def begin(self, first: int) -> None:
        """Note that the pool's first task is to get the number ``first``."""
        write_atomically(self._path, json.dumps({"pool": self._digest, "first": first}) + "\n")

    def end(self) -> None:
        """Forget the pool: it ran to its end."""
        self._path.unlink(missing_ok=True)
