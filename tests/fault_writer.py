"""A writer to kill: opens a ledger, submits ballots, and says what it has acknowledged.

    python tests/fault_writer.py LEDGER BALLOT... [--retry]

Every receipt is one line of JSON on standard output, flushed before the next ballot. The clock
stands still, so that the log is known beforehand byte by byte.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ledgers import NOW, SERVER

from rtc_flower.ballot import Ballot
from rtc_flower.encoding import Reader
from rtc_flower.errors import LedgerLockedError, RtcFlowerError
from rtc_flower.ledger import Ledger

FAILED = 3


def write(path: Path, ballots: list[Path]) -> None:
    """Submit ``ballots`` and print their receipts."""
    with Ledger(path, SERVER, clock=lambda: NOW) as ledger:
        for ballot in ballots:
            payload = ballot.read_bytes()
            voter = Ballot.read(Reader(payload)).header.voter
            say(ledger, ledger.submit(payload, voter=voter))


def say(ledger: Ledger, index: int) -> None:
    """One line per receipt, in one system call."""
    fields = {
        "index": index,
        "leaf_hash": ledger.replay.tree.leaves[index].hex(),
        "proof": [part.hex() for part in ledger.replay.tree.inclusion_proof(index)],
        "checkpoint": ledger.checkpoint,
    }
    os.write(sys.stdout.fileno(), json.dumps(fields).encode() + b"\n")


def main(path: str, *rest: str) -> int:
    """Exit code 0, or 3 when the ledger said no."""
    ballots = [Path(name) for name in rest if name != "--retry"]
    while True:
        try:
            write(Path(path), ballots)
        except LedgerLockedError:
            if "--retry" not in rest:
                raise
            time.sleep(0.01)
            continue
        except (RtcFlowerError, OSError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return FAILED
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
