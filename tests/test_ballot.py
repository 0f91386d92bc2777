from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import voter

from rtc_flower import encoding
from rtc_flower.ballot import (
    HEADER_SIZE,
    MAX_META,
    Ballot,
    Header,
    ballot_size,
    encode_meta,
    sign,
)
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.encoding import TAG_HEADER, Reader
from rtc_flower.errors import FormatError, SignatureError
from rtc_flower.keys import SigningKey, check_signature
from rtc_flower.roster import Roster

KEY = voter(0)


def signed(votes: bytes = b"\0\1\2", *, key: SigningKey = KEY, meta: str = "cnn") -> Ballot:
    return sign(
        key, votes, ledger_id=b"L" * 32, task_id=b"T" * 32, n=len(votes),
        meta=encode_meta(meta), seen=(7, b"R" * 32),
    )  # fmt: skip


@given(st.binary(max_size=40), st.text(max_size=50))
def test_a_ballot_comes_back(votes: bytes, meta: str) -> None:
    ballot = signed(votes, meta=meta)
    again = Ballot.read(Reader(ballot.encode()))
    assert again == ballot
    assert again.description == meta
    again.check_signature()
    assert len(ballot.encode()) <= ballot_size(len(votes), 1)


def test_the_header_is_laid_out_as_specified() -> None:
    ballot = signed()
    raw = ballot.header.encode()
    assert len(raw) == HEADER_SIZE == 220
    assert raw[:16] == TAG_HEADER
    assert raw[16:112] == b"L" * 32 + b"T" * 32 + KEY.public
    assert raw[144:148] == (3).to_bytes(4, "big")
    assert raw[180:] == (7).to_bytes(8, "big") + b"R" * 32
    assert Header.read(Reader(raw)) == ballot.header


@pytest.mark.parametrize("field", [f.name for f in fields(Header)])
def test_every_field_of_the_header_is_signed_and_names_the_ballot(field: str) -> None:
    header = signed().header
    value = getattr(header, field)
    other: Any = value + 1 if isinstance(value, int) else bytes(32)
    changed = replace(header, **{field: other})
    assert changed.ballot_id != header.ballot_id
    with pytest.raises(SignatureError):
        check_signature(KEY.public, signed().signature, changed.encode())


def test_every_changed_bit_of_a_ballot_is_caught() -> None:
    raw = signed().encode()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, SignatureError)):
            Ballot.read(Reader(bytes(changed))).check_signature()


def test_every_cut_of_a_ballot_is_refused() -> None:
    raw = signed().encode()
    for size in range(len(raw)):
        with pytest.raises(FormatError):
            Ballot.read(Reader(raw[:size]))
    with pytest.raises(FormatError, match="votes that the header commits to"):
        Ballot.read(Reader(raw + b"\0"))


def test_a_header_alone_does_not_reveal_the_votes() -> None:
    one, two = signed(), signed()
    assert one.votes == two.votes
    assert one.header.votes_hash != two.header.votes_hash
    assert len({one.salt, two.salt}) == 2


def test_a_signature_of_another_node_does_not_fit() -> None:
    mine, other = signed(), signed(key=voter(1))
    with pytest.raises(SignatureError):
        replace(mine, signature=other.signature).check_signature()


def test_ballot_id_does_not_cover_the_signature() -> None:
    ballot = signed()
    assert replace(ballot, signature=bytes(64)).header.ballot_id == ballot.header.ballot_id


def test_a_description_has_at_most_200_bytes() -> None:
    assert len(encode_meta("x" * 200)) == MAX_META
    with pytest.raises(FormatError, match="at most 200 bytes"):
        encode_meta("x" * 201)
    longer = sign(
        KEY, b"", ledger_id=bytes(32), task_id=bytes(32), n=0,
        meta=b"\xc9" + b"x" * 201 + bytes(32), seen=(0, bytes(32)),
    )  # fmt: skip
    with pytest.raises(FormatError, match=f"at most {MAX_META} bytes of meta"):
        Ballot.read(Reader(longer.encode()))


def _ballot(ledger_id: bytes, task_id: bytes) -> Callable[[], bytes]:
    header = replace(signed().header, ledger_id=ledger_id, task_id=task_id)
    return header.encode


# What one key may be asked to sign, in two ledgers and two tasks.
STATEMENTS: dict[str, Callable[[], bytes]] = {
    "ballot": _ballot(b"L" * 32, b"T" * 32),
    "ballot for another task": _ballot(b"L" * 32, b"U" * 32),
    "ballot for another ledger": _ballot(b"M" * 32, b"T" * 32),
    "checkpoint": lambda: Checkpoint(b"L" * 32, 7, b"R" * 32).body().encode(),
    "roster": lambda: encoding.TAG_ROSTER + b"L" * 32 + Roster(1).encode(),
    "hello": lambda: encoding.TAG_HELLO + b"L" * 32 + b"C" * 32 + KEY.public,
    "decline": lambda: encoding.TAG_DECLINE + b"L" * 32 + b"T" * 32 + KEY.public,
}


@pytest.mark.parametrize("signed_as", STATEMENTS)
@pytest.mark.parametrize("shown_as", STATEMENTS)
def test_no_signature_serves_as_another_statement(signed_as: str, shown_as: str) -> None:
    signature = KEY.sign(STATEMENTS[signed_as]())
    if signed_as == shown_as:
        check_signature(KEY.public, signature, STATEMENTS[shown_as]())
        return
    with pytest.raises(SignatureError):
        check_signature(KEY.public, signature, STATEMENTS[shown_as]())


@pytest.mark.parametrize("tag", [t for t in vars(encoding) if t.startswith("TAG_")])
def test_only_its_own_tag_opens_a_header(tag: str) -> None:
    raw = getattr(encoding, tag) + signed().header.encode()[16:]
    if tag == "TAG_HEADER":
        assert Header.read(Reader(raw)) == Header.read(Reader(raw))
        return
    with pytest.raises(FormatError, match="expected the tag"):
        Header.read(Reader(raw))
