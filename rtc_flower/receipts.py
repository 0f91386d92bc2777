"""Receipts that a voter keeps: proof, on its own, that a ballot is in a ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rtc_flower.ballot import Ballot
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.encoding import Reader
from rtc_flower.entries import encode_leaf
from rtc_flower.errors import FormatError
from rtc_flower.merkle import leaf_hash, verify_inclusion
from rtc_flower.wire import read_genesis, server_key_of

__all__ = ["KeptReceipt"]

_FORMAT = "rtc-flower receipt 1"


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
        genesis, ledger_id = read_genesis(self.genesis)
        key = server_key_of(genesis, self.rotations, ledger_id=ledger_id)
        checkpoint = Checkpoint.verify(self.checkpoint, key)
        ballot = Ballot.read(Reader(self.ballot))
        if {checkpoint.ledger_id, ballot.header.ledger_id} != {ledger_id}:
            raise FormatError("expected ballot and checkpoint of the ledger that GENESIS begins")
        ballot.check_signature()
        verify_inclusion(
            leaf_hash(self.leaf),
            self.index,
            size=checkpoint.size,
            root=checkpoint.root,
            proof=self.proof,
        )
        return ballot

    def to_json(self) -> str:
        """Text form, hexadecimal inside."""
        fields = {
            "format": _FORMAT,
            "genesis": self.genesis.hex(),
            "rotations": self.rotations.hex(),
            "ballot": self.ballot.hex(),
            "index": self.index,
            "time_ms": self.time_ms,
            "proof": [part.hex() for part in self.proof],
            "checkpoint": self.checkpoint,
        }
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> KeptReceipt:
        """Inverse of `to_json`.

        Raises
        ------
        FormatError
            If it is truncated, of a newer version, or no receipt.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields.pop("format") != _FORMAT:
                raise FormatError("expected a receipt of version 1, got a newer or another file")
            receipt = cls(
                genesis=bytes.fromhex(fields["genesis"]),
                rotations=bytes.fromhex(fields["rotations"]),
                ballot=bytes.fromhex(fields["ballot"]),
                index=fields["index"],
                time_ms=fields["time_ms"],
                proof=tuple(bytes.fromhex(part) for part in fields["proof"]),
                checkpoint=fields["checkpoint"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"expected a receipt in JSON ({error!r})") from error
        numbers = (receipt.index, receipt.time_ms)
        if not all(type(n) is int and 0 <= n < 2**64 for n in numbers) or not isinstance(
            receipt.checkpoint, str
        ):
            raise FormatError("expected a receipt with an index, a time and a checkpoint")
        return receipt
