"""What the log says: every entry type and its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from rtc_flower.ballot import Ballot, Header
from rtc_flower.encoding import (
    TAG_ENTRY,
    Reader,
    VoteCodec,
    pack_bits,
    pack_text,
    u16,
    u32,
    u64,
    unpack_bits,
)
from rtc_flower.errors import FormatError, UnsupportedError
from rtc_flower.roster import Roster
from rtc_flower.stopping import Order, Rule, StopRule

FORMAT_VERSION = 1
_E = TypeVar("_E", bound=IntEnum)


class EntryType(IntEnum):
    """Type byte of a log leaf."""

    GENESIS = 1
    ROSTER = 2
    TASK = 3
    INVITE = 4
    BALLOT = 5
    ABSENT = 6
    REFUSED = 7
    CLOSE = 8
    EVIDENCE = 9
    SERVER_KEY = 10


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
class Genesis:
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

    nonce: bytes
    server_key: bytes
    enrolment: Enrolment = Enrolment.OPEN
    admin_key: bytes = bytes(32)
    previous_id: bytes = bytes(32)
    previous_size: int = 0
    previous_root: bytes = bytes(32)
    version: int = FORMAT_VERSION

    def encode(self) -> bytes:
        """Payload."""
        head = u16(self.version) + self.nonce + self.server_key + bytes([self.enrolment])
        return (
            head + self.admin_key + self.previous_id + u64(self.previous_size) + self.previous_root
        )

    @classmethod
    def read(cls, reader: Reader) -> Genesis:
        """Decode a payload."""
        version = reader.u16()
        if version != FORMAT_VERSION:  # what follows may be laid out in another way
            raise UnsupportedError(
                f"format version {version}; this program knows version {FORMAT_VERSION}. "
                "Install a newer rtc-flower"
            )
        nonce, server_key = reader.take(32), reader.take(32)
        enrolment = _member(Enrolment, reader.u8())
        return cls(
            nonce, server_key, enrolment, reader.take(32), reader.take(32), reader.u64(),
            reader.take(32), version,
        )  # fmt: skip


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
        `rtc_flower.stopping.Rule` and `Order`; kept as integers so that a task with a newer
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
    roster_version: int
    roster_size: int
    electorate: bytes
    rule: int
    inv_delta: int
    lead: int
    min_ballots: int
    close_min: int
    order: int
    kind: str
    last_close: bytes
    nonce: bytes

    def encode(self) -> bytes:
        """Payload."""
        names = b"".join(pack_text(name) for name in self.class_names)
        return b"".join(
            (
                self.samples_hash,
                u32(self.n),
                u16(len(self.class_names)),
                u32(self.roster_version),
                u32(self.roster_size),
                self.electorate,
                bytes([self.rule]),
                u32(self.inv_delta),
                u32(self.lead),
                u32(self.min_ballots),
                u32(self.close_min),
                bytes([self.order]),
                pack_text(self.kind),
                self.last_close,
                self.nonce,
                names,
            )
        )

    @classmethod
    def read(cls, reader: Reader) -> Task:
        """Decode a payload."""
        samples_hash, n, k = reader.take(32), reader.u32(), reader.u16()
        version, size = reader.u32(), reader.u32()
        electorate = reader.take((size + 7) // 8)
        unpack_bits(electorate, size)
        rule, numbers, order = reader.u8(), [reader.u32() for _ in range(4)], reader.u8()
        kind, last_close, nonce = reader.text(), reader.take(32), reader.take(32)
        names = tuple(reader.text() for _ in range(k))
        inv_delta, lead, min_ballots, close_min = numbers
        return cls(
            samples_hash, n, names, version, size, electorate, rule, inv_delta, lead,
            min_ballots, close_min, order, kind, last_close, nonce,
        )  # fmt: skip

    @property
    def k(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def codec(self) -> VoteCodec:
        """How this task's votes are written."""
        return VoteCodec(self.k)

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
        return unpack_bits(self.electorate, self.roster_size)


def electorate_bits(positions: Sequence[int], size: int) -> bytes:
    """Bitmap of ``size`` bits with ``positions`` set."""
    mask = np.zeros(size, bool)
    mask[list(positions)] = True
    return pack_bits(mask)


@dataclass(frozen=True, slots=True)
class Invite:
    """``more`` further ranks of the invitation order are asked now."""

    task_id: bytes
    more: int

    def encode(self) -> bytes:
        """Payload."""
        return self.task_id + u32(self.more)

    @classmethod
    def read(cls, reader: Reader) -> Invite:
        """Decode a payload."""
        return cls(reader.take(32), reader.u32())


@dataclass(frozen=True, slots=True)
class Absent:
    """An invited voter is settled without a ballot."""

    task_id: bytes
    voter: bytes
    reason: AbsenceReason

    def encode(self) -> bytes:
        """Payload."""
        return self.task_id + self.voter + bytes([self.reason])

    @classmethod
    def read(cls, reader: Reader) -> Absent:
        """Decode a payload."""
        return cls(reader.take(32), reader.take(32), _member(AbsenceReason, reader.u8()))


@dataclass(frozen=True, slots=True)
class Refused:
    """Something sent in a voter's name was refused: its digest and size, not its bytes."""

    task_id: bytes
    voter: bytes
    reason: Refusal
    content_hash: bytes
    size: int

    def encode(self) -> bytes:
        """Payload."""
        return self.task_id + self.voter + bytes([self.reason]) + self.content_hash + u64(self.size)

    @classmethod
    def read(cls, reader: Reader) -> Refused:
        """Decode a payload."""
        task_id, voter, reason = reader.take(32), reader.take(32), _member(Refusal, reader.u8())
        return cls(task_id, voter, reason, reader.take(32), reader.u64())


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a task: counts, and digests of its outcomes and fork tips (zeros if aborted)."""

    task_id: bytes
    reason: CloseReason
    counted: int
    uncounted: int
    absent: int
    uninvited: int
    outcomes_hash: bytes = bytes(32)
    tips_hash: bytes = bytes(32)

    def encode(self) -> bytes:
        """Payload."""
        counts = (self.counted, self.uncounted, self.absent, self.uninvited)
        numbers = b"".join(u32(count) for count in counts)
        return self.task_id + bytes([self.reason]) + numbers + self.outcomes_hash + self.tips_hash

    @classmethod
    def read(cls, reader: Reader) -> Close:
        """Decode a payload."""
        task_id, reason = reader.take(32), _member(CloseReason, reader.u8())
        counted, uncounted, absent, uninvited = (reader.u32() for _ in range(4))
        return cls(
            task_id, reason, counted, uncounted, absent, uninvited, reader.take(32), reader.take(32)
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two headers that one voter signed for one task: proof that stands alone.

    Attributes
    ----------
    first, second : Header
    first_signature, second_signature : bytes
    """

    first: Header
    first_signature: bytes
    second: Header
    second_signature: bytes

    def encode(self) -> bytes:
        """Payload."""
        return (
            self.first.encode()
            + self.first_signature
            + self.second.encode()
            + self.second_signature
        )

    @classmethod
    def read(cls, reader: Reader) -> Evidence:
        """Decode a payload."""
        return cls(Header.read(reader), reader.take(64), Header.read(reader), reader.take(64))


@dataclass(frozen=True, slots=True)
class ServerKey:
    """From this entry on the server signs with another key.

    Attributes
    ----------
    key : bytes
        The new public key.
    old_signature, new_signature : bytes
        By the key before and by the new one, over tag, ledger id and new key.
    """

    key: bytes
    old_signature: bytes
    new_signature: bytes

    def encode(self) -> bytes:
        """Payload."""
        return self.key + self.old_signature + self.new_signature

    @classmethod
    def read(cls, reader: Reader) -> ServerKey:
        """Decode a payload."""
        return cls(reader.take(32), reader.take(64), reader.take(64))


@dataclass(frozen=True, slots=True)
class Unknown:
    """An entry of a type that this version does not know; kept as it is."""

    number: int
    payload: bytes

    def encode(self) -> bytes:
        """Payload."""
        return self.payload


_Known: TypeAlias = Genesis | Roster | Task | Invite | Ballot | Absent | Refused | Close
Entry: TypeAlias = _Known | Evidence | ServerKey | Unknown

_READERS: dict[int, Callable[[Reader], Entry]] = {
    EntryType.GENESIS: Genesis.read,
    EntryType.ROSTER: Roster.read,
    EntryType.TASK: Task.read,
    EntryType.INVITE: Invite.read,
    EntryType.BALLOT: Ballot.read,
    EntryType.ABSENT: Absent.read,
    EntryType.REFUSED: Refused.read,
    EntryType.CLOSE: Close.read,
    EntryType.EVIDENCE: Evidence.read,
    EntryType.SERVER_KEY: ServerKey.read,
}
_NUMBERS: dict[type, int] = {
    Genesis: EntryType.GENESIS,
    Roster: EntryType.ROSTER,
    Task: EntryType.TASK,
    Invite: EntryType.INVITE,
    Ballot: EntryType.BALLOT,
    Absent: EntryType.ABSENT,
    Refused: EntryType.REFUSED,
    Close: EntryType.CLOSE,
    Evidence: EntryType.EVIDENCE,
    ServerKey: EntryType.SERVER_KEY,
}


def _member(kind: type[_E], number: int) -> _E:
    try:
        return kind(number)
    except ValueError as error:
        raise FormatError(f"expected a {kind.__name__}, got {number}") from error


def type_number(entry: Entry) -> int:
    """Type byte of ``entry``."""
    return entry.number if isinstance(entry, Unknown) else _NUMBERS[type(entry)]


def encode_leaf(entry: Entry, time_ms: int) -> bytes:
    """Log leaf of ``entry``: tag, type, the server's claim of the time (Unix ms), payload."""
    return TAG_ENTRY + bytes([type_number(entry)]) + u64(time_ms) + entry.encode()


def decode_leaf(leaf: bytes) -> tuple[Entry, int]:
    """Entry and claimed time (Unix ms) of a log leaf.

    Raises
    ------
    FormatError
        If ``leaf`` is not the canonical encoding of an entry.
    """
    reader = Reader(leaf)
    reader.expect(TAG_ENTRY)
    number, time_ms = reader.u8(), reader.u64()
    read = _READERS.get(number)
    if read is None:
        return Unknown(number, reader.rest()), time_ms
    entry = read(reader)
    reader.end()
    if encode_leaf(entry, time_ms) != leaf:
        raise FormatError(f"expected the canonical encoding of {type(entry).__name__}")
    return entry, time_ms
