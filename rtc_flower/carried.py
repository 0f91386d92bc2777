"""Text files that people carry about: read as what a stranger brought."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from rtc_flower.errors import FormatError, KeyFormatError, SignatureError

_MAX_BYTES = 64 * 2**20  # a receipt holds a ballot; nothing else here is larger


@contextmanager
def judged_by(rule: str) -> Iterator[None]:
    """Let what is refused in this block begin with a step of the specification, or a file."""
    try:
        yield
    except (FormatError, KeyFormatError, SignatureError) as error:
        raise type(error)(f"{rule}: {error}") from error


def read_text(path: Path) -> str:
    """Text of a file that somebody brought.

    Raises
    ------
    FormatError
        If it cannot be read, is empty, or is no text.
    """
    text = read_any(path)
    if not text:
        raise FormatError(f"{path}: expected a text file, got an empty one")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{path}: expected a text file, got binary data") from error
    return text


def read_any(path: Path) -> str:
    """Text of a file as it is, for a reader that judges it; what is no UTF-8 becomes surrogates.

    Raises
    ------
    FormatError
        If it cannot be read.
    """
    try:
        if file_size(path) > _MAX_BYTES:
            raise FormatError(f"{path}: expected at most {_MAX_BYTES} bytes of text")
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error


def file_size(path: Path) -> int:
    """Bytes of a file that somebody brought; may raise `OSError`.

    Raises
    ------
    FormatError
        If it is a pipe or a device, which may keep its reader for ever.
    """
    found = path.stat()
    if not S_ISREG(found.st_mode) and not S_ISDIR(found.st_mode):
        raise FormatError(f"{path}: expected a file, found a pipe or a device; copy it to a file")
    return found.st_size
