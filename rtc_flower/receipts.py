"""Receipts that a voter keeps: proof, on its own, that a ballot is in a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

from rtc_flower.ballot import Ballot
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.encoding import Reader
from rtc_flower.entries import Genesis, encode_leaf
from rtc_flower.errors import FormatError, LedgerError, LedgerFormatError, RtcFlowerError
from rtc_flower.files import reading
from rtc_flower.merkle import leaf_hash, verify_inclusion
from rtc_flower.textfiles import encode_fields, read_fields
from rtc_flower.verify import Report, Verdict
from rtc_flower.wire import read_leaf, server_key_of


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A ballot, its place in the log, and the signed checkpoint that covers it.

    Attributes
    ----------
    genesis, rotations : bytes
        Leaf of GENESIS and of every server key since; they say whose signature counts.
    ballot : bytes
        The ballot as it was signed.
    index, time_ms : int
        Its place, and the time that the server claims in its leaf.
    proof : tuple of bytes
        Merkle path.
    checkpoint : str
        Signed note.
    """

    genesis: bytes
    rotations: bytes
    ballot: bytes
    index: int
    time_ms: int
    proof: tuple[bytes, ...]
    checkpoint: str

    @property
    def leaf(self) -> bytes:
        """The log leaf that the receipt is about."""
        return encode_leaf(Ballot.read(Reader(self.ballot)), self.time_ms)

    def check(self) -> Ballot:
        """Check everything that the receipt says, offline.

        Returns
        -------
        Ballot

        Raises
        ------
        FormatError, SignatureError
            Naming what does not hold.
        """
        genesis, ledger_id = read_leaf(self.genesis, Genesis)
        key = server_key_of(genesis, self.rotations, ledger_id=ledger_id)
        head = Checkpoint.verify(self.checkpoint, key)
        ballot = Ballot.read(Reader(self.ballot))
        if {head.ledger_id, ballot.header.ledger_id} != {ledger_id}:
            raise FormatError("expected ballot and checkpoint of the ledger that GENESIS begins")
        ballot.check_signature()
        verify_inclusion(
            leaf_hash(self.leaf), self.index, size=head.size, root=head.root, proof=self.proof
        )
        return ballot

    def check_in(self, ledger: Path) -> None:
        """Check that ``ledger`` has this very ballot where the receipt says.

        Raises
        ------
        FormatError
            Naming the ballot that is missing.
        LedgerFormatError
            If there is no such ledger.
        """
        header = self.check().header
        voter, task = header.voter.hex()[:16], header.task_id.hex()[:16]
        what = f"ballot of voter {voter}... for task {task}..."
        with reading(ledger) as connection:
            leaf, places = "SELECT leaf FROM entry WHERE idx = ?", (min(self.index, 2**63 - 1), 0)
            row, first = (connection.execute(leaf, (index,)).fetchone() for index in places)
            (size,) = connection.execute("SELECT count(*) FROM entry").fetchone()
        if first != (self.genesis,):
            raise FormatError(f"{what}: the receipt is of another ledger")
        where = f"{what}: expected it at entry {self.index}"
        if row is None:
            raise FormatError(f"{where}, the ledger has {size} entries")
        if row != (self.leaf,):
            raise FormatError(f"{where}, found another entry")

    def to_json(self) -> str:
        """Text form, hexadecimal inside."""
        return encode_fields("receipt", 1, asdict(self))

    @classmethod
    def from_json(cls, text: str) -> KeptReceipt:
        """Inverse of `to_json`.

        Raises
        ------
        FormatError
            If it is truncated or no receipt.
        UnsupportedError
            If it is of a newer version.
        """
        receipt = cls(**read_fields(text, "receipt", version=1, fields=get_type_hints(cls)))
        if not all(0 <= number < 2**64 for number in (receipt.index, receipt.time_ms)):
            raise FormatError("expected a receipt with an index and a time of 64 bits")
        return receipt


def check_receipts(report: Report, ledger: Path, receipts: Mapping[str, str]) -> None:
    """Step V13 of ``report``: every receipt that you hold is good, and its ballot in the log.

    Without receipts, or behind a bad V1, it says "not checked", which does not change the exit
    code; a receipt that was brought and cannot be checked makes it 2.

    Parameters
    ----------
    receipts : mapping of str to str
        Their texts, by what to call them.
    """
    step = report.steps["V13"]
    if report.steps["V1"].verdict is not Verdict.OK:
        return
    for name, text in receipts.items():
        try:
            KeptReceipt.from_json(text).check_in(ledger)
        except RtcFlowerError as error:
            if isinstance(error, LedgerError) and type(error) is not LedgerFormatError:
                # Of a newer version, locked: cannot say.
                report.unsupported = step.detail = f"{name}: {error}"
            else:
                report.bad("V13", f"{name}: {error}")
    if receipts and not step.detail:
        report.ok("V13")
