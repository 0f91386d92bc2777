"""A node's own copy of a ledger's log, and what of it was checked."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.errors import DataError
from rtc_flower.files import sync_directory
from rtc_flower.merkle import Tree, leaf_hash
from rtc_flower.wire import join_leaves, split_leaves

__all__ = ["Replica", "keep_text"]

_LOG = logging.getLogger("flwr.rtc_flower")
try:
    _PROGRAM = version("rtc-flower")
except PackageNotFoundError:  # not installed: what it has checked is checked again
    _PROGRAM = ""


class Replica:
    """Entries that a full audit has checked, in two files of a node's folder.

    ``replica`` holds the leaves; ``replica.root`` says how many were found to be a checkpoint's,
    their root, and which version of this program did.

    Parameters
    ----------
    directory : Path
    """

    def __init__(self, directory: Path) -> None:
        self._path, self._kept_path = directory / "replica", directory / "replica.root"

    def read(self) -> list[bytes]:
        """Leaves that were kept; what a crash left behind them is dropped."""
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        whole = _without_tail(data, self._kept[0])
        if whole != data:
            os.truncate(self._path, len(whole))
        return split_leaves(whole)

    def keep(self, leaves: list[bytes], fresh: int, checkpoint: Checkpoint) -> None:
        """Add the last ``fresh`` of ``leaves``, which together are those of ``checkpoint``.

        Raises
        ------
        DataError
            If the disk refuses it; what is half written is dropped, and sent again.
        """
        try:
            with self._path.open("ab") as file:
                file.write(join_leaves(leaves[len(leaves) - fresh :]) if fresh else b"")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written ({error.strerror})") from error
        # Behind the leaves: a crash in between leaves some that are dropped and sent again.
        keep_text(self._kept_path, f"{checkpoint.size} {checkpoint.root.hex()} {_PROGRAM}\n")

    @property
    def _kept(self) -> tuple[int, str, str]:
        """Size, root and version."""
        path = self._kept_path
        words = path.read_text(errors="replace").split() if path.exists() else []
        size, root, by = (*words, "", "", "")[:3]  # none, or damaged: everything is sent again
        return int(size) if size.isascii() and size.isdigit() else 0, root, by

    def known(self, leaves: list[bytes]) -> int:
        """How many of ``leaves``, as `read` gave them, this version of the program has checked."""
        size, root, by = self._kept
        same = by != "" and by == _PROGRAM and _root(leaves[:size]) == root
        return size if same and size <= len(leaves) else 0

    def drop_damaged(self, leaves: list[bytes]) -> bool:
        """Whether ``leaves`` are not what was kept: this node's disk is at fault, not the server.

        They are put aside, and the server sends the whole log again.
        """
        size, root, _ = self._kept
        if not (self._path.exists() and size) or _root(leaves[:size]) == root:
            return False
        _LOG.warning("the replica of %d entries was damaged on this disk; asking again", size)
        os.replace(self._path, self._path.with_suffix(".damaged"))
        self._kept_path.unlink()
        return True


def keep_text(path: Path, text: str) -> None:
    """Replace ``path``, so that a power cut leaves the old text or the new one.

    Raises
    ------
    DataError
        If the disk refuses it; ``path`` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink()
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _root(leaves: list[bytes]) -> str:
    return Tree(map(leaf_hash, leaves)).root().hex()


def _without_tail(data: bytes, most: int) -> bytes:
    """At most so many whole records at the front of ``data``: behind them a crash left anything."""
    at = 0
    while at + 4 <= len(data) and most > 0:
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        at, most = end, most - 1
    return data[:at]
