from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import NOW, SERVER, World, make_task, names, voter

from rtc_flower.ballot import Header
from rtc_flower.encoding import TAG_ENTRY
from rtc_flower.entries import (
    NUMBERS,
    AbsenceReason,
    Absent,
    Close,
    CloseReason,
    Enrolment,
    Entry,
    Evidence,
    Genesis,
    Invite,
    Refusal,
    Refused,
    ServerKey,
    Task,
    Unknown,
    decode_leaf,
    electorate_bits,
    encode_leaf,
)
from rtc_flower.errors import FormatError, UnsupportedError
from rtc_flower.roster import Member, MemberState, Roster
from rtc_flower.stopping import Order, Rule

hashes = st.binary(min_size=32, max_size=32)
u32s = st.integers(0, 2**32 - 1)
texts = st.text(max_size=20)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    size = draw(st.integers(0, 20))
    mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return Task(
        samples_hash=draw(hashes),
        n=draw(u32s),
        class_names=tuple(draw(st.lists(texts, max_size=5))),
        roster_version=draw(u32s),
        roster_size=size,
        electorate=electorate_bits(np.flatnonzero(mask).tolist(), size),
        rule=draw(st.integers(0, 255)),
        inv_delta=draw(u32s),
        lead=draw(u32s),
        min_ballots=draw(u32s),
        close_min=draw(u32s),
        order=draw(st.integers(0, 255)),
        kind=draw(texts),
        last_close=draw(hashes),
        nonce=draw(hashes),
    )


signatures = st.binary(min_size=64, max_size=64)
headers = st.builds(
    Header, hashes, hashes, hashes, hashes, u32s, hashes, st.integers(0, 2**64 - 1), hashes
)
members = st.builds(Member, hashes, st.sampled_from(MemberState),
                    texts.filter(lambda t: len(t.encode()) <= 64))  # fmt: skip
entries = st.one_of(
    st.builds(
        Genesis, hashes, hashes, st.sampled_from(Enrolment), hashes, hashes,
        st.integers(0, 2**64 - 1), hashes,
    ),
    st.builds(
        Roster, u32s, st.lists(members, max_size=3).map(tuple),
        st.binary(min_size=64, max_size=64),
    ),
    tasks(),
    st.builds(Invite, hashes, u32s),
    st.builds(Absent, hashes, hashes, st.sampled_from(AbsenceReason)),
    st.builds(
        Refused, hashes, hashes, st.sampled_from(Refusal), hashes, st.integers(0, 2**64 - 1)
    ),
    st.builds(
        Close, hashes, st.sampled_from(CloseReason), u32s, u32s, u32s, u32s, hashes, hashes
    ),
    st.builds(ServerKey, hashes, signatures, signatures),
    st.builds(Evidence, headers, signatures, headers, signatures),
    st.builds(Unknown, st.integers(11, 255), st.binary(max_size=40)),
)  # fmt: skip


@given(entries, st.integers(0, 2**64 - 1))
def test_what_is_encoded_comes_back(entry: Entry, time: int) -> None:
    leaf = encode_leaf(entry, time)
    assert leaf.startswith(TAG_ENTRY)
    assert decode_leaf(leaf) == (entry, time)


@given(entries, st.data())
@settings(max_examples=200)
def test_any_change_is_refused_or_is_another_entry_with_that_very_encoding(
    entry: Entry, data: st.DataObject
) -> None:
    leaf = encode_leaf(entry, NOW)
    place = data.draw(st.integers(0, len(leaf) - 1))
    changed = bytearray(leaf)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded, time = decode_leaf(bytes(changed))
    except (FormatError, UnsupportedError):
        return
    assert (decoded, time) != (entry, NOW)
    assert encode_leaf(decoded, time) == changed


@given(entries, st.data())
def test_a_leaf_cut_or_with_bytes_behind_it_is_refused(entry: Entry, data: st.DataObject) -> None:
    leaf = encode_leaf(entry, NOW)
    least = 25 if isinstance(entry, Unknown) else len(leaf)
    with pytest.raises(FormatError):
        decode_leaf(leaf[: data.draw(st.integers(0, least - 1))])
    if not isinstance(entry, Unknown):
        with pytest.raises(FormatError, match="1 trailing bytes"):
            decode_leaf(leaf + b"\0")


def test_type_numbers_are_part_of_the_format() -> None:
    known = "Genesis,Roster,Task,Invite,Ballot,Absent,Refused,Close,Evidence,ServerKey"
    assert list(NUMBERS.values()) == list(range(1, 11))
    assert ",".join(kind.__name__ for kind in NUMBERS) == known


@pytest.mark.parametrize(
    "entry",
    [
        Absent(bytes(32), bytes(32), AbsenceReason.DEADLINE),
        Refused(bytes(32), bytes(32), Refusal.SIZE, bytes(32), 0),
        Close(bytes(32), CloseReason.DECIDED, 0, 0, 0, 0),
    ],
    ids=lambda entry: type(entry).__name__,
)
def test_an_unknown_reason_is_refused(entry: Entry) -> None:
    leaf = bytearray(encode_leaf(entry, NOW))
    place = 25 + (32 if isinstance(entry, Close) else 64)
    leaf[place] = 99
    with pytest.raises(FormatError, match=r"expected a \w+, got 99"):
        decode_leaf(bytes(leaf))


def test_an_unknown_enrolment_or_member_state_is_refused() -> None:
    genesis = bytearray(encode_leaf(Genesis(bytes(32), SERVER.public), NOW))
    genesis[25 + 2 + 64] = 3
    with pytest.raises(FormatError, match="expected a Enrolment, got 3"):
        decode_leaf(bytes(genesis))
    roster = Roster(1, (Member(bytes(32), MemberState.ACTIVE, "a"),), bytes(64))
    leaf = bytearray(encode_leaf(roster, NOW))
    leaf[25 + 8 + 32] = 0
    with pytest.raises(FormatError, match="expected a MemberState, got 0"):
        decode_leaf(bytes(leaf))


def test_unknown_types_are_kept_as_they_are() -> None:
    for number in (0, max(NUMBERS.values()) + 1, 255):
        leaf = TAG_ENTRY + bytes([number]) + bytes(8) + b"anything"
        entry, _ = decode_leaf(leaf)
        assert entry == Unknown(int(number), b"anything")
        assert encode_leaf(entry, 0) == leaf


def test_an_electorate_with_bits_behind_its_end_is_refused(world: World) -> None:
    task = make_task(world.replay, [voter(0)])
    leaf = encode_leaf(replace(task, electorate=b"\x81"), NOW)
    with pytest.raises(FormatError, match="zero padding"):
        decode_leaf(leaf)


def test_a_task_knows_its_members_codec_and_rule(world: World) -> None:
    task = make_task(world.replay, [voter(0), voter(2)], k=251, rule=Rule.PAPER, lead=5)
    assert task.members().tolist() == [True, False, True]
    assert task.k == 251
    assert task.codec.dtype.itemsize == 2
    assert task.stop_rule.lead == 5
    assert task.by_invitation
    assert not replace(task, order=Order.ARRIVAL).by_invitation


def test_class_names_have_room_for_a_thousand(world: World) -> None:
    task = make_task(world.replay, [voter(0)], k=1000)
    decoded, _ = decode_leaf(encode_leaf(task, NOW))
    assert isinstance(decoded, Task)
    assert decoded.class_names == names(1000)
