"""Text files that people carry about: a stranger brought them; what is kept is not replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from rtc_flower.errors import (
    FormatError,
    KeyFormatError,
    LedgerError,
    SignatureError,
    UnsupportedError,
)
from rtc_flower.files import write_atomically

_MAX_BYTES = 64 * 2**20  # a receipt holds a ballot; nothing else here is larger
# How a ledger, a private key, a checkpoint and a receipt begin: nobody can make them again.
_KEPT = (
    b"SQLite format 3\0",
    b"-----BEGIN ",
    b"rtc-flower/ledger/",
    b'{\n "format": "rtc-flower receipt ',
)


@contextmanager
def judged_by(rule: str) -> Iterator[None]:
    """Let what is refused in this block begin with a step of the specification, or a file."""
    try:
        yield
    except (FormatError, KeyFormatError, SignatureError) as error:
        raise type(error)(f"{rule}: {error}") from error
    except UnsupportedError as error:  # says itself what to do
        error.args = (f"{rule}: {error}",)
        raise


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


def check_output(path: Path, *read: Path, option: str = "--output") -> None:
    """Refuse an output that would replace what a command reads, or what nobody can make again.

    Parameters
    ----------
    path : Path
        Where the output is to go.
    *read : Path
        What the command reads.
    option : str
        What names ``path`` on the command line.

    Raises
    ------
    LedgerError
        If one of ``read``, a ledger, a key, a checkpoint, or no file is there, or no folder.
    """
    expected = f"{option} {path}: expected a file in a folder that exists"
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise LedgerError(f"{expected}, and neither a link, a folder, a pipe nor a device")
        if not path.absolute().parent.is_dir():
            raise LedgerError(expected)
        if not path.exists():
            return
        with path.open("rb") as file:
            kept = file.read(max(map(len, _KEPT))).startswith(_KEPT)
        if kept or any(other.exists() and other.samefile(path) for other in read):
            what = (
                "a ledger, a key, a checkpoint or a receipt" if kept else "what this command reads"
            )
            raise LedgerError(f"{option} {path}: {what} is there; name another file")
    except OSError as error:
        raise LedgerError(f"{option} {path}: cannot be written ({error.strerror})") from error


def write_output(path: Path, text: str, *read: Path) -> None:
    """Write what `check_output` lets pass, whole or not at all; may raise `LedgerError`."""
    check_output(path, *read)
    write_atomically(path, text)
