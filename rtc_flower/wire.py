"""What server and nodes say to each other, as plain mappings that fit a Flower ``ConfigRecord``.

Nothing here is trusted: a reader checks types and sizes, and what a message claims is checked
against signatures and the log by whoever receives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from rtc_flower.encoding import TAG_DECLINE, TAG_HELLO, TAG_SERVER_KEY, Reader, u16, u32, u64
from rtc_flower.entries import AbsenceReason, Genesis, ServerKey, Task, decode_leaf
from rtc_flower.errors import FormatError
from rtc_flower.keys import SigningKey, check_signature
from rtc_flower.merkle import leaf_hash

RECORD = "rtc"
"""Name of the record that carries a message."""
SAMPLES = "samples"
"""Name of the record that carries the sample set: the same for every node, so sent once."""

_MAX_TEXT = 400


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


def join_hashes(hashes: list[bytes] | tuple[bytes, ...]) -> bytes:
    """Concatenate 32-byte hashes."""
    return b"".join(hashes)


def split_hashes(data: bytes) -> list[bytes]:
    """Inverse of `join_hashes`; `FormatError` if the length is no multiple of 32."""
    if len(data) % 32:
        raise FormatError(f"expected hashes of 32 bytes each, got {len(data)} bytes")
    return [data[i : i + 32] for i in range(0, len(data), 32)]


@dataclass(frozen=True)
class HelloRequest(_Message):
    """Who is asking, and a challenge for the node's key.

    Attributes
    ----------
    genesis : bytes
        Leaf of GENESIS; its hash is the ledger id, and it names the server key.
    rotations : bytes
        Leaves of every SERVER-KEY so far (`join_leaves`).
    checkpoint : str
        The server's newest.
    challenge : bytes
        32 random bytes.
    """

    genesis: bytes
    rotations: bytes
    checkpoint: str
    challenge: bytes


@dataclass(frozen=True)
class HelloReply(_Message):
    """A node's key, and proof that it holds it.

    Attributes
    ----------
    key, signature : bytes
        Ed25519; see `hello_message`.
    name : str
        What the node's owner calls it.
    checkpoint : str
        The checkpoint the node holds, signed by the server; "" for none.
    replica_size : int
        Entries of the node's replica of the log.
    """

    key: bytes
    signature: bytes
    name: str
    checkpoint: str
    replica_size: int

    @classmethod
    def sign(
        cls,
        key: SigningKey,
        *,
        ledger_id: bytes,
        challenge: bytes,
        name: str,
        checkpoint: str,
        replica_size: int,
    ) -> HelloReply:
        """Answer a challenge."""
        message = TAG_HELLO + ledger_id + challenge + key.public
        return cls(key.public, key.sign(message), name, checkpoint, replica_size)

    def check(self, *, ledger_id: bytes, challenge: bytes) -> None:
        """Verify the proof of possession; `SignatureError` if it fails."""
        check_signature(self.key, self.signature, TAG_HELLO + ledger_id + challenge + self.key)


@dataclass(frozen=True)
class VoteRequest(_Message):
    """A task, that it is in the log, and which of its samples are asked.

    Attributes
    ----------
    genesis, task : bytes
        Leaves.
    rotations : bytes
        See `HelloRequest`.
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

    genesis: bytes
    rotations: bytes
    task: bytes
    task_index: int
    inclusion: bytes
    checkpoint: str
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
        For the operator; not signed, never more than 400 characters.
    signature : bytes
    """

    reason: int
    text: str
    signature: bytes

    @staticmethod
    def _message(ledger_id: bytes, task_id: bytes, nonce: bytes, reason: int) -> bytes:
        return TAG_DECLINE + ledger_id + task_id + nonce + bytes([reason])

    @classmethod
    def sign(
        cls,
        key: SigningKey,
        reason: AbsenceReason,
        *,
        text: str,
        ledger_id: bytes,
        task_id: bytes,
        nonce: bytes,
    ) -> Declined:
        """Decline one request."""
        message = cls._message(ledger_id, task_id, nonce, reason)
        return cls(int(reason), text[:_MAX_TEXT], key.sign(message))

    def check(self, key: bytes, *, ledger_id: bytes, task_id: bytes, nonce: bytes) -> None:
        """Verify the voter's signature.

        Raises
        ------
        FormatError, SignatureError
        """
        if self.reason not in (AbsenceReason.DECLINED, AbsenceReason.ERROR):
            raise FormatError(f"expected declined or error as the reason, got {self.reason}")
        check_signature(key, self.signature, self._message(ledger_id, task_id, nonce, self.reason))


@dataclass(frozen=True)
class AuditRequest(_Message):
    """What a node needs to check its receipts (light) or the whole log (full).

    Attributes
    ----------
    genesis, rotations : bytes
    checkpoint : str
    seen_size : int
        The node's checkpoint that ``consistency`` starts from.
    consistency : bytes
    receipts : bytes
        `SentReceipt` of every ballot of this node that it may not have one for.
    full : bool
    replica_size : int
        Entries that the node is thought to have.
    entries : bytes
        The leaves from there on (`join_leaves`), compressed by zlib; empty in a light audit.
    """

    genesis: bytes
    rotations: bytes
    checkpoint: str
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
        path = join_hashes(self.proof)
        return self.task_id + u64(self.index) + u64(self.time_ms) + u16(len(self.proof)) + path

    @classmethod
    def read_all(cls, data: bytes) -> list[SentReceipt]:
        """Decode concatenated receipts; `FormatError` if they are not."""
        reader, found = Reader(data), []
        while reader.left:
            task_id, index, time_ms = reader.take(32), reader.u64(), reader.u64()
            proof = tuple(reader.take(32) for _ in range(reader.u16()))
            found.append(cls(task_id, index, time_ms, proof))
        return found


def join_leaves(leaves: Iterable[bytes]) -> bytes:
    """Concatenate leaves, each behind its length as u32."""
    return b"".join(u32(len(leaf)) + leaf for leaf in leaves)


def split_leaves(data: bytes) -> list[bytes]:
    """Inverse of `join_leaves`; `FormatError` if it is none."""
    reader, leaves = Reader(data), []
    while reader.left:
        leaves.append(reader.take(reader.u32()))
    return leaves


def server_key_of(genesis: Genesis, rotations: bytes, *, ledger_id: bytes) -> bytes:
    """Key that the server signs with after its rotations, each signed by the key before.

    Raises
    ------
    FormatError, SignatureError
    """
    key = genesis.server_key
    for leaf in split_leaves(rotations):
        entry, _ = decode_leaf(leaf)
        if not isinstance(entry, ServerKey):
            raise FormatError(f"expected SERVER-KEY, got {type(entry).__name__}")
        check_signature(key, entry.old_signature, TAG_SERVER_KEY + ledger_id + entry.key)
        key = entry.key
    return key


def read_genesis(leaf: bytes) -> tuple[Genesis, bytes]:
    """GENESIS and the ledger id of its leaf; `FormatError` if it is something else."""
    entry, _ = decode_leaf(leaf)
    if not isinstance(entry, Genesis):
        raise FormatError(f"expected GENESIS, got {type(entry).__name__}")
    return entry, leaf_hash(leaf)


def read_task(leaf: bytes) -> tuple[Task, bytes]:
    """TASK and the task id of its leaf; `FormatError` if it is something else."""
    entry, _ = decode_leaf(leaf)
    if not isinstance(entry, Task):
        raise FormatError(f"expected TASK, got {type(entry).__name__}")
    return entry, leaf_hash(leaf)
