"""The ledger's tables: the log, and the rows that are derived from it for people to query.

``schema.sql`` has the tables and views. `derive` is the one place that says which rows an entry
causes. The ledger stores them, and the verifier derives them again and compares, so that no row
can say what the log does not.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from enum import IntEnum
from hashlib import sha256
from importlib.resources import files
from itertools import chain, islice
from typing import Any, TypeAlias

from rtc_flower import ballot, entries, roster, rules
from rtc_flower.consensus import Applied, Replay
from rtc_flower.tally import Counted, How, Tally

APPLICATION_ID = 0x52544346  # "RTCF"
SCHEMA_VERSION = 1
SCHEMA_SHA256 = "dd3c78dcd59a6644b84b2ada77b4274808e6c6ffb96a1d900b5f04f89056a8e3"

# Rows are derived and compared in the order of their keys, which are a table's first columns.
DERIVED = (
    "roster", "task", "class", "ballot", "counted", "absence", "refusal", "evidence", "server_key",
    "closing", "decision", "block",
)  # fmt: skip
# Names that hold what a quote may enclose, which `schema_digest` takes off.
ODD = """SELECT name FROM (SELECT name FROM sqlite_schema UNION SELECT c.name FROM sqlite_schema m,
    pragma_table_info(m.name) c WHERE m.type = 'table') WHERE name GLOB '*[^a-z0-9_]*'"""
# Columns that hold text, with their tables.
TEXTS = """SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c
    WHERE m.type = 'table' AND c.type = 'TEXT'"""

# Block rows joined as no other rows are: every number apart, every hash of one length. Rows that
# are too many or too long are not even joined.
_RANGE = "FROM block WHERE id BETWEEN ?1 AND ?2"
_STORED = f"""SELECT group_concat(id, ', '), group_concat(class, ', '),
    CAST(group_concat(hash, '') AS BLOB) {_RANGE}
    AND (SELECT count(*) = ?3 AND sum(length(hash) = 32) = ?3 {_RANGE})"""

Rows: TypeAlias = "list[tuple[Any, ...]] | BlockRows"  # in the order of the table's key

_QUOTES = str.maketrans("", "", '[]"`')
_CHUNK = 200  # rows a statement: one at a time they take half as long again
_NO_BLOCKS = (0, -1, b"")  # no vote has this id: the first row of the first task is 1


def create(connection: sqlite3.Connection, *, blocks: bool = True) -> None:
    """Make all tables (STRICT) and views in an empty database.

    Parameters
    ----------
    blocks : bool
        Whether the ledger keeps block rows. Nothing is lost without them, since blocks follow
        from the log; ``rtc-flower repair --blocks`` adds them.
    """
    connection.executescript(files("rtc_flower").joinpath("schema.sql").read_text())
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if not blocks:
        connection.execute("INSERT INTO block VALUES (?, ?, ?)", _NO_BLOCKS)


def keeps_blocks(connection: sqlite3.Connection) -> bool:
    """Whether a ledger keeps block rows, or has the row that says that it does not."""
    row = connection.execute("SELECT * FROM block WHERE id = 0").fetchone()
    return bool(row != _NO_BLOCKS)


def schema_digest(connection: sqlite3.Connection) -> str:
    """SHA-256 of the tables and views, whatever way of quoting wrote them (hexadecimal).

    Quotes are taken off names, never off the query of a view: there ``"d.class"`` is a text and
    no column.
    """
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
    return sha256(" ".join(_normal(*row) for row in rows).encode()).hexdigest()


def _normal(kind: str, name: str, sql: str | None) -> str:
    line = re.sub(r"[ \t\r\n]+", " ", f"{kind} {name} {sql}").strip(" ")
    head, between, query = line.partition(" AS ") if kind == "view" else (line, "", "")
    return head.translate(_QUOTES) + between + query


def store(db: sqlite3.Connection, applied: Applied, replay: Replay) -> None:
    """Insert the rows that an entry causes, those of its blocks when the ledger keeps them."""
    for table, rows in derive(applied, replay):
        left = iter(rows if table != "block" or keeps_blocks(db) else ())
        while chunk := list(islice(left, _CHUNK)):
            row = f"({', '.join('?' * len(chunk[0]))})"
            values = list(chain.from_iterable(chunk))
            db.execute(f"INSERT INTO {table} VALUES {', '.join([row] * len(chunk))}", values)


def derive(applied: Applied, replay: Replay) -> Iterator[tuple[str, Rows]]:
    """Rows of the derived tables that an entry causes, in the order of their keys.

    Parameters
    ----------
    applied : Applied
        What the entry did.
    replay : Replay
        State after it.

    Yields
    ------
    tuple of (str, sequence of tuple)
        Table and rows.
    """
    entry, index, number = applied.entry, applied.index, replay.number
    match entry:
        case roster.Roster():
            members = enumerate(entry.members)
            rows = [(entry.version, i, m.key, m.name, _word(m.state)) for i, m in members]
            yield "roster", rows
        case entries.Task():
            yield from _task_rows(entry, replay.current, number)
        case ballot.Ballot():
            header = entry.header
            row = (index, number, header.voter, header.ballot_id, entry.description)
            yield "ballot", [row]
        case entries.Absent():
            yield "absence", [(index, number, entry.voter, _word(entry.reason))]
        case entries.Refused():
            sent = (entry.content_hash, entry.size)
            yield "refusal", [(index, number, entry.voter, _word(entry.reason), *sent)]
        case entries.Evidence():
            yield "evidence", [(index, entry.first.task_id, entry.first.voter)]
        case entries.ServerKey():
            yield "server_key", [(index, entry.key)]
        case entries.Close():
            yield from _close_rows(entry, replay.current, index, number)
    for counted in applied.counted:
        yield "counted", [(number, counted.position, counted.index, counted.decided)]
        yield "block", BlockRows(counted, replay.current)


def _word(value: IntEnum) -> str:
    return value.name.lower()


def _task_rows(task: entries.Task, tally: Tally, number: int) -> Iterator[tuple[str, Rows]]:
    row = (number, tally.index, tally.task_id, task.kind, task.n, task.k, task.roster_version)
    named = (_word(rules.Rule(task.rule)), _word(rules.Order(task.order)))
    yield "task", [(*row, len(tally.ranks), *named, tally.first_row)]
    yield "class", [(number, i, name) for i, name in enumerate(task.class_names)]


class BlockRows:
    """Rows of one ballot's blocks, made one at a time: thousands of live tuples cost a tenth."""

    def __init__(self, ballot: Counted, tally: Tally) -> None:
        first, blocks = tally.first_row + ballot.position * tally.task.n, ballot.blocks
        ids, classes = (blocks.samples + first).tolist(), blocks.classes.tolist()
        self._columns: tuple[list[Any], ...] = (ids, classes, blocks.hashes)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self._columns, strict=True)

    def are_in(self, db: sqlite3.Connection, *, start: int, step: int = 10_000) -> int | None:
        """Whether ``db`` has just these rows from the id ``start`` up to the last of these.

        SQLite joins ``step`` of them at once, which takes half the time of reading one after the
        other. Its text must be UTF-8, or it would recode the hashes.

        Returns
        -------
        int or None
            The id behind the last row, ``start`` without one; None where a row differs.
        """
        for first in range(0, len(self), step):
            ids, classes, hashes = (column[first : first + step] for column in self._columns)
            expected = (str(ids)[1:-1], str(classes)[1:-1], b"".join(hashes))
            if db.execute(_STORED, (start, ids[-1], len(ids))).fetchone() != expected:
                return None
            start = ids[-1] + 1
        return start


def _close_rows(
    close: entries.Close, tally: Tally, index: int, number: int
) -> Iterator[tuple[str, Rows]]:
    counts = (close.counted, close.uncounted, close.absent, close.uninvited)
    yield "closing", [(number, index, _word(close.reason), *counts)]
    if close.reason is entries.CloseReason.ABORTED:
        return
    found = tally.outcomes()
    words = {int(how): _word(how) for how in How}
    support, how = found.support.tolist(), [words[code] for code in found.how.tolist()]
    leaders = zip(found.classes.tolist(), support, strict=True)
    classes = [leader if votes else None for leader, votes in leaders]
    columns = (classes, support, found.runner_up.tolist(), how, found.decided_at.tolist())
    yield "decision", [(number, i, *row) for i, row in enumerate(zip(*columns, strict=True))]
