import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_flower import encoding
from rtc_flower.encoding import (
    Reader,
    VoteCodec,
    digest,
    pack_bits,
    pack_text,
    unpack_bits,
)
from rtc_flower.errors import FormatError

TAGS = {name: getattr(encoding, name) for name in vars(encoding) if name.startswith("TAG_")}


def test_tags_are_distinct_sixteen_byte_ascii_strings() -> None:
    assert len(TAGS) >= 11
    assert len(set(TAGS.values())) == len(TAGS)
    assert {len(tag) for tag in TAGS.values()} == {16}
    assert all(tag.isascii() for tag in TAGS.values())


def test_integers_are_big_endian() -> None:
    reader = Reader(b"\1\2" + b"\xff" * 4 + b"\0" * 7 + b"\3\7")
    assert [reader.uint(width) for width in (2, 4, 8, 1)] == [258, 2**32 - 1, 3, 7]
    reader.end()


def test_digest_is_the_sha256_of_the_concatenation() -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"a", b"", b"bc").hex() == known


def test_reader_refuses_what_is_missing_and_what_is_left() -> None:
    reader = Reader(b"\x00\x01")
    with pytest.raises(FormatError, match="expected 4 more bytes at offset 0, got 2"):
        reader.uint(4)
    assert reader.uint(1) == 0  # a refused read takes nothing
    with pytest.raises(FormatError, match="got 1 trailing bytes"):
        reader.end()
    assert reader.take(reader.left) == b"\x01"
    reader.end()


def test_reader_refuses_another_tag() -> None:
    with pytest.raises(FormatError, match="expected the tag"):
        Reader(encoding.TAG_VOTES).expect(encoding.TAG_BLOCK)


@given(st.text(max_size=60))
def test_text_comes_back(text: str) -> None:
    reader = Reader(pack_text(text))
    assert reader.text() == text
    reader.end()


def test_text_has_limits() -> None:
    assert len(pack_text("é" * 100, limit=200)) == 201
    with pytest.raises(FormatError, match="at most 200 bytes of text, got 202"):
        pack_text("é" * 101, limit=200)
    with pytest.raises(FormatError, match="expected UTF-8"):
        Reader(b"\x02\xc3\x28").text()
    with pytest.raises(FormatError, match="expected 5 more bytes"):
        Reader(b"\x05abc").text()


@given(st.lists(st.booleans(), max_size=40))
def test_bits_come_back(bits: list[bool]) -> None:
    mask = np.array(bits, bool)
    packed = pack_bits(mask)
    assert unpack_bits(packed, len(bits)).tolist() == bits
    assert packed == bytes(
        int("".join("01"[b] for b in bits[i : i + 8]).ljust(8, "0"), 2)
        for i in range(0, len(bits), 8)
    )


@given(st.integers(1, 40), st.data())
def test_bits_have_one_encoding(count: int, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=(count + 7) // 8, max_size=(count + 7) // 8))
    try:
        mask = unpack_bits(raw, count)
    except FormatError:
        assert int.from_bytes(raw, "big") % (1 << (-count % 8)) != 0
    else:
        assert pack_bits(mask) == raw


def test_bits_of_another_length_are_refused() -> None:
    with pytest.raises(FormatError, match="expected 2 bytes for 9 bits, got 1"):
        unpack_bits(b"\xff", 9)


@pytest.mark.parametrize(
    ("k", "width", "abstain"),
    [(2, 1, 255), (249, 1, 255), (250, 1, 255), (251, 2, 65535), (1000, 2, 65535)],
)
def test_width_and_special_codes_of_votes(k: int, width: int, abstain: int) -> None:
    codec = VoteCodec(k)
    assert codec.dtype.itemsize == width
    assert (codec.abstain, codec.not_asked) == (abstain, abstain - 1)
    assert codec.not_asked >= k
    votes = np.array([0, 1, k - 1, codec.not_asked, codec.abstain])
    raw = codec.encode(votes)
    assert len(raw) == 5 * width
    assert raw[-width:] == b"\xff" * width
    assert raw[2 * width : 3 * width] == (k - 1).to_bytes(width, "big")
    assert codec.decode(raw, 5).tolist() == votes.tolist()


@pytest.mark.parametrize("k", [250, 251])
def test_votes_of_another_length_are_refused(k: int) -> None:
    codec = VoteCodec(k)
    width = codec.dtype.itemsize
    for size in (0, 3 * width - 1, 3 * width + 1, 4 * width):
        with pytest.raises(FormatError, match=f"expected {3 * width} bytes for 3 votes"):
            codec.decode(bytes(size), 3)
