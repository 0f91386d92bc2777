import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import COLUMNS, VIEWS, World, cast, open_ledger, post, query, voter

from rtc_flower.forks import Blocks
from rtc_flower.ledger import Ledger
from rtc_flower.schema import (
    APPLICATION_ID,
    DERIVED,
    SCHEMA_SHA256,
    SCHEMA_VERSION,
    BlockRows,
    create,
    schema_digest,
)
from rtc_flower.stopping import Rule


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        yield connection


def test_a_new_file_has_the_schema_that_verify_expects(empty: sqlite3.Connection) -> None:
    assert schema_digest(empty) == SCHEMA_SHA256
    assert empty.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert empty.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert APPLICATION_ID.to_bytes(4, "big") == b"RTCF"


def test_every_table_is_strict_and_every_derived_one_has_its_columns(
    empty: sqlite3.Connection,
) -> None:
    tables = empty.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    strict = {name: bool(flag) for name, flag in tables if not name.startswith("sqlite_")}
    assert set(strict.values()) == {True}
    assert set(DERIVED) < set(strict)
    for table in DERIVED:
        found = empty.execute(f'SELECT name, type FROM pragma_table_info("{table}")').fetchall()
        assert found == list(COLUMNS[table].items())


def test_no_column_but_the_class_of_a_sample_without_votes_is_empty(
    empty: sqlite3.Connection,
) -> None:
    for table in DERIVED:
        rows = empty.execute(f'SELECT name, "notnull", pk FROM pragma_table_info("{table}")')
        nullable = {name for name, required, key in rows if not required and not key}
        assert nullable == ({"class"} if table == "decision" else set())


def test_rows_are_read_in_the_order_of_their_keys_without_sorting(
    empty: sqlite3.Connection,
) -> None:
    for table in DERIVED:
        found = empty.execute(f'SELECT cid FROM pragma_table_info("{table}") WHERE pk ORDER BY pk')
        assert found.fetchall() in ([(0,)], [(0,), (1,)])
        steps = empty.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        assert [step[3].split(" USING")[0] for step in steps] == [f"SCAN {table}"]


@pytest.mark.parametrize("quotes", ["[]", '""', "``"])
def test_the_way_names_are_quoted_does_not_matter(quotes: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        sql = VIEWS["outcome"]
        connection.execute("DROP VIEW outcome")
        connection.execute(f"CREATE VIEW {quotes[0]}outcome{quotes[1]} AS {sql}")
        assert schema_digest(connection) == SCHEMA_SHA256


@pytest.fixture
def voted(tmp_path: Path) -> Iterator[Ledger]:
    """One task closed: sample 0 undisputed, sample 1 split, sample 2 without a vote."""
    with open_ledger(tmp_path / "ledger.db") as ledger:
        post(ledger, 3, rule=Rule.ALL)
        for i, split in enumerate([2, 1, 1]):
            cast(ledger, voter(i), [0, split, None])
        yield ledger


def test_the_views_say_what_was_voted(voted: Ledger) -> None:
    path = voted.path
    assert query(path, "SELECT sample, class, length FROM fork ORDER BY 1, 2") == [
        (0, 0, 3), (1, 1, 2), (1, 2, 1),
    ]  # fmt: skip
    assert query(path, "SELECT sample, class_name, support, runner_up, how FROM outcome") == [
        (0, "class 0", 3, 0, "full"), (1, "class 1", 2, 1, "full"), (2, None, 0, 0, "none"),
    ]  # fmt: skip
    assert query(path, "SELECT * FROM node_score ORDER BY node") == [
        ("node 0", 2, 1, 0.5), ("node 1", 2, 2, 1.0), ("node 2", 2, 2, 1.0),
    ]  # fmt: skip
    assert query(path, "SELECT * FROM progress") == [(1, 3, 3, 3, 0, 3, "exhausted")]


def test_the_best_chain_is_linked(voted: Ledger) -> None:
    rows = query(voted.path, "SELECT sample, height, node, hash, parent FROM best_chain")
    assert [row[:3] for row in rows] == [
        (0, 1, "node 0"), (0, 2, "node 1"), (0, 3, "node 2"), (1, 1, "node 1"), (1, 2, "node 2"),
    ]  # fmt: skip
    parents = [voted.tally.task_id if row[1] == 1 else rows[i - 1][3] for i, row in enumerate(rows)]
    assert [row[4] for row in rows] == parents


def test_while_a_task_is_open_its_votes_are_sealed(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger:
        post(ledger, 3)
        cast(ledger, voter(0), [0, 1, 2])
        for view in ("vote", "fork", "outcome", "best_chain", "node_score"):
            assert query(ledger.path, f"SELECT count(*) FROM {view}") == [(0,)]
        assert query(ledger.path, "SELECT * FROM progress") == [(1, 3, 1, 1, 0, 3, None)]


def test_one_sample_is_found_by_its_row(tmp_path: Path) -> None:
    world = World.with_voters(3)
    world.post(3, n=4, rule=Rule.ALL)
    for i in range(3):
        world.vote(voter(i), [i % 3, None, 2, 1])
    path = world.write(tmp_path / "ledger.db")
    first = query(path, "SELECT first_row FROM task")[0][0]
    rows = query(path, "SELECT id - ?, class FROM block ORDER BY id", first)
    expected = [(p * 4 + s, c) for p in range(3) for s, c in ((0, p % 3), (2, 2), (3, 1))]
    assert rows == expected


Row = tuple[int, int, bytes]
FIRST, START = 21, 18  # the first row that a ballot may have, and where rows were not compared yet
LEAST = -(2**63)


def block_rows(samples: list[int], classes: list[int], hashes: list[bytes]) -> BlockRows:
    """Rows of a ballot at counting position 1, of a task of 10 samples whose first row is 11."""
    blocks = Blocks(np.array(samples, np.int64), np.array(classes, np.int64), hashes)
    counted: Any = SimpleNamespace(position=1, blocks=blocks)
    tally: Any = SimpleNamespace(first_row=FIRST - 10, task=SimpleNamespace(n=10))
    return BlockRows(counted, tally)


@st.composite
def ballots_and_tables(draw: st.DrawFn) -> tuple[BlockRows, list[Row]]:
    """Rows that are expected, and rows of a file: the same with some changes, or none."""
    samples = sorted(draw(st.sets(st.integers(0, 9), max_size=10)))
    n, hashed = len(samples), st.binary(min_size=32, max_size=32)
    classes = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    hashes = draw(st.lists(hashed, min_size=n, max_size=n))
    expected = block_rows(samples, classes, hashes)
    stored = {row[0]: row for row in expected}
    if draw(st.booleans()):
        stored[START - 1] = (START - 1, 0, bytes(32))
    ids = st.integers(FIRST - 5, FIRST + 12) | st.sampled_from([LEAST, -1, 0, 2**63 - 1])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(ids | st.sampled_from(sorted(stored) or [FIRST]))
        kind = draw(st.sampled_from(["gone", "new", "class", "moved"]))
        row = stored.pop(at, (at, draw(st.integers(-1, 12)), draw(st.binary(max_size=33))))
        if kind == "class":
            row = (at, draw(st.integers(-1, 120)), row[2])
        if kind == "moved":
            row = (draw(ids), *row[1:])
        if kind != "gone":
            stored[row[0]] = row
    return expected, list(stored.values())


@given(ballots_and_tables(), st.sampled_from([START, LEAST]), st.sampled_from([1, 3, 10_000]))
def test_block_rows_compared_at_once_are_what_they_are_one_by_one(
    case: tuple[BlockRows, list[Row]], start: int, step: int
) -> None:
    expected, rows = case
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        connection.executemany("INSERT INTO block VALUES (?, ?, ?)", rows)
        found = expected.are_in(connection, start=start, step=step)
    behind = max((row[0] + 1 for row in expected), default=start)
    same = [row for row in sorted(rows) if start <= row[0] < behind] == list(expected)
    assert found == (behind if same else None)


def test_a_byte_that_moved_from_one_hash_to_the_next_is_seen() -> None:
    expected = block_rows([0, 1], [1, 2], [b"a" * 32, b"b" * 32])
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        rows = [(FIRST, 1, b"a" * 31), (FIRST + 1, 2, b"a" + b"b" * 32)]
        connection.executemany("INSERT INTO block VALUES (?, ?, ?)", rows)
        assert expected.are_in(connection, start=START) is None
