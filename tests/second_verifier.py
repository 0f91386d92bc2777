"""A second verifier of ledger files, written from docs/spec.md alone.

It shares no line with the package, so that a server which ships a lying verifier is found out.
Slow and plain on purpose: standard library and ``cryptography`` only.

    python tests/second_verifier.py FILE [--held NOTE] [--receipt RECEIPT] [--ledger-id HEX]
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sqlite3
import sys
import zlib
from hashlib import sha256
from math import factorial, perm, prod
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZEROS = bytes(32)
SCHEMA = "dd3c78dcd59a6644b84b2ada77b4274808e6c6ffb96a1d900b5f04f89056a8e3"
STEPS = [f"V{i}" for i in range(1, 14)]
BY_HAND = ("V11", "V13")  # need what only the caller can bring
ABSENCES = {1: "deadline", 2: "error", 3: "declined"}
REASONS = (
    "size", "format", "signature", "context", "class", "not_asked", "seen", "duplicate", "answer",
    "error",
)  # fmt: skip
REFUSALS = dict(enumerate(REASONS, 1))
CLOSINGS = {1: "decided", 2: "enough", 3: "exhausted", 4: "aborted"}
RULES = {1: "certain", 2: "certified", 3: "paper", 4: "all"}
ORDERS = ("arrival", "invitation")
HOWS = {1: "certain", 2: "certified", 3: "lead", 4: "full", 5: "open", 6: "none"}
KEYS = {
    "roster": "version, position",
    "task": "task",
    "class": "task, class",
    "ballot": "idx",
    "counted": "task, position",
    "absence": "idx",
    "refusal": "idx",
    "closing": "task",
    "decision": "task, sample",
    "block": "id",
    "evidence": "idx",
    "server_key": "idx",
}
KINDS = {"INTEGER": int, "BLOB": bytes, "TEXT": str}
NO_BLOCKS = (0, -1, b"")
BUSY_SECONDS = 60.0
OUTSIDE = ("BUSY", "LOCKED", "FULL", "IOERR", "CANTOPEN", "READONLY")
P = 2**255 - 19
SMALL = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


class BadError(Exception):
    """A step is bad; ``rule`` is the rule of replay, if it is one."""

    def __init__(self, step: str, detail: str, rule: str | None = None) -> None:
        super().__init__(detail)
        self.step, self.detail, self.rule = step, detail, rule


class UnsupportedError(Exception):
    """Something of a newer version: not checked."""


def digest(*parts: bytes) -> bytes:
    return sha256(b"".join(parts)).digest()


def num(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def tag(word: str) -> bytes:
    return f"rtc-flower {word}".encode("ascii")


def need(condition: bool, rule: str, detail: str) -> None:
    """Rules of replay: R0 is step V2, all others are step V4."""
    if not condition:
        raise BadError("V2" if rule == "R0" else "V4", f"{rule}: {detail}", rule)


# -- primitives (section 1) -------------------------------------------------------------------


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def enrollable(key: bytes) -> bool:
    y = int.from_bytes(key, "little") % 2**255
    if y >= P or y in (0, 1, P - 1, SMALL, P - SMALL):
        return False
    d = -121665 * pow(121666, -1, P)
    square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    return pow(square, (P - 1) // 2, P) == 1


def strong(key: bytes) -> bool:
    """Whether ``key`` is enrollable, or no key at all."""
    return key == ZEROS or enrollable(key)


def leaf_hash(leaf: bytes) -> bytes:
    return digest(b"\x00", leaf)


class Tree:
    """All prefix roots of an RFC 6962 tree."""

    def __init__(self) -> None:
        self.peaks: list[tuple[int, bytes]] = []  # (leaves, root) of the perfect subtrees
        self.roots = [digest()]

    def append(self, leaf: bytes) -> None:
        self.peaks.append((1, leaf))
        while len(self.peaks) > 1 and self.peaks[-1][0] == self.peaks[-2][0]:
            size, right = self.peaks.pop()
            _, left = self.peaks.pop()
            self.peaks.append((2 * size, digest(b"\x01", left, right)))
        root = self.peaks[-1][1]
        for _, peak in reversed(self.peaks[:-1]):
            root = digest(b"\x01", peak, root)
        self.roots.append(root)


class OtherKeyError(ValueError):
    """A note without a signature by the key that was asked for."""


def unbase64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if not raw or base64.b64encode(raw).decode() != text:
        raise ValueError("base64 that is not canonical")
    return raw


def read_body(note: str) -> tuple[str, int, bytes]:
    """Origin, size and root that a note states (section 1.2); ValueError if it is none."""
    note.encode("utf-8", "strict")
    text, _, tail = note.partition("\n\n")
    lines, signatures = text.split("\n"), tail.removesuffix("\n").split("\n")
    if len(lines) != 3 or (tail and not all(line.startswith("— ") for line in signatures)):
        raise ValueError("not a note of three lines and signatures")
    name, size, root = lines[0], int(lines[1]), unbase64(lines[2])
    prefix, _, ledger_id = name.rpartition("/")
    if prefix != "rtc-flower/ledger" or bytes.fromhex(ledger_id).hex() != ledger_id:
        raise ValueError(f"origin {name!r}")
    if str(size) != lines[1] or size < 0 or len(root) != 32 or len(ledger_id) != 64:
        raise ValueError(f"size {lines[1]!r} or root {lines[2]!r}")
    return name, size, root


def read_note(note: str, key: bytes, *, stored: bool) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint that ``key`` signed; ValueError if it is not good."""
    name, size, root = read_body(note)
    head, _, tail = note.partition("\n\n")
    one_line = tail.count("\n") == 1 and tail.endswith("\n") and tail.startswith(f"— {name} ")
    if stored and not one_line:
        raise ValueError("not exactly one signature line")
    signatures = tail.split("\n")
    key_id = digest(name.encode(), b"\n\x01", key)[:4]
    for line in signatures:
        start = f"— {name} "
        if line.startswith(start):
            blob = unbase64(line[len(start) :])
            if blob[:4] == key_id:
                if not signed(key, blob[4:], f"{head}\n".encode()):
                    raise ValueError("the server's signature fails")
                return name, size, root
    raise OtherKeyError("no signature by the server")


def cosigned(line: str, key: bytes, body: str) -> bool:
    """Whether ``line`` is a node's good cosignature of the checkpoint ``body``."""
    name = f"rtc-flower/node/{key.hex()}"
    start = f"— {name} "
    if not line.startswith(start):
        return False
    try:
        blob = unbase64(line[len(start) :])
    except ValueError:
        return False
    if len(blob) != 76 or blob[:4] != digest(name.encode(), b"\n\x04", key)[:4]:
        return False
    time = int.from_bytes(blob[4:12], "big")
    return signed(key, blob[12:], f"cosignature/v1\ntime {time}\n{body}".encode())


# -- entries (section 2) ----------------------------------------------------------------------


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name that stands twice")
    return fields


def unhex(text: str) -> bytes:
    if not re.fullmatch("([0-9a-fA-F]{2})*", text):
        raise ValueError("not hexadecimal")
    return bytes.fromhex(text)


def read_receipt(text: str) -> dict[str, Any]:
    """Fields of a receipt (section 1.3); ValueError if it is none."""
    kinds = {"format": str, "genesis": str, "rotations": str, "ballot": str, "index": int,
             "time_ms": int, "proof": list, "checkpoint": str}  # fmt: skip
    text.encode()  # no surrogates
    fields: dict[str, Any] = json.loads(text, object_pairs_hook=each_once, parse_constant=int)
    form = fields.get("format") if isinstance(fields, dict) else None
    if form != "rtc-flower receipt 1":
        if re.fullmatch("rtc-flower receipt [0-9]+", str(form)):
            raise UnsupportedError(str(form))
        raise ValueError(f"a receipt of the form {form!r}")
    if {k: type(v) for k, v in fields.items()} != kinds:
        raise ValueError("not the fields of a receipt")
    for name in ("genesis", "rotations", "ballot"):
        fields[name] = unhex(fields[name])
    fields["proof"] = [unhex(part) for part in fields["proof"]]
    if not (0 <= fields["index"] < 2**64 and 0 <= fields["time_ms"] < 2**64):
        raise ValueError("a number that does not fit 64 bits")
    return fields


def included(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """Root that an inclusion proof leads to (RFC 9162 section 2.1.3.2)."""
    if index >= size:
        raise ValueError(f"index {index} in a tree of {size}")
    node, last, value = index, size - 1, leaf
    for part in proof:
        if last == 0:
            raise ValueError("a proof that is too long")
        if node % 2 == 1 or node == last:
            value = digest(b"\x01", part, value)
            while node % 2 == 0 and node != 0:
                node, last = node // 2, last // 2
        else:
            value = digest(b"\x01", value, part)
        node, last = node // 2, last // 2
    if last != 0:
        raise ValueError("a proof that is too short")
    return value


def receipt_leaf(receipt: dict[str, Any]) -> bytes:
    """Leaf of the ballot in a receipt that holds; ValueError or BadError if it does not."""
    name, fields = decode(receipt["genesis"])
    if name != "genesis":
        raise ValueError("no GENESIS")
    ledger_id, key = leaf_hash(receipt["genesis"]), fields["server"]
    rotations, leaves = Bytes(receipt["rotations"]), []
    while rotations.at < len(rotations.data):
        leaves.append(rotations.take(rotations.num(4)))
    for leaf in leaves:
        name, fields = decode(leaf)
        if name != "server_key":
            raise ValueError("no SERVER-KEY")
        if not signed(key, fields["old"], tag("srvky") + ledger_id + fields["key"]):
            raise ValueError("a hand-over that the key before did not sign")
        key = fields["key"]
    origin, size, root = read_note(receipt["checkpoint"], key, stored=False)
    ballot = decode_ballot(Bytes(receipt["ballot"]))
    if origin != f"rtc-flower/ledger/{ledger_id.hex()}" or ballot["ledger_id"] != ledger_id:
        raise ValueError("another ledger")
    if not signed(ballot["voter"], ballot["signature"], ballot["header"]):
        raise ValueError("the voter's signature fails")
    cast: bytes = tag("entry") + num(5, 1) + num(receipt["time_ms"], 8) + receipt["ballot"]
    if included(leaf_hash(cast), receipt["index"], size, receipt["proof"]) != root:
        raise ValueError("a proof of another root")
    return cast


class Bytes:
    """Reads a layout; every complaint is R0."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        need(self.at + size <= len(self.data), "R0", f"bytes missing at {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def num(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def one_of(self, values: Any) -> int:
        value = self.num(1)
        need(value in values, "R0", f"the value {value}")
        return value

    def text(self, limit: int = 255) -> str:
        raw = self.take(self.num(1))
        need(len(raw) <= limit, "R0", f"a text of {len(raw)} bytes")
        try:
            return raw.decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise BadError("V2", "R0: text that is not UTF-8", "R0") from None

    def bits(self, count: int) -> list[bool]:
        raw = self.take((count + 7) // 8)
        bits = [bool(byte >> (7 - i) & 1) for byte in raw for i in range(8)]
        need(not any(bits[count:]), "R0", "padding bits that are not zero")
        return bits[:count]

    def end(self) -> None:
        need(self.at == len(self.data), "R0", "bytes left over")


NAMES = {
    1: "genesis", 2: "roster", 3: "task", 4: "invite", 5: "ballot", 6: "absent", 7: "refused",
    8: "close", 9: "evidence", 10: "server_key",
}  # fmt: skip


def decode(leaf: bytes) -> tuple[str, dict[str, Any]]:
    """Name and fields of an entry (R0)."""
    data = Bytes(leaf)
    need(data.take(16) == tag("entry"), "R0", "another tag")
    number = data.num(1)
    data.num(8)
    name = NAMES.get(number, "unknown")
    if name == "unknown":
        return name, {"number": number}
    fields: dict[str, Any] = globals()[f"decode_{name}"](data)
    data.end()
    return name, fields


def decode_genesis(data: Bytes) -> dict[str, Any]:
    version = data.num(2)
    if version != 1:
        raise UnsupportedError(f"format version {version}")
    fields: dict[str, Any] = {"nonce": data.take(32), "server": data.take(32)}
    fields |= {"enrolment": data.one_of((0, 1, 2)), "admin": data.take(32)}
    data.take(32), data.num(8), data.take(32)
    return fields


def decode_roster(data: Bytes) -> dict[str, Any]:
    start = data.at
    version, count = data.num(4), data.num(4)
    members = [(data.take(32), data.one_of((1, 2)), data.text(64)) for _ in range(count)]
    body = data.data[start : data.at]
    return {"version": version, "members": members, "body": body, "signature": data.take(64)}


def decode_task(data: Bytes) -> dict[str, Any]:
    task: dict[str, Any] = {"samples": data.take(32), "n": data.num(4), "k": data.num(2)}
    task |= {"roster_version": data.num(4), "roster_size": data.num(4)}
    task["electorate"] = data.bits(task["roster_size"])
    task["rule"] = data.num(1)
    for name in ("inv_delta", "lead", "min_ballots", "close_min"):
        task[name] = data.num(4)
    task |= {"order": data.num(1), "kind": data.text(), "last_close": data.take(32)}
    data.take(32)
    task["names"] = [data.text() for _ in range(task["k"])]
    return task


def decode_invite(data: Bytes) -> dict[str, Any]:
    return {"task_id": data.take(32), "more": data.num(4)}


def decode_header(data: Bytes) -> dict[str, Any]:
    start = data.at
    need(data.take(16) == tag("heads"), "R0", "another header tag")
    head: dict[str, Any] = {"ledger_id": data.take(32), "task_id": data.take(32)}
    head |= {"voter": data.take(32), "meta_hash": data.take(32), "n": data.num(4)}
    head |= {"votes_hash": data.take(32), "seen_size": data.num(8), "seen_root": data.take(32)}
    header = data.data[start : data.at]
    return head | {"header": header, "id": digest(header), "signature": data.take(64)}


def decode_ballot(data: Bytes) -> dict[str, Any]:
    ballot = decode_header(data)
    meta, salt = data.take(data.num(2)), data.take(16)
    ballot["votes"] = data.rest()
    inner = Bytes(meta)
    ballot["contract"] = inner.text(200)
    inner.take(32)
    inner.end()
    need(digest(meta) == ballot["meta_hash"], "R0", "meta that the header does not commit to")
    votes_hash = digest(tag("votes"), salt, ballot["votes"])
    need(votes_hash == ballot["votes_hash"], "R0", "votes that the header does not commit to")
    return ballot


def decode_evidence(data: Bytes) -> dict[str, Any]:
    return {"headers": [decode_header(data), decode_header(data)]}


def decode_server_key(data: Bytes) -> dict[str, Any]:
    return {"key": data.take(32), "old": data.take(64), "new": data.take(64)}


def decode_absent(data: Bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {"task_id": data.take(32), "voter": data.take(32)}
    return fields | {"reason": data.one_of(ABSENCES)}


def decode_refused(data: Bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {"task_id": data.take(32), "voter": data.take(32)}
    fields |= {"reason": data.one_of(REFUSALS), "hash": data.take(32)}
    return fields | {"size": data.num(8)}


def decode_close(data: Bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {"task_id": data.take(32), "reason": data.one_of(CLOSINGS)}
    for name in ("counted", "uncounted", "absent", "uninvited"):
        fields[name] = data.num(4)
    return fields | {"outcomes": data.take(32), "tips": data.take(32)}


# -- one task (section 4) ---------------------------------------------------------------------


def certified(a: int, b: int, r: int, k: int, inv_delta: int) -> bool:
    if a <= b:
        return False
    if a - b > r:
        return True
    n, square = a + b, (a - b) ** 2
    m = (n + r) // 2
    if square < n:
        m = min(m, (n * n - square) // (2 * (n - square)))
    m = max(m, a)
    left = 4 * factorial(b) * perm(2 * m, n)
    return left >= (k - 1) * inv_delta * perm(n + 4, b + 1) * perm(m, a) * perm(m, b)


class Count:
    """State of one task."""

    def __init__(self, task: dict[str, Any], task_id: bytes, index: int, keys: list[bytes]) -> None:
        self.task, self.id, self.index, self.n = task, task_id, index, task["n"]
        self.ranks = sorted(keys, key=lambda key: digest(tag("ranks"), task_id, key))
        self.invited = 0
        self.asked: dict[bytes, set[int]] = {}
        self.ballots: set[bytes] = set()
        self.absent: set[bytes] = set()
        self.refused: dict[bytes, int] = {}
        self.waiting: dict[bytes, tuple[int, bytes, list[int]]] = {}
        self.passed = self.counted = 0
        self.forks: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.leader: dict[int, int] = {}
        self.decided: dict[int, tuple[int, int]] = {}
        self.closed = False

    def codes(self) -> tuple[int, int, int]:
        """Width, ABSTAIN and NOT-ASKED."""
        return (1, 255, 254) if self.task["k"] <= 250 else (2, 65535, 65534)

    def votes(self, raw: bytes) -> list[int]:
        width = self.codes()[0]
        return [int.from_bytes(raw[i : i + width], "big") for i in range(0, len(raw), width)]

    def invite(self, more: int) -> None:
        undecided = {i for i in range(self.n) if i not in self.decided}
        for key in self.ranks[self.invited : self.invited + more]:
            self.asked[key] = undecided
        self.invited += more

    def two_longest(self, sample: int) -> tuple[int, int]:
        if sample not in self.leader:
            return 0, 0
        lead = self.leader[sample]
        others = [h for (s, c), (h, _) in self.forks.items() if s == sample and c != lead]
        return self.forks[sample, lead][0], max(others, default=0)

    def settle(self, voter: bytes) -> list[tuple[Any, ...]]:
        """Pass whoever can be passed now; (ballot index, position, decided, blocks) of each."""
        if self.task["order"] == 0:
            return self.passing(voter)
        result = []
        while not self.due():
            nxt = self.ranks[self.passed]
            if nxt not in self.waiting and nxt not in self.absent:
                break
            result += self.passing(nxt)
        return result

    def passing(self, voter: bytes) -> list[tuple[Any, ...]]:
        self.passed += 1
        if voter not in self.waiting:
            self.decide()
            return []
        index, ballot_id, votes = self.waiting.pop(voter)
        blocks = []
        for sample, vote in enumerate(votes):
            frozen = self.task["rule"] in (2, 3) and sample in self.decided
            if vote < self.task["k"] and not frozen:
                blocks.append((sample, vote, self.mint(sample, vote, ballot_id)))
        self.counted += 1
        self.decide()
        return [(index, self.counted - 1, len(self.decided), blocks)]

    def mint(self, sample: int, vote: int, ballot_id: bytes) -> bytes:
        height, parent = self.forks.get((sample, vote), (0, self.id))
        height += 1
        place = num(sample, 4) + num(vote, 2) + num(height, 4)
        block = digest(tag("block"), place, parent, ballot_id)
        self.forks[sample, vote] = height, block
        if sample not in self.leader or height > self.forks[sample, self.leader[sample]][0]:
            self.leader[sample] = vote
        return block

    def decide(self) -> None:
        task, r = self.task, len(self.ranks) - self.passed
        if self.counted < task["min_ballots"] or task["rule"] == 4:
            return
        for sample in range(self.n):
            if sample in self.decided:
                continue
            a, b = self.two_longest(sample)
            certain = a - b > r
            if task["rule"] == 1 and certain:
                self.decided[sample] = 1, self.counted
            if task["rule"] == 2 and certified(a, b, r, task["k"], task["inv_delta"]):
                self.decided[sample] = 1 if certain else 2, self.counted
            if task["rule"] == 3 and a - b >= task["lead"]:
                self.decided[sample] = 3, self.counted

    def due(self) -> int:
        """Reason of the CLOSE that is due, or 0."""
        if len(self.decided) == self.n:
            return 1
        if len(self.decided) >= self.task["close_min"]:
            return 2
        return 3 if self.passed == len(self.ranks) else 0

    def outcomes(self) -> list[tuple[int, int, int, int, int]]:
        """Class, support, runner-up, how, decided_at of every sample."""
        rows = []
        for sample in range(self.n):
            a, b = self.two_longest(sample)
            how = 6 if a == 0 else 4 if self.passed == len(self.ranks) else 5
            how, at = self.decided.get(sample, (how, self.counted))
            rows.append((self.leader.get(sample, 0xFFFF), a, b, how, at))
        return rows

    def close(self, reason: int) -> dict[str, Any]:
        """The fields of a CLOSE as they must be now."""
        outcomes = tips = ZEROS
        if reason != 4:
            packed = [
                num(c, 2) + num(a, 4) + num(b, 4) + num(how, 1) + num(at, 4)
                for c, a, b, how, at in self.outcomes()
            ]
            outcomes = digest(tag("outcm"), self.id, *packed)
            ends = [
                num(s, 4) + num(c, 2) + num(h, 4) + hash_
                for (s, c), (h, hash_) in sorted(self.forks.items())
            ]
            tips = digest(tag("tips1"), self.id, *ends)
        return {
            "task_id": self.id,
            "reason": reason,
            "counted": self.counted,
            "uncounted": len(self.ballots) - self.counted,
            "absent": len(self.absent),
            "uninvited": len(self.ranks) - self.invited,
            "outcomes": outcomes,
            "tips": tips,
        }


# -- replay (section 3) -----------------------------------------------------------------------


class Log:
    """State of the ledger; `add` takes one leaf and fills `rows`."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.first = b""  # hash of the first leaf, whatever it is
        self.genesis: dict[str, Any] = {}
        self.id = self.last_close = b""
        self.version = 0
        self.members: list[tuple[bytes, int, str]] = []
        self.count: Count | None = None
        self.tasks: list[dict[str, Any]] = []
        self.next_row = 1
        self.server_keys: list[tuple[int, bytes]] = []  # (smallest size, key)
        self.task_ids: set[bytes] = set()
        self.accused: set[tuple[bytes, bytes]] = set()
        self.due: dict[str, Any] | None = None
        self.rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in KEYS}

    @property
    def size(self) -> int:
        return len(self.tree.roots) - 1

    def add(self, leaf: bytes) -> tuple[str, dict[str, Any]]:
        name, fields = decode(leaf)
        need((name == "genesis") == (self.size == 0), "R1", f"{name} as entry {self.size}")
        if self.due is not None:
            need(name == "close" and fields == self.due, "R12", "another entry than the CLOSE due")
        if name == "unknown":
            raise UnsupportedError(f"entry {self.size} is of type {fields['number']}")
        getattr(self, f"on_{name}")(fields, leaf_hash(leaf))
        self.tree.append(leaf_hash(leaf))
        self.due = None
        if self.count and not self.count.closed and self.count.due():
            self.due = self.count.close(self.count.due())
        return name, fields

    def server_key(self, size: int) -> bytes:
        return [key for start, key in self.server_keys if start <= max(size, 1)][-1]

    def roster_key(self) -> bytes:
        admin: bytes = self.genesis["admin"]
        return admin if self.genesis["enrolment"] == 1 else self.server_keys[-1][1]

    def open_task(self, rule: str, task_id: bytes) -> Count:
        count = self.count
        if count is None or count.closed or count.id != task_id:
            raise BadError("V4", f"{rule}: it does not name the open task", rule)
        return count

    def on_genesis(self, fields: dict[str, Any], hashed: bytes) -> None:
        admin = fields["admin"]
        need(enrollable(fields["server"]) and strong(admin), "R1", "a key")
        if fields["enrolment"] == 1:
            need(admin not in (ZEROS, fields["server"]), "R1", "the admin key")
        else:
            need(admin == ZEROS, "R1", "an admin key")
        self.genesis, self.id, self.last_close = fields, hashed, hashed
        self.server_keys.append((1, fields["server"]))

    def on_roster(self, fields: dict[str, Any], _: bytes) -> None:
        members = fields["members"]
        need(fields["version"] == self.version + 1, "R2", f"version {fields['version']}")
        need(len(members) >= len(self.members), "R2", "members were dropped")
        for (key, state, name), (new_key, new_state, new_name) in zip(
            self.members, members, strict=False
        ):
            need((key, name) == (new_key, new_name), "R2", f"member {name!r} changed")
            need(state == 1 or new_state == 2, "R2", f"member {name!r} was revoked")
        for key, _state, name in members[len(self.members) :]:
            need(enrollable(key), "R2", f"the key of {name!r}")
        keys = [key for key, _, _ in members]
        names = [name for _, state, name in members if state == 1]
        need(len(set(keys)) == len(keys), "R2", "a key twice")
        need(len(set(names)) == len(names), "R2", "an active name twice")
        self.version, self.members = fields["version"], members
        for position, (key, state, name) in enumerate(members):
            word = {1: "active", 2: "revoked"}[state]
            self.rows["roster"].append((self.version, position, key, name, word))

    def on_task(self, task: dict[str, Any], hashed: bytes) -> None:
        need(self.count is None or self.count.closed, "R3", "a task is open")
        if task["rule"] not in RULES:
            raise UnsupportedError(f"rule {task['rule']}")
        k, n, names, voters = task["k"], task["n"], task["names"], sum(task["electorate"])
        need(2 <= k <= 1000, "R4", f"{k} classes")
        need(1 <= n <= 2**31 - 1, "R4", f"{n} samples")
        need(n * k <= 2**28, "R4", f"{n} samples of {k} classes")
        need(len(set(names)) == k and "" not in names, "R4", "class names")
        need(task["order"] in (0, 1), "R4", f"order {task['order']}")
        need(1 <= task["close_min"] <= n, "R4", f"close_min {task['close_min']}")
        need(voters >= 1, "R4", "no electorate")
        need(task["inv_delta"] >= 2, "R4", f"inv_delta {task['inv_delta']}")
        need(task["lead"] >= 1, "R4", f"lead {task['lead']}")
        need(1 <= task["min_ballots"] <= voters, "R4", f"min_ballots {task['min_ballots']}")
        need(task["rule"] in (1, 4) or task["order"] == 1, "R4", "a freezing rule with arrival")
        need(task["rule"] != 2 or voters <= 1000, "R4", f"certified with {voters} voters")
        need(task["roster_version"] == self.version, "R4", "roster version")
        need(task["roster_size"] == len(self.members), "R4", "roster size")
        chosen = [m for m, bit in zip(self.members, task["electorate"], strict=True) if bit]
        need(all(state == 1 for _, state, _ in chosen), "R4", "a revoked member")
        need(task["last_close"] == self.last_close, "R4", "another last CLOSE")
        self.count = Count(task, hashed, self.size, [key for key, _, _ in chosen])
        self.tasks.append(task)
        self.task_ids.add(hashed)
        task["first_row"], self.next_row = self.next_row, self.next_row + voters * n
        number = len(self.tasks)
        self.rows["task"].append(
            (
                number, self.size, hashed, task["kind"], n, k, self.version, voters,
                RULES[task["rule"]], ORDERS[task["order"]], task["first_row"],
            )
        )  # fmt: skip
        self.rows["class"] += [(number, i, name) for i, name in enumerate(names)]

    def on_invite(self, fields: dict[str, Any], _: bytes) -> None:
        count = self.open_task("R5", fields["task_id"])
        need(1 <= fields["more"] <= len(count.ranks) - count.invited, "R5", f"{fields['more']}")
        count.invite(fields["more"])

    def on_ballot(self, ballot: dict[str, Any], _: bytes) -> None:
        count, voter = self.count, ballot["voter"]
        if count is None:
            raise BadError("V4", "R6: no task", "R6")
        need(ballot["ledger_id"] == self.id, "R6", "another ledger")
        need(ballot["task_id"] == count.id, "R6", "another task")
        need(voter in count.asked, "R6", "a voter that is not invited")
        need(voter not in count.ballots, "R7", "a second ballot")
        width, abstain, not_asked = count.codes()
        need(ballot["n"] == count.n, "R8", f"n is {ballot['n']}")
        need(len(ballot["votes"]) == count.n * width, "R8", f"{len(ballot['votes'])} bytes")
        votes = count.votes(ballot["votes"])
        for sample, vote in enumerate(votes):
            need(vote < count.task["k"] or vote in (abstain, not_asked), "R8", f"class {vote}")
            asked = sample in count.asked[voter]
            need((vote != not_asked) == asked, "R8", f"NOT-ASKED at {sample}")
        need(count.index < ballot["seen_size"] <= self.size, "R9", f"size {ballot['seen_size']}")
        need(ballot["seen_root"] == self.tree.roots[ballot["seen_size"]], "R9", "another root")
        row = (self.size, len(self.tasks), voter, ballot["id"], ballot["contract"])
        self.rows["ballot"].append(row)
        late = count.closed or voter in count.absent
        count.ballots.add(voter)
        if not late:
            count.waiting[voter] = (self.size, ballot["id"], votes)
            self.counted(count, voter)

    def counted(self, count: Count, voter: bytes) -> None:
        for index, position, decided, blocks in count.settle(voter):
            self.rows["counted"].append((len(self.tasks), position, index, decided))
            first = count.task["first_row"] + position * count.n
            self.rows["block"] += [(first + sample, vote, hash_) for sample, vote, hash_ in blocks]

    def on_absent(self, fields: dict[str, Any], _: bytes) -> None:
        count, voter = self.open_task("R10", fields["task_id"]), fields["voter"]
        need(voter in count.asked, "R10", "a voter that is not invited")
        need(voter not in count.ballots | count.absent, "R10", "a voter that is settled")
        word = ABSENCES[fields["reason"]]
        self.rows["absence"].append((self.size, len(self.tasks), voter, word))
        count.absent.add(voter)
        self.counted(count, voter)

    def on_refused(self, fields: dict[str, Any], _: bytes) -> None:
        count, voter = self.open_task("R11", fields["task_id"]), fields["voter"]
        need(voter in count.asked, "R11", "a voter that is not invited")
        need(fields["size"] < 2**63, "R11", f"a size of {fields['size']}")
        count.refused[voter] = count.refused.get(voter, 0) + 1
        need(count.refused[voter] <= 4, "R11", "more than four")
        row = (self.size, len(self.tasks), voter, REFUSALS[fields["reason"]])
        self.rows["refusal"].append((*row, fields["hash"], fields["size"]))

    def on_close(self, fields: dict[str, Any], hashed: bytes) -> None:
        count = self.open_task("R13", fields["task_id"])
        if self.due is None:
            need(fields == count.close(4), "R13", "a CLOSE that is neither due nor an abort")
        number, reason = len(self.tasks), fields["reason"]
        totals = [fields[name] for name in ("counted", "uncounted", "absent", "uninvited")]
        self.rows["closing"].append((number, self.size, CLOSINGS[reason], *totals))
        if reason != 4:
            for sample, (cls, a, b, how, at) in enumerate(count.outcomes()):
                shown = None if cls == 0xFFFF else cls
                self.rows["decision"].append((number, sample, shown, a, b, HOWS[how], at))
        count.closed, self.last_close = True, hashed

    def on_evidence(self, fields: dict[str, Any], _: bytes) -> None:
        first, second = fields["headers"]
        for name in ("ledger_id", "task_id", "voter"):
            need(first[name] == second[name], "R14", f"another {name}")
        need(first["ledger_id"] == self.id, "R14", "another ledger")
        need(first["task_id"] in self.task_ids, "R14", "no task of this ledger")
        need(first["voter"] in [key for key, _, _ in self.members], "R14", "not enrolled")
        need(first["id"] != second["id"], "R14", "the same ballot")
        accused = first["task_id"], first["voter"]
        need(accused not in self.accused, "R14", "accused before")
        self.accused.add(accused)
        self.rows["evidence"].append((self.size, *accused))

    def on_server_key(self, fields: dict[str, Any], _: bytes) -> None:
        key = fields["key"]
        need(enrollable(key), "R15", "the new key")
        used = [old for _, old in self.server_keys]
        need(key not in used and key != self.roster_key(), "R15", "a key that was used before")
        self.server_keys.append((self.size + 1, key))
        self.rows["server_key"].append((self.size, key))


# -- verification (section 5) -----------------------------------------------------------------


class Verdicts:
    """What each step found."""

    def __init__(self) -> None:
        self.steps: dict[str, str] = dict.fromkeys(STEPS, "not checked")
        self.details: dict[str, str] = {}
        self.rule: str | None = None
        self.notes: list[str] = []
        self.unread = False  # something that was brought could not be judged

    def bad(self, step: str, detail: str) -> None:
        if self.steps[step] != "bad":
            self.steps[step], self.details[step] = "bad", detail

    def ok(self, *steps: str) -> None:
        for step in steps:
            if self.steps[step] == "not checked":
                self.steps[step] = "ok"

    @property
    def exit_code(self) -> int:
        if "bad" in self.steps.values():
            return 1
        rest = [verdict for step, verdict in self.steps.items() if step not in BY_HAND]
        return 2 if self.unread or "not checked" in rest else 0


def schema_of(db: sqlite3.Connection) -> str:
    lines = []
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2"):
        for space in "\t\r\n":
            sql = str(sql).replace(space, " ")
        head, between, query = " ".join(part for part in str(sql).split(" ") if part), "", ""
        if kind == "view":
            head, between, query = head.partition(" AS ")
        for quote in '[]"`':
            head = head.replace(quote, "")
        names = [name, *(row[1] for row in db.execute(f'PRAGMA table_info("{name}")'))]
        if any(re.fullmatch("[a-z0-9_]+", part) is None for part in names):
            raise BadError("V1", f"odd names among {names}")
        lines.append(f"{kind} {name} {head}{between}{query}")
    return sha256(" ".join(lines).encode()).hexdigest()


def check_file(db: sqlite3.Connection, path: Path) -> None:
    """V1; leaves a read transaction open, so that no writer changes the file meanwhile."""
    db.execute("BEGIN")
    if db.execute("PRAGMA application_id").fetchone()[0] != 0x52544346:
        raise BadError("V1", "another application_id")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > 1:
        raise UnsupportedError(f"user_version {version}")
    if version < 1:
        raise BadError("V1", f"user_version {version}")
    pages = [db.execute(f"PRAGMA page_{name}").fetchone()[0] for name in ("count", "size")]
    if path.stat().st_size != prod(pages):
        raise BadError("V1", f"{prod(pages)} bytes of pages in another number of bytes")
    if schema_of(db) != SCHEMA:
        raise BadError("V1", "other tables or views")
    if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
        raise BadError("V1", "a damaged page, a hidden row or a value of another type")
    tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (table,) in tables:
        columns = db.execute(f'PRAGMA table_info("{table}")').fetchall()
        kinds = [(KINDS[column[2]], (table, column[1])) for column in columns]
        for row in db.execute(f'SELECT * FROM "{table}"'):
            for value, (kind, place) in zip(row, kinds, strict=True):
                absent = value is None and place == ("decision", "class")
                if not absent and type(value) is not kind:
                    raise BadError("V1", f"{place}: {value!r}")


def samples_of(data: bytes) -> tuple[bytes, int]:
    """Hash and number of the samples in a stored set (section 2.3)."""
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(data, 2**31)
    except zlib.error as error:
        raise BadError("V10", str(error)) from None
    if not unpacker.eof or unpacker.unused_data:
        raise BadError("V10", "not one zlib stream")
    try:
        return digest(tag("data1"), raw), number_of(Bytes(raw))
    except (BadError, ValueError) as error:
        raise BadError("V10", f"not a sample set: {error}") from None


def number_of(data: Bytes) -> int:
    """Number of samples in an unpacked set."""
    ids = [data.take(data.num(2)).decode() for _ in range(data.num(4))]
    kind = data.text()
    if not kind:
        number = len(ids)
    else:
        known = [f"<{k}{n}" for k in "ui" for n in (2, 4, 8)] + ["<f2", "<f4", "<f8"]
        if kind not in ["|b1", "|u1", "|i1", *known]:
            raise ValueError(f"the type {kind!r}")
        shape = [data.num(4) for _ in range(data.num(1))]
        if not 1 <= len(shape) <= 64 or len(ids) not in (0, shape[0]):
            raise ValueError(f"the shape {shape} with {len(ids)} ids")
        if prod(length for length in shape if length) * int(kind[2:]) >= 2**63:
            raise ValueError(f"the shape {shape}")
        data.take(prod(shape) * int(kind[2:]))
        number = shape[0]
    data.end()
    if number < 1:
        raise ValueError("no sample")
    return number


class Verification:
    """One run over an open file."""

    def __init__(self, db: sqlite3.Connection, found: Verdicts) -> None:
        self.db, self.found, self.log = db, found, Log()
        self.complete = True  # every entry was read
        self.judged = 0  # entries before the first that is unsupported or bad
        self.supported = True

    def run(self, path: Path, held: str | None, ledger_id: str | None, receipts: list[str]) -> None:
        check_file(self.db, path)
        self.found.ok("V1")
        self.entries(ledger_id)
        checked = [self.receipt(text) for text in receipts]
        if receipts and all(checked):
            self.found.ok("V13")
        if not self.log.genesis:
            if held is not None and self.log.size:
                self.read_held(held)
            return
        self.checkpoints()
        whole = self.complete and self.supported
        self.derived(whole)
        self.samples(whole)
        if whole:
            self.cosignatures()
            self.found.ok(*STEPS[:10], "V12")
        if held is not None:
            self.held(held)

    def entries(self, ledger_id: str | None) -> None:
        rows = self.db.execute("SELECT idx, leaf FROM entry ORDER BY idx").fetchall()
        if not rows:
            self.found.bad("V2", "no entry")
            self.complete = False
        for place, (index, leaf) in enumerate(rows):
            if index != place:
                self.found.bad("V2", f"entry {index} at place {place}")
                self.complete = False
                return
            if not self.supported:
                self.log.tree.append(leaf_hash(leaf))
                continue
            try:
                name, fields = self.log.add(leaf)
            except UnsupportedError as error:
                self.found.notes.append(f"unsupported: {error}")
                self.supported = False
                self.log.first = self.log.first or leaf_hash(leaf)
                self.log.tree.append(leaf_hash(leaf))
                continue
            except BadError as error:
                self.found.bad(error.step, f"entry {index}: {error.detail}")
                self.found.rule = error.rule
                self.complete = False
                return
            self.judged += 1
            self.signatures(name, fields, ledger_id)

    def signatures(self, name: str, fields: dict[str, Any], ledger_id: str | None) -> None:
        """V3, V5, V6."""
        log, found = self.log, self.found
        if name == "genesis":
            if ledger_id not in (None, log.id.hex()):
                found.bad("V3", f"the ledger is {log.id.hex()}")
            found.ok("V3")
            words = {0: "open enrolment: the server chose the voters", 2: "replayed votes"}
            found.notes += [words[i] for i in (0, 2) if fields["enrolment"] == i]
        if name == "ballot" and not signed(fields["voter"], fields["signature"], fields["header"]):
            found.bad("V5", f"entry {log.size - 1}: the voter's signature fails")
        for head in fields["headers"] if name == "evidence" else ():
            if not signed(head["voter"], head["signature"], head["header"]):
                found.bad("V5", f"entry {log.size - 1}: a signature in EVIDENCE fails")
        if name == "evidence":
            found.notes.append(f"evidence in entry {log.size - 1}: two ballots of one voter")
        if name == "server_key":
            message, old = tag("srvky") + log.id + fields["key"], log.server_keys[-2][1]
            good = signed(old, fields["old"], message)
            if not (good and signed(fields["key"], fields["new"], message)):
                found.bad("V6", f"entry {log.size - 1}: the hand-over's signature fails")
        if name == "roster":
            message = tag("rostr") + log.id + fields["body"]
            if not signed(log.roster_key(), fields["signature"], message):
                found.bad("V6", f"entry {log.size - 1}: the roster's signature fails")

    def checkpoints(self) -> None:
        """V7 and V8."""
        log, found = self.log, self.found
        rows = self.db.execute("SELECT size, note FROM checkpoint ORDER BY size").fetchall()
        known = True
        for size, note in rows:
            if size > log.size and not self.complete:
                break
            if not 0 <= size <= log.size:
                found.bad("V7", f"checkpoint {size} of {log.size} entries")
                break
            try:
                stated = read_note(note, log.server_key(size), stored=True)
            except OtherKeyError as error:
                if size <= self.judged:
                    found.bad("V7", f"checkpoint {size}: {error}")
                    break
                known, stated = False, read_body(note)
            except ValueError as error:
                found.bad("V7", f"checkpoint {size}: {error}")
                break
            name = f"rtc-flower/ledger/{log.id.hex()}"
            if stated[1] != size or stated != (name, size, log.tree.roots[size]):
                found.bad("V7", f"checkpoint {size} states another log")
                break
        if self.complete:
            if known:
                found.ok("V7")
            if not rows or rows[-1][0] != log.size:
                found.bad("V8", f"no checkpoint of {log.size} entries at the end")
        if self.complete and self.supported and log.due is not None:
            found.bad("V8", "a CLOSE is missing at the end")

    def derived(self, whole: bool) -> None:
        """V9; of a log that was not replayed to its end, the first rows only."""
        for table, key in KEYS.items():
            rows = self.log.rows[table]
            if table == "block" and self.no_blocks():
                if not whole:
                    continue
                rows = [NO_BLOCKS]
                self.found.notes.append("block rows are not kept in this file")
            stored = self.db.execute(f'SELECT * FROM "{table}" ORDER BY {key}').fetchall()
            if (stored if whole else stored[: len(rows)]) != rows:
                self.found.bad("V9", f"table {table}")

    def no_blocks(self) -> bool:
        row = self.db.execute("SELECT * FROM block WHERE id = 0").fetchone()
        return bool(row == NO_BLOCKS)

    def samples(self, whole: bool) -> None:
        """V10."""
        stored = dict(self.db.execute("SELECT task, data FROM samples"))
        if whole and len(stored) != len(self.log.tasks):
            self.found.bad("V10", "not one sample set for every task")
        for number, task in enumerate(self.log.tasks, 1):
            try:
                wanted = task["samples"], task["n"]
                good = number in stored and samples_of(stored[number]) == wanted
            except BadError as error:
                self.found.bad("V10", f"task {number}: {error.detail}")
                continue
            if not good:
                self.found.bad("V10", f"task {number}: no sample set, or another")

    def cosignatures(self) -> None:
        """V12."""
        log = self.log
        for size, key, line in self.db.execute("SELECT size, key, line FROM cosignature"):
            good = key in [member[0] for member in log.members]
            if good and size is not None and 1 <= size <= log.size:
                root = base64.b64encode(log.tree.roots[size]).decode()
                body = f"rtc-flower/ledger/{log.id.hex()}\n{size}\n{root}\n"
                good = cosigned(line, key, body)
            else:
                good = False
            if not good:
                self.found.bad("V12", f"a cosignature of {size} entries")

    def receipt(self, text: str) -> bool:
        """V13; whether it could be checked."""
        try:
            receipt = read_receipt(text)
            leaf = receipt_leaf(receipt)
        except (ValueError, TypeError, RecursionError, BadError) as error:
            self.found.bad("V13", f"a receipt that does not hold: {error}")
            return True
        except UnsupportedError as error:
            self.found.notes.append(f"unsupported: {error}")
            self.found.unread = True
            return False
        index = min(receipt["index"], 2**63 - 1)
        for place, wanted in ((0, receipt["genesis"]), (index, leaf)):
            row = self.db.execute("SELECT leaf FROM entry WHERE idx = ?", (place,)).fetchone()
            if row != (wanted,):
                self.found.bad("V13", f"entry {place} is not that of the receipt")
        return True

    def read_held(self, note: str) -> tuple[str, int, bytes] | None:
        """V11, what needs no signature: the lines and the ledger."""
        try:
            stated = read_body(note)
        except ValueError as error:
            self.found.bad("V11", str(error))
            return None
        if stated[0] != f"rtc-flower/ledger/{(self.log.id or self.log.first).hex()}":
            self.found.bad("V11", f"another ledger: {stated[0]}")
            return None
        return stated

    def held(self, note: str) -> None:
        """V11."""
        log, found, stated = self.log, self.found, self.read_held(note)
        if stated is None:
            return
        _, size, root = stated
        if size > log.size:
            if self.complete:
                found.bad("V11", f"{size} entries, the file has {log.size}")
            return
        if root != log.tree.roots[size]:
            found.bad("V11", f"another history at size {size}")
        try:
            read_note(note, log.server_key(size), stored=False)
        except OtherKeyError as error:
            if size <= self.judged:
                found.bad("V11", str(error))
            return
        except ValueError as error:
            found.bad("V11", str(error))
        found.ok("V11")


def verify(
    path: Path,
    *,
    held: str | None = None,
    ledger_id: str | None = None,
    receipts: list[str] | None = None,
) -> Verdicts:
    """Every step on the file at ``path``; never raises for bad data."""
    found = Verdicts()
    if not path.is_file():
        found.bad("V1", f"{path}: no such file")
        return found
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    try:
        Verification(db, found).run(path, held, ledger_id, receipts or [])
    except UnsupportedError as error:
        found.notes.append(f"unsupported: {error}")
    except BadError as error:
        found.bad(error.step, error.detail)
    except (sqlite3.Error, TypeError, AttributeError) as error:
        name = getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_")
        if name.startswith(OUTSIDE):
            found.notes.append(f"cannot be read as it is: {error}")
        else:
            found.bad("V1", f"cannot be read: {error}")
    finally:
        db.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify a ledger by docs/spec.md.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--held", type=Path, help="file with a checkpoint from elsewhere")
    parser.add_argument("--receipt", type=Path, action="append", default=[], help="a receipt")
    parser.add_argument("--ledger-id", help="ledger id that is expected, hexadecimal")
    options = parser.parse_args()
    # What is no UTF-8 becomes surrogates, which no reader takes.
    paths = [options.held] if options.held else []
    texts = [p.read_bytes().decode("utf-8", "surrogateescape") for p in paths + options.receipt]
    held, receipts = texts[0] if paths else None, texts[len(paths) :]
    found = verify(options.file, held=held, ledger_id=options.ledger_id, receipts=receipts)
    for step, verdict in found.steps.items():
        print(f"{step:4} {verdict:12} {found.details.get(step, '')}".rstrip())
    for note in found.notes:
        print(f"note: {note}")
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())
