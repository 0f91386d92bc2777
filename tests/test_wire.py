"""Messages between server and nodes: typed strictly, signed for one context."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from flwr.app import ConfigRecord
from ledgers import NOW, SERVER, World, make_task, voter

from rtc_flower import wire
from rtc_flower.entries import AbsenceReason, Genesis, encode_leaf
from rtc_flower.errors import FormatError, SignatureError
from rtc_flower.merkle import leaf_hash

MESSAGES = [wire.HelloRequest, wire.HelloReply, wire.VoteRequest, wire.BallotReply, wire.Declined]
SAMPLE = {"bytes": b"\x01", "str": "text", "int": 2**63, "float": 1.5, "bool": True}
ALICE, BOB = voter(0), voter(1)


def blank(kind: Any) -> Any:
    return kind(**{field.name: SAMPLE[str(field.type)] for field in fields(kind)})


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_survives_flowers_record(kind: Any) -> None:
    message = blank(kind)
    assert kind.read(dict(ConfigRecord(message.record()))) == message


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_field_that_is_missing_unknown_or_of_another_type_is_refused(kind: Any) -> None:
    record = blank(kind).record()
    for name in record:
        with pytest.raises(FormatError, match=f"expected {kind.__name__} with"):
            kind.read({key: value for key, value in record.items() if key != name})
        with pytest.raises(FormatError, match=f"expected {kind.__name__} with"):
            kind.read(record | {name: [record[name]]})
    with pytest.raises(FormatError):
        kind.read(record | {"extra": 1})
    with pytest.raises(FormatError):
        kind.read({})


def test_a_bool_is_no_number() -> None:
    record = blank(wire.Declined).record()
    with pytest.raises(FormatError, match="bool"):
        wire.Declined.read(record | {"reason": True})


def hello(**changes: Any) -> wire.HelloReply:
    own = {"ledger_id": bytes(32), "challenge": b"c" * 32, "name": "alice"}
    rest: dict[str, Any] = {
        field.name: {"str": "", "int": 0}[str(field.type)]
        for field in fields(wire.HelloReply)
        if field.name not in ("key", "signature", "name")
    }
    return wire.HelloReply.sign(ALICE, **(rest | own | changes))


def test_a_hello_proves_a_key_for_one_ledger_and_one_challenge() -> None:
    hello().check(ledger_id=bytes(32), challenge=b"c" * 32)
    for wrong in (
        hello(ledger_id=b"l" * 32),
        hello(challenge=b"d" * 32),
        replace(hello(), key=BOB.public),
        replace(hello(), signature=bytes(64)),
        replace(hello(), signature=b""),
    ):
        with pytest.raises(SignatureError):
            wrong.check(ledger_id=bytes(32), challenge=b"c" * 32)


def test_a_decline_says_declined_or_error_and_cuts_its_text() -> None:
    context = {"ledger_id": bytes(32), "task_id": b"t" * 32, "nonce": b"n" * 32}
    long = wire.Declined.sign(ALICE, AbsenceReason.ERROR, text="x" * 9999, **context)
    assert len(long.text) == 400
    long.check(ALICE.public, **context)
    with pytest.raises(SignatureError):
        long.check(BOB.public, **context)
    deadline = wire.Declined.sign(ALICE, AbsenceReason.DEADLINE, text="", **context)
    with pytest.raises(FormatError, match="expected declined or error as the reason, got 1"):
        deadline.check(ALICE.public, **context)
    with pytest.raises(FormatError, match="got 77"):
        replace(long, reason=77).check(ALICE.public, **context)


def test_hashes_are_joined_and_split() -> None:
    hashes = [bytes([i]) * 32 for i in range(3)]
    assert wire.split_hashes(wire.join_hashes(hashes)) == hashes
    assert wire.split_hashes(b"") == []
    with pytest.raises(FormatError, match="32 bytes each, got 33 bytes"):
        wire.split_hashes(bytes(33))


def test_genesis_and_task_are_read_from_their_leaves(world: World) -> None:
    task = encode_leaf(make_task(world.replay, [ALICE]), NOW)
    genesis = world.log[0]
    entry, ledger_id = wire.read_genesis(genesis)
    assert isinstance(entry, Genesis)
    assert (entry.server_key, ledger_id) == (SERVER.public, leaf_hash(genesis))
    assert wire.read_task(task)[1] == leaf_hash(task)
    with pytest.raises(FormatError, match="expected GENESIS, got Task"):
        wire.read_genesis(task)
    with pytest.raises(FormatError, match="expected TASK, got Genesis"):
        wire.read_task(genesis)
    with pytest.raises(FormatError):
        wire.read_task(task + b"\0")
