"""Write the test vectors of docs/spec.md: ``python tests/make_vectors.py``.

Here are the good ledgers, and those of which nobody can say; `failing_vectors` has the bad ones.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from failing_vectors import failing, unknown_rotated
from vector_drafts import AB, ABC, ABCD, NOW, VECTORS, ZEROS, Draft, Vector, seed, started

# -- good ledgers -----------------------------------------------------------------------------


def good() -> Iterable[Vector]:
    yield Draft().vector("genesis", "GENESIS alone")
    yield from good_rosters()
    yield from good_arrival()
    yield from good_invitation()
    yield from good_votes()
    yield from good_world()
    yield from good_keys()
    yield from good_receipts()
    yield from good_without_blocks()
    yield from unread_receipts()


def unread_receipts() -> Iterable[Vector]:
    d = started()
    d.vote("ann", [0, 1])
    good = d.receipt(d.replay.size - 1)
    v = d.vector("receipt-form", "a receipt of a newer form, whatever it holds: not checked")
    newer = good.replace("receipt 1", "receipt 22").replace('"ballot"', '"vote"')
    yield replace(v, exit=2, receipt=newer)


def good_receipts() -> Iterable[Vector]:
    d = started(post=False)
    d.rotate("second server")
    d.post(AB)
    d.vote("ann", [0, 1])
    at = d.replay.size - 1
    d.vote("bob", [0, 1])
    v = d.vector("receipt", "a receipt that is held, after a change of the server's key")
    yield replace(v, receipt=d.receipt(at, since=[2]))
    genesis = bytes.fromhex(d.tables["entry"][0][1])
    newer = d.receipt(at, since=[2], genesis=(genesis[:25] + b"\x00\x02" + genesis[27:]).hex())
    about = "a receipt that names a GENESIS of a newer version: not checked"
    yield Vector("receipt-newer", about, 2, base="receipt", receipt=newer)


def good_without_blocks() -> Iterable[Vector]:
    d = started(voters=ABC)
    for name in ABC:
        d.vote(name, [0, 1])
    d.tables["block"] = [[0, -1, ""]]
    yield d.vector("no-blocks", "block rows are not kept, and a row says so")


def good_keys() -> Iterable[Vector]:
    d = started()
    d.evidence("ann")
    d.vote("ann", [0, 1])
    d.vote("bob", [0, 1])
    d.evidence("bob")
    d.post(AB)
    d.evidence("ann")
    yield d.vector("evidence", "two ballots of one voter, three times; counts as ever")
    d = Draft()
    d.every_note = True
    d.enrol("ann")
    d.rotate("second server")
    d.enrol("bob")
    d.rotate("third server")
    d.post(AB)
    early = d.signed_note(size=2, key=d.key("server"))
    d.revoke("ann")
    d.cosign("ann", 2)
    d.cosign("bob", 4)
    v = d.vector("rotated", "the server's key changes twice; cosignatures; checkpoints of each")
    yield replace(v, held=early)


def good_rosters() -> Iterable[Vector]:
    d = Draft()
    d.roster([])
    d.enrol(*AB)
    d.revoke("ann")
    member = d.member("ann again", "ann")
    unnamed = d.member("nobody", "")
    d.roster([*d.replay.roster.members, member, unnamed])
    d.post(["bob", ""], invite=1)
    yield d.vector("rosters", "empty roster, revoked member, its name used again; open task")
    admin = Draft().key("admin")
    d = Draft(enrolment=Draft().p.entries.Enrolment.ROSTER, admin_key=admin.public)
    d.enrol(*AB, signer=d.key("admin"))
    d.post(AB)
    d.vote("ann", [0, 0])
    yield d.vector("roster-enrolment", "an admin key signs the roster; a task is open")
    d = Draft(enrolment=Draft().p.entries.Enrolment.REPLAY)
    d.enrol(*AB)
    yield d.vector("replay-enrolment", "votes that did not come from nodes")
    d = Draft(previous_id=seed("old"), previous_size=9, previous_root=seed("root"))
    yield d.vector("continued", "GENESIS names an old head")


def good_arrival() -> Iterable[Vector]:
    d = Draft()
    d.every_note = True
    d.enrol(*ABCD)
    d.post(ABCD, n=3, k=3)
    d.vote("cyd", [0, 1, 2])
    d.vote("ann", [0, 2, 2])
    d.vote("bob", [0, 1, 1])
    d.vote("dan", [1, 1, None])
    yield d.vector("certain-arrival", "ties, counting goes on after a decision; all checkpoints")
    d = started(voters=ABCD)
    for name in ABC:
        d.vote(name, [1, 1])
    d.vote("dan", [0, 0])
    d.add(d.task(ABCD, n=1), time=0)
    d.invite(1)
    yield d.vector("late", "a ballot after CLOSE; the next task is open")
    d = started(voters=ABC, rule=4)
    d.refuse("ann", 1)
    d.refuse("ann", 3)
    d.absent("ann")
    d.refuse("ann", 10)
    d.refuse("ann", 9)
    d.vote("ann", [0, 0])
    d.absent("bob", 2)
    d.vote("cyd", [None, 1])
    yield d.vector("absent-late", "four refusals, a ballot after ABSENT; rule all; a sample empty")
    d = started(voters=ABC, rule=4)
    for name, votes in zip(ABC, ([0, 1], [1, 1], [0, 0]), strict=True):
        d.vote(name, votes)
    yield d.vector("all", "rule all: the full tally")
    d = started(voters=ABC, n=3, close_min=1)
    d.vote("ann", [0, 0, None])
    d.vote("bob", [0, 1, 1])
    yield d.vector("enough", "close_min of the samples are decided; open and none-like samples")
    d = started(voters=AB)
    d.vote("ann", [0, 1])
    d.abort()
    d.vote("bob", [1, 1])
    d.post(AB, n=1)
    d.vote("bob", [0])
    d.vote("ann", [1])
    yield d.vector("abort", "an aborted task, a late ballot in it, and a second task")
    d = started(voters=ABC, min_ballots=3)
    for name in ABC:
        d.vote(name, [1, 1])
    yield d.vector("min-ballots", "nothing is decided before three ballots")
    d = started(voters=ABC)
    d.absent("ann", 3)
    d.absent("bob", 3)
    d.absent("cyd", 3)
    yield d.vector("nobody", "everyone is absent")


def good_invitation() -> Iterable[Vector]:
    d = started(voters=ABCD, order=1)
    a, b, c, e = d.ranked(ABCD)
    d.vote(e, [0, 0])
    d.vote(c, [0, 1])
    d.vote(b, [1, 1])
    d.absent(a)
    yield d.vector("invitation", "the lowest rank settles last, and all are counted at once")
    d = started(voters=ABCD, order=1)
    a, b, c, e = d.ranked(ABCD)
    d.absent(e)
    d.vote(e, [1, 1])
    d.vote(c, [0, 0])
    d.vote(a, [0, 0])
    d.vote(b, [0, 0])
    yield d.vector("uncounted", "an absence behind the CLOSE, a late and an uncounted ballot")
    d = started(voters=(*ABCD, "eve"), invite=2, n=3, rule=3, lead=2)
    r = d.ranked((*ABCD, "eve"))
    d.vote(r[0], [0, 0, 1])
    d.vote(r[1], [0, 1, 1])
    d.invite(1)
    d.invite(2)
    d.vote(r[4], [1, 0, 1])
    d.vote(r[2], [1, 1, 1])
    d.vote(r[3], [1, 1, 1])
    yield d.vector("waves", "rule paper: decided samples are not asked and frozen; NOT-ASKED")
    d = started(voters=ABCD, invite=1, n=2, rule=3, lead=1)
    d.vote(d.ranked(ABCD)[0], [0, 1])
    yield d.vector("uninvited", "decided by the first ballot; three were never invited")
    d = started(voters=ABCD, n=1, k=2, order=1, rule=3, lead=3, min_ballots=2)
    r = d.ranked(ABCD)
    for name, vote in zip(r, (0, 1, 0, 0), strict=True):
        d.vote(name, [vote])
    yield d.vector("paper-full", "the lead is never reached: full tally")
    names = [f"v{i:02d}" for i in range(18)]
    d = started(voters=names, n=2, rule=2, inv_delta=2)
    for i, name in enumerate(d.ranked(names)):
        if d.tally.closed:
            break
        d.vote(name, [0, 1 if i in (0, 3) else 0], meta=d.p.ballot.encode_meta(""))
    assert {row[5] for row in d.tables["decision"]} == {"certified"}
    yield d.vector("certified", "the e-value decides both samples")
    d = started(voters=ABC, n=1, k=2, rule=2, inv_delta=2**32 - 1)
    for name in d.ranked(ABC)[:2]:
        d.vote(name, [1])
    yield d.vector("certified-certain", "rule certified, decided because it is certain")
    for name, lead in (("paper-lead-31", 2**31 - 1), ("paper-lead-32", 2**32 - 1)):
        d = started(post=False, voters=ABCD)
        d.post(ABCD, n=1, rule=3, lead=lead)
        for voter, vote in zip(d.ranked(ABCD)[:3], (0, 1, 0), strict=True):
            d.vote(voter, [vote])
        yield d.vector(name, "rule paper with a lead beyond 31 bits; a task is open")


def good_votes() -> Iterable[Vector]:
    d = started(k=300)
    d.vote("ann", [299, None])
    d.vote("bob", [299, 256])
    yield d.vector("wide", "300 classes: two bytes a vote")
    d = started(k=250)
    d.vote("ann", [249, None])
    d.vote("bob", [249, 0])
    yield d.vector("narrow", "250 classes: one byte a vote")
    d = started(voters=["ann"], n=9, class_names=("ä", "b" * 255))
    d.vote("ann", [0, 1, 0, 1, 0, 1, 0, 1, None], meta=d.p.ballot.encode_meta("ß" * 100))
    yield d.vector("texts", "long and non-ASCII texts; one voter")


def good_world() -> Iterable[Vector]:
    d = started()
    early = d.signed_note(size=2)
    d.vote("ann", [0, 1])
    held = d.vector("held", "a checkpoint that is held")
    yield replace(held, held=early, ledger_id=d.replay.ledger_id.hex())
    other = Draft().key("witness")
    name = early.split("\n", 1)[0]
    blob = base64.b64encode(b"\x00\x01\x02\x03" + other.sign(b"x")).decode()
    cosigned = early.replace("\n\n", f"\n\n— node {blob}\n— {name} {blob}\n")
    about = "a held checkpoint with cosignatures"
    yield Vector("held-cosigned", about, base="held", held=cosigned)
    yield Vector("held-empty", "the empty log is held", base="held", held=d.signed_note(size=0))
    d = Draft()
    d.enrol(*AB)
    d.add(d.task(AB), time=0)
    d.add(d.p.entries.Invite(d.tally.task_id, 2), time=2**64 - 1)
    d.add(d.ballot("ann", [0, 1]), time=1)
    yield d.vector("times", "claimed times decide nothing")


# -- cannot say -------------------------------------------------------------------------------


def unsupported() -> Iterable[Vector]:
    d = started(post=False)
    d.raw(d.p.encoding.TAG_ENTRY + bytes([11]) + bytes(8) + b"whatever")
    d.raw(b"of any form")
    yield d.vector("unknown-type", "an entry type of a newer version", code=2)
    d = started(post=False)
    d.raw(d.p.entries.encode_leaf(d.task(AB, rule=5), NOW))
    yield d.vector("unknown-rule", "a stop rule of a newer version", code=2)
    for name, tail in (("newer-version", b""), ("newer-layout", b"more")):
        d = Draft()
        leaf = bytes.fromhex(d.tables["entry"][0][1])
        leaf = leaf[:25] + b"\x00\x02" + leaf[27:] + tail
        entry = [[0, leaf.hex()]]
        yield Vector(name, "GENESIS of a newer version", 2, tables={"entry": entry})
    newer = d.p.checkpoint.Checkpoint(d.p.merkle.leaf_hash(leaf), 1, ZEROS).sign(d.server)
    about = "GENESIS of a newer version, and a held checkpoint of that ledger"
    yield Vector("newer-held", about, 2, base="newer-layout", held=newer)
    d = started(post=False)
    d.raw(bytes.fromhex(d.tables["entry"][0][1])[:25] + b"\x00\x02")
    yield d.vector("newer-second", "a GENESIS of a newer version in another place", code=2)
    d = unknown_rotated()
    yield d.vector("unknown-rotated", "a new server key behind an unknown entry", code=2)
    about = "the same, and a checkpoint of the newer key that is held"
    held = d.signed_note(size=d.replay.size)
    yield Vector("unknown-rotated-held", about, 2, base="unknown-rotated", held=held)
    yield Vector(
        "newer-file", "a newer user_version", 2, base="held", sql=["PRAGMA user_version = 2"]
    )


def write(folder: Path) -> int:
    """Write every vector and their manifest to ``folder``; returns how many."""
    vectors = [*good(), *unsupported(), *failing()]
    names = [vector.name for vector in vectors]
    if len(set(names)) < len(names):
        raise ValueError(f"names twice: {sorted({n for n in names if names.count(n) > 1})}")
    for old in folder.glob("*.json"):
        old.unlink()
    for vector in vectors:
        text = json.dumps(vector.content(), separators=(",", ":"), ensure_ascii=False)
        (folder / f"{vector.name}.json").write_text(text.replace("],[", "],\n[") + "\n")
    lines = ",\n".join(json.dumps(v.line(), ensure_ascii=False) for v in vectors)
    (folder / "manifest.json").write_text(f"[\n{lines}\n]\n")
    return len(vectors)


if __name__ == "__main__":
    print(f"{write(VECTORS)} vectors in {VECTORS}")
