"""A server's state directory: its key, its ledger, and the key that a rotation leaves behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rtc_flower.errors import LedgerError
from rtc_flower.files import sync_directory
from rtc_flower.keys import SigningKey, load_or_create_key
from rtc_flower.ledger import Ledger


def next_key(state_dir: Path) -> Path:
    """Where a rotation keeps the new key until the log names it."""
    return state_dir / "server.key.new"


def open_ledger(state_dir: Path, *, head_file: Path | None = None) -> Ledger:
    """Open the ledger of a server's state directory; make key and ledger when there is none.

    A rotation that was interrupted after the log named the new key is finished first.

    Raises
    ------
    LedgerError
        As `Ledger`, and if the ledger is there without its key: another would be of no use.
    """
    path, key = state_dir / "ledger.db", state_dir / "server.key"
    if not path.exists():
        return Ledger.create(path, load_or_create_key(key), head_file=head_file)
    try:
        if not key.exists():
            what = "the server's key, found none; it is in no backup. Bring back the copy you keep"
            raise LedgerError(f"{key}: expected {what}; if lost, see rtc-flower init --continues")
        return Ledger(path, load_or_create_key(key), head_file=head_file)
    except LedgerError:
        if next_key(state_dir).exists():
            with contextlib.suppress(LedgerError):
                ledger = Ledger(path, SigningKey.load(next_key(state_dir)), head_file=head_file)
                adopt(state_dir)
                return ledger
        raise


def adopt(state_dir: Path) -> None:
    """Let the new key, which the log names, take the old one's place."""
    os.replace(next_key(state_dir), state_dir / "server.key")
    sync_directory(state_dir)
