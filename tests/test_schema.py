import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import COLUMNS, VIEWS, World, cast, open_ledger, post, query, voter

from rtc_flower.ledger import Ledger
from rtc_flower.schema import (
    APPLICATION_ID,
    DERIVED,
    SCHEMA_SHA256,
    SCHEMA_VERSION,
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
    for table, key in DERIVED.items():
        keys = set(key.split(", "))
        rows = empty.execute(f'SELECT name, "notnull" FROM pragma_table_info("{table}")')
        nullable = {name for name, required in rows if not required} - keys
        assert nullable == ({"class"} if table == "decision" else set())
        assert list(COLUMNS[table])[: len(keys)] == key.split(", ")


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
