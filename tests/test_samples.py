import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ledgers import u32

from rtc_flower.encoding import Reader
from rtc_flower.errors import FormatError, TaskError
from rtc_flower.samples import Samples, samples_hash

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="="),
    hnp.unsigned_integer_dtypes(endianness="="),
    hnp.floating_dtypes(endianness="="),
)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
)


@given(arrays)
def test_features_come_back_bit_for_bit(features: np.ndarray[Any, Any]) -> None:
    data = Samples(features).encode()
    again = Samples.decode(data)
    assert again.features is not None
    assert again.features.dtype == features.dtype
    assert again.features.shape == features.shape
    assert again.features.tobytes() == features.tobytes()
    assert len(again) == len(features)
    assert samples_hash(again.encode()) == samples_hash(data)


@given(st.lists(st.text(max_size=10), min_size=1, max_size=6))
def test_ids_alone_come_back(ids: list[str]) -> None:
    again = Samples.decode(Samples(ids=tuple(ids)).encode())
    assert again.ids == tuple(ids)
    assert again.features is None
    assert len(again) == len(ids)


def test_the_digest_is_of_the_content_not_of_the_packing() -> None:
    samples = Samples(np.arange(100))
    data = samples.encode()
    packed_otherwise = zlib.compress(zlib.decompress(data), 9)
    assert packed_otherwise != data
    assert samples_hash(packed_otherwise) == samples_hash(data)
    assert samples_hash(Samples(np.arange(101)).encode()) != samples_hash(data)
    assert samples_hash(Samples(np.arange(100).reshape(10, 10)).encode()) != samples_hash(data)


def test_the_byte_order_of_the_machine_does_not_matter() -> None:
    little, big = np.arange(9, dtype="<u4"), np.arange(9, dtype=">u4")
    assert samples_hash(Samples(little).encode()) == samples_hash(Samples(big).encode())


@pytest.mark.parametrize(
    ("features", "ids", "message"),
    [
        (None, (), "at least one sample"),
        (np.zeros((0, 4)), (), "at least one sample"),
        (np.zeros(3), ("a", "b"), "got 3 samples and 2 ids"),
        (np.array(["a"]), (), "numeric array"),
        (np.array([1j]), (), "numeric array"),
        (np.float64(1).reshape(()), (), "numeric array"),
        (np.array([None]), (), "numeric array"),
    ],
)
def test_what_is_no_sample_set_is_refused(
    features: np.ndarray[Any, Any] | None, ids: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        Samples(features, ids)


def test_an_id_that_is_too_long_is_refused() -> None:
    Samples(ids=("x" * 65535,)).encode()
    with pytest.raises(TaskError, match="at most 65535 bytes, got 65536"):
        Samples(ids=("x" * 65536,)).encode()


def packed(*parts: bytes) -> bytes:
    return zlib.compress(b"".join(parts))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not zlib",
        packed(),
        packed(u32(0), b"\0"),
        packed(u32(1), b"\0\1\xff", b"\0"),
        packed(u32(0), b"\3|u1", b"\1", u32(3), b"ab"),
        packed(u32(0), b"\3|u1", b"\1", u32(2), b"abc"),
        packed(u32(0), b"\3>u2", b"\1", u32(1), b"ab"),
        packed(u32(0), b"\3<U1", b"\1", u32(1), b"abcd"),
        packed(u32(0), b"\2O8", b"\1", u32(1), bytes(8)),
        packed(u32(0), b"\5bogus", b"\1", u32(1), bytes(8)),
        packed(u32(0), b"\3|u1", b"\0", b"a"),
        packed(u32(0), b"\3|u1", b"\1", u32(0)),
        packed(u32(0), b"\3|u1", b"\xff", u32(1) * 255, b"a"),
        packed(u32(0), b"\3|u1", b"\3", u32(2**32 - 1) * 2, u32(0)),
        packed(u32(1), b"\0\1a", b"\3|u1", b"\1", u32(2), b"ab"),
        Samples(np.arange(3)).encode() + b"behind",
        Samples(np.arange(3)).encode()[:-1],
    ],
)
def test_what_does_not_decode_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Samples.decode(data)


def test_of_ids_beyond_those_that_are_expected_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 MB may unpack to a thousand million empty ids, which take minutes to read."""
    read: list[int] = []
    take = Reader.take

    def counted(reader: Reader, size: int) -> bytes:
        read.append(size)
        return take(reader, size)

    monkeypatch.setattr(Reader, "take", counted)
    with pytest.raises(FormatError):
        Samples.decode(packed(u32(10_000), bytes(20_000), b"\0"), 3)
    assert len(read) < 20
    three = Samples(ids=("a", "b", "c")).encode()
    assert len(Samples.decode(three, 3)) == 3
    with pytest.raises(FormatError):
        Samples.decode(three, 1)


@given(st.binary(max_size=60))
def test_any_content_is_refused_or_has_that_encoding(content: bytes) -> None:
    try:
        samples = Samples.decode(zlib.compress(content))
    except FormatError:
        return
    assert zlib.decompress(samples.encode()) == content
