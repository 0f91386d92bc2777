"""Small text files that people carry about: checkpoints, receipts, rosters, proofs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtc_flower.errors import FormatError, UnsupportedError

_MAX_BYTES = 64 * 2**20  # a receipt holds a ballot; nothing else here is larger


def read_text(path: Path) -> str:
    """Text of a file that somebody brought.

    Raises
    ------
    FormatError
        If it cannot be read, is empty, or is no text.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path}: expected at most {_MAX_BYTES} bytes of text")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected a text file, got binary data") from error
    if not text:
        raise FormatError(f"{path}: expected a text file, got an empty one")
    return text


def encode_fields(kind: str, version: int, fields: Mapping[str, Any]) -> str:
    """JSON text of ``fields`` that begins with what it is, for example ``rtc-flower receipt 1``."""
    return json.dumps({"format": f"rtc-flower {kind} {version}", **fields}, indent=1) + "\n"


def read_fields(
    text: str, kind: str, *, version: int, fields: Mapping[str, type]
) -> dict[str, Any]:
    """Inverse of `encode_fields`; the fields must be exactly those named, with their types.

    Raises
    ------
    FormatError
        If it is truncated, carries trailing bytes, or is something else.
    UnsupportedError
        If it is of a newer version.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected a {kind} in JSON, got {text[:40]!r}... ({error})") from error
    said = found.pop("format", None) if isinstance(found, dict) else None
    name, _, number = said.rpartition(" ") if isinstance(said, str) else ("", "", "")
    if name != f"rtc-flower {kind}" or not number.isascii() or not number.isdigit():
        raise FormatError(f"expected a file that begins as 'rtc-flower {kind}', got {said!r}")
    if number != str(version):
        raise UnsupportedError(
            f"a {kind} of version {number[:9]}; this program knows version {version}. "
            "Install a newer rtc-flower"
        )
    kinds = {field: type(value) for field, value in found.items()}
    if kinds != dict(fields):
        raise FormatError(f"expected a {kind} with {_named(fields)}, got {_named(kinds)}")
    return dict(found)


def _named(kinds: Mapping[str, type]) -> str:
    return ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
