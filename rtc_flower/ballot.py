"""One node's signed answer to one task."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rtc_flower import encoding, errors, keys
from rtc_flower.encoding import U32, U64, Bytes32, Reader, Record, digest

HEADER_SIZE = 16 + 4 * 32 + 4 + 32 + 8 + 32
_SALT_SIZE = 16
_MAX_DESCRIPTION = 200
MAX_META = 1 + _MAX_DESCRIPTION + 32


def encode_meta(description: str, bundle: bytes = b"") -> bytes:
    """Contract description (at most 200 bytes of UTF-8) and the hash of the app bundle.

    Parameters
    ----------
    description : str
        What kind of contract voted; cut at 200 bytes by the caller if need be.
    bundle : bytes
        SHA-256 of Flower's app bundle (FAB); zeros when unknown.
    """
    return encoding.pack_text(description, limit=_MAX_DESCRIPTION) + (bundle or bytes(32))


@dataclass(frozen=True, slots=True)
class Header(Record):
    """What a node signs, once per task: 220 bytes.

    Attributes
    ----------
    ledger_id, task_id, voter : bytes
        The context of the votes and the voter's public key, 32 bytes each.
    meta_hash, votes_hash : bytes
        SHA-256 of the meta bytes; salted SHA-256 of the votes, so that a header alone
        reveals nothing.
    n : int
        Number of samples.
    seen_size, seen_root : int, bytes
        The last checkpoint that the node has verified.
    """

    tag = encoding.TAG_HEADER
    ledger_id: Bytes32
    task_id: Bytes32
    voter: Bytes32
    meta_hash: Bytes32
    n: U32
    votes_hash: Bytes32
    seen_size: U64
    seen_root: Bytes32

    @property
    def ballot_id(self) -> bytes:
        """H(header): never over the signature, which a third party could vary."""
        return digest(self.encode())


@dataclass(frozen=True, slots=True)
class Ballot:
    """A header, its signature, and what its hashes commit to.

    Attributes
    ----------
    header : Header
    signature : bytes
        64 bytes.
    meta : bytes
        See `encode_meta`.
    salt : bytes
        16 bytes, fresh per ballot.
    votes : bytes
        See `rtc_flower.encoding.VoteCodec`.
    """

    header: Header
    signature: bytes
    meta: bytes
    salt: bytes
    votes: bytes

    def encode(self) -> bytes:
        """Payload of a BALLOT entry, and what a node sends."""
        meta = len(self.meta).to_bytes(2, "big") + self.meta
        return self.header.encode() + self.signature + meta + self.salt + self.votes

    @classmethod
    def read(cls, reader: Reader) -> Ballot:
        """Decode a ballot and check its two hashes.

        Raises
        ------
        FormatError
            On a wrong layout, or meta or votes that are not what the header commits to.
        """
        header, signature = Header.read(reader), reader.take(64)
        meta, salt = reader.take(reader.uint(2)), reader.take(_SALT_SIZE)
        ballot = cls(header, signature, meta, salt, reader.take(reader.left))
        if len(meta) > MAX_META:
            raise errors.FormatError(f"expected at most {MAX_META} bytes of meta, got {len(meta)}")
        parts = Reader(meta)
        parts.text()
        parts.take(32)
        parts.end()
        if digest(meta) != header.meta_hash:
            raise errors.FormatError("expected the meta that the header commits to")
        if digest(encoding.TAG_VOTES, salt, ballot.votes) != header.votes_hash:
            raise errors.FormatError("expected the votes that the header commits to")
        return ballot

    @property
    def description(self) -> str:
        """The contract description inside ``meta``."""
        return Reader(self.meta).text()

    def check_signature(self) -> None:
        """Verify the voter's signature; `SignatureError` if it fails."""
        keys.check_signature(self.header.voter, self.signature, self.header.encode())


def ballot_size(n: int, width: int) -> int:
    """Most bytes that a ballot of ``n`` votes of ``width`` bytes can take."""
    return HEADER_SIZE + 64 + 2 + MAX_META + _SALT_SIZE + n * width


def sign(
    key: keys.SigningKey,
    votes: bytes,
    *,
    ledger_id: bytes,
    task_id: bytes,
    n: int,
    meta: bytes,
    seen: tuple[int, bytes],
) -> Ballot:
    """Sign ``votes`` (encoded) of ``n`` samples for one task.

    Parameters
    ----------
    seen : tuple of (int, bytes)
        Size and root of the last checkpoint the node has verified.
    """
    salt = os.urandom(_SALT_SIZE)
    votes_hash = digest(encoding.TAG_VOTES, salt, votes)
    header = Header(ledger_id, task_id, key.public, digest(meta), n, votes_hash, *seen)
    return Ballot(header, key.sign(header.encode()), meta, salt, votes)
