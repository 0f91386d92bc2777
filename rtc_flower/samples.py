"""A task's sample set: ids, features or both, with one encoding and one digest."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rtc_flower.encoding import TAG_SAMPLES, Reader, digest, pack_text, u16, u32
from rtc_flower.errors import FormatError, TaskError

__all__ = ["MAX_BYTES", "Samples", "samples_hash"]

MAX_BYTES = 2**31
"""Most bytes that a sample set may take unpacked."""

_KINDS = "buif"


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
        if self.features is None and not self.ids:
            raise TaskError("a task needs at least one sample: features, ids or both; got none")
        if self.features is None:
            return
        if self.features.ndim < 1 or self.features.dtype.kind not in _KINDS:
            raise TaskError(
                f"features must be a numeric array (n, ...), got {self.features.dtype} "
                f"of shape {self.features.shape}"
            )
        if len(self.features) < 1:
            raise TaskError("a task needs at least one sample, got n = 0")
        if self.ids and len(self.ids) != len(self.features):
            raise TaskError(
                f"samples and ids must be of one length, got {len(self.features)} samples "
                f"and {len(self.ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.ids) if self.features is None else len(self.features)

    def encode(self) -> bytes:
        """Ids, then type, shape and little-endian bytes of the features; compressed."""
        ids = b"".join(u16(len(raw)) + raw for raw in (name.encode() for name in self.ids))
        parts = [u32(len(self.ids)), ids]
        if self.features is None:
            parts.append(pack_text(""))
        else:
            array = np.ascontiguousarray(self.features)
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            parts += [pack_text(array.dtype.str), bytes([array.ndim])]
            parts += [u32(size) for size in array.shape]
            parts.append(array.tobytes())
        return zlib.compress(b"".join(parts), 1)

    @classmethod
    def decode(cls, data: bytes) -> Samples:
        """Inverse of `encode`.

        Raises
        ------
        FormatError
            If ``data`` is not an encoded sample set.
        """
        reader = Reader(_unpack(data))
        ids = tuple(reader.take(reader.u16()).decode() for _ in range(reader.u32()))
        name = reader.text()
        if not name:
            reader.end()
            return cls(None, ids)
        dtype = _dtype(name)
        shape = tuple(reader.u32() for _ in range(reader.u8()))
        raw = reader.take(math.prod(shape) * dtype.itemsize)
        reader.end()
        try:
            return cls(np.frombuffer(raw, dtype).reshape(shape), ids)
        except TaskError as error:
            raise FormatError(str(error)) from error


def _dtype(name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise FormatError(f"expected a numeric type, got {name!r}") from error
    if dtype.kind not in _KINDS or dtype.str != name or name[0] == ">":
        raise FormatError(f"expected a little-endian numeric type, got {name!r}")
    return dtype


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise FormatError(f"expected a compressed sample set ({error})") from error
    if not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"expected one compressed sample set of at most {MAX_BYTES} bytes")
    return raw


def samples_hash(data: bytes) -> bytes:
    """Digest of an encoded sample set (32 bytes): over what is inside, not how it is packed."""
    return digest(TAG_SAMPLES, _unpack(data))
