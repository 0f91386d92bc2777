"""Text files that people carry about: read as what a stranger brought."""

from __future__ import annotations

from pathlib import Path

from rtc_flower.errors import FormatError

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
