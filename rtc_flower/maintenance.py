"""Looking after ledger files: repair, backup, restore.

The log is the truth. Rows that were derived from it can be derived again; the log itself, its
checkpoints, sample sets and cosignatures cannot, so nothing here changes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from pathlib import Path

from rtc_flower.consensus import Replay
from rtc_flower.errors import (
    FormatError,
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    RtcFlowerError,
    UnsupportedError,
)
from rtc_flower.files import (
    WriterLock,
    check_head,
    connect,
    drafting,
    reading,
    storage_errors,
    sync_directory,
)
from rtc_flower.schema import create, keeps_blocks, store
from rtc_flower.verify import Report, verify

_KEPT = {
    "entry": ("idx", "leaf"),
    "checkpoint": ("size", "note"),
    "samples": ("task", "data"),
    "cosignature": ("size", "key", "line"),
}
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)  # FAT and exFAT: most USB sticks


def repair(path: Path, *, blocks: bool | None = None) -> Report:
    """Roll back what a killed writer left, and derive every derived row from the log again.

    The repaired ledger is written beside the old one, verified, and takes its place; until then
    nothing is changed but a journal that is rolled back.

    Parameters
    ----------
    path : Path
    blocks : bool, optional
        Keep block rows from now on, or leave them out; as before by default.

    Returns
    -------
    Report
        Of the repaired ledger; every step that needs nothing from elsewhere is ok.

    Raises
    ------
    LedgerError
        If the log itself is bad, or what else cannot be derived: restore a backup then.
    UnsupportedError
        If it has entries of a newer version.
    LedgerLockedError
        If a server is writing it.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    lock = WriterLock(path)
    try:
        with drafting(path) as draft:
            draft.touch(0o600)
            with contextlib.closing(connect(path, mode="rw")) as source, storage_errors(path):
                _derive_anew(source, draft, blocks=blocks)
            report = verify(draft)
            if report.exit_code:
                kind = LedgerError if report.exit_code == 1 else UnsupportedError
                raise kind(
                    f"{path}: not repaired and not changed, since not only derived rows are bad: "
                    f"{report.summary}. Restore a backup"
                )
            shutil.copymode(path, draft)
            os.replace(draft, path)
            sync_directory(path.parent)
    finally:
        lock.release()
    return report


def _derive_anew(source: sqlite3.Connection, draft: Path, *, blocks: bool | None) -> None:
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as target:
        keep = _keeps_blocks(source) if blocks is None else blocks
        create(target, blocks=keep)
        target.execute("BEGIN")
        for table, columns in _KEPT.items():
            rows = source.execute(f"SELECT {', '.join(columns)} FROM {table}")
            marks = ", ".join("?" * len(columns))
            target.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        _replay_into(target)
        target.execute("COMMIT")


def _keeps_blocks(source: sqlite3.Connection) -> bool:
    try:
        return keeps_blocks(source)
    except sqlite3.OperationalError:  # the table is gone
        return True


def _replay_into(target: sqlite3.Connection) -> None:
    replay = Replay()
    for index, leaf in target.execute("SELECT idx, leaf FROM entry ORDER BY idx").fetchall():
        try:
            applied = replay.apply(leaf)
        except UnsupportedError:
            raise
        except RtcFlowerError as error:
            raise LedgerError(
                f"the log itself is bad at entry {index} ({error}); nothing was changed. "
                "Restore a backup"
            ) from error
        store(target, applied, replay)


def backup(path: Path, destination: Path) -> str:
    """Copy a ledger as it is at one moment, while a server may be writing it.

    Returns
    -------
    str
        The copy's last checkpoint. Keep it elsewhere: it shows later that nothing was rolled back.

    Raises
    ------
    LedgerError
        If ``destination`` exists or cannot be written.
    """
    if destination.is_dir():
        what = f"a new file, found a folder; name {destination / path.name}"
        raise LedgerError(f"{destination}: expected {what}")
    for existing in (destination, destination.with_name(f"{destination.name}-journal")):
        if existing.exists():
            raise LedgerError(f"{existing} exists already; move it away first")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with drafting(destination) as draft:
            draft.touch(0o600)  # as the ledger: votes of an open task are in it
            note = _copy(path, draft)
            _place(draft, destination)
            sync_directory(destination.parent)
    except OSError as error:
        raise LedgerError(f"{destination}: cannot be written ({error.strerror})") from error
    except LedgerFullError as error:
        raise LedgerFullError(
            f"{destination}: not written, the disk is full or failed ({error.__cause__}); "
            f"{path} is as it was. Make room, or name a file on another disk"
        ) from error
    return note


def _place(draft: Path, destination: Path) -> None:
    """Give ``draft`` its name without ever replacing a file."""
    try:
        os.link(draft, destination)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        destination.touch(0o600, exist_ok=False)
        os.replace(draft, destination)


def _copy(path: Path, draft: Path) -> str:
    with reading(path) as source, contextlib.closing(sqlite3.connect(draft)) as target:
        source.backup(target)
        row = target.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    if row is None:
        raise LedgerFormatError(f"{path}: expected a checkpoint, found none")
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    return str(row[0])


def restore(source: Path, path: Path, *, head_file: Path | None = None) -> Report:
    """Put a backup in the place of a ledger that is lost.

    Parameters
    ----------
    source : Path
        The backup.
    path : Path
        Where the ledger was; what is left of it must be moved away first.
    head_file : Path, optional
        Where the server kept its head; ``HEAD`` beside the ledger by default. Without one nobody
        here can tell how old the backup is: the first node that has seen more will.

    Returns
    -------
    Report
        Of the backup.

    Raises
    ------
    LedgerError
        If the backup is bad, the ledger is still there, or its head is ahead of the backup.
    UnsupportedError
        If the backup is of a newer version.
    """
    report = verify(source)
    if report.exit_code:
        kind = LedgerError if report.exit_code == 1 else UnsupportedError
        raise kind(f"{source}: not restored: {report.summary}")
    check_head(head_file or path.parent / "HEAD", _replayed(source))
    backup(source, path)
    return report


def _replayed(path: Path) -> Replay:
    replay = Replay()
    with reading(path) as connection:
        for index, leaf in connection.execute("SELECT idx, leaf FROM entry ORDER BY idx"):
            if index != replay.size:
                raise FormatError(f"{path}: expected entry {replay.size}, found {index}")
            replay.apply(leaf)
    return replay
