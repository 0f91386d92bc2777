"""What server and nodes say to each other, as plain mappings that fit a Flower ``ConfigRecord``.

Nothing here is trusted: a reader checks types and sizes, and what a message claims is checked
against signatures and the log by whoever receives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from struct import pack
from typing import Any, Self, TypeVar

from rtc_flower import encoding, merkle
from rtc_flower.entries import AbsenceReason, Genesis, ServerKey, Task, decode_leaf
from rtc_flower.errors import FormatError
from rtc_flower.keys import check_signature

RECORD = "rtc"
"""Name of the record that carries a message."""
SAMPLES = "samples"
"""Name of the record that carries the sample set: the same for every node, so sent once."""

MAX_TEXT = 400
"""Most characters of a node's explanation."""

_Read = TypeVar("_Read", Genesis, Task, ServerKey)


class _Message:
    """Mapping to and from a record whose values are the fields."""

    def record(self) -> dict[str, Any]:
        """Return the fields by name, as a ``ConfigRecord`` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """Build the message from a record.

        Raises
        ------
        FormatError
            If a field is missing, unknown or of another type.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}  # type: ignore[arg-type]
        got = {name: type(value).__name__ for name, value in record.items()}
        if got != kinds:
            raise FormatError(f"expected {cls.__name__} with {kinds}, got {got}")
        return cls(**record)


def split_hashes(data: bytes) -> list[bytes]:
    """Take concatenated hashes apart; `FormatError` if the length is no multiple of 32."""
    if len(data) % 32:
        raise FormatError(f"expected hashes of 32 bytes each, got {len(data)} bytes")
    return [data[i : i + 32] for i in range(0, len(data), 32)]


@dataclass(frozen=True)
class _Request(_Message):
    """Which ledger it is that asks, and its newest state.

    Attributes
    ----------
    genesis : bytes
        Leaf of GENESIS; its hash is the ledger id, and it names the server key.
    rotations : bytes
        Leaves of every SERVER-KEY so far (`join_leaves`).
    checkpoint : str
        The server's newest.
    """

    genesis: bytes
    rotations: bytes
    checkpoint: str


@dataclass(frozen=True)
class HelloRequest(_Request):
    """Who is asking, and a challenge for the node's key.

    Attributes
    ----------
    challenge : bytes
        32 random bytes.
    """

    challenge: bytes


@dataclass(frozen=True)
class HelloReply(_Message):
    """A node's key, and proof that it holds it.

    Attributes
    ----------
    key, signature : bytes
        Ed25519; see `message`.
    name : str
        What the node's owner calls it.
    checkpoint : str
        The checkpoint the node holds, signed by the server; "" for none.
    replica_size : int
        Entries of the node's replica of the log.
    unproved : bytes
        Task ids of its ballots that it has no receipt for.
    """

    key: bytes
    signature: bytes
    name: str
    checkpoint: str
    replica_size: int
    unproved: bytes

    @staticmethod
    def message(ledger_id: bytes, challenge: bytes, key: bytes) -> bytes:
        """What a node signs with ``key`` to answer a challenge."""
        return encoding.TAG_HELLO + ledger_id + challenge + key

    def check(self, *, ledger_id: bytes, challenge: bytes) -> None:
        """Verify the proof of possession; `SignatureError` if it fails."""
        check_signature(self.key, self.signature, self.message(ledger_id, challenge, self.key))


@dataclass(frozen=True)
class VoteRequest(_Request):
    """A task, that it is in the log, and which of its samples are asked.

    Attributes
    ----------
    task : bytes
        Leaf.
    task_index : int
    inclusion : bytes
        Merkle path of TASK under ``checkpoint``.
    checkpoint : str
    seen_size : int
        The node's checkpoint that ``consistency`` starts from.
    consistency : bytes
    asked : bytes
        Bitmap of the samples asked.
    seconds : float
        Until the server stops waiting.
    bundle : bytes
        What the server says is the hash of the app bundle that runs (32 bytes or none).
    nonce : bytes
        Makes the message's Flower id unguessable; also ties a decline to this request.
    """

    task: bytes
    task_index: int
    inclusion: bytes
    seen_size: int
    consistency: bytes
    asked: bytes
    seconds: float
    bundle: bytes
    nonce: bytes


@dataclass(frozen=True)
class BallotReply(_Message):
    """A ballot, as it will stand in the log."""

    ballot: bytes


@dataclass(frozen=True)
class Declined(_Message):
    """A node's signed word that it will not vote on a task.

    Attributes
    ----------
    reason : int
        `AbsenceReason`: DECLINED, or ERROR when its contract failed.
    text : str
        For the operator; not signed, never more than `MAX_TEXT` characters.
    signature : bytes
    """

    reason: int
    text: str
    signature: bytes

    @staticmethod
    def message(ledger_id: bytes, task_id: bytes, nonce: bytes, reason: int) -> bytes:
        """What a node signs to decline one request."""
        return encoding.TAG_DECLINE + ledger_id + task_id + nonce + bytes([reason])

    def check(self, key: bytes, *, ledger_id: bytes, task_id: bytes, nonce: bytes) -> None:
        """Verify the voter's signature.

        Raises
        ------
        FormatError, SignatureError
        """
        if self.reason not in (AbsenceReason.DECLINED, AbsenceReason.ERROR):
            raise FormatError(f"expected declined or error as the reason, got {self.reason}")
        check_signature(key, self.signature, self.message(ledger_id, task_id, nonce, self.reason))


@dataclass(frozen=True)
class AuditRequest(_Request):
    """What a node needs to check its receipts (light) or the whole log (full).

    Attributes
    ----------
    seen_size : int
        The node's checkpoint that ``consistency`` starts from.
    consistency : bytes
    receipts : bytes
        `SentReceipt` of this node's ballot, and of every other that it may not have one for.
    full : bool
    replica_size : int
        Entries that the node is thought to have.
    entries : bytes
        The leaves from there on (`join_leaves`), compressed by zlib; empty in a light audit.
    """

    seen_size: int
    consistency: bytes
    receipts: bytes
    full: bool
    replica_size: int
    entries: bytes


@dataclass(frozen=True)
class AuditReply(_Message):
    """What a node found.

    Attributes
    ----------
    verdict : str
        ``ok``, ``behind`` (send from ``replica_size``), or the number of what failed.
    detail : str
    replica_size : int
        Entries of the node's replica now.
    cosignature : str
        Line on the checkpoint, after a full audit that found nothing; else "".
    """

    verdict: str
    detail: str
    replica_size: int
    cosignature: str


@dataclass(frozen=True, slots=True)
class SentReceipt:
    """A receipt on its way: where a ballot stands under the message's checkpoint.

    Attributes
    ----------
    task_id : bytes
    index : int
    time_ms : int
        The server's claim inside the leaf, needed to hash it.
    proof : tuple of bytes
    """

    task_id: bytes
    index: int
    time_ms: int
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Fixed layout."""
        place = pack(">QQH", self.index, self.time_ms, len(self.proof))
        return self.task_id + place + b"".join(self.proof)

    @classmethod
    def read_all(cls, data: bytes) -> list[SentReceipt]:
        """Decode concatenated receipts; `FormatError` if they are not."""
        reader, found = encoding.Reader(data), []
        while reader.left:
            task_id, index, time_ms = reader.take(32), reader.uint(8), reader.uint(8)
            proof = tuple(reader.take(32) for _ in range(reader.uint(2)))
            found.append(cls(task_id, index, time_ms, proof))
        return found


def join_leaves(leaves: Iterable[bytes]) -> bytes:
    """Concatenate leaves, each behind its length as u32."""
    return b"".join(pack(">I", len(leaf)) + leaf for leaf in leaves)


def split_leaves(data: bytes) -> list[bytes]:
    """Inverse of `join_leaves`; `FormatError` if it is none."""
    reader, leaves = encoding.Reader(data), []
    while reader.left:
        leaves.append(reader.take(reader.uint(4)))
    return leaves


def read_leaf(leaf: bytes, kind: type[_Read]) -> tuple[_Read, bytes]:
    """Entry and leaf hash (ledger id, task id); `FormatError` if it is of another kind."""
    entry, _ = decode_leaf(leaf)
    if not isinstance(entry, kind):
        raise FormatError(f"expected {kind.__name__}, got {type(entry).__name__}")
    return entry, merkle.leaf_hash(leaf)


def server_key_of(genesis: Genesis, rotations: bytes, *, ledger_id: bytes) -> bytes:
    """Key that the server signs with after its rotations, each signed by the key before.

    Raises
    ------
    FormatError, SignatureError
    """
    key = genesis.server_key
    for leaf in split_leaves(rotations):
        entry, _ = read_leaf(leaf, ServerKey)
        check_signature(key, entry.old_signature, encoding.TAG_SERVER_KEY + ledger_id + entry.key)
        key = entry.key
    return key
