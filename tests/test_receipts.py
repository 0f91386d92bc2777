"""A receipt says on its own that a ballot is in a ledger, and finds the ballot that was dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import NEXT, SERVER, cast, log_of, post, query, tamper, voter

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.entries import decode_leaf
from rtc_flower.errors import FormatError, RtcFlowerError, SignatureError, UnsupportedError
from rtc_flower.ledger import Ledger
from rtc_flower.receipts import KeptReceipt, check_receipts
from rtc_flower.verify import Verdict, verify
from rtc_flower.wire import join_leaves


def kept(ledger: Ledger, number: int) -> KeptReceipt:
    """The receipt that a node would keep for its last ballot."""
    _, index = ledger.ballots_of(voter(number).public)[-1]
    leaf = ledger.leaf(index)
    return KeptReceipt(
        ledger.leaf(0),
        join_leaves(ledger.rotations()),
        leaf[25:],
        index,
        decode_leaf(leaf)[1],
        tuple(ledger.replay.tree.inclusion_proof(index)),
        ledger.checkpoint,
    )


@pytest.fixture
def receipt(ledger: Ledger) -> KeptReceipt:
    post(ledger, 3)
    for number in range(3):
        cast(ledger, voter(number), (0, 1, 2))
    return kept(ledger, 1)


def test_a_receipt_survives_its_text_form_and_is_good(receipt: KeptReceipt) -> None:
    again = KeptReceipt.from_json(receipt.to_json())
    assert again == receipt
    assert again.check().header.voter == voter(1).public


def test_a_receipt_behind_a_rotation_is_good(ledger: Ledger) -> None:
    ledger.rotate_key(NEXT)
    post(ledger, 3)
    cast(ledger, voter(0), (0, 1, 2))
    receipt = kept(ledger, 0)
    assert receipt.check().header.voter == voter(0).public
    with pytest.raises(SignatureError):
        replace(receipt, rotations=b"").check()


def test_a_receipt_outlives_the_task_and_every_later_entry(
    ledger: Ledger, receipt: KeptReceipt
) -> None:
    post(ledger, 3)
    cast(ledger, voter(0), (0, 1, 2))
    receipt.check_in(ledger.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {"index": r.index + 1},
        lambda r: {"index": 2**64 - 1},
        lambda r: {"time_ms": r.time_ms + 1},
        lambda r: {"proof": r.proof[:-1]},
        lambda r: {"proof": (*r.proof, bytes(32))},
        lambda r: {"proof": (bytes(32), *r.proof[1:])},
        lambda r: {"ballot": r.ballot[:-1]},
        lambda r: {"ballot": r.ballot + b"\x00"},
        lambda r: {"ballot": b""},
        lambda r: {"genesis": r.genesis[:-1]},
        lambda r: {"genesis": r.genesis + b"\x00"},
        lambda r: {"genesis": b""},
        lambda r: {"rotations": b"\x00"},
        lambda r: {"checkpoint": ""},
        lambda r: {"checkpoint": r.checkpoint[:-20]},
        lambda r: {"checkpoint": Checkpoint.parse(r.checkpoint).sign(voter(0))},
    ],
)
def test_any_changed_field_is_refused(
    receipt: KeptReceipt, change: Callable[[KeptReceipt], dict[str, object]]
) -> None:
    with pytest.raises((FormatError, SignatureError)):
        replace(receipt, **change(receipt)).check()  # type: ignore[arg-type]


def test_every_bit_of_the_ballot_counts(receipt: KeptReceipt) -> None:
    for at in range(len(receipt.ballot)):
        flipped = bytearray(receipt.ballot)
        flipped[at] ^= 1
        with pytest.raises((FormatError, SignatureError)):
            replace(receipt, ballot=bytes(flipped)).check()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", '"x"', "[" * 100_000, "{}", '{"format": 7}',
        '{"format": "rtc-flower receipt one"}', '{"format": "rtc-flower proof 1"}',
        '{"format": "rtc-flower receipt 1"}', '{"format": "rtc-flower receipt 2", "more": NaN}',
        '{"format": "rtc-flower receipt 2", "more": "\udcff"}',  # a byte that is no UTF-8
    ],
)  # fmt: skip
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        KeptReceipt.from_json(text)


def test_a_truncated_or_longer_text_is_refused(receipt: KeptReceipt) -> None:
    text = receipt.to_json().rstrip()
    for length in range(0, len(text), 7):
        with pytest.raises(FormatError):
            KeptReceipt.from_json(text[:length])
    with pytest.raises(FormatError):
        KeptReceipt.from_json(text + "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [("index", -1), ("index", True), ("index", 2**64), ("time_ms", 1.5), ("proof", "00"),
     ("proof", [7]), ("ballot", "xyz"), ("genesis", None), ("checkpoint", 7), ("more", 1)],
)  # fmt: skip
def test_a_field_of_another_kind_is_refused(receipt: KeptReceipt, name: str, value: object) -> None:
    fields = json.loads(receipt.to_json()) | {name: value}
    with pytest.raises(FormatError):
        KeptReceipt.from_json(json.dumps(fields))


def test_a_newer_version_cannot_be_judged(receipt: KeptReceipt) -> None:
    with pytest.raises(UnsupportedError, match="version 2"):
        KeptReceipt.from_json(receipt.to_json().replace("receipt 1", "receipt 2"))


# -- V13 -------------------------------------------------------------------------------------


def judged(path: Path, *receipts: KeptReceipt) -> tuple[Verdict, str, int]:
    report = verify(path)
    texts = {str(number): receipt.to_json() for number, receipt in enumerate(receipts)}
    check_receipts(report, path, texts)
    return report.steps["V13"].verdict, report.steps["V13"].detail, report.exit_code


def test_v13_is_ok_for_receipts_of_the_log_and_not_checked_without(
    ledger: Ledger, receipt: KeptReceipt
) -> None:
    assert judged(ledger.path, receipt, kept(ledger, 0)) == (Verdict.OK, "", 0)
    assert judged(ledger.path) == (Verdict.NOT_CHECKED, "", 0)


def test_v13_a_newer_or_broken_receipt_leaves_the_other_steps_alone(
    ledger: Ledger, receipt: KeptReceipt
) -> None:
    good = receipt.to_json()
    newer = good.replace("receipt 1", "receipt 2")
    spaced = good.replace(receipt.ballot.hex(), receipt.ballot.hex(" "))
    twice = good.replace('"index"', '"index": 0, "index"')
    for texts, verdict, code in (
        ({"a": good, "b": newer}, Verdict.NOT_CHECKED, 2),
        ({"a": newer, "b": good[:-9]}, Verdict.BAD, 1),
        ({"a": spaced}, Verdict.BAD, 1),
        ({"a": twice}, Verdict.BAD, 1),
        ({"a": ""}, Verdict.BAD, 1),
        ({"a": good + "\udcff"}, Verdict.BAD, 1),
    ):
        report = verify(ledger.path)
        check_receipts(report, ledger.path, texts)
        assert (report.steps["V13"].verdict, report.exit_code) == (verdict, code)
        assert report.steps["V13"].detail.startswith(f"{list(texts)[-1]}: ")
        assert report.steps["V12"].verdict is Verdict.OK


def test_s1_a_ballot_deleted_after_its_receipt_is_named(
    ledger: Ledger, receipt: KeptReceipt, tmp_path: Path
) -> None:
    # The server drops the ballot and calls its voter absent: a history of its own, and sound.
    with Ledger.create(tmp_path / "twin.db", SERVER, head_file=tmp_path / "T") as other:
        path = other.path
    log = log_of(ledger.path)
    assert receipt.leaf in log
    tamper(path, "DELETE FROM entry")
    for index, leaf in enumerate(entry for entry in log if entry != receipt.leaf):
        tamper(path, ("INSERT INTO entry VALUES (?, ?)", (index, leaf)))
    verdict, detail, code = judged(path, receipt)
    assert (verdict, code) == (Verdict.BAD, 1)
    assert voter(1).public.hex()[:16] in detail
    assert f"expected it at entry {receipt.index}" in detail


def test_v13_says_by_how_much_a_ledger_is_too_short(ledger: Ledger, receipt: KeptReceipt) -> None:
    tamper(ledger.path, f"DELETE FROM entry WHERE idx >= {receipt.index}")
    verdict, detail, _ = judged(ledger.path, receipt)
    assert verdict is Verdict.BAD
    assert f"the ledger has {receipt.index} entries" in detail


def test_v13_another_ledger_a_bad_receipt_and_no_ledger(
    ledger: Ledger, receipt: KeptReceipt, tmp_path: Path
) -> None:
    with Ledger.create(tmp_path / "o.db", SERVER, head_file=tmp_path / "O") as other:
        pass
    assert judged(other.path, receipt)[:2] == (
        Verdict.BAD,
        judged(other.path, receipt)[1],
    )
    assert "another ledger" in judged(other.path, receipt)[1]
    assert judged(ledger.path, replace(receipt, index=0))[0] is Verdict.BAD
    assert judged(tmp_path / "nothing.db", receipt)[::2] == (Verdict.NOT_CHECKED, 1)
    tamper(ledger.path, "PRAGMA user_version = 99")
    assert judged(ledger.path, receipt)[::2] == (Verdict.NOT_CHECKED, 2)


def test_a_late_ballot_gets_a_receipt_too(ledger: Ledger) -> None:
    post(ledger, 3)
    cast(ledger, voter(0), (0, 1, 2))
    cast(ledger, voter(1), (0, 1, 2))
    assert ledger.tally.closed is not None
    cast(ledger, voter(2), (1, 1, 1))
    receipt = kept(ledger, 2)
    receipt.check_in(ledger.path)
    assert query(ledger.path, "SELECT count(*) FROM counted") == [(2,)]
    with pytest.raises(RtcFlowerError):
        replace(receipt, index=receipt.index - 1).check_in(ledger.path)
