"""A task's sample set: ids, features or both, with one encoding and one digest."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from struct import pack
from typing import Any

import numpy as np
import numpy.typing as npt

from rtc_flower.encoding import TAG_SAMPLES, Reader, decompress, digest, pack_text
from rtc_flower.errors import FormatError, TaskError

# Booleans, integers and floats, little-endian; what is wider is laid out by the platform.
_TYPES = frozenset(np.dtype(code).newbyteorder("<").str for code in "?bBhHiIqQefd")
_LONGEST_ID = 2**16 - 1


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """What a task asks about.

    Parameters
    ----------
    features : ndarray (n, ...) or None
        Boolean, integer or floating point; sent to every node.
    ids : tuple of str
        One name per sample; alone when every node looks its own private features up.

    Raises
    ------
    TaskError
        If there is neither, or their lengths differ, or the type is not one of those above.
    """

    features: npt.NDArray[Any] | None = None
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows, ids = self.features, len(self.ids)
        if rows is not None and (rows.ndim < 1 or rows.dtype.newbyteorder("<").str not in _TYPES):
            what = f"got {rows.dtype} of shape {rows.shape}"
            raise TaskError(f"features must be a numeric array (n, ...), {what}")
        if not len(self):
            raise TaskError("a task needs at least one sample: features, ids or both; got none")
        if ids and ids != len(self):
            what = f"got {len(self)} samples and {ids} ids"
            raise TaskError(f"samples and ids must be of one length, {what}")

    def __len__(self) -> int:
        return len(self.ids) if self.features is None else len(self.features)

    def digest(self) -> bytes:
        """What TASK names: the digest of the packed form (32 bytes)."""
        return digest(TAG_SAMPLES, self._pack())

    def encode(self) -> bytes:
        """Packed and compressed."""
        return zlib.compress(self._pack(), 1)

    def _pack(self) -> bytes:
        """Ids, then type, shape and little-endian bytes of the features."""
        parts = [pack(">I", len(self.ids)), *map(_pack_id, self.ids)]
        if self.features is None:
            return b"".join([*parts, pack_text("")])
        array = np.ascontiguousarray(self.features)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        shape = pack(f">B{array.ndim}I", array.ndim, *array.shape)
        return b"".join([*parts, pack_text(array.dtype.str), shape, array.tobytes()])

    @classmethod
    def decode(cls, data: bytes, most: int = 2**32) -> Samples:
        """Inverse of `encode`.

        Parameters
        ----------
        most : int
            Samples that are expected; of more, one too many is read and no further.

        Raises
        ------
        FormatError
            If ``data`` is not an encoded sample set.
        """
        reader = Reader(decompress(data, "sample set"))
        try:
            count = min(reader.uint(4), most + 1)
            ids = tuple(reader.take(reader.uint(2)).decode() for _ in range(count))
            features = _read_features(reader)
            reader.end()
            return cls(features, ids)
        except (TaskError, ValueError) as error:
            raise FormatError(f"expected a sample set: {error}") from error


def _pack_id(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > _LONGEST_ID:
        raise TaskError(f"ids must be at most {_LONGEST_ID} bytes, got {len(raw)}: {name[:40]!r}")
    return pack(">H", len(raw)) + raw


def _read_features(reader: Reader) -> npt.NDArray[Any] | None:
    name = reader.text()
    if not name:
        return None
    if name not in _TYPES:
        raise FormatError(f"expected a little-endian numeric type, got {name!r}")
    shape = tuple(reader.uint(4) for _ in range(reader.uint(1)))
    raw = reader.take(math.prod(shape) * np.dtype(name).itemsize)
    return np.frombuffer(raw, name).reshape(shape)


def samples_hash(data: bytes) -> bytes:
    """Digest of an encoded sample set (32 bytes): over what is inside, not how it is packed."""
    return digest(TAG_SAMPLES, decompress(data, "sample set"))
