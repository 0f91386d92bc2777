"""Files that somebody brings: whatever is wrong with one is named, and nothing is a traceback."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from ledgers import ADMIN, NEXT, SERVER, cast, post, tamper, voter
from test_receipts import kept
from test_witness import Node

from rtc_flower.admin import RosterRequest, SignedRoster, apply_roster
from rtc_flower.ballot import Ballot
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.cli import main
from rtc_flower.compare import compare
from rtc_flower.entries import Enrolment, decode_leaf, encode_leaf
from rtc_flower.ledger import Ledger
from rtc_flower.receipts import KeptReceipt
from rtc_flower.wire import join_leaves, split_leaves

DAMAGES = ("truncated", "empty", "another ledger", "newer version", "foreign key", "trailing bytes")
FILES = ("ledger", "receipt", "checkpoint", "roster", "evidence", "replica")

# Exit code, and what the output names: the step of verification, or the section of docs/spec.md.
# A replica is no file of the command's: there it is the node's answer in its next full audit,
# which accuses no server of what its own disk did, and is sent what it lacks.
EXPECTED = {
    "ledger": {
        "truncated": (1, "V1 bad"),
        "empty": (1, "V1 bad"),
        "another ledger": (1, "V3 bad: expected another ledger"),
        "newer version": (2, "version 2; this program knows up to 1"),
        "foreign key": (1, "V7 bad"),
        "trailing bytes": (1, "V1 bad"),
    },
    "receipt": {
        "truncated": (1, "V13 bad"),
        "empty": (1, "V13 bad"),
        "another ledger": (1, "V13 bad"),
        "newer version": (2, "a receipt of version 2"),
        "foreign key": (1, "V13 bad"),
        "trailing bytes": (1, "V13 bad"),
    },
    "checkpoint": {
        "truncated": (1, "V11 bad"),
        "empty": (1, "V11 bad"),
        "another ledger": (1, ": expected this ledger"),
        "newer version": (1, ": expected a checkpoint and"),
        "foreign key": (1, ": expected a checkpoint signed by"),
        "trailing bytes": (1, ": expected a checkpoint and signatures"),
    },
    "roster": {
        "truncated": (1, ": expected a signed roster in JSON"),
        "empty": (1, "error: V6: "),
        "another ledger": (1, "V6: expected a roster for ledger"),
        "newer version": (2, "a signed roster of version 2"),
        "foreign key": (1, f"V6: expected a signature by {ADMIN.public.hex()[:16]}"),
        "trailing bytes": (1, ": expected a signed roster in JSON"),
    },
    "evidence": {
        "truncated": (1, ": expected a proof of two histories in JSON"),
        "empty": (1, "error: section 1.4: "),
        "another ledger": (1, ": expected GENESIS of ledger"),
        "newer version": (2, "a proof of two histories of version 2"),
        "foreign key": (1, ": expected a checkpoint signed by this ledger's server"),
        "trailing bytes": (1, ": expected a proof of two histories in JSON"),
    },
    "replica": {
        "truncated": (0, "behind"),
        "empty": (0, "behind"),
        "another ledger": (0, "damaged on this node's disk"),
        "newer version": (0, "damaged on this node's disk"),
        "foreign key": (0, "damaged on this node's disk"),
        "trailing bytes": (0, "ok"),
    },
}


@dataclass
class Files:
    """One good file of every kind, and the server's state that they belong to."""

    state: Path
    paths: dict[str, Path]


def make_state(folder: Path) -> Files:
    """A ledger with a closed task, and everything that is carried about of it."""
    state = folder / "state"
    state.mkdir(parents=True)
    SERVER.save(state / "server.key")
    path, paths = state / "ledger.db", {name: folder / name for name in FILES}
    paths["ledger"] = path
    with Ledger.create(
        path,
        SERVER,
        enrolment=Enrolment.ROSTER,
        admin_key=ADMIN.public,
        head_file=state / "HEAD",
    ) as ledger:
        enrol = [(f"node {i}", voter(i).public) for i in range(3)]
        apply_roster(ledger, RosterRequest.of(path).sign(ADMIN, enrol=enrol))
        node = Node(folder / "node", ledger)
        post(ledger, 3)
        node.vote()
        cast(ledger, voter(1), (0, 1, 2))
        assert node.audit().verdict == "ok"
        paths["replica"] = node.replica
        paths["receipt"].write_text(kept(ledger, 0).to_json())
        paths["checkpoint"].write_text(ledger.checkpoint)
        signed = RosterRequest.of(path).sign(ADMIN, enrol=[("new", voter(7).public)])
        paths["roster"].write_text(signed.to_json())
    paths["evidence"].write_text(evidence(folder, path))
    return Files(state, paths)


def evidence(folder: Path, path: Path) -> str:
    """Proof that the server went on from ``path`` in two ways."""
    twins = [folder / "one" / "ledger.db", folder / "two" / "ledger.db"]
    for voters, twin in enumerate(twins, 2):
        twin.parent.mkdir()
        shutil.copy(path, twin)
        with Ledger(twin, SERVER) as opened:
            post(opened, voters)
    found = compare(*twins)
    assert found.proof is not None
    return found.proof.to_json()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files]:
    """Two servers' files."""
    folder = tmp_path_factory.mktemp("files")
    return make_state(folder / "mine"), make_state(folder / "other")


# -- damages ---------------------------------------------------------------------------------


def resigned(note: str) -> str:
    return Checkpoint.parse(note).sign(NEXT)


def foreign_ledger(path: Path) -> None:
    note = path.parent.joinpath("HEAD").read_text()
    size = Checkpoint.parse(note).size
    tamper(path, ("UPDATE checkpoint SET note = ? WHERE size = ?", (resigned(note), size)))


def foreign_receipt(path: Path) -> None:
    receipt = KeptReceipt.from_json(path.read_text())
    path.write_text(replace(receipt, checkpoint=resigned(receipt.checkpoint)).to_json())


def foreign_checkpoint(path: Path) -> None:
    path.write_text(resigned(path.read_text()))


def foreign_roster(path: Path) -> None:
    signed = SignedRoster.from_json(path.read_text())
    roster = signed.roster.sign(NEXT, ledger_id=signed.ledger_id)
    path.write_text(replace(signed, roster=roster).to_json())


def foreign_evidence(path: Path) -> None:
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"second_note": resigned(fields["second_note"])}))


def foreign_replica(path: Path) -> None:
    leaves = split_leaves(path.read_bytes())
    at = max(i for i, leaf in enumerate(leaves) if isinstance(decode_leaf(leaf)[0], Ballot))
    ballot, time_ms = decode_leaf(leaves[at])
    assert isinstance(ballot, Ballot)
    signature = NEXT.sign(ballot.header.encode())
    leaves[at] = encode_leaf(replace(ballot, signature=signature), time_ms)
    path.write_bytes(join_leaves(leaves))


def newer_ledger(path: Path) -> None:
    tamper(path, "PRAGMA user_version = 2")


def newer_text(path: Path) -> None:
    fields = json.loads(path.read_text())
    newer = fields["format"].removesuffix("1") + "2"
    path.write_text(json.dumps(fields | {"format": newer}))


def newer_checkpoint(path: Path) -> None:
    path.write_text(path.read_text().replace("rtc-flower/ledger/", "rtc-flower/ledger2/"))


def newer_replica(path: Path) -> None:
    leaves = split_leaves(path.read_bytes())
    leaves[1] = leaves[1][:16] + b"\x63" + leaves[1][17:]
    path.write_bytes(join_leaves(leaves))


NEWER: dict[str, Callable[[Path], None]] = {
    "ledger": newer_ledger,
    "checkpoint": newer_checkpoint,
    "replica": newer_replica,
}
FOREIGN: dict[str, Callable[[Path], None]] = {
    "ledger": foreign_ledger,
    "receipt": foreign_receipt,
    "checkpoint": foreign_checkpoint,
    "roster": foreign_roster,
    "evidence": foreign_evidence,
    "replica": foreign_replica,
}


def mixed_evidence(path: Path, theirs: Path) -> None:
    """One note of each ledger, under this ledger's GENESIS."""
    fields, other = (json.loads(p.read_text()) for p in (path, theirs))
    path.write_text(json.dumps(fields | {"second_note": other["second_note"]}))


def damage(kind: str, how: str, path: Path, theirs: Path) -> None:
    """Spoil the file at ``path``; ``theirs`` is the same of another ledger."""
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "trailing bytes":
        path.write_bytes(data + (b"\x00\x00\x00\x01x" if kind == "replica" else b"more\n"))
    elif how == "newer version":
        NEWER.get(kind, newer_text)(path)
    elif how == "foreign key":
        FOREIGN[kind](path)
    elif kind == "evidence":
        mixed_evidence(path, theirs)
    else:
        shutil.copy(theirs, path)


# -- what is said ----------------------------------------------------------------------------


def command(kind: str, files: Files) -> tuple[object, ...]:
    """What a user types with the file."""
    paths = files.paths
    ledger_id = Checkpoint.parse((files.state / "HEAD").read_text()).ledger_id.hex()
    return {
        "ledger": ("verify", paths["ledger"], "--ledger-id", ledger_id),
        "receipt": ("verify", paths["ledger"], "--receipt", paths["receipt"]),
        "checkpoint": ("verify", paths["ledger"], "--checkpoint", paths["checkpoint"]),
        "roster": ("roster", "apply", files.state, paths["roster"]),
        "evidence": ("compare", "--proof", paths["evidence"]),
    }[kind]


def typed(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str]:
    """Exit code and all output of the command."""
    patch.setattr(sys, "argv", ["rtc-flower", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((said.out + said.err).split())


def audited(files: Files) -> tuple[int, str]:
    """What the node says whose replica it is."""
    with Ledger(files.paths["ledger"], SERVER) as ledger:
        node = Node(files.paths["replica"].parents[2], ledger)
        reply = node.audit(node.request(replica=ledger.replay.size))
    assert reply.cosignature == "" or reply.verdict == "ok"
    return 0, f"{reply.verdict} {reply.detail}"


@pytest.fixture
def mine(made: tuple[Files, Files], tmp_path: Path) -> Files:
    """A copy of the first server's files, to be spoilt."""
    folder = made[0].state.parent
    shutil.copytree(folder, tmp_path / "mine")
    moved = {n: tmp_path / "mine" / p.relative_to(folder) for n, p in made[0].paths.items()}
    return Files(tmp_path / "mine" / "state", moved)


@pytest.mark.parametrize("kind", FILES)
def test_a_good_file_is_taken(
    kind: str, mine: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say = partial(typed, capsys, monkeypatch)
    code, said = audited(mine) if kind == "replica" else say(*command(kind, mine))
    assert code == 0, said
    assert not re.search(r"\bbad\b", said), said  # the letters alone may stand in a hash


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_is_named_with_its_rule_or_reason(
    kind: str,
    how: str,
    made: tuple[Files, Files],
    mine: Files,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = () if kind == "replica" else command(kind, mine)
    damage(kind, how, mine.paths[kind], made[1].paths[kind])
    code, said = audited(mine) if kind == "replica" else typed(capsys, monkeypatch, *words)
    wanted, names = EXPECTED[kind][how]
    assert names in said
    assert kind != "checkpoint" or "V11 bad" in said
    if step := {"roster": "V6", "evidence": "section 1.4"}.get(kind):
        assert f"error: {step}: " in said
    assert code == wanted
    assert "Traceback" not in said
