"""Write the frozen ledgers of this format; run once per format, never again for an old one.

python tests/frozen/freeze.py v1
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from ledgers import NEXT, NOW, cast, open_ledger, post, query, voter  # noqa: E402
from test_faults import everything  # noqa: E402

from rtc_flower.entries import decode_leaf  # noqa: E402
from rtc_flower.ledger import Ledger  # noqa: E402
from rtc_flower.receipts import KeptReceipt  # noqa: E402
from rtc_flower.stopping import Rule  # noqa: E402
from rtc_flower.wire import join_leaves  # noqa: E402


def arrival(ledger: Ledger) -> int:
    """Every kind of entry, counted as it arrives; the server's key changes at the end."""
    everything(ledger)
    ledger.rotate_key(NEXT)
    return 3


def invitation(ledger: Ledger) -> int:
    """Waves of invitations under rule certified, and a task that was aborted."""
    voters = {voter(i).public: voter(i) for i in range(5)}
    post(ledger, 5, n=30, rule=Rule.CERTIFIED, inv_delta=20, min_ballots=5, invite=3)
    while ledger.tally.closed is None:
        for key in ledger.tally.outstanding():
            if ledger.tally.closed is None:
                cast(ledger, voters[key], [i % 3 for i in range(30)])
        if ledger.tally.closed is None:
            ledger.invite(1)
    post(ledger, 2, n=10)
    ledger.abort()
    return 1


def receipt_of(ledger: Ledger) -> str:
    """A receipt of the first voter, as a node keeps it."""
    (_, index), *_ = ledger.ballots_of(voter(0).public)
    entry, time_ms = decode_leaf(ledger.leaf(index))
    proof = tuple(ledger.replay.tree.inclusion_proof(index))
    rotations = join_leaves(ledger.rotations())
    ballot = entry.encode()
    return KeptReceipt(
        ledger.leaf(0), rotations, ballot, index, time_ms, proof, ledger.checkpoint
    ).to_json()


def freeze(name: str, folder: Path, *, by_invitation: bool) -> None:
    """Write one ledger, its checkpoint, a receipt, and what must be read from it."""
    path = folder / f"{name}.db"
    with open_ledger(path, voters=5) as ledger:
        ledger._clock = lambda: NOW
        key = (invitation if by_invitation else arrival)(ledger)
        (HERE / f"{name}.checkpoint").write_text(ledger.checkpoint)
        (HERE / f"{name}.receipt").write_text(receipt_of(ledger))
        facts = {
            "ledger_id": ledger.replay.ledger_id.hex(),
            "server_key": f"{key:02x}" * 32,
            "decisions": query(path, "SELECT task, sample, class, support, how FROM decision"),
        }
    (HERE / f"{name}.json").write_text(json.dumps(facts) + "\n")
    (HERE / f"{name}.db.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.with_name("HEAD").unlink()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for order in ("arrival", "invitation"):
            freeze(f"{sys.argv[1]}-{order}", Path(scratch), by_invitation=order == "invitation")
