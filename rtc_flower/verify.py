"""Verification of a ledger file: replay of the log plus signatures, in numbered steps.

Every step says ok, bad or not checked, and none says ok for what it did not run. The steps are
those of ``docs/spec.md``.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from rtc_flower import entries, errors, schema
from rtc_flower.ballot import Ballot
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.consensus import Applied, Replay, rule_of
from rtc_flower.errors import FormatError, RtcFlowerError
from rtc_flower.files import snapshot
from rtc_flower.samples import Samples, samples_hash
from rtc_flower.signatures import check_signatures

_TITLES = {
    "V1": "the file is a ledger of this format, with its tables and views unchanged",
    "V2": "every entry is in its place and canonically encoded",
    "V3": "GENESIS is the expected one",
    "V4": "every entry follows the rules of replay (R1 to R15)",
    "V5": "every ballot, and every ballot in evidence, is signed by its voter",
    "V6": "every roster and every new server key is signed by those who may",
    "V7": "every checkpoint is signed by the server and states this log",
    "V8": "the last checkpoint covers the whole log, and no CLOSE is missing",
    "V9": "every block, outcome and other row is what the log says",
    "V10": "every stored sample set is the one its TASK names",
    "V11": "the log continues the checkpoint that you hold",
    "V12": "every cosignature is by an enrolled node, on a checkpoint of this log",
    "V13": "every receipt that you hold is in the log",
}

_BY_HAND = ("V11", "V13")  # need what only you can bring: no verdict, and no fault, without it


class Verdict(Enum):
    """What a step found."""

    OK = "ok"
    BAD = "bad"
    NOT_CHECKED = "not checked"


@dataclass
class Step:
    """One numbered check.

    Attributes
    ----------
    number, title : str
    verdict : Verdict
    detail : str
        What was expected and found, or why it was not checked.
    """

    number: str
    title: str
    verdict: Verdict = Verdict.NOT_CHECKED
    detail: str = ""


@dataclass
class Report:
    """All steps, and what the file says about itself.

    Attributes
    ----------
    steps : dict of str to Step
    notes : list of str
        What a reader must know that no check can tell.
    ledger_id : str
        Hexadecimal.
    entries, tasks, ballots, votes : int
        What was read.
    checkpoint : str
        The last signed note.
    """

    steps: dict[str, Step] = field(
        default_factory=lambda: {number: Step(number, title) for number, title in _TITLES.items()}
    )
    notes: list[str] = field(default_factory=list)
    ledger_id: str = ""
    entries: int = 0
    tasks: int = 0
    ballots: int = 0
    votes: int = 0
    checkpoint: str = ""
    unsupported: str = ""

    @property
    def exit_code(self) -> int:
        """0 all ok, 1 something is bad, 2 cannot say."""
        if any(step.verdict is Verdict.BAD for step in self.steps.values()):
            return 1
        needed = (step.verdict for n, step in self.steps.items() if n not in _BY_HAND)
        return 2 if self.unsupported or Verdict.NOT_CHECKED in needed else 0

    @property
    def summary(self) -> str:
        """`ok`, the first bad step, or why it cannot be said."""
        for step in self.steps.values():
            if step.verdict is Verdict.BAD:
                return f"{step.number} bad: {step.detail}"
        return "ok" if self.exit_code == 0 else f"not checked: {self.unsupported}"

    def bad(self, number: str, detail: str) -> None:
        """Record the first failure of a step."""
        step = self.steps[number]
        if step.verdict is not Verdict.BAD:
            step.verdict, step.detail = Verdict.BAD, detail

    def ok(self, number: str, detail: str = "") -> None:
        """Record that a step ran to its end, unless it failed on the way."""
        step = self.steps[number]
        if step.verdict is Verdict.NOT_CHECKED:
            step.verdict, step.detail = Verdict.OK, detail


def verify(path: Path, *, held: str | None = None, ledger_id: bytes | None = None) -> Report:
    """Check everything that the ledger at ``path`` says.

    Parameters
    ----------
    path : Path
    held : str, optional
        A checkpoint from elsewhere (V11): without one, nobody can tell whether the whole file
        was exchanged or rolled back.
    ledger_id : bytes, optional
        The ledger that is expected (V3).

    Returns
    -------
    Report
        Never raises for bad data: what is wrong is in the report.
    """
    report = Report()
    try:
        with snapshot(path) as connection:
            _Verifier(connection, report, ledger_id).run(held)
    except errors.UnsupportedError as error:
        report.unsupported = str(error)
    except (errors.LedgerFormatError, UnicodeError) as error:  # also in SQLite's own words
        report.bad("V1", str(error))
    except (errors.LedgerError, OSError) as error:
        report.unsupported = str(error)  # locked, or not to be read as it is: cannot say
    except MemoryError as error:
        report.unsupported = f"more memory than there is: {error}"
    return report


class _Verifier:
    """One run over a snapshot."""

    def __init__(
        self, connection: sqlite3.Connection, report: Report, ledger_id: bytes | None
    ) -> None:
        self.connection, self.report, self.ledger_id = connection, report, ledger_id
        self.replay = Replay()
        self.tables: dict[str, Iterator[tuple[Any, ...]]] = {}

    def run(self, held: str | None) -> None:
        """Run every step; stops early where going on would only guess."""
        if schema.schema_digest(self.connection) != schema.SCHEMA_SHA256 or self._one(schema.ODD):
            self.report.bad("V1", "expected the tables and views of this format, got others")
            return
        # Damaged pages, rows that an index leaves out, values of another type than their column.
        found = self._one("PRAGMA integrity_check")
        if found != "ok":
            self.report.bad("V1", f"expected sound tables, got {found}")
            return
        for table, column in self.connection.execute(schema.TEXTS).fetchall():
            # Text that is not UTF-8 raises, also in a row that nothing below comes to.
            deque(self.connection.execute(f'SELECT "{column}" FROM "{table}"'), maxlen=0)
        self.report.ok("V1")
        for name in schema.DERIVED:
            self.tables[name] = self.connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2")
        self.blocks = schema.keeps_blocks(self.connection)
        # Id from which on block rows are still to be compared; None where they are read singly.
        self.start = -(2**63) if self.blocks and self._one("PRAGMA encoding") == "UTF-8" else None
        if not self.blocks:
            next(self.tables["block"])  # the row that says so
        complete = self._replay()
        if self.replay.genesis is not None:
            self._checkpoints(complete=complete)
            if complete and not self.report.unsupported:
                self._finish()
        if held is not None and self.replay.tree.leaves:
            self._held(held, complete=complete)

    def _one(self, sql: str, *values: object) -> Any:
        """First column of the first row; None without a row."""
        row = self.connection.execute(sql, values).fetchone()
        return row and row[0]

    @contextmanager
    def _judging(self, number: str, where: str = "") -> Iterator[None]:
        """Hold what is refused in this block against step ``number``."""
        try:
            yield
        except RtcFlowerError as error:
            self.report.bad(number, f"{where}{error}")

    def _replay(self) -> bool:
        """V2 to V6, V9, V10; whether the whole log was read."""
        rows = self.connection.execute("SELECT idx, leaf FROM entry ORDER BY idx")
        for expected, (index, leaf) in enumerate(rows):
            if index != expected:
                self.report.bad("V2", f"expected entry {expected}, found {index}")
                return False
            if self.report.unsupported:
                self.replay.skip(leaf)  # the checkpoints are still checked
            elif not self._entry(index, leaf):
                return False
        if self.replay.size == 0:
            self.report.bad("V2", "expected at least GENESIS, found no entry")
            return False
        return True

    def _entry(self, index: int, leaf: bytes) -> bool:
        try:
            applied = self.replay.apply(leaf)
        except (errors.UnsupportedError, MemoryError) as error:
            self.report.unsupported = f"entry {index}: {error}"
            self.replay.skip(leaf)
            return True
        except FormatError as error:
            self.report.bad("V2", f"entry {index}: {error}")
            return False
        except (errors.ReplayError, errors.BallotError) as error:
            rule = rule_of(error)
            what = str(error).removeprefix(f"{rule}: ")
            self.report.bad("V4", f"entry {index}, rule {rule}: {what}")
            return False
        self.report.entries += 1
        self.report.tasks = self.replay.number
        self._particular(applied)
        self._derived(applied)
        return True

    def _particular(self, applied: Applied) -> None:
        """V3, V5, V6, V10: what is particular to an entry's type."""
        try:
            check_signatures(applied, self.replay)
        except errors.SignatureError as error:
            step, _, detail = str(error).partition(": ")
            self.report.bad(step, detail)
        match applied.entry:
            case entries.Genesis() as genesis:
                self._genesis(genesis)
            case Ballot():
                self.report.ballots += 1
            case entries.Evidence() as evidence:
                voter = evidence.first.voter.hex()[:16]
                self.report.notes.append(f"evidence: {voter}... signed two ballots for one task")
            case entries.Task() as task:
                with self._judging("V10", f"task {self.report.tasks}: "):
                    self._samples(task)

    def _genesis(self, genesis: entries.Genesis) -> None:
        ledger_id = self.replay.ledger_id
        self.report.ledger_id = ledger_id.hex()
        if self.ledger_id not in (None, ledger_id):
            self.report.bad("V3", f"expected another ledger, got {ledger_id.hex()}")
        self.report.ok("V3")
        if genesis.previous_size:
            old = f"{genesis.previous_id.hex()[:16]}... at {genesis.previous_size} entries"
            self.report.notes.append(f"this ledger continues ledger {old}")
        if genesis.enrolment is entries.Enrolment.OPEN:
            self.report.notes.append("open enrolment: the server chose the voters")
        if genesis.enrolment is entries.Enrolment.REPLAY:
            self.report.notes.append("replay: these votes did not come from nodes")

    def _samples(self, task: entries.Task) -> None:
        data = self._one("SELECT data FROM samples WHERE task = ?", self.report.tasks)
        if data is None:
            raise FormatError("expected its sample set, found none")
        if (samples_hash(data), len(Samples.decode(data, task.n))) != (task.samples_hash, task.n):
            raise FormatError("expected the samples TASK names")

    def _derived(self, applied: Applied) -> None:
        """V9: rows that the entry causes, against those stored."""
        for table, rows in schema.derive(applied, self.replay):
            if isinstance(rows, schema.BlockRows):
                self.report.votes += len(rows)
                if not self.blocks:
                    continue
                start = self.start
                behind = None if start is None else rows.are_in(self.connection, start=start)
                if behind is not None:
                    self.start = behind
                    continue
                self._read_blocks()
            stored = islice(self.tables[table], len(rows))  # fetchmany(0) means all
            for found, expected in zip_longest(stored, rows):
                if found != expected:
                    what = f"expected row {_short(expected)}, found {_short(found)}"
                    self.report.bad("V9", f"table {table}: {what}")
                    break

    def _read_blocks(self) -> None:
        """From here on read block rows singly."""
        if self.start is not None:
            sql = "SELECT * FROM block WHERE id >= ? ORDER BY id"
            self.tables["block"], self.start = self.connection.execute(sql, (self.start,)), None

    def _checkpoints(self, *, complete: bool) -> None:
        """V7 and V8: every stored checkpoint that the log read so far reaches."""
        size, known, covered = self.replay.size, True, None
        for covered, note in self.connection.execute("SELECT * FROM checkpoint ORDER BY size"):
            if covered > size and not complete:
                return
            self.report.checkpoint = note
            with self._judging("V7", f"checkpoint {covered}: "):
                if not 0 <= covered <= size:
                    raise FormatError(f"expected one of at most {size} entries")
                truth = self._truth(covered)
                truth.check_stored(note)
                known = self._signed(truth, note) and known
        if complete and known:
            self.report.ok("V7")
        if complete and covered != size:
            self.report.bad("V8", f"expected a checkpoint of {size} entries, got {covered}")

    def _signed(self, stated: Checkpoint, note: str) -> bool:
        """Whether the server signed ``note``; False if its key there may be one we cannot know."""
        key = self.replay.key_at(stated.size)
        if stated.size > self.report.entries:  # behind an entry of a newer version
            return stated.is_signed(note, key)
        return bool(Checkpoint.verify(note, key))

    def _truth(self, size: int) -> Checkpoint:
        return Checkpoint(self.replay.ledger_id, size, self.replay.roots[size])

    def _cosignatures(self) -> None:
        """V12: cosignatures count only on roots of this log, by keys that were ever enrolled."""
        members = {member.key for member in self.replay.roster.members}
        rows = self.connection.execute("SELECT size, key, line FROM cosignature ORDER BY size, key")
        for size, key, line in rows:
            with self._judging("V12", f"cosignature of {size} entries by {key.hex()[:16]}...: "):
                if key not in members or not 0 < size <= self.replay.size:
                    raise FormatError("expected an enrolled key and a size of this log")
                self._truth(size).check_cosignature(line, key)

    def _finish(self) -> None:
        """Steps that are known only once the whole log was replayed."""
        if self.replay.due is not None:
            self.report.bad("V8", f"expected {self.replay.due} at the end, found nothing")
        self._read_blocks()
        for table, rows in self.tables.items():
            for extra in islice(rows, 1):
                self.report.bad("V9", f"table {table}: expected no further row, got {extra[:2]}")
        if self._one("SELECT count(*) FROM samples") != self.report.tasks:
            self.report.bad("V10", f"expected {self.report.tasks} sample sets, got another number")
        self._cosignatures()
        if not self.blocks:
            self.report.ok("V9", "block rows are not kept in this file; all others are right")
        for number in _TITLES:
            if number not in _BY_HAND:
                self.report.ok(number)
        self._note_open_ends()

    def _note_open_ends(self) -> None:
        tally, task = self.replay.tally, f"task {self.report.tasks}"
        if self.replay.open_task:
            self.report.notes.append(f"{task} is open")
        if tally and tally.closed and tally.closed.reason is entries.CloseReason.ABORTED:
            self.report.notes.append(f"{task} was aborted by the operator")

    def _held(self, note: str, *, complete: bool) -> None:
        """V11: the checkpoint a user brought from elsewhere."""
        step, size = self.report.steps["V11"], self.replay.size
        with self._judging("V11"):
            held = Checkpoint.parse(note)
            if held.ledger_id != self.replay.tree.leaves[0]:
                raise FormatError(f"expected this ledger, got {held.ledger_id.hex()[:16]}...")
            if self.replay.genesis is None or (held.size > size and not complete):
                step.detail = f"only {self.report.entries} entries could be read"
                return
            if held.size > size:
                raise FormatError(f"your checkpoint has {held.size} entries, the file {size}")
            if held.root != self.replay.roots[held.size]:
                raise FormatError(f"another history: the roots at size {held.size} differ")
            if not self._signed(held, note):
                step.detail = f"signed by a key that cannot be known: {self.report.unsupported}"
                return
        self.report.ok("V11")


def _short(row: tuple[Any, ...] | None) -> str:
    if row is None:
        return "none"
    parts = (part.hex()[:16] + "..." if isinstance(part, bytes) else repr(part) for part in row)
    return f"({', '.join(parts)})"
