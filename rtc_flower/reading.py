"""Reading a ledger's closed tasks: who voted what, and how the forks of a sample grew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlite_utils import Database

from rtc_flower.ballot import Ballot
from rtc_flower.entries import Task, decode_leaf
from rtc_flower.errors import LedgerError, LedgerFormatError
from rtc_flower.files import reading
from rtc_flower.samples import Samples
from rtc_flower.schema import keeps_blocks

__all__ = [
    "ABSTAIN",
    "NOT_ASKED",
    "Block",
    "NodeVotes",
    "SampleForks",
    "TaskRow",
    "consistent",
    "forks_of",
    "list_roster",
    "list_tasks",
    "outcome_rows",
    "votes_of",
]

ABSTAIN = -1
NOT_ASKED = -2


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as the ledger's tables have it.

    Attributes
    ----------
    task, n, k, electorate : int
    kind, rule, counting : str
    reason : str or None
        Why it closed; None while it is open.
    counted, uncounted, absent, uninvited : int or None
    cosigned : int or None
        Voters enrolled for it who have cosigned a checkpoint behind its CLOSE.
    enrolled : int
        How many were enrolled when it was posted.
    """

    task: int
    n: int
    k: int
    kind: str
    rule: str
    counting: str
    electorate: int
    reason: str | None
    counted: int | None
    uncounted: int | None
    absent: int | None
    uninvited: int | None
    cosigned: int | None
    enrolled: int


@dataclass(frozen=True, eq=False, slots=True)
class NodeVotes:
    """Ballots of one closed task.

    Attributes
    ----------
    names, contracts : list of str
        One per ballot, in log order; late and uncounted ones too.
    votes : ndarray of int32 (ballots, n)
        Class indices, `ABSTAIN` and `NOT_ASKED`.
    counted : ndarray of bool (ballots,)
    classes : ndarray of int32 (n,)
        Outcomes; -1 where nobody voted.
    class_names : list of str
    absent : dict of str to str
        Reason, by node.
    """

    names: list[str]
    contracts: list[str]
    votes: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.int32]
    class_names: list[str]
    absent: dict[str, str]


@dataclass(frozen=True, slots=True)
class Block:
    """A vote in a fork.

    Attributes
    ----------
    position : int
        Counting position of its ballot, from 0.
    node : str
    hash : bytes
    """

    position: int
    node: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class SampleForks:
    """All forks of one sample.

    Attributes
    ----------
    forks : dict of str to list of Block
        By class name, the longest first.
    how : str
        What decided the sample.
    decided_at : int
        Ballots counted when it was.
    sample_id : str
        "" where samples have no ids.
    """

    forks: dict[str, list[Block]]
    how: str
    decided_at: int
    sample_id: str


@contextmanager
def consistent(path: Path) -> Iterator[None]:
    """Name the ledger whose rows do not fit one another: nothing here verifies before it reads.

    Raises
    ------
    LedgerFormatError
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise LedgerFormatError(
            f"{path}: its rows do not fit one another ({error}); run 'rtc-flower verify'"
        ) from error


def list_tasks(path: Path) -> list[TaskRow]:
    """Every task of the ledger."""
    sql = """
        SELECT t.task, t.n, t.k, t.kind, t.rule, t.counting, t.electorate, c.reason, c.counted,
            c.uncounted, c.absent, c.uninvited,
            CASE WHEN c.task IS NOT NULL THEN (
                SELECT count(DISTINCT s.key) FROM cosignature s
                JOIN roster r ON r.version = t.roster_version AND r.key = s.key
                WHERE s.size > c.idx AND r.state = 'active') END,
            (SELECT count(*) FROM roster r
                WHERE r.version = t.roster_version AND r.state = 'active')
        FROM task t LEFT JOIN closing c ON c.task = t.task ORDER BY t.task"""
    with reading(path) as connection:
        return [TaskRow(*row) for row in connection.execute(sql)]


def list_roster(path: Path) -> list[dict[str, Any]]:
    """Members of the newest roster: position, key (hexadecimal), name, state."""
    sql = """
        SELECT position, lower(hex(key)) AS key, name, state FROM roster
        WHERE version = (SELECT max(version) FROM roster) ORDER BY position"""
    with reading(path) as connection:
        return _mappings(connection, sql)


def _mappings(connection: sqlite3.Connection, sql: str, *values: object) -> list[dict[str, Any]]:
    """Rows of a query by the names of its columns."""
    return list(Database(connection, execute_plugins=False).query(sql, values))


def _closed(connection: sqlite3.Connection, task: int) -> tuple[int, int, int, int]:
    """Log position, n, first row and roster version of a task whose votes may be shown."""
    row = connection.execute(
        """SELECT t.idx, t.n, t.first_row, t.roster_version, c.reason
        FROM task t LEFT JOIN closing c ON c.task = t.task WHERE t.task = ?""",
        (str(task),),  # compared as a number, of any size
    ).fetchone()
    if row is None:
        last = connection.execute("SELECT count(*) FROM task").fetchone()[0]
        raise LedgerError(f"task {task} does not exist; this ledger has {last} tasks, from 1")
    if row[4] is None:
        raise LedgerError(f"task {task} is open: its votes are sealed until it closes")
    if row[4] == "aborted":
        raise LedgerError(f"task {task} was aborted: it has no outcomes")
    return row[0], row[1], row[2], row[3]


def votes_of(path: Path, task: int) -> NodeVotes:
    """Every ballot of a closed task.

    Raises
    ------
    LedgerError
        If the task does not exist, is open (its votes are sealed) or was aborted.
    """
    with reading(path) as connection:
        index, n, _, version = _closed(connection, task)
        entry, _ = decode_leaf(_leaf(connection, index))
        if not isinstance(entry, Task):
            raise LedgerError(f"{path}: expected TASK at entry {index}; run 'rtc-flower verify'")
        rows = connection.execute(
            """SELECT b.idx, r.name, b.contract, o.position IS NOT NULL FROM ballot b
            JOIN roster r ON r.version = ? AND r.key = b.voter
            LEFT JOIN counted o ON o.task = b.task AND o.ballot = b.idx
            WHERE b.task = ? ORDER BY b.idx""",
            (version, task),
        ).fetchall()
        ballots = [_votes(connection, idx, entry) for idx, *_ in rows]
        classes = connection.execute(
            "SELECT coalesce(class, -1) FROM decision WHERE task = ? ORDER BY sample", (task,)
        ).fetchall()
        absent = connection.execute(
            """SELECT r.name, a.reason FROM absence a
            JOIN roster r ON r.version = ? AND r.key = a.voter WHERE a.task = ?""",
            (version, task),
        ).fetchall()
    return NodeVotes(
        names=[row[1] for row in rows],
        contracts=[row[2] for row in rows],
        votes=np.array(ballots, np.int32).reshape(len(rows), n),
        counted=np.array([row[3] for row in rows], bool),
        classes=np.array(classes, np.int32).reshape(-1),
        class_names=list(entry.class_names),
        absent=dict(absent),
    )


def _leaf(connection: sqlite3.Connection, index: int) -> bytes:
    row = connection.execute("SELECT leaf FROM entry WHERE idx = ?", (index,)).fetchone()
    return bytes(row[0])


def _votes(connection: sqlite3.Connection, index: int, task: Task) -> npt.NDArray[np.int32]:
    entry, _ = decode_leaf(_leaf(connection, index))
    if not isinstance(entry, Ballot):
        raise LedgerError(f"expected BALLOT at entry {index}; run 'rtc-flower verify'")
    codes = task.codec.decode(entry.votes, task.n).astype(np.int32)
    codes[codes == task.codec.abstain] = ABSTAIN
    codes[codes == task.codec.not_asked] = NOT_ASKED
    return codes


def forks_of(path: Path, task: int, sample: int) -> SampleForks:
    """Forks of one sample: who stands in which, and in which order.

    Raises
    ------
    LedgerError
        If the task or the sample does not exist, the task is open or aborted, or the ledger keeps
        no block rows.
    """
    with reading(path) as connection:
        _, n, first, version = _closed(connection, task)
        if not keeps_blocks(connection):
            raise LedgerError(
                f"{path}: this ledger keeps no block rows; 'rtc-flower repair --blocks' derives "
                "them from the log"
            )
        if not 0 <= sample < n:
            raise LedgerError(f"sample {sample} does not exist; task {task} has {n}, from 0")
        rows = connection.execute(
            """SELECT c.name, o.position, r.name, b.hash FROM counted o
            JOIN block b ON b.id = ? + o.position * ? + ?
            JOIN class c ON c.task = o.task AND c.class = b.class
            JOIN ballot v ON v.idx = o.ballot
            JOIN roster r ON r.version = ? AND r.key = v.voter
            WHERE o.task = ? ORDER BY o.position""",
            (first, n, sample, version, task),
        ).fetchall()
        how, decided_at = connection.execute(
            "SELECT how, decided_at FROM decision WHERE task = ? AND sample = ?", (task, sample)
        ).fetchone()
        data = connection.execute("SELECT data FROM samples WHERE task = ?", (task,)).fetchone()
    forks: dict[str, list[Block]] = {}
    for name, position, node, hashed in rows:
        forks.setdefault(name, []).append(Block(position, node, hashed))
    # The longest first; of equal ones the first to reach that height.
    ordered = sorted(forks.items(), key=lambda item: (-len(item[1]), item[1][-1].position))
    ids = Samples.decode(data[0]).ids if data else ()
    return SampleForks(dict(ordered), how, decided_at, ids[sample] if ids else "")


def outcome_rows(path: Path, task: int) -> list[dict[str, Any]]:
    """Outcomes of a closed task, a mapping per sample, with the samples' ids."""
    with reading(path) as connection:
        _closed(connection, task)
        rows = _mappings(connection, "SELECT * FROM outcome WHERE task = ? ORDER BY sample", task)
        data = connection.execute("SELECT data FROM samples WHERE task = ?", (task,)).fetchone()
    ids = Samples.decode(data[0]).ids if data else ()
    for row, name in zip(rows, ids, strict=False):
        row["id"] = name
    return rows
