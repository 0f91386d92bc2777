"""Ledger files: opened strictly, written by one process, read without standing in its way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from rtc_flower import errors, schema
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.consensus import Replay
from rtc_flower.errors import LedgerError, LedgerFormatError

_BUSY_SECONDS = 60.0
_MEMORY_LIMIT = 16 * 2**20  # larger snapshots go to a temporary file, which needs no memory


class WriterLock:
    """Only one process writes a ledger; the lock goes with the process, however it ends.

    A file of its own: closing any descriptor of the database would drop SQLite's locks.

    Raises
    ------
    LedgerLockedError
        At once, when another process holds it.
    LedgerFormatError
        If there is no ledger.
    LedgerError
        If this user may not write it.
    """

    def __init__(self, ledger: Path) -> None:
        _expect_file(ledger)
        if not os.access(ledger, os.W_OK):
            raise LedgerError(f"{ledger}: read-only; expected a file this user may write")
        path = ledger.resolve().with_name(f"{ledger.resolve().name}.lock")  # one for all names
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"{path}: cannot be opened for writing ({error.strerror})") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode() or "unknown"
            os.close(self._descriptor)
            what = f"{ledger}: another process (pid {holder.strip()}) is writing this ledger"
            raise errors.LedgerLockedError(f"{what}; stop it, or name another ledger") from error
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process write."""
        os.close(self._descriptor)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about ``path`` into ours.

    Raises
    ------
    LedgerFullError, LedgerLockedError, LedgerFormatError, LedgerError
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise errors.LedgerFullError(
                f"{path}: the disk is full or failed ({error}); nothing of this entry was "
                "written. Make room and run again: the ledger goes on where it is"
            ) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            what = f"locked by a reader for {_BUSY_SECONDS:.0f} s; close it and run again"
            raise errors.LedgerLockedError(f"{path}: {what}") from error
        if name in ("SQLITE_READONLY_ROLLBACK", "SQLITE_CANTOPEN"):
            raise LedgerError(
                f"{path}: cannot be read as it is ({error}). If {path.name}-journal lies beside "
                "it, a writer was killed: open it for writing once "
                "(rtc-flower repair, or run the server again)"
            ) from error
        if name.startswith("SQLITE_READONLY"):
            raise LedgerError(f"{path}: read-only; expected a file this user may write") from error
        raise LedgerFormatError(
            f"{path}: expected an rtc-flower ledger, got a damaged or foreign file ({error}); "
            "name another file, or bring a copy back (rtc-flower restore)"
        ) from error


def _expect_file(path: Path) -> None:
    if not path.is_file():
        found = f"a folder; name {path / 'ledger.db'}" if path.is_dir() else "none"
        raise LedgerFormatError(f"{path}: expected a ledger file, found {found}")


def connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """Open the ledger at ``path`` after checking what it is.

    Parameters
    ----------
    mode : str
        SQLite's ``ro`` or ``rw``.

    Raises
    ------
    LedgerFormatError, UnsupportedError, LedgerError
    """
    _expect_file(path)
    with storage_errors(path):
        uri = f"file:{quote(os.fsencode(path.resolve()))}?mode={mode}"
        connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
        try:
            _check_identity(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != schema.APPLICATION_ID:
        raise LedgerFormatError(f"{path}: expected an rtc-flower ledger, got another database")
    if version > schema.SCHEMA_VERSION:
        known = f"this program knows up to {schema.SCHEMA_VERSION}"
        raise errors.UnsupportedError(f"{path}: a ledger of version {version}; {known}")
    if version != schema.SCHEMA_VERSION:
        raise LedgerFormatError(f"{path}: expected version {schema.SCHEMA_VERSION}, got {version}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Connection for short queries; holds no transaction between them."""
    with contextlib.closing(connect(path, mode="ro")) as connection, storage_errors(path):
        yield connection


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Consistent copy for long reading, so that a writer never waits for it.

    Raises
    ------
    LedgerFormatError
        Also if the file is longer or shorter than its pages.
    """
    with reading(path) as source:
        source.execute("BEGIN")  # the file neither grows nor shrinks under this read lock
        pages, size = (source.execute(f"PRAGMA page_{p}").fetchone()[0] for p in ("count", "size"))
        found = path.stat().st_size
        if found != pages * size:
            raise LedgerFormatError(f"{path}: expected {pages * size} bytes of pages, got {found}")
        copy = sqlite3.connect("" if found > _MEMORY_LIMIT else ":memory:")
        try:
            source.backup(copy)
            source.execute("ROLLBACK")  # a writer waits no longer
            yield copy
        finally:
            copy.close()


@contextlib.contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """Name of a file that is to take the place of ``path``; gone at the end, with its journal."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        yield draft
    finally:
        for left in (draft, draft.with_name(f"{draft.name}-journal")):
            left.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: readers see the old file or the new one.

    Raises
    ------
    LedgerError
        If the disk refuses it, or a link, folder, pipe or device is there; ``path`` is as before.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise LedgerError(f"{path}: cannot be written (neither a file nor a name that is free)")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink()
        raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error


def sync_directory(path: Path) -> None:
    """Make names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_seen(note: str, replay: Replay, *, source: str) -> None:
    """Refuse a ledger that is older than a checkpoint of it, or has another history.

    Parameters
    ----------
    note : str
        A checkpoint from outside the ledger: the HEAD file's, or one that a node holds.
    replay : Replay
        The ledger's log.
    source : str
        Where the note comes from, for the message.

    Raises
    ------
    LedgerError
        Saying by how much the ledger is behind.
    """
    try:
        seen = Checkpoint.parse(note)
        if seen.ledger_id != replay.ledger_id:
            raise LedgerError(f"{source}: expected a checkpoint of this ledger, got another's")
        Checkpoint.verify(note, replay.key_at(seen.size))
    except (errors.FormatError, errors.SignatureError) as error:
        raise LedgerError(f"{source}: damaged, foreign, or the ledger is old; {error}") from error
    if seen.size > replay.size:
        raise LedgerError(
            f"{source} says {seen.size} entries, the ledger has {replay.size}: it is an old copy, "
            f"{seen.size - replay.size} entries behind. Bring the newest file back; if it is lost, "
            "begin a new ledger that names the old head (rtc-flower init --continues)"
        )
    if seen.root != replay.roots[seen.size]:
        raise LedgerError(f"{source}: the ledger has another history than this checkpoint")


def check_head(path: Path, replay: Replay) -> None:
    """Refuse a ledger that is older than its HEAD file; `LedgerError`."""
    if path.exists() and path.stat().st_size:  # a power cut may leave it empty: as good as none
        check_seen(path.read_text(encoding="utf-8", errors="replace"), replay, source=str(path))
