"""The ledger: an append-only log in one SQLite file, with a signed checkpoint per append.

One `append` transaction writes the entries, every row derived from them, a CLOSE that has become
due, and the checkpoint. Nothing leaves the process before it has committed: a crash before the
commit leaves the state before, a crash after it the state after, and no receipt was given for
anything that is lost.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass, replace
from hashlib import sha256
from pathlib import Path

from rtc_flower import entries, errors, files, schema, signatures, tasks
from rtc_flower.ballot import Ballot, ballot_size
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.consensus import Applied, Replay
from rtc_flower.encoding import Reader
from rtc_flower.keys import SigningKey
from rtc_flower.roster import Roster
from rtc_flower.tally import Tally

_EXISTS = "exists already; a ledger is never overwritten"
_DAMAGED = errors.FormatError, errors.ReplayError, errors.BallotError, errors.SignatureError


@dataclass(frozen=True, slots=True)
class Posting:
    """What the publisher of a task chooses.

    Attributes
    ----------
    draft : Task
        Everything but roster, electorate, last CLOSE and nonce, which the ledger fills in.
    data : bytes
        The encoded sample set, stored so that a restarted server finishes an open task.
    """

    draft: entries.Task
    data: bytes

    def task(self, positions: Sequence[int], size: int) -> entries.Task:
        """Build the TASK for the members at ``positions`` of a roster of ``size``.

        Raises
        ------
        TaskError
            If a parameter is out of range.
        """
        electorate = entries.electorate_bits(positions, size)
        task = replace(self.draft, roster_size=size, electorate=electorate)
        tasks.check_parameters(task)
        return task


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Ledger:
    """Writer of a ledger: open an existing one, or `create` one; close it.

    Parameters
    ----------
    path : Path
        The SQLite file.
    key : SigningKey
        The server's key.
    head_file : Path, optional
        Where the last checkpoint is kept as well (better on another disk); ``HEAD`` beside the
        ledger by default.
    clock : callable
        Unix time in milliseconds; recorded as the server's claim, decides nothing.

    Attributes
    ----------
    replay : Replay
        State of the log.
    checkpoint : str
        The last signed note.
    seconds : float
        Time spent appending.
    """

    def __init__(
        self,
        path: Path,
        key: SigningKey,
        *,
        head_file: Path | None = None,
        clock: Callable[[], int] = _now_ms,
    ) -> None:
        self.path, self.key = path, key
        # A link is followed, not replaced: the file on the other disk must not fall behind.
        self.head_file = Path(os.path.realpath(head_file or path.with_name("HEAD")))
        self._clock = clock
        self.seconds = 0.0
        with ExitStack() as opened:
            opened.callback(files.WriterLock(path).release)
            self._db = opened.enter_context(closing(files.connect(path, mode="rw")))
            self._prepare()
            self._opened = opened.pop_all()

    def _prepare(self) -> None:
        with files.storage_errors(self.path):
            # FULL syncs no directory after the journal's end, so that a power cut could bring the
            # journal back and take an acknowledged ballot away; EXTRA does.
            self._db.execute("PRAGMA synchronous = EXTRA")
            try:
                self._load()
                self._check_signed()
            except _DAMAGED as error:
                what = f"{self.path}: damaged ({error}); bring a copy back (rtc-flower restore)"
                raise errors.LedgerFormatError(what) from error
        files.check_head(self.head_file, self.replay)
        self._publish()

    @classmethod
    def create(
        cls,
        path: Path,
        key: SigningKey,
        *,
        enrolment: entries.Enrolment = entries.Enrolment.OPEN,
        admin_key: bytes | None = None,
        continues: Checkpoint | None = None,
        blocks: bool = True,
        head_file: Path | None = None,
        clock: Callable[[], int] = _now_ms,
    ) -> Ledger:
        """Make a ledger with its GENESIS and open it.

        Parameters
        ----------
        continues : Checkpoint, optional
            Head of an older ledger, whose file is lost, that this one follows.
        blocks : bool
            Whether to keep block rows; without them a very large run takes less space, and
            verification still repeats every decision from the log.

        Raises
        ------
        LedgerError
            If the file exists already.
        """
        for existing in (path, head_file or path.parent / "HEAD"):
            if existing.exists():
                raise errors.LedgerError(f"{existing} {_EXISTS}")
        old = astuple(continues or Checkpoint(bytes(32), 0, bytes(32)))
        admin = admin_key or bytes(32)
        genesis = entries.Genesis(os.urandom(32), key.public, enrolment, admin, *old)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.drafting(path) as draft, files.storage_errors(path):
            draft.touch(0o600)  # votes of an open task are in it
            with closing(sqlite3.connect(draft, isolation_level=None)) as db:
                schema.create(db, blocks=blocks)
                replay, leaf = Replay(), entries.encode_leaf(genesis, clock())
                applied = replay.apply(leaf)
                db.execute("BEGIN")
                _insert(db, replay, key, [(leaf, applied)])
                db.execute("COMMIT")
            try:
                os.link(draft, path)  # a ledger is there with its GENESIS, or not at all
            except FileExistsError as error:
                raise errors.LedgerError(f"{path} {_EXISTS}") from error
        return cls(path, key, head_file=head_file, clock=clock)

    def _load(self) -> None:
        """Replay the log from the file; what this server signed it had checked."""
        self.replay = Replay()
        rows = self._db.execute("SELECT leaf FROM entry ORDER BY idx")
        self.replay.resume(leaf for (leaf,) in rows)
        notes = self._db.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1")
        self.checkpoint: str = next(notes, ("",))[0]

    def _check_signed(self) -> None:
        """Check that ``key`` is the server's, and signed just this log."""
        replay, key = self.replay, self.key.public
        if replay.genesis is None or replay.server_key != key:
            what = f"expected the server key that this ledger names, got {key.hex()[:16]}..."
            raise errors.LedgerError(f"{self.path}: {what}")
        log = Checkpoint(replay.ledger_id, replay.size, replay.roots[-1])
        if Checkpoint.verify(self.checkpoint, key) != log:
            raise errors.FormatError("expected a last checkpoint that states this log, got another")

    def close(self) -> None:
        """Release the file; idempotent."""
        self._opened.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # -- appending ------------------------------------------------------------------------

    def _append(self, entry: entries.Entry, *, samples: bytes | None = None) -> Applied:
        """Check, apply and store one entry, and the CLOSE that it makes due, atomically."""
        begin, now = time.perf_counter(), self._clock()
        leaf = entries.encode_leaf(entry, now)
        try:
            batch = [(leaf, self.replay.apply(leaf))]
            if self.replay.due is not None:
                leaf = entries.encode_leaf(self.replay.due, now)
                batch.append((leaf, self.replay.apply(leaf)))
            with files.storage_errors(self.path):
                self._db.execute("BEGIN IMMEDIATE")
                note = _insert(self._db, self.replay, self.key, batch)
                if samples is not None:
                    row = (self.replay.number, samples)
                    self._db.execute("INSERT INTO samples VALUES (?, ?)", row)
                self._db.execute("COMMIT")
        except BaseException:  # Ctrl-C too: memory must not run ahead of the file
            with files.storage_errors(self.path):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._load()
            raise
        # Committed: from here on a crash loses nothing of this entry.
        self.checkpoint = note
        self._publish()
        self.seconds += time.perf_counter() - begin
        return batch[0][1]

    def _publish(self) -> None:
        """Write HEAD. One that lags is repaired at the next opening, so it need not be synced."""
        files.write_atomically(self.head_file, self.checkpoint)

    def enrol(self, newcomers: Iterable[tuple[bytes, str]]) -> None:
        """Append a ROSTER with ``(key, name)`` pairs added; under open and replay enrolment.

        Raises
        ------
        LedgerError
            Under roster enrolment, where only the admin signs rosters.
        ReplayError
            If a key may not be enrolled or a name is taken.
        """
        if self.replay.roster_key != self.replay.server_key:
            raise errors.LedgerError("only the admin key enrols here; ask for a signed roster")
        roster = self.replay.roster.enrol(newcomers)
        self._append(roster.sign(self.key, ledger_id=self.replay.ledger_id))

    def apply_roster(self, roster: Roster) -> None:
        """Append a ROSTER that was signed elsewhere, by the key that signs rosters here.

        Raises
        ------
        SignatureError, ReplayError
            If it is not signed by that key, or does not follow the newest roster.
        """
        roster.check_signature(self.replay.roster_key, ledger_id=self.replay.ledger_id)
        self._append(roster)

    def rotate_key(self, new: SigningKey) -> None:
        """Append a SERVER-KEY: from the next checkpoint on ``new`` signs."""
        entry = signatures.hand_over(self.key, new, ledger_id=self.replay.ledger_id)
        old, self.key = self.key, new
        try:
            self._append(entry)
        except BaseException:
            self.key = old
            raise

    def accuse(self, payload: bytes, *, voter: bytes) -> bool:
        """Append EVIDENCE when ``payload`` is a second, different, valid ballot of a voter.

        Returns
        -------
        bool
            Whether it was, and the voter was not accused of it before.
        """
        try:
            second = self._read_ballot(payload, voter)
        except errors.BallotError:
            return False
        stored, task_id = self.tally.ballots.get(voter), self.tally.task_id
        first = second if stored is None else Ballot.read(Reader(self._ballot_at(stored)))
        same = first.header.ballot_id == second.header.ballot_id
        context = (second.header.ledger_id, second.header.task_id)
        known = (task_id, voter) in self.replay.accused
        if same or known or context != (self.replay.ledger_id, task_id):
            return False
        accused = (first.header, first.signature, second.header, second.signature)
        self._append(entries.Evidence(*accused))
        return True

    def cosign(self, size: int, line: str, *, voter: bytes) -> None:
        """Store a node's cosignature of the checkpoint of ``size`` entries.

        Raises
        ------
        FormatError, SignatureError
            If it is not that node's, or on another root.
        """
        if not 0 < size <= self.replay.size:
            raise errors.FormatError(f"expected a size from 1 to {self.replay.size}, got {size}")
        stated = Checkpoint(self.replay.ledger_id, size, self.replay.roots[size])
        stated.check_cosignature(line, voter)
        with files.storage_errors(self.path):
            sql = "INSERT OR REPLACE INTO cosignature VALUES (?, ?, ?)"
            self._db.execute(sql, (size, voter, line))

    def _blobs(self, sql: str, *values: object) -> list[bytes]:
        return [blob for (blob,) in self._db.execute(sql, values)]

    def leaf(self, index: int) -> bytes:
        """Log leaf ``index``."""
        return self._blobs("SELECT leaf FROM entry WHERE idx = ?", index)[0]

    def leaves(self, start: int) -> list[bytes]:
        """Log leaves from ``start`` on."""
        return self._blobs("SELECT leaf FROM entry WHERE idx >= ? ORDER BY idx", start)

    def post(self, posting: Posting, *, electorate: Iterable[bytes]) -> Tally:
        """Append a TASK for the members with the keys ``electorate``.

        Raises
        ------
        TaskError
            If a parameter is out of range; nothing is written.
        """
        roster, keys, active = self.replay.roster, list(electorate), self.replay.roster.active()
        if unknown := [key.hex()[:16] for key in keys if key not in active]:
            raise errors.TaskError(f"the electorate must be enrolled and active, got {unknown}")
        task = posting.task([active[key] for key in keys], len(roster.members))
        last, nonce = self.replay.last_close, os.urandom(32)
        task = replace(task, roster_version=roster.version, last_close=last, nonce=nonce)
        self._append(task, samples=posting.data)
        return self.tally

    @property
    def tally(self) -> Tally:
        """The last task posted; `RuntimeError` when there is none."""
        return self.replay.current

    def invite(self, more: int) -> None:
        """Append an INVITE for ``more`` further ranks."""
        self._append(entries.Invite(self.tally.task_id, more))

    def submit(self, payload: bytes, *, voter: bytes) -> int:
        """Append a ballot that came in ``voter``'s name; its place in the log.

        The very bytes of a ballot that is stored already give its place again.

        Raises
        ------
        BallotError
            With the reason for `refuse`; nothing is written.
        """
        ballot = self._read_ballot(payload, voter)
        stored = self.tally.ballots.get(voter)
        if stored is not None and self._ballot_at(stored) == payload:
            return stored
        self.replay.check_ballot(ballot)
        return self._append(ballot).index

    def _read_ballot(self, payload: bytes, voter: bytes) -> Ballot:
        """Decode and check what does not depend on the log: size first, then signature."""
        task = self.tally.task
        if len(payload) > (most := ballot_size(task.n, task.codec.dtype.itemsize)):
            what = f"expected at most {most} bytes of ballot, got {len(payload)}"
            raise errors.BallotError(entries.Refusal.SIZE, what)
        try:
            ballot = Ballot.read(Reader(payload))
            if ballot.header.voter != voter:
                names = f"{voter.hex()[:16]}..., got one of {ballot.header.voter.hex()[:16]}..."
                raise errors.BallotError(entries.Refusal.CONTEXT, f"expected a ballot of {names}")
            ballot.check_signature()
        except errors.FormatError as error:
            raise errors.BallotError(entries.Refusal.FORMAT, str(error)) from error
        except errors.SignatureError as error:
            raise errors.BallotError(entries.Refusal.SIGNATURE, str(error)) from error
        return ballot

    def _ballot_at(self, index: int) -> bytes:
        return self.leaf(index)[25:]  # behind tag, type and time

    def refuse(self, voter: bytes, reason: entries.Refusal, *, content: bytes) -> None:
        """Append a REFUSED: what was sent is kept as a digest and a size only."""
        digest = sha256(content).digest()
        self._append(entries.Refused(self.tally.task_id, voter, reason, digest, len(content)))

    def absent(self, voter: bytes, reason: entries.AbsenceReason) -> None:
        """Append an ABSENT: ``voter`` is settled without a ballot."""
        self._append(entries.Absent(self.tally.task_id, voter, reason))

    def abort(self) -> None:
        """Close the open task without outcomes."""
        self._append(self.tally.close(entries.CloseReason.ABORTED))

    def samples(self) -> bytes:
        """Sample set of the last task posted, as stored."""
        return self._blobs("SELECT data FROM samples WHERE task = ?", self.replay.number)[0]

    def ballots_of(self, voter: bytes) -> list[tuple[bytes, int]]:
        """Task id and log index of every stored ballot of ``voter``."""
        sql = "SELECT task_id, b.idx FROM ballot b JOIN task USING (task) WHERE voter = ?"
        return self._db.execute(sql, (voter,)).fetchall()

    def rotations(self) -> list[bytes]:
        """Leaves of every SERVER-KEY."""
        return self._blobs("SELECT leaf FROM entry JOIN server_key USING (idx) ORDER BY idx")


def _insert(
    db: sqlite3.Connection, replay: Replay, key: SigningKey, batch: list[tuple[bytes, Applied]]
) -> str:
    """Insert entries, the rows they cause, and the checkpoint that covers them; return it."""
    for leaf, applied in batch:
        db.execute("INSERT INTO entry VALUES (?, ?)", (applied.index, leaf))
        schema.store(db, applied, replay)
    note = Checkpoint(replay.ledger_id, replay.size, replay.tree.root()).sign(key)
    db.execute("INSERT INTO checkpoint VALUES (?, ?)", (replay.size, note))
    return note
