"""What the log says: every entry type and its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from struct import pack
from typing import TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from rtc_flower import encoding, errors
from rtc_flower.ballot import Ballot, Header
from rtc_flower.encoding import U32, U64, Bytes32, Bytes64, Reader, Record, pack_text
from rtc_flower.roster import Roster
from rtc_flower.rules import Order, Rule, StopRule

FORMAT_VERSION = 1


class Enrolment(IntEnum):
    """Who chooses the voters: the server, an admin, or nobody (replayed votes)."""

    OPEN = 0
    ROSTER = 1
    REPLAY = 2


class AbsenceReason(IntEnum):
    """Why a voter was settled without a ballot."""

    DEADLINE = 1
    ERROR = 2
    DECLINED = 3


class Refusal(IntEnum):
    """Why what was sent in a voter's name was refused."""

    SIZE = 1
    FORMAT = 2
    SIGNATURE = 3
    CONTEXT = 4
    CLASS = 5
    NOT_ASKED = 6
    SEEN = 7
    DUPLICATE = 8
    ANSWER = 9
    ERROR = 10


class CloseReason(IntEnum):
    """Why a task closed: the first of these that holds."""

    DECIDED = 1
    ENOUGH = 2
    EXHAUSTED = 3
    ABORTED = 4


@dataclass(frozen=True, slots=True)
class Genesis(Record):
    """The first entry; its leaf hash is the ledger id.

    Attributes
    ----------
    nonce : bytes
        32 random bytes.
    server_key : bytes
        Ed25519 public key that signs checkpoints.
    enrolment : Enrolment
    admin_key : bytes
        Key that signs rosters under `roster` enrolment (never the server's), else zeros.
    previous_id, previous_size, previous_root : bytes, int, bytes
        The old head when this ledger continues another, else zeros.
    """

    tag = FORMAT_VERSION.to_bytes(2, "big")
    nonce: Bytes32
    server_key: Bytes32
    enrolment: Enrolment = Enrolment.OPEN
    admin_key: Bytes32 = bytes(32)
    previous_id: Bytes32 = bytes(32)
    previous_size: U64 = 0
    previous_root: Bytes32 = bytes(32)

    @classmethod
    def read_tag(cls, reader: Reader) -> None:
        """Read the version; `UnsupportedError` if it is another, for what follows may differ."""
        version = reader.uint(2)
        if version != FORMAT_VERSION:
            what = f"format version {version}; this program knows version {FORMAT_VERSION}"
            raise errors.UnsupportedError(what)


@dataclass(frozen=True)
class Task:
    """A batch of samples, and everything that decides its outcome, fixed before any vote.

    Attributes
    ----------
    samples_hash : bytes
        Digest of the sample set (`rtc_flower.wire.Samples`).
    n : int
        Number of samples.
    class_names : tuple of str
        ``k`` distinct names.
    roster_version : int
    electorate : bytes
        Bitmap over the roster's positions.
    rule, order : int
        `rtc_flower.rules.Rule` and `Order`; kept as integers so that a task with a newer
        rule still decodes.
    inv_delta, lead, min_ballots, close_min : int
        The rule's parameters; the task closes when ``close_min`` samples are decided.
    kind : str
        Kind of contract asked for; nodes choose their contract by it.
    last_close : bytes
        Leaf hash of the last CLOSE, or the ledger id for the first task.
    nonce : bytes
        32 random bytes drawn after the electorate is known: they shuffle the invitation order.
    roster_size : int
        Number of bits of ``electorate``.
    """

    samples_hash: bytes
    n: int
    class_names: tuple[str, ...]
    close_min: int
    rule: int = Rule.CERTAIN
    inv_delta: int = 1000
    lead: int = 21
    min_ballots: int = 1
    order: int = Order.ARRIVAL
    kind: str = "default"
    roster_version: int = 0
    roster_size: int = 0
    electorate: bytes = b""
    last_close: bytes = bytes(32)
    nonce: bytes = bytes(32)

    def encode(self) -> bytes:
        """Payload."""
        sizes = pack(">IHII", self.n, self.k, self.roster_version, self.roster_size)
        numbers = (self.inv_delta, self.lead, self.min_ballots, self.close_min)
        rule = pack(">BIIIIB", self.rule, *numbers, self.order)
        head = self.samples_hash + sizes + self.electorate + rule + pack_text(self.kind)
        return head + self.last_close + self.nonce + b"".join(map(pack_text, self.class_names))

    @classmethod
    def read(cls, reader: Reader) -> Task:
        """Decode a payload."""
        samples_hash, n, k = reader.take(32), reader.uint(4), reader.uint(2)
        version, size = reader.uint(4), reader.uint(4)
        electorate = reader.take((size + 7) // 8)
        encoding.unpack_bits(electorate, size)
        rule = reader.uint(1)
        inv_delta, lead, min_ballots, close_min = (reader.uint(4) for _ in range(4))
        order = reader.uint(1)
        kind, last_close, nonce = reader.text(), reader.take(32), reader.take(32)
        names = tuple(reader.text() for _ in range(k))
        return cls(
            samples_hash, n, names, close_min, rule, inv_delta, lead, min_ballots, order, kind,
            version, size, electorate, last_close, nonce,
        )  # fmt: skip

    @property
    def k(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def codec(self) -> encoding.VoteCodec:
        """How this task's votes are written."""
        return encoding.VoteCodec(self.k)

    @cached_property
    def stop_rule(self) -> StopRule:
        """The rule with its parameters; ``ValueError`` when the rule is unknown."""
        return StopRule(Rule(self.rule), self.k, self.inv_delta, self.lead, self.min_ballots)

    @property
    def by_invitation(self) -> bool:
        """Whether ballots are counted in the invitation order."""
        return self.order == Order.INVITATION

    def members(self) -> npt.NDArray[np.bool_]:
        """Electorate as a mask over roster positions."""
        return encoding.unpack_bits(self.electorate, self.roster_size)


def electorate_bits(positions: Sequence[int], size: int) -> bytes:
    """Bitmap of ``size`` bits with ``positions`` set."""
    mask = np.zeros(size, bool)
    mask[list(positions)] = True
    return encoding.pack_bits(mask)


@dataclass(frozen=True, slots=True)
class Invite(Record):
    """``more`` further ranks of the invitation order are asked now."""

    task_id: Bytes32
    more: U32


@dataclass(frozen=True, slots=True)
class Absent(Record):
    """An invited voter is settled without a ballot."""

    task_id: Bytes32
    voter: Bytes32
    reason: AbsenceReason


@dataclass(frozen=True, slots=True)
class Refused(Record):
    """Something sent in a voter's name was refused: its digest and size, not its bytes."""

    task_id: Bytes32
    voter: Bytes32
    reason: Refusal
    content_hash: Bytes32
    size: U64


@dataclass(frozen=True, slots=True)
class Close(Record):
    """The end of a task: counts, and digests of its outcomes and fork tips (zeros if aborted)."""

    task_id: Bytes32
    reason: CloseReason
    counted: U32
    uncounted: U32
    absent: U32
    uninvited: U32
    outcomes_hash: Bytes32 = bytes(32)
    tips_hash: Bytes32 = bytes(32)


@dataclass(frozen=True, slots=True)
class Evidence(Record):
    """Two headers that one voter signed for one task: proof that stands alone.

    Attributes
    ----------
    first, second : Header
    first_signature, second_signature : bytes
    """

    first: Header
    first_signature: Bytes64
    second: Header
    second_signature: Bytes64


@dataclass(frozen=True, slots=True)
class ServerKey(Record):
    """From this entry on the server signs with another key.

    Attributes
    ----------
    key : bytes
        The new public key.
    old_signature, new_signature : bytes
        By the key before and by the new one, over tag, ledger id and new key.
    """

    key: Bytes32
    old_signature: Bytes64
    new_signature: Bytes64


@dataclass(frozen=True, slots=True)
class Unknown:
    """An entry of a type that this version does not know; kept as it is."""

    number: int
    payload: bytes

    def encode(self) -> bytes:
        """Payload."""
        return self.payload


_Known: TypeAlias = (
    Genesis | Roster | Task | Invite | Ballot | Absent | Refused | Close | Evidence | ServerKey
)
Entry: TypeAlias = _Known | Unknown

# The type byte of a leaf is the type's place in the union, from 1.
_TYPES: dict[int, type[_Known]] = dict(enumerate(get_args(_Known), 1))
NUMBERS: dict[type, int] = {kind: number for number, kind in _TYPES.items()}


def encode_leaf(entry: Entry, time_ms: int) -> bytes:
    """Log leaf of ``entry``: tag, type, the server's claim of the time (Unix ms), payload."""
    number = entry.number if isinstance(entry, Unknown) else NUMBERS[type(entry)]
    return encoding.TAG_ENTRY + pack(">BQ", number, time_ms) + entry.encode()


def decode_leaf(leaf: bytes) -> tuple[Entry, int]:
    """Entry and claimed time (Unix ms) of a log leaf.

    Raises
    ------
    FormatError
        If ``leaf`` is not the canonical encoding of an entry.
    """
    reader = Reader(leaf)
    reader.expect(encoding.TAG_ENTRY)
    number, time_ms = reader.uint(1), reader.uint(8)
    if number not in _TYPES:
        return Unknown(number, reader.take(reader.left)), time_ms
    entry = _TYPES[number].read(reader)
    reader.end()
    if encode_leaf(entry, time_ms) != leaf:
        raise errors.FormatError(f"expected the canonical encoding of {type(entry).__name__}")
    return entry, time_ms
