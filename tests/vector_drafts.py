"""Drafts of ledgers for the test vectors of docs/spec.md, entry by entry."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from checks import load

VECTORS = Path(__file__).parent / "vectors" / "ledgers"
NOW = 1_700_000_000_000
ZEROS = bytes(32)


def seed(name: str) -> bytes:
    return sha256(f"vector {name}".encode()).digest()


def sample_set(n: int) -> bytes:
    """A sample set of ``n`` ids and no features."""
    ids = b"".join(b"\x00\x02%02d" % (i % 100) for i in range(n))
    return zlib.compress(n.to_bytes(4, "big") + ids + b"\x00", 9)


@dataclass
class Vector:
    """One line of the manifest and the file it names."""

    name: str
    about: str
    exit: int = 0
    step: str | None = None
    rule: str | None = None
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    sql: list[str] = field(default_factory=list)
    tail: str | None = None  # bytes behind the last page
    base: str | None = None
    held: str | None = None
    receipt: str | None = None
    ledger_id: str | None = None
    pending: str | None = None  # what the package still gets wrong here

    def line(self) -> dict[str, Any]:
        content = {"tables", "sql", "base", "tail"}
        return {k: v for k, v in vars(self).items() if k not in content and v is not None} | {
            "file": f"{self.name}.json"
        }

    def content(self) -> dict[str, Any]:
        keys = ("base", "tables", "sql", "tail")
        return {key: value for key in keys if (value := getattr(self, key))}


class Draft:
    """A log written with a package that lacks the checks ``without``."""

    def __init__(self, *without: str, **genesis: Any) -> None:
        self.p = load(*without)
        self.replay = self.p.consensus.Replay()
        self.tables: dict[str, list[list[Any]]] = {"entry": [], "samples": [], "checkpoint": []}
        self.salts = 0
        self.broken = False
        self.server = self.key("server")
        self.every_note = False
        fields = {"nonce": ZEROS, "server_key": self.server.public}
        self.add(self.p.entries.Genesis(**(fields | genesis)))

    def key(self, name: str) -> Any:
        return self.p.keys.SigningKey(seed(name))

    # -- entries --------------------------------------------------------------------------

    def add(self, entry: Any, *, close: bool = True, time: int = NOW) -> None:
        self.leaf(self.p.entries.encode_leaf(entry, time), close=close)

    def leaf(self, leaf: bytes, *, close: bool = True) -> None:
        """Append ``leaf``, the rows it causes, and the CLOSE that it makes due."""
        self.tables["entry"].append([len(self.tables["entry"]), leaf.hex()])
        applied = None
        if not self.broken:
            applied = self.replay.apply(leaf)
            self._rows(applied)
        else:
            self.replay.skip(leaf)
        if self.every_note:
            self.note()
        if close and applied is not None and self.replay.due:
            self.add(self.replay.due)

    def raw(self, leaf: bytes) -> None:
        """Append ``leaf`` without effect: from here on nothing is replayed."""
        self.broken = True
        self.leaf(leaf)

    def _rows(self, applied: Any) -> None:
        if type(applied.entry).__name__ == "Task":
            data = sample_set(applied.entry.n)
            self.tables["samples"].append([self.replay.number, data.hex()])
        for table, rows in self.p.schema.derive(applied, self.replay):
            shown = [[c.hex() if isinstance(c, bytes) else c for c in row] for row in rows]
            self.tables.setdefault(table, []).extend(shown)

    def note(self, *, key: Any = None, size: int | None = None, root: bytes | None = None) -> str:
        """Store a checkpoint of what is there."""
        at = self.replay.size if size is None else size
        text = self.signed_note(key=key, size=at, root=root)
        self.tables["checkpoint"].append([at, text])
        return text

    def signed_note(self, *, key: Any = None, size: int, root: bytes | None = None) -> str:
        root = self.replay.roots[size] if root is None else root
        stated = self.p.checkpoint.Checkpoint(self.replay.ledger_id, size, root)
        return str(stated.sign(key or self.server))

    def member(self, key: str, name: str) -> Any:
        """An active member with the key that is called ``key`` here."""
        return self.p.roster.Member(self.key(key).public, self.p.roster.MemberState.ACTIVE, name)

    def evidence(self, name: str, **fields: Any) -> None:
        """Two ballots of one voter."""
        ballots = [self.ballot(name, [0, 1]), self.ballot(name, [1, 1])]
        (a, b) = ballots
        values = {"first": a.header, "first_signature": a.signature, "second": b.header,
                  "second_signature": b.signature}  # fmt: skip
        self.add(self.p.entries.Evidence(**(values | fields)))

    def rotate(self, name: str, *, old: Any = None, key: bytes | None = None) -> None:
        """Hand over to another server key."""
        new = self.key(name)
        entry = self.p.signatures.hand_over(
            old or self.server, new, ledger_id=self.replay.ledger_id
        )
        self.server = new
        self.add(entry if key is None else replace(entry, key=key))

    def cosign(self, name: str, at: int, **fields: Any) -> None:
        stated = self.p.checkpoint.Checkpoint(
            self.replay.ledger_id, at, fields.pop("root", self.replay.roots[at])
        )
        line = stated.cosign(self.key(name), seconds=NOW // 1000)
        row = {"size": at, "key": self.key(name).public.hex(), "line": line} | fields
        self.tables.setdefault("cosignature", []).append(list(row.values()))

    def vector(self, name: str, about: str, *breaks: str, code: int | None = None) -> Vector:
        """The finished ledger; ``breaks`` is the step and the rule that it breaks."""
        if not self.tables["checkpoint"] or self.tables["checkpoint"][-1][0] != self.replay.size:
            self.note()
        step, rule = (*breaks, None, None)[:2]
        code = code if code is not None else 1 if breaks else 0
        return Vector(name, about, code, step, rule, deepcopy(self.tables))

    def receipt(self, index: int, /, *, since: Sequence[int] = (), **fields: Any) -> str:
        """A receipt of the BALLOT in entry ``index``, under the last checkpoint."""
        leaves = [bytes.fromhex(leaf) for _, leaf in self.tables["entry"]]
        joined = b"".join(len(leaves[i]).to_bytes(4, "big") + leaves[i] for i in since)
        proof = self.replay.tree.inclusion_proof(index)
        values: dict[str, Any] = {
            "format": "rtc-flower receipt 1",
            "genesis": leaves[0].hex(),
            "rotations": joined.hex(),
            "ballot": leaves[index][25:].hex(),
            "index": index,
            "time_ms": NOW,
            "proof": [part.hex() for part in proof],
            "checkpoint": self.signed_note(size=self.replay.size),
        }
        return json.dumps(values | fields)

    # -- parts ----------------------------------------------------------------------------

    def enrol(self, *names: str, signer: Any = None) -> None:
        roster = self.replay.roster
        pairs = [(self.key(name).public, name) for name in names]
        self.add(roster.enrol(pairs).sign(signer or self.server, ledger_id=self.replay.ledger_id))

    def revoke(self, name: str) -> None:
        """Append the roster in which ``name`` is revoked."""
        self.roster(
            replace(m, state=self.p.roster.MemberState.REVOKED) if m.name == name else m
            for m in self.replay.roster.members
        )

    def roster(self, members: Iterable[Any], *, version: int | None = None) -> None:
        """Append any roster."""
        number = self.replay.roster.version + 1 if version is None else version
        unsigned = self.p.roster.Roster(number, tuple(members))
        self.add(unsigned.sign(self.server, ledger_id=self.replay.ledger_id))

    def task(self, voters: Sequence[str], **fields: Any) -> Any:
        n, k = fields.pop("n", 2), fields.pop("k", 2)
        roster = self.replay.roster
        position = {m.name: i for i, m in enumerate(roster.members)}
        rule = fields.get("rule", 1)
        values: dict[str, Any] = {
            "samples_hash": self.p.samples.samples_hash(sample_set(n)),
            "n": n,
            "class_names": tuple(f"{i:x}" for i in range(k)),
            "roster_version": roster.version,
            "roster_size": len(roster.members),
            "electorate": self.p.entries.electorate_bits(
                [position[v] for v in voters], len(roster.members)
            ),
            "rule": rule,
            "inv_delta": 2,
            "lead": 2,
            "min_ballots": 1,
            "close_min": n,
            "order": 1 if rule in (2, 3) else 0,
            "kind": "default",
            "last_close": self.replay.last_close,
            "nonce": ZEROS,
        }
        return self.p.entries.Task(**(values | fields))

    def post(self, voters: Sequence[str], *, invite: int | None = None, **fields: Any) -> None:
        self.add(self.task(voters, **fields))
        if invite != 0:
            self.invite(len(voters) if invite is None else invite)

    def invite(self, more: int) -> None:
        self.add(self.p.entries.Invite(self.tally.task_id, more))

    @property
    def tally(self) -> Any:
        return self.replay.tally

    def ranked(self, voters: Sequence[str]) -> list[str]:
        """``voters`` in invitation order."""
        return sorted(voters, key=lambda v: self.tally.ranks.index(self.key(v).public))

    def ballot(
        self,
        name: str,
        votes: Sequence[int | None],
        *,
        meta: bytes | None = None,
        raw: bytes | None = None,
        signer: str | None = None,
        fill: bool = True,
        **header: Any,
    ) -> Any:
        """A ballot; None abstains, and what was not asked says so."""
        key, tally = self.key(name), self.tally
        width, top = (1, 255) if tally.task.k <= 250 else (2, 65535)
        codes = [top if vote is None else vote for vote in votes]
        if fill and tally.is_invited(key.public):
            asked = tally.asked(key.public)
            codes = [c if asked[i] else top - 1 for i, c in enumerate(codes)]
        data = b"".join(code.to_bytes(width, "big") for code in codes) if raw is None else raw
        self.salts += 1
        salt = sha256(b"salt %d" % self.salts).digest()[:16]
        meta = self.p.ballot.encode_meta("vector") if meta is None else meta
        values: dict[str, Any] = {
            "ledger_id": self.replay.ledger_id,
            "task_id": tally.task_id,
            "voter": key.public,
            "meta_hash": sha256(meta).digest(),
            "n": tally.task.n,
            "votes_hash": self.p.encoding.digest(self.p.encoding.TAG_VOTES, salt, data),
            "seen_size": self.replay.size,
            "seen_root": self.replay.roots[-1],
        }
        head = self.p.ballot.Header(**(values | header))
        signature = self.key(signer or name).sign(head.encode())
        return self.p.ballot.Ballot(head, signature, meta, salt, data)

    def vote(self, name: str, votes: Sequence[int | None], **options: Any) -> None:
        self.add(self.ballot(name, votes, **options))

    def absent(self, name: str, reason: int = 1, **fields: Any) -> None:
        reasons = self.p.entries.AbsenceReason
        values = {"task_id": self.tally.task_id, "voter": self.key(name).public}
        self.add(self.p.entries.Absent(**(values | {"reason": reasons(reason)} | fields)))

    def refuse(self, name: str, reason: int = 2, **fields: Any) -> None:
        reasons = self.p.entries.Refusal
        values: dict[str, Any] = {"task_id": self.tally.task_id, "voter": self.key(name).public}
        values |= {"reason": reasons(reason), "content_hash": seed("sent"), "size": 7}
        self.add(self.p.entries.Refused(**(values | fields)))

    def abort(self, **fields: Any) -> None:
        reasons = self.p.entries.CloseReason
        self.add(replace(self.tally.close(reasons.ABORTED), **fields))


AB, ABC, ABCD = ("ann", "bob"), ("ann", "bob", "cyd"), ("ann", "bob", "cyd", "dan")


def started(*without: str, voters: Sequence[str] = AB, post: bool = True, **task: Any) -> Draft:
    """A ledger with voters enrolled, and a task posted to them."""
    draft = Draft(*without)
    draft.enrol(*voters)
    if post:
        draft.post(voters, **task)
    return draft


# -- files ------------------------------------------------------------------------------------


def build(path: Path, content: dict[str, Any], *, folder: Path = VECTORS) -> Path:
    """Make the SQLite file of a vector, as section 9 of the specification says."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript((folder / "schema.sql").read_text())
    chain = [content]
    while "base" in chain[0]:
        chain.insert(0, json.loads((folder / f"{chain[0]['base']}.json").read_text()))
    for part in chain:
        db.execute("BEGIN")
        for table, rows in part.get("tables", {}).items():
            kinds = [column[2] for column in db.execute(f'PRAGMA table_info("{table}")')]
            marks = ", ".join("?" * len(kinds))
            for row in rows:
                values = [
                    bytes.fromhex(value) if kind == "BLOB" and value is not None else value
                    for kind, value in zip(kinds, row, strict=True)
                ]
                db.execute(f'INSERT INTO "{table}" VALUES ({marks})', values)
        db.execute("COMMIT")
        for statement in part.get("sql", []):
            db.execute(statement)
    path.write_bytes(db.serialize() + bytes.fromhex(content.get("tail", "")))
    db.close()
    return path
