"""Two histories of one ledger are found, and proved to whoever holds nothing but the proof."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import NEXT, SERVER, cast, open_ledger, post, tamper, voter
from test_receipts import kept

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.compare import Comparison, Identity, Statement, TwoHistories, compare
from rtc_flower.entries import encode_leaf
from rtc_flower.errors import (
    FormatError,
    LedgerError,
    LedgerFormatError,
    RtcFlowerError,
    SignatureError,
    UnsupportedError,
)
from rtc_flower.ledger import Ledger
from rtc_flower.signatures import hand_over
from rtc_flower.wire import join_leaves


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    """Two ledgers of one server that part at entry 3."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    paths = (tmp_path / "a" / "ledger.db", tmp_path / "b" / "ledger.db")
    with open_ledger(paths[0]) as ledger:
        post(ledger, 2)
    shutil.copy(paths[0], paths[1])
    for number, path in enumerate(paths):
        with Ledger(path, SERVER) as ledger:
            for key in (voter(0), voter(1))[: number + 1]:
                cast(ledger, key, (number, 1, 2))
    return paths


def note_of(path: Path, size: int) -> str:
    with Ledger(path, SERVER) as ledger:
        replay = ledger.replay
        return Checkpoint(replay.ledger_id, size, replay.roots[size]).sign(SERVER)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def head(path: Path) -> Path:
    return path.with_name("HEAD")


def proved(found: Comparison) -> TwoHistories:
    assert (found.verdict, found.exit_code) == ("inconsistent", 1)
    assert found.proof is not None
    again = TwoHistories.from_json(found.proof.to_json())
    assert again == found.proof
    return again


def test_a_ledger_and_its_older_copy_are_consistent(twins: tuple[Path, Path]) -> None:
    old = twins[0].with_name("old.db")
    shutil.copy(twins[0], old)
    with Ledger(twins[0], SERVER) as ledger:
        cast(ledger, voter(1), (0, 1, 2))
    assert compare(old, twins[0]).exit_code == 0
    assert compare(twins[0], old).exit_code == 0
    assert "then 2 more in one" in compare(old, twins[0]).detail
    assert compare(old, old).signed


def test_s5_twins_are_proved_by_checkpoints_of_one_size(twins: tuple[Path, Path]) -> None:
    for pair in (twins, twins[::-1]):
        found = compare(*pair)
        assert "part at entry 4" in found.detail
        proof = proved(found)
        assert proof.check()
        sizes = [Checkpoint.parse(s.note).size for s in (proof.first, proof.second)]
        assert sizes == [5, 5]
        assert proof.path == ()


def test_twins_without_a_checkpoint_of_one_size_are_proved_by_a_merkle_path(
    twins: tuple[Path, Path],
) -> None:
    tamper(twins[1], "DELETE FROM checkpoint WHERE size = 5")
    proof = proved(compare(*twins))
    assert proof.check()
    assert proof.path
    with pytest.raises(FormatError):
        replace(proof, root=bytes(32)).check()
    with pytest.raises(FormatError):
        replace(proof, path=proof.path[:-1]).check()


def test_a_checkpoint_against_a_ledger(twins: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = twins
    for size in (1, 4, 5):
        assert compare(write(tmp_path / "n", note_of(one, size)), one).exit_code == 0
    assert compare(write(tmp_path / "n", note_of(one, 4)), other).exit_code == 0
    found = compare(other, write(tmp_path / "n", note_of(one, 5)))
    assert proved(found).check()
    behind = compare(head(other), one)
    assert behind.exit_code == 2
    assert "2 entries behind" in behind.detail


def test_two_checkpoints(twins: tuple[Path, Path], tmp_path: Path) -> None:
    mine, theirs = (
        write(tmp_path / name, note_of(path, 5)) for name, path in zip("12", twins, strict=True)
    )
    for pair in ((mine, mine), (mine, theirs)):  # nobody knows whose signatures those are
        found = compare(*pair)
        assert (found.verdict, found.exit_code, found.signed) == ("cannot say", 2, False)
    assert found.proof is not None
    assert not found.proof.check()
    by_server = Identity(server_key=SERVER.public)
    assert compare(mine, mine, identity=by_server).verdict == "consistent"
    signed = compare(mine, theirs, identity=Identity.read(twins[0]))
    assert signed.signed
    assert proved(signed).check()
    by_key = compare(mine, theirs, identity=by_server)
    assert by_key.signed
    assert by_key.proof is not None
    text = by_key.proof.to_json()
    assert not TwoHistories.from_json(text).check()
    assert TwoHistories.from_json(text, server_key=SERVER.public).check()
    with pytest.raises(SignatureError):
        TwoHistories.from_json(text, server_key=NEXT.public).check()
    mine_is = Identity.read(twins[0])
    assert TwoHistories.from_json(text, identity=mine_is).check()
    assert TwoHistories.from_json(text, identity=mine_is, server_key=SERVER.public).check()
    with pytest.raises(SignatureError, match="expected a ledger of the server with key"):
        TwoHistories.from_json(text, identity=mine_is, server_key=NEXT.public).check()
    text = proved(signed).to_json()  # with GENESIS in it a key is not needed, but one that is
    assert TwoHistories.from_json(text, server_key=SERVER.public).check()  # brought must fit
    with pytest.raises(SignatureError, match="expected a ledger of the server with key"):
        TwoHistories.from_json(text, server_key=NEXT.public).check()
    older = write(tmp_path / "older", note_of(twins[0], 4))
    assert compare(mine, older).exit_code == 2


def test_whose_signatures_count_is_told_by_a_receipt(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    with Ledger(twins[0], SERVER) as ledger:
        receipt = write(tmp_path / "receipt", kept(ledger, 0).to_json())
    identity = Identity.read(receipt)
    notes = [write(tmp_path / n, note_of(p, 5)) for n, p in zip("12", twins, strict=True)]
    assert compare(*notes, identity=identity).signed


def test_a_rotated_key_signs_as_the_server(twins: tuple[Path, Path]) -> None:
    with Ledger(twins[0], SERVER) as ledger:
        ledger.rotate_key(NEXT)
    proof = proved(compare(*twins))
    assert proof.check()
    # The other branch does not know the new key: whoever holds the note says where it comes from.
    with pytest.raises(SignatureError):
        compare(head(twins[0]), twins[1])
    found = compare(head(twins[0]), twins[1], identity=Identity.read(twins[0]))
    assert proved(found).check()


def test_nobody_hands_over_to_a_key_that_is_not_his(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    """A stranger names the server's key as his next one, and signs two histories himself."""
    with Ledger(twins[0], SERVER) as ledger:
        leaf = ledger.leaf(0)
        entry = hand_over(SERVER, NEXT, ledger_id=ledger.replay.ledger_id)
    proof = proved(compare(*twins))
    for forged in (entry, replace(entry, new_signature=entry.old_signature)):
        rotations = join_leaves([encode_leaf(forged, 0)])
        first = replace(proof.first, identity=Identity(leaf, rotations, NEXT.public))
        if forged is entry:
            assert replace(proof, first=first).check()
        else:
            with pytest.raises(SignatureError):
                replace(proof, first=first).check()


def test_two_ledgers_are_those_of_the_server_that_the_reader_knows(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    with Ledger(twins[0], SERVER) as ledger:
        ledger.rotate_key(NEXT)
    for key in (SERVER.public, NEXT.public):  # one history has it
        assert compare(*twins, identity=Identity(server_key=key)).exit_code == 1
    with pytest.raises(SignatureError, match="expected a ledger of the server with key"):
        compare(*twins, identity=Identity(server_key=voter(0).public))
    assert compare(*twins, identity=Identity.read(twins[1])).exit_code == 1
    with Ledger.create(tmp_path / "ledger.db", SERVER) as other:
        pass
    with pytest.raises(FormatError, match="expected GENESIS of ledger"):
        compare(*twins, identity=Identity.read(other.path))


def test_whoever_brings_an_identity_and_a_key_means_both(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    note, other = (
        write(tmp_path / name, note_of(path, 5)) for name, path in zip("12", twins, strict=True)
    )
    known = Identity.read(twins[0])
    for sides in ((note, other), (note, twins[1]), twins):
        found = compare(*sides, identity=replace(known, server_key=SERVER.public))
        assert (found.exit_code, found.signed) == (1, True)
        with pytest.raises(SignatureError, match="expected a ledger of the server with key"):
            compare(*sides, identity=replace(known, server_key=NEXT.public))
    with Ledger(twins[0], SERVER) as ledger:
        ledger.rotate_key(NEXT)
    later = replace(Identity.read(twins[0]), server_key=NEXT.public)  # leads to the key
    copies = [Path(shutil.copy(twins[1], tmp_path / name)) for name in ("a.db", "b.db")]
    assert compare(*copies, identity=later).exit_code == 0


def test_a_proof_is_about_the_ledger_that_the_reader_knows(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    with Ledger.create(tmp_path / "ledger.db", SERVER) as other:
        pass
    text = proved(compare(*twins)).to_json()
    assert TwoHistories.from_json(text, identity=Identity.read(twins[0])).check()
    with pytest.raises(FormatError, match="expected GENESIS of ledger"):
        TwoHistories.from_json(text, identity=Identity.read(other.path))


def test_different_ledgers_cannot_be_compared(twins: tuple[Path, Path], tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.db", SERVER) as other:
        pass
    assert compare(other.path, twins[0]).exit_code == 2
    assert compare(head(other.path), twins[0]).exit_code == 2
    assert compare(head(other.path), head(twins[0])).exit_code == 2
    foreign = Statement(head(twins[0]).read_text(), Identity.read(other.path))
    with pytest.raises(FormatError, match="expected GENESIS of ledger"):
        foreign.check()


def test_a_foreign_signature_accuses_nobody(twins: tuple[Path, Path], tmp_path: Path) -> None:
    forged = Checkpoint(Checkpoint.parse(note_of(twins[0], 4)).ledger_id, 4, bytes(32))
    note = write(tmp_path / "n", forged.sign(voter(0)))
    with pytest.raises(SignatureError, match="did not sign"):
        compare(note, twins[0])
    honest = proved(compare(*twins))
    framed = replace(honest, first=Statement(forged.sign(voter(0)), honest.first.identity))
    with pytest.raises((SignatureError, FormatError)):
        framed.check()


def test_two_notes_of_one_history_prove_nothing(twins: tuple[Path, Path]) -> None:
    proof = proved(compare(*twins))
    with pytest.raises(FormatError, match="the same one"):
        replace(proof, second=proof.first, root=Checkpoint.parse(proof.first.note).root).check()
    with pytest.raises(FormatError):
        replace(proof, second=proof.first).check()


@pytest.mark.parametrize("text", ["", "rubbish", "\x00" * 40, "a\nb\nc\n\nd", "SQLite"])
def test_what_is_neither_is_refused(twins: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    bad = write(tmp_path / "bad", text)
    for pair in ((bad, twins[0]), (head(twins[0]), bad), (bad, bad)):
        with pytest.raises(FormatError):
            compare(*pair)
    with pytest.raises(FormatError):
        compare(tmp_path / "nothing", twins[0])
    with pytest.raises(FormatError):
        compare(tmp_path, twins[0])


def test_a_damaged_ledger_is_refused(twins: tuple[Path, Path], tmp_path: Path) -> None:
    tamper(twins[0], "DELETE FROM entry WHERE idx = 2")
    with pytest.raises(LedgerFormatError, match="expected entry 2"):
        compare(*twins)
    tamper(twins[0], "DELETE FROM entry")
    with pytest.raises(LedgerFormatError, match="no entry"):
        compare(*twins)
    half = tmp_path / "half.db"
    half.write_bytes(twins[1].read_bytes()[:5000])
    with pytest.raises(LedgerError):
        compare(half, twins[1])
    tamper(twins[1], "UPDATE entry SET leaf = x'00' WHERE idx = 3")
    with pytest.raises(RtcFlowerError):
        compare(twins[1], twins[1])


def test_a_checkpoint_of_no_entries_says_nothing(twins: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="at least 1 entry"):
        compare(write(tmp_path / "n", note_of(twins[0], 0)), twins[0])


def test_a_bad_proof_file_is_refused(twins: tuple[Path, Path]) -> None:
    text = proved(compare(*twins)).to_json()
    for broken in ("", "{}", text[:-9], text + "x", text.replace("histories 1", "histories x")):
        with pytest.raises(FormatError):
            TwoHistories.from_json(broken)
    with pytest.raises(UnsupportedError):
        TwoHistories.from_json(text.replace("histories 1", "histories 2"))
    for name, value in (("root", "xx"), ("path", [1]), ("first_genesis", "0"), ("root", 1)):
        with pytest.raises(FormatError):
            TwoHistories.from_json(json.dumps(json.loads(text) | {name: value}))
