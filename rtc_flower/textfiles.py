"""Small texts that people carry about: receipts, rosters, proofs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rtc_flower.errors import FormatError, UnsupportedError

# How a field is written that JSON has no type for: in hexadecimal.
_WRITTEN: dict[Any, type] = {bytes: str, tuple[bytes, ...]: list}


def encode_fields(kind: str, version: int, fields: Mapping[str, Any]) -> str:
    """JSON text of ``fields`` that begins with what it is, for example ``rtc-flower receipt 1``.

    Bytes are written in hexadecimal.
    """
    head = {"format": f"rtc-flower {kind} {version}"}
    return json.dumps({**head, **fields}, indent=1, default=bytes.hex) + "\n"


def read_fields(text: str, kind: str, *, version: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `encode_fields`; the fields must be exactly those named, with their types.

    Parameters
    ----------
    fields : mapping of str to type
        ``str``, ``int``, ``bytes`` or ``tuple[bytes, ...]``.

    Raises
    ------
    FormatError
        If it is truncated, carries trailing bytes, or is something else.
    UnsupportedError
        If it is of a newer version.
    """
    try:
        text.encode()  # a file's bytes that are no UTF-8 come as surrogates
        found = json.loads(text, object_pairs_hook=_once, parse_constant=int)  # NaN is none
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected a {kind} in JSON, got {text[:40]!r}... ({error})") from error
    said = found.pop("format", None) if isinstance(found, dict) else None
    name, _, number = said.rpartition(" ") if isinstance(said, str) else ("", "", "")
    if name != f"rtc-flower {kind}" or not number.isascii() or not number.isdigit():
        raise FormatError(f"expected a file that begins as 'rtc-flower {kind}', got {said!r}")
    if number != str(version):
        what = f"a {kind} of version {number[:9]}; this program knows version {version}"
        raise UnsupportedError(what)
    expected = {field: _WRITTEN.get(of, of) for field, of in fields.items()}
    kinds = {field: type(value) for field, value in found.items()}
    if kinds != expected:
        raise FormatError(f"expected a {kind} with {_named(expected)}, got {_named(kinds)}")
    try:
        return {field: _read(value, fields[field]) for field, value in found.items()}
    except (ValueError, TypeError) as error:
        raise FormatError(f"expected a {kind} in hexadecimal ({error})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _read(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read(part, bytes) for part in value)
    if kind is bytes and len(data := bytes.fromhex(value)) * 2 != len(value):
        raise ValueError("white space")
    return data if kind is bytes else value


def _named(kinds: Mapping[str, type]) -> str:
    return ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
