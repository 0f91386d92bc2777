"""Messages between server and nodes: typed strictly, signed for one context."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from flwr.app import ConfigRecord
from ledgers import NOW, SERVER, World, make_task, voter

from rtc_flower import wire
from rtc_flower.entries import AbsenceReason, Genesis, Task, encode_leaf
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


def hello(*, ledger_id: bytes = bytes(32), challenge: bytes = b"c" * 32) -> wire.HelloReply:
    message = wire.HelloReply.message(ledger_id, challenge, ALICE.public)
    return wire.HelloReply(ALICE.public, ALICE.sign(message), "alice", "", 0, b"")


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


def declined(reason: int) -> wire.Declined:
    message = wire.Declined.message(bytes(32), b"t" * 32, b"n" * 32, reason)
    return wire.Declined(reason, "busy", ALICE.sign(message))


def test_a_decline_says_declined_or_error() -> None:
    context = {"ledger_id": bytes(32), "task_id": b"t" * 32, "nonce": b"n" * 32}
    said = declined(AbsenceReason.ERROR)
    said.check(ALICE.public, **context)
    with pytest.raises(SignatureError):
        said.check(BOB.public, **context)
    for name in context:
        with pytest.raises(SignatureError):
            said.check(ALICE.public, **(context | {name: b"x" * 32}))
    with pytest.raises(SignatureError):
        replace(said, reason=int(AbsenceReason.DECLINED)).check(ALICE.public, **context)
    with pytest.raises(FormatError, match="expected declined or error as the reason, got 1"):
        declined(AbsenceReason.DEADLINE).check(ALICE.public, **context)
    with pytest.raises(FormatError, match="got 77"):
        replace(said, reason=77).check(ALICE.public, **context)


def test_hashes_are_split() -> None:
    hashes = [bytes([i]) * 32 for i in range(3)]
    assert wire.split_hashes(b"".join(hashes)) == hashes
    assert wire.split_hashes(b"") == []
    with pytest.raises(FormatError, match="32 bytes each, got 33 bytes"):
        wire.split_hashes(bytes(33))


def test_genesis_and_task_are_read_from_their_leaves(world: World) -> None:
    task = encode_leaf(make_task(world.replay, [ALICE]), NOW)
    genesis = world.log[0]
    entry, ledger_id = wire.read_leaf(genesis, Genesis)
    assert isinstance(entry, Genesis)
    assert (entry.server_key, ledger_id) == (SERVER.public, leaf_hash(genesis))
    assert wire.read_leaf(task, Task)[1] == leaf_hash(task)
    with pytest.raises(FormatError, match="expected Genesis, got Task"):
        wire.read_leaf(task, Genesis)
    with pytest.raises(FormatError, match="expected Task, got Genesis"):
        wire.read_leaf(genesis, Task)
    with pytest.raises(FormatError):
        wire.read_leaf(task + b"\0", Task)
