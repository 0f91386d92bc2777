"""The ledger's tables: the log, and the rows that are derived from it for people to query.

`derive` is the one place that says which rows an entry causes. The ledger inserts them, and the
verifier derives them again and compares, so that no row can say what the log does not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from rtc_flower.ballot import Ballot
from rtc_flower.consensus import Applied, Replay
from rtc_flower.entries import Absent, Close, CloseReason, Evidence, Refused, ServerKey, Task
from rtc_flower.roster import Roster
from rtc_flower.stopping import Order, Rule
from rtc_flower.tally import How, Tally

__all__ = [
    "APPLICATION_ID",
    "DERIVED",
    "INDEXED",
    "SCHEMA_SHA256",
    "SCHEMA_VERSION",
    "VIEWS",
    "create",
    "derive",
    "keeps_blocks",
    "leave_blocks_out",
    "schema_digest",
]

APPLICATION_ID = 0x52544346  # "RTCF"
SCHEMA_VERSION = 1


class Rows(Protocol):
    """Rows of one table, in the order of its key; iterated once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...


_LOG = {
    "entry": ({"idx": int, "leaf": bytes}, "idx"),
    "checkpoint": ({"size": int, "note": str}, "size"),
    "samples": ({"task": int, "data": bytes}, "task"),
    "cosignature": ({"size": int, "key": bytes, "line": str}, ("size", "key")),
}
DERIVED: dict[str, tuple[dict[str, type], str | tuple[str, ...]]] = {
    "roster": (
        {"version": int, "position": int, "key": bytes, "name": str, "state": str},
        ("version", "position"),
    ),
    "task": (
        {
            "task": int,
            "idx": int,
            "task_id": bytes,
            "kind": str,
            "n": int,
            "k": int,
            "roster_version": int,
            "electorate": int,
            "rule": str,
            "counting": str,
            "first_row": int,
        },
        "task",
    ),
    "class": ({"task": int, "class": int, "name": str}, ("task", "class")),
    "ballot": (
        {"idx": int, "task": int, "voter": bytes, "ballot_id": bytes, "contract": str},
        "idx",
    ),
    "counted": (
        {"task": int, "position": int, "ballot": int, "decided": int},
        ("task", "position"),
    ),
    "absence": ({"idx": int, "task": int, "voter": bytes, "reason": str}, "idx"),
    "refusal": (
        {"idx": int, "task": int, "voter": bytes, "reason": str, "sha256": bytes, "size": int},
        "idx",
    ),
    "evidence": ({"idx": int, "task_id": bytes, "voter": bytes}, "idx"),
    "server_key": ({"idx": int, "key": bytes}, "idx"),
    "closing": (
        {
            "task": int,
            "idx": int,
            "reason": str,
            "counted": int,
            "uncounted": int,
            "absent": int,
            "uninvited": int,
        },
        "task",
    ),
    "decision": (
        {
            "task": int,
            "sample": int,
            "class": int,
            "support": int,
            "runner_up": int,
            "how": str,
            "decided_at": int,
        },
        ("task", "sample"),
    ),
    # block id: first row of the task + counting position * n + sample
    "block": ({"id": int, "class": int, "hash": bytes}, "id"),
}
_QUOTES = str.maketrans("", "", '[]"`')
SCHEMA_SHA256 = "dd3c78dcd59a6644b84b2ada77b4274808e6c6ffb96a1d900b5f04f89056a8e3"
_NULLABLE = {"decision": "class"}
_HOW = {int(how): how.name.lower() for how in How}

# A view of votes shows closed tasks only: while a task is open its votes are sealed.
VIEWS = {
    "vote": """
        SELECT t.task, b.id - t.first_row - o.position * t.n AS sample, b.class,
            c.name AS class_name, o.position, r.name AS node, b.hash
        FROM task t
        JOIN closing k ON k.task = t.task AND k.reason <> 'aborted'
        CROSS JOIN counted o ON o.task = t.task
        CROSS JOIN ballot v ON v.idx = o.ballot
        CROSS JOIN roster r ON r.version = t.roster_version AND r.key = v.voter
        CROSS JOIN block b ON b.id >= t.first_row + o.position * t.n
            AND b.id < t.first_row + (o.position + 1) * t.n
        CROSS JOIN class c ON c.task = t.task AND c.class = b.class""",
    "fork": """
        SELECT task, sample, class, class_name, count(*) AS length,
            min(position) AS first_position, max(position) AS last_position
        FROM vote GROUP BY task, sample, class""",
    "outcome": """
        SELECT d.task, d.sample, d.class, c.name AS class_name, d.support, d.runner_up, d.how,
            d.decided_at
        FROM decision d LEFT JOIN class c ON c.task = d.task AND c.class = d.class""",
    "best_chain": """
        SELECT v.task, v.sample, row_number() OVER fork AS height, v.class, v.class_name,
            v.node, v.hash, coalesce(lag(v.hash) OVER fork, t.task_id) AS parent
        FROM vote v JOIN task t ON t.task = v.task
        CROSS JOIN decision d ON d.task = v.task AND d.sample = v.sample AND d.class = v.class
        WINDOW fork AS (PARTITION BY v.task, v.sample ORDER BY v.position)""",
    "node_score": """
        SELECT v.node, count(*) AS votes, sum(v.class = d.class) AS blocks_in_best_chain,
            round(avg(v.class = d.class), 4) AS agreement
        FROM vote v CROSS JOIN decision d ON d.task = v.task AND d.sample = v.sample
        GROUP BY v.node""",
    "progress": """
        SELECT t.task, t.electorate, count(b.idx) AS ballots,
            (SELECT count(*) FROM counted o WHERE o.task = t.task) AS counted,
            (SELECT max(o.decided) FROM counted o WHERE o.task = t.task) AS decided,
            t.n AS samples, k.reason AS closed
        FROM task t LEFT JOIN ballot b ON b.task = t.task LEFT JOIN closing k ON k.task = t.task
        GROUP BY t.task""",
}


def create(connection: sqlite3.Connection) -> None:
    """Make all tables (STRICT) and views in an empty database."""
    from sqlite_utils import Database  # imported here: reading and verifying need only sqlite3

    database = Database(connection)
    for name, (columns, key) in (_LOG | DERIVED).items():
        nullable = {*([key] if isinstance(key, str) else key), _NULLABLE.get(name)}
        required = [column for column in columns if column not in nullable]
        database.table(name).create(columns, pk=key, not_null=required, strict=True)
    for name, sql in VIEWS.items():
        database.create_view(name, sql)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


INDEXED = tuple(name for name, (_, key) in (_LOG | DERIVED).items() if not isinstance(key, str))
"""Tables whose key is an index of its own, which can differ from the table."""

_NO_BLOCKS = (0, -1, b"")  # no vote has this id: the first row of the first task is 1


def leave_blocks_out(connection: sqlite3.Connection) -> None:
    """Mark a new ledger as one that keeps no block rows: for very large runs.

    Nothing is lost, since blocks follow from the log; ``rtc-flower repair --blocks`` adds them.
    """
    connection.execute("INSERT INTO block VALUES (?, ?, ?)", _NO_BLOCKS)


def keeps_blocks(connection: sqlite3.Connection) -> bool:
    """Whether a ledger keeps block rows, or has the row that says that it does not."""
    row = connection.execute("SELECT * FROM block WHERE id = 0").fetchone()
    return bool(row != _NO_BLOCKS)


def schema_digest(connection: sqlite3.Connection) -> str:
    """SHA-256 of the tables and views, whatever way of quoting wrote them (hexadecimal).

    Quotes are taken off what sqlite-utils writes, never off the query of a view: there
    ``"d.class"`` is a text and no column.
    """
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
    text = "\n".join(f"{kind} {name} {_unquoted(kind, str(sql))}" for kind, name, sql in rows)
    return sha256(" ".join(text.split()).encode()).hexdigest()


def _unquoted(kind: str, sql: str) -> str:
    head, between, query = sql.partition(" AS ") if kind == "view" else (sql, "", "")
    return head.translate(_QUOTES) + between + query


def derive(applied: Applied, replay: Replay, number: int) -> Iterator[tuple[str, Rows]]:
    """Rows of the derived tables that an entry causes, in the order of their keys.

    Parameters
    ----------
    applied : Applied
        What the entry did.
    replay : Replay
        State after it.
    number : int
        Number of the last task posted, from 1.

    Yields
    ------
    tuple of (str, sequence of tuple)
        Table and rows.
    """
    entry, index = applied.entry, applied.index
    match entry:
        case Roster():
            yield (
                "roster",
                [
                    (entry.version, position, m.key, m.name, m.state.name.lower())
                    for position, m in enumerate(entry.members)
                ],
            )
        case Task():
            yield from _task_rows(entry, _tally(replay), number)
        case Ballot():
            header = entry.header
            row = (index, number, header.voter, header.ballot_id, entry.description)
            yield "ballot", [row]
        case Absent():
            yield "absence", [(index, number, entry.voter, entry.reason.name.lower())]
        case Refused():
            reason, size = entry.reason.name.lower(), entry.size
            yield "refusal", [(index, number, entry.voter, reason, entry.content_hash, size)]
        case Evidence():
            yield "evidence", [(index, entry.first.task_id, entry.first.voter)]
        case ServerKey():
            yield "server_key", [(index, entry.key)]
        case Close():
            yield from _close_rows(entry, _tally(replay), index, number)
    yield from _count_rows(applied, replay, number)


def _tally(replay: Replay) -> Tally:
    if replay.tally is None:
        raise RuntimeError("no task was posted")
    return replay.tally


def _task_rows(task: Task, tally: Tally, number: int) -> Iterator[tuple[str, Rows]]:
    row = (number, tally.index, tally.task_id, task.kind, task.n, task.k)
    named = (Rule(task.rule).name.lower(), Order(task.order).name.lower())
    voters = (task.roster_version, len(tally.ranks))
    yield "task", [(*row, *voters, *named, tally.first_row)]
    yield "class", [(number, i, name) for i, name in enumerate(task.class_names)]


def _count_rows(applied: Applied, replay: Replay, number: int) -> Iterator[tuple[str, Rows]]:
    for ballot in applied.counted:
        tally = _tally(replay)
        yield "counted", [(number, ballot.position, ballot.index, ballot.decided)]
        first = tally.first_row + ballot.position * tally.task.n
        blocks = ballot.blocks
        ids, classes = (blocks.samples + first).tolist(), blocks.classes.tolist()
        yield "block", _BlockRows(ids, classes, blocks.hashes)


@dataclass(frozen=True, slots=True)
class _BlockRows:
    """Rows of one ballot's blocks, made one at a time: thousands of live tuples cost a tenth."""

    ids: list[int]
    classes: list[int]
    hashes: list[bytes]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        return zip(self.ids, self.classes, self.hashes, strict=True)


def _close_rows(close: Close, tally: Tally, index: int, number: int) -> Iterator[tuple[str, Rows]]:
    counts = (close.counted, close.uncounted, close.absent, close.uninvited)
    yield "closing", [(number, index, close.reason.name.lower(), *counts)]
    if close.reason is CloseReason.ABORTED:
        return
    outcomes = tally.outcomes()
    voted = outcomes.support > 0
    classes = [c if v else None for c, v in zip(outcomes.classes.tolist(), voted, strict=True)]
    columns = (outcomes.support, outcomes.runner_up)
    how = [_HOW[code] for code in outcomes.how.tolist()]
    samples = range(len(classes))
    yield (
        "decision",
        [
            (number, *row)
            for row in zip(
                samples,
                classes,
                *(column.tolist() for column in columns),
                how,
                outcomes.decided_at.tolist(),
                strict=True,
            )
        ],
    )
