"""Ledger files are repaired, copied and put back; what is not derived is never changed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import COLUMNS, SERVER, VIEWS, cast, log_of, open_ledger, post, query, tamper, voter

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.errors import (
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    LedgerLockedError,
    UnsupportedError,
)
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger
from rtc_flower.maintenance import backup, repair, restore
from rtc_flower.reading import forks_of, list_tasks, outcome_rows
from rtc_flower.schema import DERIVED
from rtc_flower.verify import Verdict, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a closed and an open task."""
    with open_ledger(tmp_path / "ledger.db") as ledger:
        vote(ledger)
        post(ledger, 3)
        cast(ledger, voter(0), (0, 1, 2))
    return tmp_path / "ledger.db"


def vote(ledger: Ledger) -> None:
    post(ledger, 3)
    for number in range(2):
        cast(ledger, voter(number), (0, 1, None))
    cast(ledger, voter(2), (0, 1, 2))


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    tables = (*DERIVED, "entry", "checkpoint", "samples", "cosignature")
    return {table: query(path, f'SELECT * FROM "{table}" ORDER BY 1, 2') for table in tables}


# -- repair ----------------------------------------------------------------------------------


def test_repair_of_a_sound_ledger_changes_no_row(path: Path) -> None:
    before = rows(path)
    assert repair(path).summary == "ok"
    assert rows(path) == before
    with Ledger(path, SERVER) as ledger:  # and it goes on
        cast(ledger, voter(1), (0, 1, 2))
    assert verify(path).summary == "ok"


@pytest.mark.parametrize("table", DERIVED)
def test_repair_derives_every_table_again(path: Path, table: str) -> None:
    before = rows(path)
    column = next(iter(COLUMNS[table]))
    tamper(
        path,
        f'DELETE FROM "{table}" WHERE rowid % 2 = 0',
        f'UPDATE "{table}" SET "{column}" = "{column}" + 1000',
    )
    assert repair(path).summary == "ok"
    assert rows(path) == before


def test_repair_makes_lost_tables_and_lying_views_again(path: Path) -> None:
    before = rows(path)
    tamper(path, "DROP TABLE block", "DROP TABLE decision", "CREATE TABLE more (x)")
    for view in VIEWS:
        tamper(path, f"DROP VIEW {view}", f"CREATE VIEW {view} AS SELECT 1 AS task")
    assert verify(path).exit_code == 1
    assert repair(path).summary == "ok"
    assert rows(path) == before


_KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE entry SET leaf = zeroblob(length(leaf))")
connection.execute("CREATE TABLE big AS WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL "
    "SELECT x + 1 FROM c WHERE x < 500) SELECT randomblob(900) AS b FROM c")
os.kill(os.getpid(), 9)
"""


def test_repair_rolls_a_hot_journal_back(path: Path) -> None:
    before = rows(path)
    clean = path.read_bytes()
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert killed.returncode == -9
    assert path.with_name("ledger.db-journal").stat().st_size > 0
    assert path.read_bytes() != clean
    assert repair(path).summary == "ok"
    assert not path.with_name("ledger.db-journal").exists()
    assert rows(path) == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE entry SET leaf = x'00' WHERE idx = 4", "log itself is bad at entry 4"),
        ("DELETE FROM entry WHERE idx = 5", "V[0-9]+ bad|log itself is bad"),
        ("UPDATE checkpoint SET note = 'x' WHERE size = 3", "V7 bad"),
        ("DELETE FROM checkpoint", "V8 bad"),
        ("DELETE FROM samples", "V10 bad"),
        ("DELETE FROM entry", "V2 bad"),
        ("INSERT INTO cosignature VALUES (1, x'00', 'x')", "V12 bad"),
        ("DROP TABLE checkpoint", "damaged or foreign"),
    ],
)
def test_repair_refuses_what_cannot_be_derived_and_changes_nothing(
    path: Path, statement: str, said: str
) -> None:
    tamper(path, statement, "DELETE FROM block")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=said):
        repair(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".new")] == []


def test_repair_refuses_what_is_no_ledger_is_newer_or_is_being_written(
    path: Path, tmp_path: Path
) -> None:
    for words in (b"", b"no ledger" * 100, path.read_bytes()[:3000]):
        (tmp_path / "bad.db").write_bytes(words)
        with pytest.raises(LedgerFormatError):
            repair(tmp_path / "bad.db")
    with pytest.raises(LedgerFormatError):
        repair(tmp_path / "nothing.db")
    with Ledger(path, SERVER), pytest.raises(LedgerLockedError):
        repair(path)
    tamper(path, "PRAGMA user_version = 99")
    with pytest.raises(UnsupportedError):
        repair(path)


# -- ledgers without block rows --------------------------------------------------------------


def test_a_ledger_without_block_rows_decides_and_verifies_alike(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.db", SERVER, blocks=False) as ledger:
        ledger.enrol([(voter(i).public, f"node {i}") for i in range(3)])
        vote(ledger)
    with Ledger(ledger.path, SERVER) as ledger:  # a restart keeps to it
        vote(ledger)
    path = ledger.path
    assert query(path, "SELECT count(*) FROM block WHERE id > 0") == [(0,)]
    report = verify(path)
    assert (report.exit_code, report.votes) == (0, 14)
    assert "block rows are not kept" in report.steps["V9"].detail
    assert [row["class"] for row in outcome_rows(path, 2)] == [0, 1, 2]
    with pytest.raises(LedgerError, match="repair --blocks"):
        forks_of(path, 1, 0)

    tamper(path, "INSERT INTO block VALUES (1, 0, x'00')")
    assert verify(path).steps["V9"].verdict is Verdict.BAD
    assert repair(path, blocks=True).steps["V9"].detail == ""
    assert query(path, "SELECT count(*) FROM block") == [(14,)]
    assert set(forks_of(path, 1, 0).forks) == {"class 0"}
    repair(path, blocks=False)
    assert query(path, "SELECT count(*) FROM block") == [(1,)]
    repair(path)
    assert verify(path).exit_code == 0
    assert query(path, "SELECT count(*) FROM block") == [(1,)]


@pytest.mark.parametrize("row", ["(0, 0, x'')", "(0, -1, x'00')", "(-1, -1, x'')"])
def test_only_the_very_row_says_that_blocks_are_not_kept(path: Path, row: str) -> None:
    tamper(path, "DELETE FROM block", f"INSERT INTO block VALUES {row}")
    assert verify(path).steps["V9"].verdict is Verdict.BAD


# -- backup and restore ----------------------------------------------------------------------


def test_a_backup_is_the_ledger_and_its_checkpoint_is_returned(path: Path, tmp_path: Path) -> None:
    note = backup(path, tmp_path / "far" / "copy.db")
    assert verify(tmp_path / "far" / "copy.db", held=note).exit_code == 0
    assert rows(tmp_path / "far" / "copy.db") == rows(path)
    assert note == (tmp_path / "HEAD").read_text()
    with pytest.raises(LedgerError, match="exists already"):
        backup(path, tmp_path / "far" / "copy.db")
    (tmp_path / "x.db-journal").write_bytes(b"old")
    with pytest.raises(LedgerError, match="journal exists already"):
        backup(path, tmp_path / "x.db")


def test_backups_while_a_server_writes_are_each_of_one_moment(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.db", voters=6) as ledger:
        stop = threading.Event()
        notes: list[str] = []

        def copy() -> None:
            while not stop.is_set():
                notes.append(backup(ledger.path, tmp_path / f"copy-{len(notes)}.db"))

        thread = threading.Thread(target=copy)
        thread.start()
        try:
            for _ in range(3):
                post(ledger, 6)
                for number in range(6):
                    cast(ledger, voter(number), (0, 1, 2))
        finally:
            stop.set()
            thread.join()
    log = log_of(ledger.path)
    assert notes
    for number, note in enumerate(notes):
        report = verify(tmp_path / f"copy-{number}.db", held=note)
        assert report.exit_code == 0
        assert log_of(tmp_path / f"copy-{number}.db") == log[: report.entries]


def test_a_backup_of_nothing_or_onto_nowhere(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerFormatError):
        backup(tmp_path / "nothing.db", tmp_path / "copy.db")
    with pytest.raises(LedgerError, match="cannot be written"):
        backup(path, path / "below" / "copy.db")
    tamper(path, "DELETE FROM checkpoint")
    with pytest.raises(LedgerFormatError, match="expected a checkpoint"):
        backup(path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_disk_without_hard_links_takes_a_backup_and_keeps_what_is_there(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refuse)
    stick = tmp_path / "stick"
    backup(path, stick / "copy.db")
    assert log_of(stick / "copy.db") == log_of(path)
    assert list(stick.iterdir()) == [stick / "copy.db"]

    def meanwhile(*_: object) -> None:
        (stick / "second.db").write_text("somebody else's")
        refuse()

    monkeypatch.setattr("os.link", meanwhile)
    with pytest.raises(LedgerError, match="cannot be written \\(File exists\\)"):
        backup(path, stick / "second.db")
    assert (stick / "second.db").read_text() == "somebody else's"


@pytest.mark.parametrize("put", [backup, restore])
def test_a_disk_that_fills_during_a_copy_is_named_and_nothing_is_left(
    path: Path, tmp_path: Path, put: Callable[[Path, Path], object]
) -> None:
    far, before = tmp_path / "far" / "copy.db", path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # Python ignores the signal
    try:
        with pytest.raises(LedgerFullError, match=f"^{far}: not written, .*{path} is as it was"):
            put(path, far)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(far.parent.iterdir()) == []
    assert path.read_bytes() == before


def test_a_lost_ledger_is_restored_and_goes_on(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "copy.db")
    with pytest.raises(LedgerError, match="exists already"):
        restore(tmp_path / "copy.db", path)
    path.unlink()
    assert restore(tmp_path / "copy.db", path).summary == "ok"
    with Ledger(path, SERVER) as ledger:
        cast(ledger, voter(1), (0, 1, 2))
    assert verify(path).exit_code == 0


def test_s6_a_backup_behind_the_head_is_refused_and_says_by_how_much(
    path: Path, tmp_path: Path
) -> None:
    backup(path, tmp_path / "copy.db")
    with Ledger(path, SERVER) as ledger:
        cast(ledger, voter(1), (0, 1, 2))
    path.unlink()
    with pytest.raises(LedgerError, match="2 entries behind"):
        restore(tmp_path / "copy.db", path)
    assert not path.exists()
    shutil.move(tmp_path / "HEAD", tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match="2 entries behind"):
        restore(tmp_path / "copy.db", path, head_file=tmp_path / "elsewhere")


def test_s6_a_backup_from_before_a_new_server_key_is_named_as_old(
    path: Path, tmp_path: Path
) -> None:
    backup(path, tmp_path / "copy.db")
    with Ledger(path, SERVER) as ledger:
        ledger.rotate_key(SigningKey.generate())
        cast(ledger, voter(1), (0, 1, 2))
    path.unlink()
    with pytest.raises(LedgerError, match="HEAD: damaged, foreign, or the ledger is old"):
        restore(tmp_path / "copy.db", path)
    assert not path.exists()


def test_a_bad_a_foreign_and_a_newer_backup_are_refused(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "copy.db")
    path.unlink()
    with Ledger.create(tmp_path / "o" / "ledger.db", SERVER) as other:
        pass
    with pytest.raises(LedgerError, match="another's"):
        restore(other.path, path)
    for words in (b"", (tmp_path / "copy.db").read_bytes()[:5000]):
        (tmp_path / "bad.db").write_bytes(words)
        with pytest.raises(LedgerError, match="not restored: V1 bad"):
            restore(tmp_path / "bad.db", path)
    connection = sqlite3.connect(tmp_path / "copy.db")
    with connection:
        connection.execute("DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)")
    connection.close()
    with pytest.raises(LedgerError, match="V8 bad"):
        restore(tmp_path / "copy.db", path)
    tamper(tmp_path / "copy.db", "PRAGMA user_version = 99")
    with pytest.raises(UnsupportedError):
        restore(tmp_path / "copy.db", path)
    assert not path.exists()


# -- cosigned by k of n ----------------------------------------------------------------------


def test_show_counts_the_keys_that_cosigned_a_size_behind_the_close(path: Path) -> None:
    def cosigned() -> list[tuple[int | None, int]]:
        return [(row.cosigned, row.enrolled) for row in list_tasks(path)]

    assert cosigned() == [(0, 3), (None, 3)]
    (close,) = query(path, "SELECT idx FROM closing")[0]
    with Ledger(path, SERVER) as ledger:
        replay = ledger.replay
        for number, size in ((0, close), (1, close + 1), (1, close + 2), (2, close + 2)):
            stated = Checkpoint(replay.ledger_id, size, replay.roots[size])
            line = stated.cosign(voter(number), seconds=7)
            ledger.cosign(size, line, voter=voter(number).public)
    assert cosigned() == [(2, 3), (None, 3)]
    assert verify(path).exit_code == 0
