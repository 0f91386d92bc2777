"""Test vectors of docs/spec.md that break one rule or step each.

A failing vector is written by a package from which the check it is for was removed, so that its
rows are those of a server that breaks this one rule and keeps all others.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from checks import load
from vector_drafts import AB, ABC, ABCD, NOW, ZEROS, Draft, Vector, sample_set, seed, started

END = "encoding.Reader.end#0"
CANONICAL = "entries.decode_leaf#0"


def failing() -> Iterable[Vector]:
    yield from bad_bytes()
    yield from bad_ballot_bytes()
    yield from bad_genesis()
    yield from bad_roster()
    yield from bad_task()
    yield from bad_entries()
    yield from bad_ballots()
    yield from bad_close()
    yield from bad_signatures()
    yield from bad_notes()
    yield from bad_held()
    yield from bad_rotated()
    yield from bad_file()
    yield from bad_rows()
    yield from bad_samples()
    yield from bad_keys()
    yield from bad_receipts()
    yield from bad_blocks()


def bad_receipts() -> Iterable[Vector]:
    d = started(post=False)
    d.rotate("second server")
    d.post(AB)
    d.vote("ann", [0, 1])
    at = d.replay.size - 1
    early = d.vector("V13-rolled-back", "the ledger was rolled back behind the receipt", "V13")
    yield replace(early, receipt=_longer(d).receipt(at + 1, since=[2]))
    d = _longer(d)
    other = continued(d, size=at)
    other.server = d.server
    other.vote("ann", [1, 1])
    proof = json.loads(d.receipt(at))["proof"]
    ballot = bytearray.fromhex(d.tables["entry"][at][1])[25:]
    ballot[220] ^= 1
    stated = d.p.checkpoint.Checkpoint(ZEROS, d.replay.size, d.replay.roots[-1])
    fields: dict[str, dict[str, Any]] = {
        "short-proof": {"proof": proof[:-1]},
        "long-proof": {"proof": [*proof, ZEROS.hex()]},
        "proof": {"proof": [ZEROS.hex(), *proof[1:]]},
        "index": {"index": at + 1},
        "beyond": {"index": 2**64 - 1},
        "time": {"time_ms": 0},
        "rotation": {"rotations": ""},
        "no-rotation": {"rotations": json.loads(d.receipt(at, since=[3]))["rotations"]},
        "ballot": {"ballot": ballot.hex()},
        "genesis": {"genesis": json.loads(d.receipt(1))["ballot"]},
        "checkpoint": {"checkpoint": d.signed_note(key=d.key("ann"), size=d.replay.size)},
        "checkpoint-ledger": {"checkpoint": stated.sign(d.server)},
    }
    receipts = {name: d.receipt(at, since=[2], **change) for name, change in fields.items()}
    receipts["another-history"] = other.receipt(at, since=[2])
    elsewhere = started(voters=ABC)
    elsewhere.vote("ann", [0, 1])
    receipts["another-ledger"] = elsewhere.receipt(elsewhere.replay.size - 1)
    good = d.receipt(at, since=[2])
    blank = json.loads(good)["ballot"]
    newer = bytearray.fromhex(d.tables["entry"][0][1])
    newer[25:27] = b"\0\2"
    receipts |= {
        "hex-space": d.receipt(at, since=[2], ballot=f"{blank[:4]} {blank[4:]}"),
        "twice": f'{{"index": 7, {good[1:]}',
        "twice-newer": f'{{"index": 7, {good[1:]}'.replace("receipt 1", "receipt 2"),
        "nan-newer": '{"format": "rtc-flower receipt 2", "more": NaN}',
        "cut-newer": d.receipt(at, rotations=f"{len(newer):08x}{newer.hex()}00"),
        "field": good.replace('"ballot"', '"vote"'),
        "line-end": good.replace("\\n", "\\r\\n"),
        "surrogate": d.receipt(
            at, since=[2], checkpoint=json.loads(good)["checkpoint"] + "— \ud800\n"
        ),
    }
    for name, text in receipts.items():
        about = "a receipt that does not hold here: " + name
        yield Vector(f"V13-{name}", about, 1, "V13", base="receipt", receipt=text)


def _longer(d: Draft) -> Draft:
    """``d`` with another ballot, and the CLOSE that it makes due."""
    longer = continued(d)
    longer.server = d.server
    longer.vote("bob", [0, 1])
    return longer


def bad_blocks() -> Iterable[Vector]:
    changes = {
        "class": "UPDATE block SET class = -2 WHERE id = 0",
        "hash": "UPDATE block SET hash = x'00' WHERE id = 0",
        "id": "UPDATE block SET id = -1 WHERE id = 0",
        "before": "INSERT INTO block VALUES (-1, -1, x'')",
        "and-blocks": "INSERT INTO block VALUES (1, 0, zeroblob(32))",
        "unsaid": "DELETE FROM block",
    }
    for name, change in changes.items():
        about = "block rows are left out, but not as it must be said"
        yield Vector(f"V9-no-blocks-{name}", about, 1, "V9", base="no-blocks", sql=[change])


def bad_keys() -> Iterable[Vector]:
    check = "consensus.Replay._evidence~"
    changes: dict[str, dict[str, Any]] = {
        "voter": {},
        "task": {"task_id": ZEROS},
        "ledger": {"ledger_id": ZEROS},
    }
    for name, head in changes.items():
        d = started(f"{check}two headers")
        b = d.ballot("bob" if name == "voter" else "ann", [1, 1], **head)
        d.evidence("ann", second=b.header, second_signature=b.signature)
        yield d.vector(f"R14-{name}", f"EVIDENCE of another {name}", "V4", "R14")
    elsewhere: dict[str, dict[str, Any]] = {
        "no-task": {"task_id": ZEROS},
        "no-ledger": {"ledger_id": ZEROS},
    }
    for name, head in elsewhere.items():
        d = started(f"{check}task of this ledger")
        a, b = d.ballot("ann", [0, 1], **head), d.ballot("ann", [1, 1], **head)
        d.evidence("ann", first=a.header, first_signature=a.signature, second=b.header,
                   second_signature=b.signature)  # fmt: skip
        yield d.vector(f"R14-{name}", "EVIDENCE from elsewhere", "V4", "R14")
    d = started(f"{check}enrolled voter")
    d.evidence("eve")
    yield d.vector("R14-stranger", "EVIDENCE of two headers by a stranger", "V4", "R14")
    d = started(f"{check}two different")
    a = d.ballot("ann", [0, 1])
    d.evidence("ann", first=a.header, first_signature=a.signature, second=a.header,
               second_signature=a.signature)  # fmt: skip
    yield d.vector("R14-same", "EVIDENCE of one ballot", "V4", "R14")
    d = started(f"{check}one EVIDENCE")
    d.evidence("ann")
    d.evidence("ann")
    yield d.vector("R14-twice", "EVIDENCE twice", "V4", "R14")
    d = started()
    d.evidence("ann", second_signature=bytes(64))
    yield d.vector("V5-evidence", "EVIDENCE with a signature that fails", "V5")
    d = started()
    d.evidence("ann", first_signature=bytes(64))
    yield d.vector("V5-evidence-first", "EVIDENCE with a signature that fails", "V5")
    used = "consensus.Replay._server_key#1"
    d = Draft(used)
    d.rotate("server")
    yield d.vector("R15-same", "the server key again", "V4", "R15")
    d = Draft(used)
    d.rotate("second server")
    d.rotate("server")
    yield d.vector("R15-again", "an older server key again", "V4", "R15")
    admin = Draft().key("admin")
    d = Draft(used, enrolment=load().entries.Enrolment.ROSTER, admin_key=admin.public)
    d.rotate("admin")
    yield d.vector("R15-admin", "the admin key as the server's", "V4", "R15")
    d = Draft()
    weak = d.p.entries.ServerKey((1).to_bytes(32, "little"), bytes(64), bytes(64))
    d.raw(d.p.entries.encode_leaf(weak, NOW))
    yield d.vector("R15-weak", "a weak server key", "V4", "R15")
    d = Draft()
    d.rotate("second server", old=d.key("ann"))
    yield d.vector("V6-old-key", "a hand-over that the old key did not sign", "V6")
    d = Draft()
    entry = d.p.signatures.hand_over(d.server, d.key("second"), ledger_id=d.replay.ledger_id)
    d.add(replace(entry, new_signature=bytes(64)))
    d.server = d.key("second")
    yield d.vector("V6-new-key", "a hand-over that the new key did not sign", "V6")
    d = Draft()
    d.rotate("second server")
    d.enrol("ann", signer=d.key("server"))
    yield d.vector("V6-rotated", "a roster signed by the key before", "V6")
    d = Draft()
    d.rotate("second server")
    d.note(key=d.key("server"))
    yield d.vector("V7-rotated", "a checkpoint signed by the key before", "V7")
    d = Draft()
    d.rotate("second server")
    d.note(key=d.server, size=1)
    yield d.vector("V7-rotated-early", "an old checkpoint signed by the key after", "V7")
    yield from bad_cosignatures()


def bad_cosignatures() -> Iterable[Vector]:
    first, no_line = "a cosignature: ", "no line"
    cases: dict[str, dict[str, Any]] = {
        "root": {"root": ZEROS},
        "line": {"line": no_line},
        "base64": {"line": None},
        "another-key": {"key": None},
        "size": {"size": 1},
    }
    for name, fields in cases.items():
        d = started(post=False)
        if name == "another-key":
            fields = {"key": d.key("bob").public.hex()}
        if name == "base64":
            fields = {"line": f"— rtc-flower/node/{d.key('ann').public.hex()} !"}
        d.cosign("ann", 2, **fields)
        yield d.vector(f"V12-{name}", first + name, "V12")
    d = started(post=False)
    d.cosign("eve", 2)
    yield d.vector("V12-stranger", "a cosignature by somebody who is not enrolled", "V12")
    d = started(post=False)
    d.replay.roots.append(ZEROS)
    d.cosign("ann", 3)
    yield d.vector("V12-future", "a cosignature of more entries than there are", "V12")
    d = started(post=False)
    d.cosign("ann", 2)
    row = d.tables["cosignature"][0]
    head, _, blob = row[2].rpartition(" ")
    raw = base64.b64decode(blob)
    row[2] = f"{head} {base64.b64encode(b'kkkk' + raw[4:]).decode()}"
    yield d.vector("V12-key-id", "a cosignature with another key id", "V12")
    row[2] = f"{head.replace('node', 'nodx')} {blob}"
    yield d.vector("V12-name", "a cosignature under another name", "V12")
    row[2] = f"{head} {blob[:-3]}{chr(ord(blob[-3]) + 1)}=="
    yield d.vector("V12-stray-bits", "a cosignature with stray bits in its base64", "V12")


def bad_bytes() -> Iterable[Vector]:
    def one(
        name: str, change: Callable[[bytes], bytes], *without: str, task: bool = False
    ) -> Vector:
        d = started(*without, post=False)
        if task:
            d.leaf(change(d.p.entries.encode_leaf(d.task(AB), NOW)))
        else:
            d.post(AB, invite=0)
            d.leaf(change(d.p.entries.encode_leaf(d.p.entries.Invite(d.tally.task_id, 1), NOW)))
        return d.vector(f"R0-{name}", f"an entry with {name}", "V2", "R0")

    yield one("another-tag", lambda b: b"X" + b[1:], "encoding.Reader.expect#0", CANONICAL)
    yield one(
        "bytes-missing", lambda b: b[:-4] + b"\0\0\1", "encoding.Reader.take#0", END, CANONICAL
    )
    yield one("bytes-left-over", lambda b: b + b"\x00", END, CANONICAL)
    pad = lambda b: b.replace(b"\x00\x00\x00\x02\xc0", b"\x00\x00\x00\x02\xc1")  # noqa: E731
    yield one("padding-bits", pad, "encoding.unpack_bits#1", task=True)
    d = started(post=False)
    d.raw(d.p.entries.encode_leaf(d.task(AB), NOW).replace(b"default", b"defaul\xff"))
    yield d.vector("R0-utf8", "a text that is not UTF-8", "V2", "R0")
    d = started()
    d.raw(d.p.entries.encode_leaf(d.tally.close(1), NOW)[:-97] + b"\x09" + bytes(96))
    yield d.vector("R0-reason-close", "CLOSE with a reason that is none", "V2", "R0")
    for name, number in (("Absent", 4), ("Refused", 11)):
        d = started()
        fields = [d.tally.task_id, d.key("ann").public, number]
        entry = getattr(d.p.entries, name)(*fields, *([ZEROS, 1] if number == 11 else []))
        d.raw(d.p.entries.encode_leaf(entry, NOW))
        yield d.vector(f"R0-reason-{name.lower()}", f"{name} with a bad reason", "V2", "R0")
    d = Draft()
    leaf = bytearray.fromhex(d.tables["entry"][0][1])
    leaf[25 + 66] = 3
    d.tables["entry"][0][1] = leaf.hex()
    yield d.vector("R0-enrolment", "GENESIS with an enrolment that is none", "V2", "R0")
    d = started(post=False)
    leaf = bytearray.fromhex(d.tables["entry"][1][1])
    leaf[25 + 8 + 32] = 3
    d.tables["entry"][1][1] = leaf.hex()
    yield d.vector("R0-member-state", "a member with a state that is none", "V2", "R0")
    d = Draft("encoding.pack_text#0")
    d.enrol("n" * 65)
    yield d.vector("R0-member-name", "a member's name of 65 bytes", "V2", "R0")


def bad_ballot_bytes() -> Iterable[Vector]:
    meta = b"\x04test" + ZEROS
    read = "ballot.Ballot.read#"
    cases: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("meta-long", (f"{read}0",), {"meta": b"\xc9" + b"t" * 201 + ZEROS}),
        ("meta-left-over", (END,), {"meta": meta + b"\x00"}),
        ("meta-short", ("encoding.Reader.take#0", END), {"meta": meta[:-1]}),
        ("meta-hash", (f"{read}1",), {"meta_hash": ZEROS}),
        ("votes-hash", (f"{read}2",), {"votes_hash": ZEROS}),
    ]
    for name, without, fields in cases:
        d = started(*without)
        d.vote("ann", [0, 1], **fields)
        yield d.vector(f"R0-{name}", "a ballot whose bytes are wrong", "V2", "R0")
    d = started("encoding.Reader.expect#0", CANONICAL)
    leaf = bytearray(d.p.entries.encode_leaf(d.ballot("ann", [0, 1]), NOW))
    leaf[25] = 0
    d.leaf(bytes(leaf))
    yield d.vector("R0-header-tag", "a header with another tag", "V2", "R0")
    d = started()
    d.raw(d.p.entries.encode_leaf(d.ballot("ann", [0, 1], meta=b"\x01\xff" + ZEROS), NOW))
    yield d.vector("R0-meta-utf8", "a description that is not UTF-8", "V2", "R0")


def bad_genesis() -> Iterable[Vector]:
    check = "consensus.Replay._genesis~an admin key"
    kinds = load().entries.Enrolment
    server, admin = Draft().server.public, Draft().key("admin").public
    cases = {
        "open-admin": {"admin_key": admin},
        "roster-no-admin": {"enrolment": kinds.ROSTER},
        "roster-server": {"enrolment": kinds.ROSTER, "admin_key": server},
        "replay-admin": {"enrolment": kinds.REPLAY, "admin_key": admin},
    }
    for name, fields in cases.items():
        about = "an admin key under open or replay, or none of its own under roster"
        yield Draft(check, **fields).vector(f"R1-{name}", about, "V4", "R1")
    weak = (1).to_bytes(32, "little")
    d = Draft("consensus.Replay._genesis#0", server_key=weak)
    d.server = Weak()
    d.roster([])
    yield d.vector("R1-weak-server", "a server key for which anyone can sign", "V4", "R1")
    d = Draft("consensus.Replay._genesis#0", enrolment=kinds.ROSTER, admin_key=weak)
    d.enrol(signer=Weak())
    yield d.vector("R1-weak-admin", "an admin key for which anyone can sign", "V4", "R1")
    d = Draft("consensus.Replay.apply#0")
    d.add(d.p.entries.Genesis(seed("again"), d.server.public))
    yield d.vector("R1-second", "a second GENESIS", "V4", "R1")
    d = Draft()
    roster = d.p.roster.Roster(1, ()).sign(d.server, ledger_id=ZEROS)
    leaf = d.p.entries.encode_leaf(roster, NOW).hex()
    about = "a log that begins with ROSTER"
    yield Vector("R1-first", about, 1, "V4", "R1", {"entry": [[0, leaf]]})


class Weak:
    """The point of order 1 as a key: one signature is good for every message."""

    public = (1).to_bytes(32, "little")

    def sign(self, message: bytes) -> bytes:
        del message
        return self.public + ZEROS


def bad_roster() -> Iterable[Vector]:
    follows = "roster.Roster.check_follows#"
    p = load()

    def member(key: bytes, name: str) -> Any:
        return p.roster.Member(key, p.roster.MemberState.ACTIVE, name)

    revoked = p.roster.MemberState.REVOKED
    weak = {
        "key-not-canonical": ("1", (2**255 - 19 + 3).to_bytes(32, "little")),
        "key-small-order": ("2", p.keys._ORDER_8.to_bytes(32, "little")),
        "key-identity": ("23", (1).to_bytes(32, "little")),
        "key-identity-sign": ("23", (1 + 2**255).to_bytes(32, "little")),
        "key-no-point": ("3", (2).to_bytes(32, "little")),
    }
    for name, (ordinals, key) in weak.items():
        d = Draft(*(f"keys.check_public_key#{ordinal}" for ordinal in ordinals))
        d.roster([member(key, "weak")])
        yield d.vector(f"R2-{name}", "a key that may not be enrolled", "V4", "R2")

    def then(name: str, ordinal: int, change: Callable[[Draft, list[Any]], list[Any]]) -> Vector:
        d = started(f"{follows}{ordinal}", post=False)
        d.roster([replace(d.replay.roster.members[0], state=d.p.roster.MemberState.REVOKED),
                  *d.replay.roster.members[1:]])  # fmt: skip
        members = change(d, list(d.replay.roster.members))
        d.roster(
            [d.p.roster.Member(m.key, d.p.roster.MemberState(m.state), m.name) for m in members]
        )
        return d.vector(f"R2-{name}", f"a roster after which: {name}", "V4", "R2")

    yield then("renamed", 1, lambda d, m: [m[0], replace(m[1], name="x")])
    yield then("moved", 1, lambda d, m: m[::-1])
    yield then("another-key", 1, lambda d, m: [m[0], replace(m[1], key=d.key("x").public)])
    yield then("restored", 1, lambda d, m: [member(m[0].key, m[0].name), m[1]])
    yield then("dropped", 2, lambda d, m: m[:1])
    yield then("key-twice", 3, lambda d, m: [*m, member(m[1].key, "x")])
    yield then("revoked-key-again", 3, lambda d, m: [*m, member(m[0].key, "ann")])
    yield then("name-twice", 3, lambda d, m: [*m, member(d.key("x").public, "bob")])
    for version in (1, 3):
        d = started(f"{follows}0", post=False)
        if version == 1:
            same = d.p.roster.Roster(1, d.replay.roster.members)
            signed = same.sign(d.server, ledger_id=d.replay.ledger_id)
            d.raw(d.p.entries.encode_leaf(signed, NOW))
        else:
            d.roster(d.replay.roster.members, version=version)
        yield d.vector(f"R2-version-{version}", "a roster version is not the next", "V4", "R2")
    del revoked


def bad_task() -> Iterable[Vector]:
    p = "tasks.check_parameters~"
    ranges, rule, task = "rules.check_range#0", "rules.StopRule.check#", "tasks.check_task#"
    cases: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("classes-1", (ranges,), {"k": 1}),
        ("samples-0", (f"{p}close_min must",), {"n": 0, "close_min": 1}),
        ("class-names", (f"{p}class names must differ",), {"class_names": ("a", "a")}),
        ("class-name-empty", (f"{p}must not be empty",), {"class_names": ("a", "")}),
        ("close-min-0", (f"{p}close_min must",), {"close_min": 0}),
        ("close-min-large", (f"{p}close_min must",), {"close_min": 3}),
        ("electorate-empty", (f"{rule}1",), {"electorate": b"\x00"}),
        ("inv-delta-1", (ranges,), {"inv_delta": 1}),
        ("lead-0", (ranges,), {"lead": 0}),
        ("min-ballots-0", (ranges,), {"min_ballots": 0}),
        ("min-ballots-3", (f"{rule}1",), {"min_ballots": 3}),
        ("certified-arrival", (f"{rule}0",), {"rule": 2, "order": 0}),
        ("paper-arrival", (f"{rule}0",), {"rule": 3, "order": 0}),
        ("last-close", (f"{task}3",), {"last_close": ZEROS}),
        ("roster-version", (f"{task}1",), {"roster_version": 2}),
    ]
    for name, without, fields in cases:
        d = started(*without, post=False)
        d.post(AB, invite=0, **fields)
        yield d.vector(f"R4-{name}", f"a TASK with {name}", "V4", "R4")
    for name, fields in (("order-2", {"order": 2}), ("classes-1001", {"k": 1001})):
        d = started(post=False)
        d.raw(d.p.entries.encode_leaf(d.task(AB, **fields), NOW))
        yield d.vector(f"R4-{name}", f"a TASK with {name}", "V4", "R4")
    d = started("tasks.check_parameters#2", post=False)
    d.post(AB, invite=0, k=1000, n=268_436)
    yield d.vector("R4-large", "more than 2^28 samples times classes", "V4", "R4")
    d = started(f"{task}1", post=False, voters=ABC)
    d.post(AB, invite=0, roster_size=2)
    yield d.vector("R4-roster-size", "a TASK for fewer members than there are", "V4", "R4")
    d = started(f"{task}2", post=False)
    d.revoke("ann")
    d.post(AB, invite=0)
    yield d.vector("R4-revoked", "a revoked member in the electorate", "V4", "R4")
    d = started()
    d.abort()
    d = continued(d, f"{task}3")
    d.post(AB, last_close=d.replay.ledger_id)
    yield d.vector("R4-abort-last", "a TASK that skips an aborted one", "V4", "R4")
    d = started("consensus.Replay._task#0")
    d.post(AB)
    yield d.vector("R3", "a TASK while another is open", "V4", "R3")


def bad_samples() -> Iterable[Vector]:
    number = b"\x00\x00\x00\x02"
    features = number + b"\x00\x01a\x00\x01b\x03"
    cases = {
        "count": number[:3] + b"\x03" + b"\x00\x01a\x00\x01b\x00\x01c" + b"\x00",
        "inside": b"no sample set",
        "left-over": number + b"\x00\x01a\x00\x01b" + b"\x00" + b"\x00",
        "id-utf8": number + b"\x00\x01a\x00\x01\xff" + b"\x00",
        "type": features + b">u2\x01" + number + b"abcd",
        "no-type": features + b"!!!\x01" + number + b"ab",
        "ids": number[:3] + b"\x01" + b"\x00\x01a" + b"\x03|u1\x01" + number + b"ab",
        "features": number + b"\x00\x01a\x00\x01b" + b"\x03|u1\x01" + number + b"a",
        "no-dimension": features + b"|u1\x00" + b"a",
        "bound": features + b"<f8\x04" + number + bytes(4) + b"\xff" * 8,
    }
    for name, unpacked in cases.items():
        data = zlib.compress(unpacked, 9)
        d = started(post=False)
        d.post(AB, samples_hash=sha256(d.p.encoding.TAG_SAMPLES + unpacked).digest())
        d.tables["samples"] = [[1, data.hex()]]
        yield d.vector(f"V10-set-{name}", f"a sample set that is none: {name}", "V10")


def continued(old: Draft, *without: str, size: int | None = None) -> Draft:
    """The first ``size`` entries of ``old`` again, in a package without some checks."""
    new = Draft(*without)
    for _, leaf in old.tables["entry"][1:size]:
        new.leaf(bytes.fromhex(leaf), close=False)
    return new


def too_many_voters() -> Vector:
    """R4: certified with 1,001 voters; too large for a file."""
    d = Draft("rules.StopRule.check#2")
    d.enrol(*(names := [f"{i:x}" for i in range(1001)]))
    d.post(names, invite=0, rule=2, n=1)
    return d.vector("R4-certified-1001", "rule certified with 1,001 voters", "V4", "R4")


def bad_entries() -> Iterable[Vector]:
    named = "consensus.Replay._named#0"
    other = seed("another task")
    d = started(named, post=False)
    d.post(AB, invite=0)
    d.add(d.p.entries.Invite(other, 1))
    yield d.vector("R5-another-task", "INVITE names another task", "V4", "R5")
    for more in (0, 3):
        d = started("consensus.Replay._invite#0", post=False)
        d.post(AB, invite=0)
        d.invite(more)
        yield d.vector(f"R5-more-{more}", f"INVITE of {more} of two voters", "V4", "R5")
    d = started(named)
    d.absent("ann", task_id=other)
    yield d.vector("R10-another-task", "ABSENT names another task", "V4", "R10")
    d = started(named)
    d.refuse("ann", task_id=other)
    yield d.vector("R11-another-task", "REFUSED names another task", "V4", "R11")
    d = started(named, "consensus.Replay._close#0")
    d.abort(task_id=other)
    yield d.vector("R13-another-task", "CLOSE names another task", "V4", "R13")
    for rule in ("R5", "R10", "R11", "R13"):
        d = started()
        e, task_id, voter = d.p.entries, d.tally.task_id, d.key("ann").public
        d.abort()
        late = {
            "R5": e.Invite(task_id, 1),
            "R10": e.Absent(task_id, voter, e.AbsenceReason.DEADLINE),
            "R11": e.Refused(task_id, voter, e.Refusal.SIZE, ZEROS, 1),
            "R13": d.tally.close(e.CloseReason.ABORTED),
        }[rule]
        d.raw(e.encode_leaf(late, NOW))
        yield d.vector(f"{rule}-closed", "an entry after the CLOSE", "V4", rule)
    absent, refused = "consensus.Replay._absent#0", "consensus.Replay._refused~"
    d = started(absent, invite=1)
    d.absent(d.ranked(AB)[1])
    yield d.vector("R10-not-invited", "ABSENT of a voter that is not invited", "V4", "R10")
    d = started(absent, voters=ABC, invite=None)
    d.vote("ann", [0, 1])
    d.absent("ann")
    yield d.vector("R10-voted", "ABSENT of a voter with a ballot", "V4", "R10")
    d = started(absent, voters=ABC)
    d.absent("ann")
    d.absent("ann")
    yield d.vector("R10-twice", "ABSENT twice", "V4", "R10")
    d = started(f"{refused}an invited", invite=1)
    d.refuse(d.ranked(AB)[1])
    yield d.vector("R11-not-invited", "REFUSED of a voter that is not invited", "V4", "R11")
    d = started()
    values = d.tally.task_id, d.key("ann").public, d.p.entries.Refusal.SIZE, ZEROS, 2**63
    d.raw(d.p.entries.encode_leaf(d.p.entries.Refused(*values), NOW))
    yield d.vector("R11-size", "a refused size of 64 bits", "V4", "R11")
    d = started(f"{refused}at most")
    for _ in range(5):
        d.refuse("ann")
    yield d.vector("R11-five", "a fifth REFUSED", "V4", "R11")


def bad_ballots() -> Iterable[Vector]:
    context, seen = "consensus.Replay.check_ballot#0", "consensus.Replay.check_ballot#"
    tally = "tally.Tally.check_ballot#"
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("R6-another-ledger", context, {"ledger_id": ZEROS}),
        ("R6-another-task", context, {"task_id": ZEROS}),
        ("R8-n", "tally.Tally.check_ballot#2", {"n": 3}),
        ("R9-before-task", f"{seen}1", {"seen_size": 2}),
        ("R9-another-root", f"{seen}2", {"seen_root": ZEROS}),
    ]
    for name, without, fields in cases:
        d = started(without)
        if name == "R9-before-task":
            fields["seen_root"] = d.replay.roots[2]
        d.vote("ann", [0, 1], **fields)
        yield d.vector(name, "a ballot that may not stand here", "V4", name[:2])
    d = started()
    future = d.ballot("ann", [0, 1], seen_size=d.replay.size + 1)
    d.raw(d.p.entries.encode_leaf(future, NOW))
    yield d.vector("R9-future", "a ballot that has seen more than there was", "V4", "R9")
    d = started(post=False)
    votes, salt, meta = b"\x00", bytes(16), b"\x00" + ZEROS
    head = d.p.ballot.Header(
        ledger_id=d.replay.ledger_id,
        task_id=ZEROS,
        voter=d.key("ann").public,
        meta_hash=sha256(meta).digest(),
        n=1,
        votes_hash=d.p.encoding.digest(d.p.encoding.TAG_VOTES, salt, votes),
        seen_size=2,
        seen_root=d.replay.roots[2],
    )
    ballot = d.p.ballot.Ballot(head, d.key("ann").sign(head.encode()), meta, salt, votes)
    d.raw(d.p.entries.encode_leaf(ballot, NOW))
    yield d.vector("R6-no-task", "a ballot before any task", "V4", "R6")
    d = started(invite=1)
    d.raw(d.p.entries.encode_leaf(d.ballot(d.ranked(AB)[1], [0, 1]), NOW))
    yield d.vector("R6-not-invited", "a ballot of a voter that is not invited", "V4", "R6")
    d = started()
    d.raw(d.p.entries.encode_leaf(d.ballot("eve", [0, 1]), NOW))
    yield d.vector("R6-stranger", "a ballot of somebody who is not enrolled", "V4", "R6")
    for late in (False, True):
        d = started(f"{tally}1", voters=ABCD)
        for name in ("ann", "bob", "cyd") if late else ("ann",):
            d.vote(name, [0, 0])
        d.vote("ann", [0, 1])
        yield d.vector(f"R7{'-late' * late}", "a second ballot of a voter", "V4", "R7")
    d = started()
    for name, raw in (("short", b"\x00"), ("long", b"\x00\x00\x00")):
        d = started()
        d.raw(d.p.entries.encode_leaf(d.ballot("ann", [], raw=raw), NOW))
        yield d.vector(f"R8-{name}", "too few or too many votes", "V4", "R8")
    for name, k, code in (("class", 2, 2), ("class-250", 250, 250), ("class-wide", 300, 300)):
        d = started("tally.Tally.check_ballot#4", k=k)
        d.vote("ann", [0, code])
        yield d.vector(f"R8-{name}", "a class that there is not", "V4", "R8")
    d = started("tally.Tally.check_ballot#5")
    d.vote("ann", [0, 254])
    yield d.vector("R8-asked", "NOT-ASKED though it was asked", "V4", "R8")
    d = started("tally.Tally.check_ballot#5", voters=ABCD, invite=3, order=1)
    r = d.ranked(ABCD)
    for name in r[:3]:
        d.vote(name, [0, 0 if name != r[2] else 1])
    d.invite(1)
    d.vote(r[3], [0, 1], fill=False)
    yield d.vector("R8-not-asked", "a vote on a sample that was not asked", "V4", "R8")


def bad_close() -> Iterable[Vector]:
    due, close = "consensus.Replay.apply#1", "consensus.Replay._close#0"
    changes: dict[str, dict[str, Any]] = {
        "reason": {"reason": 3}, "counted": {"counted": 1}, "uncounted": {"uncounted": 1},
        "absent": {"absent": 1}, "uninvited": {"uninvited": 1},
        "outcomes": {"outcomes_hash": ZEROS},
        "tips": {"tips_hash": ZEROS},
    }  # fmt: skip
    for name, fields in changes.items():
        d = started(due)
        d.vote("ann", [0, 1])
        d.add(d.ballot("bob", [0, 1]), close=False)
        if "reason" in fields:
            fields = {"reason": d.p.entries.CloseReason(3)}
        d.add(replace(d.replay.due, **fields))
        yield d.vector(f"R12-{name}", f"a due CLOSE with another {name}", "V4", "R12")
    d = started(due)
    d.vote("ann", [0, 1])
    d.add(d.ballot("bob", [0, 1]), close=False)
    d.refuse("bob")
    yield d.vector("R12-late", "another entry where CLOSE was due", "V4", "R12")
    d = started(due)
    d.vote("ann", [0, 1])
    d.add(d.ballot("bob", [0, 1]), close=False)
    d.add(d.tally.close(d.p.entries.CloseReason.ABORTED))
    yield d.vector("R12-abort", "an abort where CLOSE was due", "V4", "R12")
    d = started()
    d.vote("ann", [0, 1])
    d.add(d.ballot("bob", [0, 1]), close=False)
    d.raw(d.p.encoding.TAG_ENTRY + bytes([11]) + bytes(8))
    yield d.vector("R12-unknown", "an unknown type where CLOSE was due", "V4", "R12")
    for name, reason in (("early", 1), ("exhausted", 3)):
        d = started(close)
        d.vote("ann", [0, 1])
        d.add(d.tally.close(d.p.entries.CloseReason(reason)))
        yield d.vector(f"R13-{name}", "a CLOSE that is not due", "V4", "R13")
    for name, fields in (("counts", {"uninvited": 1}), ("digest", {"tips_hash": seed("x")})):
        d = started(close)
        d.vote("ann", [0, 1])
        d.abort(**fields)
        yield d.vector(f"R13-abort-{name}", f"an abort with wrong {name}", "V4", "R13")


def bad_signatures() -> Iterable[Vector]:
    d = started()
    d.vote("ann", [0, 1], signer="bob")
    yield d.vector("V5", "a ballot signed by somebody else", "V5")
    d = started()
    ballot = d.ballot("ann", [0, 1])
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(ballot.signature[32:], "little") + order
    d.add(replace(ballot, signature=ballot.signature[:32] + s.to_bytes(32, "little")))
    yield d.vector("V5-malleable", "a ballot with S + L in its signature", "V5")
    d = started(voters=ABCD)
    for name in ABC:
        d.vote(name, [0, 0])
    d.vote("dan", [0, 1], signer="bob")
    yield d.vector("V5-late", "a late ballot signed by somebody else", "V5")
    d = started(post=False)
    d.add(d.replay.roster.enrol([]).sign(d.key("ann"), ledger_id=d.replay.ledger_id))
    yield d.vector("V6", "a roster that the server did not sign", "V6")
    d = started(post=False)
    d.add(d.replay.roster.enrol([]).sign(d.server, ledger_id=ZEROS))
    yield d.vector("V6-another-ledger", "a roster signed for another ledger", "V6")
    kind = load().entries.Enrolment.ROSTER
    d = Draft(enrolment=kind, admin_key=Draft().key("admin").public)
    d.enrol(*AB)
    yield d.vector("V6-server", "a roster signed by the server under roster enrolment", "V6")


def bad_notes() -> Iterable[Vector]:
    base = started()
    base.vote("ann", [0, 1])
    size, root = base.replay.size, base.replay.roots[-1]
    note = base.signed_note(size=size)

    def noted(name: str, about: str, *notes: tuple[int, str]) -> Vector:
        tables = base.tables | {"checkpoint": [list(row) for row in notes]}
        return Vector(name, about, 1, "V7", tables=tables)

    def signed(body: str, *, over: str | None = None) -> str:
        name = f"rtc-flower/ledger/{base.replay.ledger_id.hex()}"
        head = base.p.checkpoint._key_hash(name, base.server.public, b"\x01")
        blob = base64.b64encode(head + base.server.sign((over or body).encode())).decode()
        return f"{body}\n— {name} {blob}\n"

    body = note.partition("\n\n")[0] + "\n"
    lines = body.split("\n")
    yield noted("V7-key", "signed by another key",
                (size, base.signed_note(key=base.key("ann"), size=size)))  # fmt: skip
    yield noted("V7-root", "another root", (size, base.signed_note(size=size, root=ZEROS)))
    yield noted("V7-size", "of another size", (size, base.signed_note(size=size - 1)))
    yield noted("V7-size-only", "says another size of the same root",
                (size, base.signed_note(size=size + 1, root=root)))  # fmt: skip
    other = base.p.checkpoint.Checkpoint(ZEROS, size, root).sign(base.server)
    yield noted("V7-ledger", "of another ledger", (size, other))
    yield noted("V7-first", "the first of two is wrong",
                (2, base.signed_note(size=2, root=ZEROS)), (size, note))  # fmt: skip
    broken = note[:-10] + ("A" if note[-10] != "A" else "B") + note[-9:]
    yield noted("V7-signature", "a signature that fails", (size, broken))
    yield noted("V7-lines", "a fourth line", (size, signed(body + "more\n")))
    zero = f"{lines[0]}\n0{lines[1]}\n{lines[2]}\n"
    yield noted("V7-size-zero", "a size with a leading zero", (size, signed(zero, over=body)))
    yield noted("V7-size-text", "a size that is no number",
                (size, signed(f"{lines[0]}\nten\n{lines[2]}\n")))  # fmt: skip
    yield noted("V7-base64", "a root that is not base64",
                (size, signed(f"{lines[0]}\n{lines[1]}\n!{lines[2]}\n")))  # fmt: skip
    yield noted("V7-root-short", "a root of 31 bytes", (size, signed(
        f"{lines[0]}\n{lines[1]}\n{base64.b64encode(root[:31]).decode()}\n")))  # fmt: skip
    upper = signed(f"rtc-flower/ledger/{lines[0][18:].upper()}\n{lines[1]}\n{lines[2]}\n")
    yield noted("V7-origin", "an origin in upper case", (size, upper))
    yield noted("V7-no-signature", "no signature line", (size, body + "\n"))
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = last.index(note[-3])
    other_bits = note[:-3] + last[at + 1] + note[-2:]
    yield noted("V7-stray-bits", "base64 with stray bits", (size, other_bits))
    yield noted("V7-no-end", "no line end at the end", (size, note[:-1]))
    yield noted("V7-tail", "text behind the signature", (size, note + "text\n"))
    vertical = note[:-1] + "\x0b"
    yield noted("V7-line-end", "another line end", (size, vertical))
    further = note.replace(" ", "  ").replace("  ", " ", 1)
    yield noted("V7-further-space", "two spaces before the signature", (size, further))


def bad_held() -> Iterable[Vector]:
    d = started()
    d.vote("ann", [0, 1])
    size = d.replay.size
    good = d.vector("V11-base", "held checkpoints")
    yield replace(good, ledger_id="00" * 32, name="V3", about="another ledger was expected",
                  exit=1, step="V3")  # fmt: skip
    other = d.p.checkpoint.Checkpoint(ZEROS, 2, d.replay.roots[2]).sign(d.server)
    held = {
        "V11-key": d.signed_note(key=d.key("ann"), size=size),
        "V11-root": d.signed_note(size=2, root=ZEROS),
        "V11-rolled-back": d.signed_note(size=size + 1, root=ZEROS),
        "V11-ledger": other,
        "V11-size-zero": d.signed_note(size=2).replace("\n2\n", "\n02\n"),
        "V11-rubbish": "rubbish",
        "V11-empty": "",
        "V11-tail": d.signed_note(size=size) + "text\n",
        "V11-empty-line": d.signed_note(size=size) + "\n",
        "V11-line-end": d.signed_note(size=size).replace("\n", "\r\n"),
        "V11-mark": "\ufeff" + d.signed_note(size=size),
    }
    for name, note in held.items():
        yield Vector(name, "a held checkpoint: " + name[4:], 1, "V11", base="V3", held=note)
    yield from bad_behind_unknown()
    newer = {"V11-newer-ledger": d.signed_note(size=1), "V11-newer-rubbish": "rubbish"}
    for name, note in newer.items():
        about = "GENESIS of a newer version, and a held checkpoint that is not of this ledger"
        yield Vector(name, about, 1, "V11", base="newer-layout", held=note)


def unknown_rotated() -> Draft:
    """A new server key behind an unknown entry, and a checkpoint of each size."""
    d = started(post=False)
    d.every_note = True
    d.raw(d.p.encoding.TAG_ENTRY + bytes([11]) + bytes(8))
    _hand_over_unread(d)
    return d


def _hand_over_unread(d: Draft) -> None:
    new = d.key("second server")
    entry = d.p.signatures.hand_over(d.server, new, ledger_id=d.replay.ledger_id)
    d.server = new
    d.raw(d.p.entries.encode_leaf(entry, NOW))


def bad_behind_unknown() -> Iterable[Vector]:
    d = unknown_rotated()
    size = d.replay.size
    known = d.signed_note(size=size, key=d.key("server"))
    notes = {
        "root": (size, d.signed_note(size=size, root=ZEROS)),
        "beyond": (size + 1, d.signed_note(size=size + 1, root=ZEROS)),
        "signature": (size, known[:-10] + ("A" if known[-10] != "A" else "B") + known[-9:]),
    }
    for name, row in notes.items():
        about = "behind an unknown entry, a wrong checkpoint: " + name
        yield Vector(f"V11-unknown-{name}", about, 1, "V11", base="unknown-rotated", held=row[1])
        v = d.vector(f"V7-unknown-{name}", about, "V7")
        v.tables["checkpoint"][-1] = list(row)
        yield v


def bad_rotated() -> Iterable[Vector]:
    d = started(post=False)
    d.note()
    d.raw(d.p.entries.encode_leaf(d.p.entries.Invite(ZEROS, 1), NOW))
    _hand_over_unread(d)
    v = d.vector("R5-rotated", "a new server key behind a bad entry", "V4", "R5")
    yield v
    about = "behind a bad entry, a held checkpoint of a server key that cannot be known"
    held = d.signed_note(size=d.replay.size)
    yield replace(v, name="R5-rotated-held", about=about, tables={}, base=v.name, held=held)


def bad_file() -> Iterable[Vector]:
    def one(name: str, about: str, *sql: str) -> Vector:
        return Vector(name, about, 1, "V1", base="held", sql=list(sql))

    yield one("V1-application", "another application_id", "PRAGMA application_id = 1")
    yield one("V1-version", "user_version 0", "PRAGMA user_version = 0")
    yield one("V1-table", "a further table", "CREATE TABLE more (x)")
    yield one("V1-index", "a further index", "CREATE INDEX more ON block (class)")
    yield one("V1-no-view", "a missing view", "DROP VIEW progress")
    yield one("V1-view", "a view that says something else", "DROP VIEW fork",
              "CREATE VIEW fork AS SELECT 1 AS task")  # fmt: skip
    yield one("V1-view-quotes", "a view in which a column became a text", "DROP VIEW outcome",
              'CREATE VIEW outcome AS SELECT d.task, d.sample, "d.class", c.name AS class_name, '
              "d.support, d.runner_up, d.how, d.decided_at FROM decision d LEFT JOIN class c "
              "ON c.task = d.task AND c.class = d.class")  # fmt: skip
    yield one("V1-view-quotes-line", "the same with a line end behind AS", "DROP VIEW outcome",
              'CREATE VIEW outcome AS\nSELECT d.task, d.sample, "d.class", c.name AS class_name, '
              "d.support, d.runner_up, d.how, d.decided_at FROM decision d LEFT JOIN class c "
              "ON c.task = d.task AND c.class = d.class")  # fmt: skip
    columns = '"idx" INTEGER PRIMARY KEY, "task" INTEGER NOT NULL, "voter" BLOB NOT NULL'
    merged = '"idx" INTEGER PRIMARY KEY, "task" INTEGER NOT NULL, "voter BLOB NOT NULL, reason"'
    for name, about, sql in (
        ("blank", "a column whose name ends with a blank", f'{columns}, "reason " TEXT NOT NULL'),
        ("merged", "two columns inside the quotes of one", f"{merged} TEXT NOT NULL"),
        (
            "quote",
            "a quote inside a name",
            f"{columns.replace('vot', 'vo[t')}, reason TEXT NOT NULL",
        ),
    ):
        yield one(f"V1-name-{name}", about, "DROP TABLE absence",
                  f"CREATE TABLE absence ( {sql} ) STRICT")  # fmt: skip
    yield one("V1-name-view", "a view whose name ends with a blank",
              "PRAGMA writable_schema = ON",
              "UPDATE sqlite_schema SET name = 'progress ', tbl_name = 'progress ', "
              "sql = replace(replace(sql, '\"', ''), 'VIEW progress', 'VIEW \"progress \"') "
              "WHERE name = 'progress'", "PRAGMA writable_schema = RESET")  # fmt: skip
    about = "bytes behind the last page"
    yield Vector("V1-tail", about, 1, "V1", base="held", tail="00")
    yield Vector("V1-tail-page", about + ", a page of them", 1, "V1", base="held", tail="00" * 4096)
    reset = "PRAGMA writable_schema = RESET"
    yield one("V1-null", "a NULL in the log", "PRAGMA writable_schema = ON",
              "UPDATE sqlite_schema SET sql = replace(sql, 'BLOB NOT NULL', 'BLOB') "
              "WHERE name = 'entry'", reset, "UPDATE entry SET leaf = NULL WHERE idx = 1",
              "PRAGMA writable_schema = ON", "UPDATE sqlite_schema SET sql = "
              "replace(sql, 'BLOB', 'BLOB NOT NULL') WHERE name = 'entry'", reset)  # fmt: skip
    yield one("V1-text", "a text that is not UTF-8", "UPDATE class SET name = CAST(x'ff' AS TEXT)")
    unread = "INSERT INTO class VALUES (9, 9, CAST(x'ff' AS TEXT))"
    about = "a text that is not UTF-8 in a row that no other step comes to"
    yield Vector("V1-unread-text", about, 1, "V1", base="unknown-type", sql=[unread])
    yield Vector("V1-unread-text-bad", about, 1, "V1", base="R5-rotated", sql=[unread])
    loose, strict = ("replace(sql, 'BLOB NOT NULL', 'ANY')", "replace(sql, 'ANY', 'BLOB NOT NULL')")
    change = "UPDATE sqlite_schema SET sql = {} WHERE name = 'server_key'"
    typed = ["PRAGMA writable_schema = ON", change.format(loose), reset,
             "INSERT INTO server_key VALUES (9, 'text')", "PRAGMA writable_schema = ON",
             change.format(strict), reset]  # fmt: skip
    about = "a text in a column of bytes, in a row that no other step comes to"
    yield Vector("V1-unread-type", about, 1, "V1", base="unknown-type", sql=typed)
    index = "type = 'index' AND tbl_name = 'decision'"
    hidden = [
        f"CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'decision' OR {index}",
        "PRAGMA writable_schema = ON", f"DELETE FROM sqlite_schema WHERE {index}",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE decision (task INTEGER, sample INTEGER, "
        "class INTEGER, support INTEGER, runner_up INTEGER, how TEXT, decided_at INTEGER) STRICT' "
        "WHERE name = 'decision'", reset,
        "INSERT INTO decision VALUES (1, 0, 1, 3, 0, 'certain', 2)", "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_schema WHERE name = 'decision'",
        "INSERT INTO sqlite_schema SELECT * FROM kept", reset,
    ]  # fmt: skip
    yield Vector("V1-hidden-row", "a row that an index hides", 1, "V1", base="rows", sql=hidden)


def bad_rows() -> Iterable[Vector]:
    d = started(voters=ABCD)
    d.refuse("ann")
    d.absent("dan")
    for name in ABC:
        d.vote(name, [0, 1])
    v = d.vector("rows", "every table has rows")
    yield v
    without = replace(v, tables={t: rows for t, rows in v.tables.items() if t != "checkpoint"})
    note = [2, d.signed_note(size=2)]
    missing = replace(without, name="V8-checkpoint", about="no checkpoint at the end", exit=1,
                      step="V8")  # fmt: skip
    missing.tables["checkpoint"] = [note]
    yield missing
    c = started()
    c.vote("ann", [0, 1])
    c.add(c.ballot("bob", [0, 1]), close=False)
    yield c.vector("V8-close", "the CLOSE that was due is missing at the end", "V8")

    def one(name: str, step: str, *sql: str) -> Vector:
        return Vector(name, sql[0][:60], 1, step, base="rows", sql=list(sql))

    yield one(
        "V2-gap", "V2", "UPDATE entry SET idx = idx + 1 WHERE idx = (SELECT max(idx) FROM entry)"
    )
    yield one("V2-first", "V2", "UPDATE entry SET idx = -1 WHERE idx = 0")
    yield one("V2-empty", "V2", "DELETE FROM entry")
    changes = {
        "roster": "name = 'x'", "task": "kind = 'x'", "class": "name = 'x'",
        "ballot": "contract = 'x'", "counted": "decided = decided + 1",
        "absence": "reason = 'error'", "refusal": "reason = 'seen'", "closing": "absent = 0",
        "decision": "class = 1 - class", "block": "hash = zeroblob(32)",
    }  # fmt: skip
    for table, change in changes.items():
        where = f"WHERE rowid = (SELECT min(rowid) FROM {table})"
        yield one(f"V9-{table}", "V9", f"UPDATE {table} SET {change} {where}")
    yield one("V9-deleted", "V9", "DELETE FROM block WHERE id = 1")
    yield one("V9-deleted-last", "V9", "DELETE FROM decision WHERE sample = 1")
    yield one("V9-further", "V9", "INSERT INTO decision VALUES (2, 0, 1, 1, 0, 'certain', 1)")
    yield one("V9-further-block", "V9", "INSERT INTO block VALUES (0, 0, zeroblob(32))")
    yield one("V9-null", "V9", "UPDATE decision SET class = NULL")
    yield one("V10-missing", "V10", "DELETE FROM samples")
    yield one("V10-further", "V10", "INSERT INTO samples SELECT 2, data FROM samples")
    yield one("V10-number", "V10", "UPDATE samples SET task = 0")
    other = zlib.compress(b"\x00\x00\x00\x01\x00\x01a\x00").hex()
    yield one("V10-other", "V10", f"UPDATE samples SET data = x'{other}'")
    yield one("V10-rubbish", "V10", "UPDATE samples SET data = x'00'")
    yield one("V10-trailing", "V10", f"UPDATE samples SET data = x'{sample_set(2).hex()}00'")
    yield one("V10-half", "V10", f"UPDATE samples SET data = x'{sample_set(2)[:-1].hex()}'")
