"""The ledger: an append-only log in one SQLite file, with a signed checkpoint per append.

One `append` transaction writes the entries, every row derived from them, a CLOSE that has become
due, and the checkpoint. Nothing leaves the process before it has committed: a crash before the
commit leaves the state before, a crash after it the state after, and no receipt was given for
anything that is lost.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from os import getpid, link, urandom
from pathlib import Path
from types import TracebackType

from rtc_flower.ballot import Ballot, ballot_size
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.consensus import Applied, Replay
from rtc_flower.encoding import Reader
from rtc_flower.entries import (
    AbsenceReason,
    Absent,
    CloseReason,
    Enrolment,
    Entry,
    Evidence,
    Genesis,
    Invite,
    Refusal,
    Refused,
    Task,
    electorate_bits,
    encode_leaf,
)
from rtc_flower.errors import (
    BallotError,
    FormatError,
    LedgerError,
    SignatureError,
    TaskError,
)
from rtc_flower.files import (
    WriterLock,
    check_head,
    connect,
    storage_errors,
    write_atomically,
)
from rtc_flower.keys import SigningKey
from rtc_flower.roster import Member, Roster
from rtc_flower.schema import DERIVED, create, derive, keeps_blocks, leave_blocks_out
from rtc_flower.signatures import hand_over
from rtc_flower.stopping import Order, Rule
from rtc_flower.tally import Tally
from rtc_flower.tasks import check_parameters

__all__ = ["Ledger", "Posting", "Receipt"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that an entry is in the ledger.

    Attributes
    ----------
    index : int
        Position in the log.
    leaf_hash : bytes
    proof : tuple of bytes
        Merkle path to the checkpoint's root.
    checkpoint : str
        Signed note.
    """

    index: int
    leaf_hash: bytes
    proof: tuple[bytes, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """What the publisher of a task chooses.

    Attributes
    ----------
    samples_hash : bytes
        Digest of the sample set.
    data : bytes
        The encoded sample set, stored so that a restarted server finishes an open task.
    n : int
        Number of samples.
    class_names : sequence of str
    kind : str
        Kind of contract asked for.
    rule, order : Rule, Order
        ``order=None`` takes the rule's usual order.
    inv_delta, lead, min_ballots : int
        See `rtc_flower.stopping.StopRule`.
    close_min : int or None
        Decided samples that suffice to close; all of them by default.
    """

    samples_hash: bytes
    data: bytes
    n: int
    class_names: Sequence[str]
    kind: str = "default"
    rule: Rule = Rule.CERTAIN
    order: Order | None = None
    inv_delta: int = 1000
    lead: int = 21
    min_ballots: int = 1
    close_min: int | None = None

    def task(
        self, *, roster: Roster, positions: Sequence[int], last_close: bytes, nonce: bytes
    ) -> Task:
        """Build the TASK for the members at ``positions``.

        Raises
        ------
        TaskError
            If a parameter is out of range.
        """
        order = self.order
        if order is None:
            order = Order.ARRIVAL if self.rule in (Rule.CERTAIN, Rule.ALL) else Order.INVITATION
        task = Task(
            samples_hash=self.samples_hash,
            n=self.n,
            class_names=tuple(self.class_names),
            roster_version=roster.version,
            roster_size=len(roster.members),
            electorate=electorate_bits(positions, len(roster.members)),
            rule=self.rule,
            inv_delta=self.inv_delta,
            lead=self.lead,
            min_ballots=self.min_ballots,
            close_min=self.n if self.close_min is None else self.close_min,
            order=order,
            kind=self.kind,
            last_close=last_close,
            nonce=nonce,
        )
        check_parameters(task)
        return task

    def check(self, *, electorate: int) -> None:
        """Check the parameters for so many voters; may raise `TaskError`."""
        members = tuple(Member(bytes(32), "") for _ in range(electorate))
        self.task(
            roster=Roster(0, members),
            positions=range(electorate),
            last_close=bytes(32),
            nonce=bytes(32),
        )


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
        self.head_file = head_file or path.with_name("HEAD")
        self._clock = clock
        self.seconds = 0.0
        self._lock = WriterLock(path)
        try:
            self._connection = connect(path, mode="rw")
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _prepare(self) -> None:
        with storage_errors(self.path):
            # FULL syncs no directory after the journal's end, so that a power cut could bring the
            # journal back and take an acknowledged ballot away; EXTRA does.
            self._connection.execute("PRAGMA synchronous = EXTRA")
            self._load()
            self._blocks = keeps_blocks(self._connection)
        genesis = self.replay.genesis
        if genesis is None or self.replay.server_key != self.key.public:
            raise LedgerError(
                f"{self.path}: expected the server key that this ledger names, "
                f"got {self.key.public.hex()[:16]}..."
            )
        check_head(self.head_file, self.replay)
        self._publish()

    @classmethod
    def create(
        cls,
        path: Path,
        key: SigningKey,
        *,
        enrolment: Enrolment = Enrolment.OPEN,
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
        head = head_file or path.with_name("HEAD")
        for existing in (path, head):
            if existing.exists():
                raise LedgerError(f"{existing} exists already; a ledger is never overwritten")
        old = continues or Checkpoint(bytes(32), 0, bytes(32))
        genesis = Genesis(
            urandom(32),
            key.public,
            enrolment,
            admin_key or bytes(32),
            old.ledger_id,
            old.size,
            old.root,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{getpid()}.new")
        draft.unlink(missing_ok=True)
        with storage_errors(path):
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                create(connection)
                if not blocks:
                    leave_blocks_out(connection)
                replay = Replay()
                leaf = encode_leaf(genesis, clock())
                applied = replay.apply(leaf)
                connection.execute("BEGIN")
                _insert(connection, replay, [(leaf, applied)], 0, blocks=blocks)
                _insert_checkpoint(connection, replay, key)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                draft.unlink(missing_ok=True)
                raise
            connection.close()
        try:
            link(draft, path)  # a ledger is there with its GENESIS, or not at all
        except FileExistsError as error:
            raise LedgerError(f"{path} exists already; a ledger is never overwritten") from error
        finally:
            draft.unlink()
        return cls(path, key, head_file=head_file, clock=clock)

    def _load(self) -> None:
        """Replay the log from the file."""
        self.replay, self._number = Replay(), 0
        rows = self._connection.execute("SELECT leaf FROM entry ORDER BY idx")
        for (leaf,) in rows:
            if isinstance(self.replay.apply(leaf).entry, Task):
                self._number += 1
        row = self._connection.execute(
            "SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1"
        ).fetchone()
        self.checkpoint: str = row[0] if row else ""

    def close(self) -> None:
        """Release the file; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._lock.release()
            del self._connection
            self._connection = None  # type: ignore[assignment]

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- appending ------------------------------------------------------------------------

    def _append(self, entry: Entry, *, samples: bytes | None = None) -> Applied:
        """Check, apply and store one entry, and the CLOSE that it makes due, atomically."""
        begin, now = time.perf_counter(), self._clock()
        leaf = encode_leaf(entry, now)
        number = self._number + isinstance(entry, Task)
        try:
            batch = [(leaf, self.replay.apply(leaf))]
            if self.replay.due is not None:
                leaf = encode_leaf(self.replay.due, now)
                batch.append((leaf, self.replay.apply(leaf)))
            with storage_errors(self.path):
                self._connection.execute("BEGIN IMMEDIATE")
                _insert(self._connection, self.replay, batch, number, blocks=self._blocks)
                if samples is not None:
                    self._connection.execute("INSERT INTO samples VALUES (?, ?)", (number, samples))
                note = _insert_checkpoint(self._connection, self.replay, self.key)
                self._connection.execute("COMMIT")
        except BaseException:  # Ctrl-C too: memory must not run ahead of the file
            self._roll_back()
            raise
        # Committed: from here on a crash loses nothing of this entry.
        self._number, self.checkpoint = number, note
        self._publish()
        self.seconds += time.perf_counter() - begin
        return batch[0][1]

    def _roll_back(self) -> None:
        """Bring memory back to what the file says."""
        with storage_errors(self.path):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._load()

    def _publish(self) -> None:
        """Write HEAD. One that lags is repaired at the next opening, so it need not be synced."""
        write_atomically(self.head_file, self.checkpoint)

    def enrol(self, newcomers: Iterable[tuple[bytes, str]]) -> None:
        """Append a ROSTER with ``(key, name)`` pairs added; under open and replay enrolment.

        Raises
        ------
        LedgerError
            Under roster enrolment, where only the admin signs rosters.
        ReplayError
            If a key may not be enrolled or a name is taken.
        """
        if self._genesis().enrolment is Enrolment.ROSTER:
            raise LedgerError("only the admin key enrols here; ask its holder for a signed roster")
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
        entry = hand_over(self.key, new, ledger_id=self.replay.ledger_id)
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
        stored = self.tally.ballots.get(voter)
        try:
            second = self._read_ballot(payload, voter)
        except BallotError:
            return False
        first = Ballot.read(Reader(self._ballot_at(stored))) if stored is not None else second
        context = (self.replay.ledger_id, self.tally.task_id)
        same = first.header.ballot_id == second.header.ballot_id
        if same or context != (second.header.ledger_id, second.header.task_id):
            return False
        if self.replay.is_accused(self.tally.task_id, voter):
            return False
        self._append(Evidence(first.header, first.signature, second.header, second.signature))
        return True

    def cosign(self, size: int, line: str, *, voter: bytes) -> None:
        """Store a node's cosignature of the checkpoint of ``size`` entries.

        Raises
        ------
        FormatError, SignatureError
            If it is not that node's, or on another root.
        """
        if not 0 < size <= self.replay.size:
            raise FormatError(f"expected a size from 1 to {self.replay.size}, got {size}")
        stated = Checkpoint(self.replay.ledger_id, size, self.replay.roots[size])
        stated.check_cosignature(line, voter)
        with storage_errors(self.path):
            self._connection.execute(
                "INSERT OR REPLACE INTO cosignature VALUES (?, ?, ?)", (size, voter, line)
            )

    def leaves(self, start: int) -> list[bytes]:
        """Log leaves from ``start`` on."""
        rows = self._connection.execute(
            "SELECT leaf FROM entry WHERE idx >= ? ORDER BY idx", (start,)
        )
        return [bytes(leaf) for (leaf,) in rows]

    def _genesis(self) -> Genesis:
        if self.replay.genesis is None:
            raise RuntimeError("a ledger without GENESIS was opened")
        return self.replay.genesis

    def post(self, posting: Posting, *, electorate: Iterable[bytes]) -> Tally:
        """Append a TASK for the members with the keys ``electorate``.

        Raises
        ------
        TaskError
            If a parameter is out of range; nothing is written.
        """
        roster = self.replay.roster
        positions = roster.active()
        keys = list(electorate)
        unknown = [key.hex()[:16] for key in keys if key not in positions]
        if unknown:
            raise TaskError(f"the electorate must be enrolled and active, got {unknown}")
        task = posting.task(
            roster=roster,
            positions=[positions[key] for key in keys],
            last_close=self.replay.last_close,
            nonce=urandom(32),
        )
        self._append(task, samples=posting.data)
        return self.tally

    @property
    def tally(self) -> Tally:
        """The last task posted; `RuntimeError` when there is none."""
        if self.replay.tally is None:
            raise RuntimeError("no task was posted on this ledger")
        return self.replay.tally

    @property
    def number(self) -> int:
        """Number of the last task posted, from 1."""
        return self._number

    def invite(self, more: int) -> None:
        """Append an INVITE for ``more`` further ranks."""
        self._append(Invite(self.tally.task_id, more))

    def submit(self, payload: bytes, *, voter: bytes) -> Receipt:
        """Append a ballot that came in ``voter``'s name.

        The very bytes of a ballot that is stored already give its receipt again.

        Raises
        ------
        BallotError
            With the reason for `refuse`; nothing is written.
        """
        ballot = self._read_ballot(payload, voter)
        stored = self.tally.ballots.get(voter)
        if stored is not None and self._ballot_at(stored) == payload:
            return self.receipt(stored)
        self.replay.check_ballot(ballot)
        return self.receipt(self._append(ballot).index)

    def _read_ballot(self, payload: bytes, voter: bytes) -> Ballot:
        """Decode and check what does not depend on the log: size first, then signature."""
        task = self.tally.task
        most = ballot_size(task.n, task.codec.dtype.itemsize)
        if len(payload) > most:
            raise BallotError(
                Refusal.SIZE, f"expected at most {most} bytes of ballot, got {len(payload)}"
            )
        try:
            ballot = Ballot.read(Reader(payload))
        except FormatError as error:
            raise BallotError(Refusal.FORMAT, str(error)) from error
        if ballot.header.voter != voter:
            raise BallotError(
                Refusal.CONTEXT,
                f"expected a ballot of {voter.hex()[:16]}..., "
                f"got one of {ballot.header.voter.hex()[:16]}...",
            )
        try:
            ballot.check_signature()
        except SignatureError as error:
            raise BallotError(Refusal.SIGNATURE, str(error)) from error
        return ballot

    def _ballot_at(self, index: int) -> bytes:
        row = self._connection.execute("SELECT leaf FROM entry WHERE idx = ?", (index,)).fetchone()
        return bytes(row[0][25:])  # behind tag, type and time

    def receipt(self, index: int) -> Receipt:
        """Inclusion proof of entry ``index`` under the last checkpoint."""
        leaves = self.replay.leaves
        proof = tuple(self.replay.tree.inclusion_proof(index))
        return Receipt(index, leaves[index], proof, self.checkpoint)

    def refuse(self, voter: bytes, reason: Refusal, *, content: bytes) -> None:
        """Append a REFUSED: what was sent is kept as a digest and a size only."""
        digest = sha256(content).digest()
        self._append(Refused(self.tally.task_id, voter, reason, digest, len(content)))

    def absent(self, voter: bytes, reason: AbsenceReason) -> None:
        """Append an ABSENT: ``voter`` is settled without a ballot."""
        self._append(Absent(self.tally.task_id, voter, reason))

    def abort(self) -> None:
        """Close the open task without outcomes."""
        self._append(self.tally.close(CloseReason.ABORTED))

    def samples(self) -> bytes:
        """Sample set of the last task posted, as stored."""
        row = self._connection.execute(
            "SELECT data FROM samples WHERE task = ?", (self._number,)
        ).fetchone()
        return bytes(row[0])

    def ballots_of(self, voter: bytes) -> list[tuple[bytes, int]]:
        """Task id and log index of every stored ballot of ``voter``."""
        sql = "SELECT task_id, b.idx FROM ballot b JOIN task USING (task) WHERE voter = ?"
        return [(bytes(task), index) for task, index in self._connection.execute(sql, (voter,))]

    def rotations(self) -> list[bytes]:
        """Leaves of every SERVER-KEY."""
        sql = "SELECT leaf FROM entry JOIN server_key USING (idx) ORDER BY idx"
        return [bytes(leaf) for (leaf,) in self._connection.execute(sql)]

    def leaf(self, index: int) -> bytes:
        """Log leaf ``index``."""
        row = self._connection.execute("SELECT leaf FROM entry WHERE idx = ?", (index,)).fetchone()
        return bytes(row[0])


_INSERT = {
    name: f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(columns))})'
    for name, (columns, _) in DERIVED.items()
}


def _insert(
    connection: sqlite3.Connection,
    replay: Replay,
    batch: list[tuple[bytes, Applied]],
    number: int,
    *,
    blocks: bool,
) -> None:
    for leaf, applied in batch:
        connection.execute("INSERT INTO entry VALUES (?, ?)", (applied.index, leaf))
        for table, rows in derive(applied, replay, number):
            if blocks or table != "block":
                connection.executemany(_INSERT[table], rows)


def _insert_checkpoint(connection: sqlite3.Connection, replay: Replay, key: SigningKey) -> str:
    note = Checkpoint(replay.ledger_id, replay.size, replay.tree.root()).sign(key)
    connection.execute("INSERT INTO checkpoint VALUES (?, ?)", (replay.size, note))
    return note
