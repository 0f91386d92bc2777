import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import World, open_ledger, tamper, voter

from rtc_flower.errors import (
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    LedgerLockedError,
    UnsupportedError,
)
from rtc_flower.files import (
    WriterLock,
    connect,
    reading,
    snapshot,
    storage_errors,
    write_atomically,
)


@pytest.fixture
def path(world: World, tmp_path: Path) -> Path:
    return world.write(tmp_path / "ledger?name=x#1.db")


def test_a_name_with_odd_characters_is_opened_as_it_is(path: Path) -> None:
    with reading(path) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == (2,)
    assert os.listdir(path.parent) == [path.name]


def test_what_is_no_ledger_of_ours_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerFormatError, match="found none"):
        connect(tmp_path / "none.db", mode="ro")
    tamper(path, "PRAGMA user_version = 99")
    with pytest.raises(UnsupportedError, match="a ledger of version 99"):
        connect(path, mode="ro")
    tamper(path, "PRAGMA application_id = 7")
    with pytest.raises(LedgerFormatError, match="got another database"):
        connect(path, mode="ro")


def test_a_reader_writes_nothing(path: Path) -> None:
    with pytest.raises(LedgerError, match="read-only"), reading(path) as connection:
        connection.execute("DELETE FROM entry")


def test_a_snapshot_stands_still_and_holds_up_no_writer(path: Path) -> None:
    with snapshot(path) as copy:
        tamper(path, "DELETE FROM checkpoint")  # would wait for a reader's transaction
        assert copy.execute("SELECT count(*) FROM checkpoint").fetchone() == (1,)
    with reading(path) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoint").fetchone() == (0,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SQLITE_FULL", LedgerFullError),
        ("SQLITE_IOERR_WRITE", LedgerFullError),
        ("SQLITE_BUSY", LedgerLockedError),
        ("SQLITE_LOCKED_SHAREDCACHE", LedgerLockedError),
        ("SQLITE_READONLY", LedgerError),
        ("SQLITE_READONLY_ROLLBACK", LedgerError),
        ("SQLITE_CANTOPEN", LedgerError),
        ("SQLITE_CORRUPT", LedgerFormatError),
        ("SQLITE_NOTADB", LedgerFormatError),
    ],
)
def test_errors_of_sqlite_become_ours(name: str, expected: type[LedgerError]) -> None:
    error = sqlite3.OperationalError("why")
    error.sqlite_errorname = name
    with pytest.raises(LedgerError) as raised, storage_errors(Path("ledger.db")):
        raise error
    assert type(raised.value) is expected
    assert "ledger.db" in str(raised.value)
    if "ROLLBACK" in name:
        assert "ledger.db-journal" in str(raised.value)


def test_the_lock_is_one_process_wide_and_can_be_given_back(path: Path) -> None:
    lock = WriterLock(path)
    with pytest.raises(LedgerLockedError, match=f"pid {os.getpid()}"):
        WriterLock(path)
    lock.release()
    WriterLock(path).release()


def test_a_reader_does_not_hinder_the_writer_between_its_queries(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger, reading(ledger.path) as connection:
        count = "SELECT count(*) FROM entry"
        assert connection.execute(count).fetchone() == (2,)
        ledger.enrol([(voter(9).public, "late")])
        assert connection.execute(count).fetchone() == (3,)


def test_a_hot_journal_met_read_only_says_what_to_run(path: Path, tmp_path: Path) -> None:
    """A writer killed within a commit leaves its journal; here its files are copied."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("PRAGMA cache_spill = 1")
        writer.execute("BEGIN")
        writer.execute("INSERT INTO samples VALUES (9, randomblob(200000))")
        copy = tmp_path / "copy.db"
        copy.write_bytes(path.read_bytes())
        journal = Path(f"{path}-journal").read_bytes()
        Path(f"{copy}-journal").write_bytes(journal)
        writer.execute("ROLLBACK")
    assert len(journal) > 512
    with pytest.raises(LedgerError, match="journal lies beside"), reading(copy) as connection:
        connection.execute("SELECT count(*) FROM entry").fetchone()


def test_atomic_writes_replace_or_leave_alone(tmp_path: Path) -> None:
    path = tmp_path / "HEAD"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError, match="HEAD: cannot be written"):
        write_atomically(path, "three")
    assert os.listdir(tmp_path) == ["HEAD"]


def test_a_read_only_disk_is_named_by_the_file_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the temporary name, which cannot even be removed there."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "temporary")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(LedgerError, match=r"/HEAD: cannot be written \(Read-only file system\)"):
        write_atomically(tmp_path / "HEAD", "one")
