"""Fixed binary layouts: domain tags, a strict reader, and the votes of a ballot.

Every integer is big-endian. A decoder reads exactly what it expects, refuses what is left
over, and its caller re-encodes and compares, so that each value has one encoding.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from rtc_flower.errors import FormatError

# Types of the fields of a `Record`, with their widths in bytes; of a text, the most.
Bytes32 = Annotated[bytes, 32]
Bytes64 = Annotated[bytes, 64]
Text64 = Annotated[str, 64]
U32 = Annotated[int, 4]
U64 = Annotated[int, 8]

_Choice = TypeVar("_Choice", bound=IntEnum)

TAG_ENTRY = b"rtc-flower entry"
TAG_HEADER = b"rtc-flower heads"
TAG_VOTES = b"rtc-flower votes"
TAG_BLOCK = b"rtc-flower block"
TAG_ROSTER = b"rtc-flower rostr"
TAG_RANKS = b"rtc-flower ranks"
TAG_SERVER_KEY = b"rtc-flower srvky"
TAG_HELLO = b"rtc-flower hello"
TAG_DECLINE = b"rtc-flower declN"
TAG_SAMPLES = b"rtc-flower data1"
TAG_OUTCOMES = b"rtc-flower outcm"
TAG_TIPS = b"rtc-flower tips1"

_MOST_UNPACKED = 2**31  # bytes
_NARROW = 250  # the most classes that fit one byte beside ABSTAIN and NOT-ASKED


def digest(*parts: bytes) -> bytes:
    """SHA-256 of the concatenation of ``parts`` (32 bytes)."""
    return sha256(b"".join(parts)).digest()


def pack_text(text: str, *, limit: int = 255) -> bytes:
    """One length byte and the UTF-8 of ``text``.

    Raises
    ------
    FormatError
        If the UTF-8 is longer than ``limit`` bytes.
    """
    raw = text.encode()
    if len(raw) > limit:
        raise FormatError(f"expected at most {limit} bytes of text, got {len(raw)}: {text[:40]!r}")
    return bytes([len(raw)]) + raw


def decompress(data: bytes, what: str) -> bytes:
    """Return what one zlib stream holds, of at most 2 GiB; ``what`` it should be is for the error.

    Raises
    ------
    FormatError
        If ``data`` is anything else.
    """
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(data, _MOST_UNPACKED)
    except zlib.error as error:
        raise FormatError(f"expected a compressed {what} ({error})") from error
    if not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"expected one compressed {what} of at most {_MOST_UNPACKED} bytes")
    return raw


def pack_bits(mask: npt.NDArray[np.bool_]) -> bytes:
    """Bits of ``mask`` (n,), sample 0 in the highest bit of the first byte, zero padded."""
    return np.packbits(mask).tobytes()


def unpack_bits(data: bytes, count: int) -> npt.NDArray[np.bool_]:
    """Inverse of `pack_bits`: ``count`` bits.

    Raises
    ------
    FormatError
        On a wrong length or padding that is not zero.
    """
    if len(data) != (count + 7) // 8:
        raise FormatError(f"expected {(count + 7) // 8} bytes for {count} bits, got {len(data)}")
    mask = np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool)
    if pack_bits(mask) != data:
        raise FormatError("expected zero padding after the last bit")
    return mask


class Reader:
    """Reads fixed layouts from ``data`` front to back.

    Every method raises `FormatError` when too few bytes are left.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            left = len(self._data) - self._at
            raise FormatError(f"expected {size} more bytes at offset {self._at}, got {left}")
        part = self._data[self._at : end]
        self._at = end
        return part

    def expect(self, tag: bytes) -> None:
        """Read ``tag`` or refuse."""
        got = self.take(len(tag))
        if got != tag:
            raise FormatError(f"expected the tag {tag!r}, got {got!r}")

    def uint(self, width: int) -> int:
        """Read a big-endian unsigned integer of ``width`` bytes."""
        return int.from_bytes(self.take(width), "big")

    def choice(self, kind: type[_Choice]) -> _Choice:
        """Read one byte that numbers a member of ``kind``."""
        number = self.uint(1)
        try:
            return kind(number)
        except ValueError as error:
            raise FormatError(f"expected a {kind.__name__}, got {number}") from error

    def text(self) -> str:
        """Read a length byte and so many bytes of UTF-8."""
        raw = self.take(self.uint(1))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"expected UTF-8, got {raw[:40]!r}") from error

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def end(self) -> None:
        """Refuse trailing bytes."""
        if self.left:
            raise FormatError(f"expected the end, got {self.left} trailing bytes")


class Record:
    """A frozen dataclass whose bytes are its tag and its fields, one after the other.

    A field is `Bytes32`, `Bytes64`, `U32` or `U64`, a `Text64` behind its length, an ``IntEnum``
    in one byte, or another record.
    """

    __slots__ = ()
    tag: ClassVar[bytes] = b""
    _layout: ClassVar[list[tuple[str, type, int]]]  # name, type and width in bytes

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True).items()
        own = [(name, hint) for name, hint in hints if get_origin(hint) is not ClassVar]
        cls._layout = [(name, *(get_args(hint) or (hint, 1))) for name, hint in own]

    def encode(self) -> bytes:
        """Return the bytes."""
        values = (_write(getattr(self, name), width) for name, _, width in self._layout)
        return self.tag + b"".join(values)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Decode the bytes.

        Raises
        ------
        FormatError
            On another tag, too few bytes, or a number that its ``IntEnum`` does not know.
        """
        cls.read_tag(reader)
        return cls(*(_read(reader, kind, width) for _, kind, width in cls._layout))

    @classmethod
    def read_tag(cls, reader: Reader) -> None:
        """Read the tag or refuse."""
        reader.expect(cls.tag)


def _write(value: Any, width: int) -> bytes:
    if isinstance(value, Record):
        return value.encode()
    if isinstance(value, str):
        return pack_text(value, limit=width)
    return value if isinstance(value, bytes) else int(value).to_bytes(width, "big")


def _read(reader: Reader, kind: type, width: int) -> Any:
    if issubclass(kind, Record):
        return kind.read(reader)
    if issubclass(kind, IntEnum):
        return reader.choice(kind)
    if kind is str:
        return reader.text()
    return reader.take(width) if kind is bytes else reader.uint(width)


@dataclass(frozen=True, slots=True)
class VoteCodec:
    """How the votes of a task with ``classes`` classes are written.

    A vote is a class index, `abstain` or `not_asked`: one byte while ``classes <= 250``, else two.
    """

    classes: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Type of one encoded vote."""
        return np.dtype(np.uint8 if self.classes <= _NARROW else ">u2")

    @property
    def abstain(self) -> int:
        """Code of ABSTAIN: the largest value of the width."""
        return 255 if self.classes <= _NARROW else 65535

    @property
    def not_asked(self) -> int:
        """Code of NOT-ASKED: one less than ABSTAIN."""
        return self.abstain - 1

    def encode(self, votes: npt.NDArray[np.integer]) -> bytes:
        """Bytes of ``votes`` (n,); the values are taken as they are."""
        return votes.astype(self.dtype).tobytes()

    def decode(self, data: bytes, n: int) -> npt.NDArray[np.uint16]:
        """Votes (n,) of ``data``.

        Raises
        ------
        FormatError
            If ``data`` is not exactly ``n`` votes long.
        """
        expected = n * self.dtype.itemsize
        if len(data) != expected:
            raise FormatError(f"expected {expected} bytes for {n} votes, got {len(data)}")
        return np.frombuffer(data, self.dtype).astype(np.uint16)
