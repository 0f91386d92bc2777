"""Ledgers with scripted voters: in memory, in a file, and forged by hand."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtc_flower.ballot import Ballot, encode_meta, sign
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.consensus import Applied, Replay
from rtc_flower.entries import (
    AbsenceReason,
    Absent,
    Enrolment,
    Entry,
    Genesis,
    Invite,
    Task,
    electorate_bits,
    encode_leaf,
)
from rtc_flower.errors import RtcFlowerError
from rtc_flower.forks import Forks
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger, Posting
from rtc_flower.merkle import Tree
from rtc_flower.roster import MemberState, Roster
from rtc_flower.samples import Samples, samples_hash
from rtc_flower.schema import create, store
from rtc_flower.stopping import Order, Rule
from rtc_flower.tally import Tally

SERVER = SigningKey(b"\x01" * 32)
ADMIN = SigningKey(b"\x02" * 32)
NEXT = SigningKey(b"\x03" * 32)
"""The server's key after a rotation."""
NOW = 1_700_000_000_000
Votes = Sequence[int | None]
"""A class per sample; None abstains."""


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def lengths(forks: Forks) -> npt.NDArray[np.int32]:
    """Length of every fork (n, k); 0 where there is none."""
    return forks._height[forks._slot]


def tree_root(leaves: Iterable[bytes]) -> bytes:
    return Tree(leaves).root()


def inclusion_proof(leaves: Iterable[bytes], index: int) -> list[bytes]:
    return Tree(leaves).inclusion_proof(index)


def consistency_proof(leaves: Iterable[bytes], old_size: int) -> list[bytes]:
    return Tree(leaves).consistency_proof(old_size)


def newer_genesis() -> bytes:
    """Leaf of GENESIS in a format that is not known yet."""
    leaf = bytearray(encode_leaf(Genesis(bytes(32), SERVER.public), NOW))
    leaf[25:27] = u16(2)
    return bytes(leaf)


def without(roster: Roster, key: bytes) -> Roster:
    """The next version, unsigned, in which ``key`` is revoked."""
    members = tuple(
        replace(m, state=MemberState.REVOKED) if m.key == key else m for m in roster.members
    )
    return Roster(roster.version + 1, members)


def voter(number: int) -> SigningKey:
    return SigningKey(sha256(b"voter %d" % number).digest())


def sample_set(n: int) -> bytes:
    return Samples(np.arange(n, dtype=np.uint8)).encode()


def names(k: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(k))


def make_task(replay: Replay, voters: Iterable[SigningKey], **fields: Any) -> Task:
    """A valid TASK for the state of ``replay``; ``fields`` override, ``k`` sets the classes."""
    n, k = fields.pop("n", 3), fields.pop("k", 3)
    positions, size = replay.roster.active(), len(replay.roster.members)
    rule = fields.pop("rule", Rule.CERTAIN)
    order = Order.ARRIVAL if rule in (Rule.CERTAIN, Rule.ALL) else Order.INVITATION
    values: dict[str, Any] = {
        "samples_hash": samples_hash(sample_set(n)),
        "n": n,
        "class_names": names(k),
        "roster_version": replay.roster.version,
        "roster_size": size,
        "electorate": electorate_bits([positions[key.public] for key in voters], size),
        "rule": rule,
        "inv_delta": 20,
        "lead": 2,
        "min_ballots": 1,
        "close_min": n,
        "order": order,
        "kind": "default",
        "last_close": replay.last_close,
        "nonce": bytes(32),
    }
    return Task(**(values | fields))


def current(replay: Replay) -> Tally:
    assert replay.tally is not None
    return replay.tally


def make_ballot(
    replay: Replay,
    key: SigningKey,
    votes: Votes,
    *,
    seen: tuple[int, bytes] | None = None,
    meta: bytes | None = None,
    raw: bytes | None = None,
    **context: Any,
) -> Ballot:
    """A signed ballot for the current task; samples that were not asked say so.

    ``raw`` replaces the encoded votes, ``context`` fields of the header.
    """
    tally = current(replay)
    codec = tally.task.codec
    codes = np.array([codec.abstain if vote is None else vote for vote in votes], np.uint32)
    if tally.is_invited(key.public) and len(codes) == tally.task.n:
        codes[~tally.asked(key.public)] = codec.not_asked
    fields: dict[str, Any] = {
        "ledger_id": replay.ledger_id,
        "task_id": tally.task_id,
        "n": tally.task.n,
    }
    return sign(
        key,
        codec.encode(codes) if raw is None else raw,
        meta=encode_meta("test") if meta is None else meta,
        seen=seen or (replay.size, replay.roots[-1]),
        **(fields | context),
    )


class World:
    """A log in memory: `Replay` fed entry by entry, every due CLOSE appended at once."""

    def __init__(
        self, *, enrolment: Enrolment = Enrolment.OPEN, admin_key: bytes = bytes(32)
    ) -> None:
        self.replay = Replay()
        self.log: list[bytes] = []
        self.applied: list[Applied] = []
        self.add(Genesis(bytes(32), SERVER.public, enrolment, admin_key))

    @classmethod
    def with_voters(cls, count: int) -> World:
        world = cls()
        world.add(world.roster(voter(i) for i in range(count)))
        return world

    def roster(self, keys: Iterable[SigningKey]) -> Roster:
        position = len(self.replay.roster.members)
        pairs = [(key.public, f"node {position + i}") for i, key in enumerate(keys)]
        genesis = self.replay.genesis
        by_admin = genesis is not None and genesis.enrolment is Enrolment.ROSTER
        unsigned = self.replay.roster.enrol(pairs)
        return unsigned.sign(ADMIN if by_admin else SERVER, ledger_id=self.replay.ledger_id)

    def add(self, entry: Entry, *, close: bool = True, time: int = NOW) -> Applied:
        leaf = encode_leaf(entry, time)
        applied = self.replay.apply(leaf)
        self.log.append(leaf)
        self.applied.append(applied)
        if close and self.replay.due:
            self.add(self.replay.due, time=time)
        return applied

    def post(
        self, voters: Sequence[SigningKey] | int, *, invite: int | None = None, **fields: Any
    ) -> Tally:
        """Append TASK, and INVITE for everyone unless ``invite`` says how many."""
        keys = [voter(i) for i in range(voters)] if isinstance(voters, int) else voters
        self.add(make_task(self.replay, keys, **fields))
        more = len(keys) if invite is None else invite
        if more:
            self.invite(more)
        return self.tally

    @property
    def tally(self) -> Tally:
        return current(self.replay)

    def invite(self, more: int) -> None:
        self.add(Invite(self.tally.task_id, more))

    def vote(self, key: SigningKey, votes: Votes, **options: Any) -> Applied:
        return self.add(make_ballot(self.replay, key, votes, **options))

    def absent(self, key: SigningKey, reason: AbsenceReason = AbsenceReason.DEADLINE) -> Applied:
        return self.add(Absent(self.tally.task_id, key.public, reason))

    def ranked(self, rank: int) -> SigningKey:
        """The voter at ``rank`` of the invitation order."""
        wanted = self.tally.ranks[rank]
        return next(key for key in map(voter, range(99)) if key.public == wanted)

    def write(self, path: Path) -> Path:
        return forge(path, self.log)


def open_ledger(path: Path, *, voters: int = 3) -> Ledger:
    """A new ledger with ``voters`` enrolled."""
    ledger = Ledger.create(path, SERVER)
    ledger.enrol([(voter(i).public, f"node {i}") for i in range(voters)])
    return ledger


def post(
    ledger: Ledger, voters: int, *, n: int = 3, k: int = 3, invite: int | None = None, **fields: Any
) -> Tally:
    """Post a task for the first ``voters`` on ``ledger`` and invite them."""
    data = sample_set(n)
    chosen = {"close_min": n, "order": Rule(fields.get("rule", Rule.CERTAIN)).usual_order} | fields
    draft = Task(samples_hash(data), n, names(k), **chosen)
    tally = ledger.post(Posting(draft, data), electorate=[voter(i).public for i in range(voters)])
    more = voters if invite is None else invite
    if more:
        ledger.invite(more)
    return tally


def cast(ledger: Ledger, key: SigningKey, votes: Votes, **options: Any) -> bytes:
    """Encode and submit a ballot; the bytes that were sent."""
    payload = make_ballot(ledger.replay, key, votes, **options).encode()
    ledger.submit(payload, voter=key.public)
    return payload


def _schema(kind: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        sql = "SELECT name, sql FROM sqlite_schema WHERE type = ?"
        return connection.execute(sql, (kind,)).fetchall()


VIEWS = {name: sql.partition(" AS")[2] for name, sql in _schema("view")}
COLUMNS = {
    name: dict(re.findall(r"^ +([a-z_0-9]+) (INTEGER|TEXT|BLOB)", sql, re.M))
    for name, sql in _schema("table")
}  # every column of every table with its type


def log_of(path: Path) -> list[bytes]:
    return [bytes(row[0]) for row in query(path, "SELECT leaf FROM entry ORDER BY idx")]


def query(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def tamper(path: Path, *statements: str | tuple[str, Sequence[Any]]) -> None:
    """Change a ledger file as somebody with a text editor for databases would."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            sql, values = (statement, ()) if isinstance(statement, str) else statement
            connection.execute(sql, values)
    finally:
        connection.close()


def forge(
    path: Path, log: Sequence[bytes], *, key: SigningKey | None = None, samples: bool = True
) -> Path:
    """Write a ledger file by hand, rules or no rules, with one honest-looking checkpoint.

    Rows are derived from the entries up to the first that replay refuses.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = MEMORY")
    create(connection)
    connection.execute("BEGIN")
    replay = Replay()
    broken = False
    for index, leaf in enumerate(log):
        connection.execute("INSERT INTO entry VALUES (?, ?)", (index, leaf))
        try:
            applied = None if broken else replay.apply(leaf)
        except RtcFlowerError:
            applied = None
        if applied is None:
            broken = True
            replay.skip(leaf)
            continue
        if isinstance(applied.entry, Task) and samples:
            row = (replay.number, sample_set(applied.entry.n))
            connection.execute("INSERT INTO samples VALUES (?, ?)", row)
        store(connection, applied, replay)
    now = NEXT if replay.server_keys and replay.server_key == NEXT.public else SERVER
    note = Checkpoint(replay.tree.leaves[0], len(log), tree_root(replay.tree.leaves)).sign(
        key or now
    )
    connection.execute("INSERT INTO checkpoint VALUES (?, ?)", (len(log), note))
    connection.execute("COMMIT")
    connection.close()
    return path
