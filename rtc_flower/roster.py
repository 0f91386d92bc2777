"""The versioned, signed list of enrolled node keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from struct import pack

from rtc_flower.encoding import TAG_ROSTER, Bytes32, Reader, Record, Text64
from rtc_flower.errors import FormatError
from rtc_flower.keys import SigningKey, check_public_key, check_signature


class MemberState(IntEnum):
    """Whether a member may be counted by tasks posted from now on. Revoked is final."""

    ACTIVE = 1
    REVOKED = 2


@dataclass(frozen=True, slots=True)
class Member(Record):
    """One enrolled key.

    Attributes
    ----------
    key : bytes
        Ed25519 public key, 32 bytes.
    state : MemberState
    name : str
        What people call the node; unique among active members; at most 64 bytes of UTF-8.
    """

    key: Bytes32
    state: MemberState
    name: Text64


@dataclass(frozen=True, slots=True)
class Roster:
    """A version of the roster.

    A member keeps its position for ever, so that an electorate is a bitmap over positions.

    Attributes
    ----------
    version : int
        1 for the first; each ROSTER entry adds 1.
    members : tuple of Member
    signature : bytes
        By the admin key under `roster` enrolment, by the server key under `open`.
    """

    version: int = 0
    members: tuple[Member, ...] = ()
    signature: bytes = b""

    def _body(self) -> bytes:
        members = b"".join(member.encode() for member in self.members)
        return pack(">II", self.version, len(self.members)) + members

    def encode(self) -> bytes:
        """Payload of a ROSTER entry."""
        return self._body() + self.signature

    @classmethod
    def read(cls, reader: Reader) -> Roster:
        """Decode a ROSTER payload."""
        version, count = reader.uint(4), reader.uint(4)
        members = tuple(Member.read(reader) for _ in range(count))
        return cls(version, members, reader.take(64))

    def sign(self, key: SigningKey, *, ledger_id: bytes) -> Roster:
        """Return this roster with a signature by ``key`` for one ledger."""
        return replace(self, signature=key.sign(TAG_ROSTER + ledger_id + self._body()))

    def check_signature(self, key: bytes, *, ledger_id: bytes) -> None:
        """Verify the signature; `SignatureError` if it fails."""
        check_signature(key, self.signature, TAG_ROSTER + ledger_id + self._body())

    def active(self) -> dict[bytes, int]:
        """Position of every active key."""
        return {m.key: i for i, m in enumerate(self.members) if m.state is MemberState.ACTIVE}

    def enrol(self, newcomers: Iterable[tuple[bytes, str]]) -> Roster:
        """Return the next version, unsigned, with ``(key, name)`` pairs appended."""
        added = tuple(Member(key, MemberState.ACTIVE, name) for key, name in newcomers)
        successor = Roster(self.version + 1, self.members + added)
        successor.check_follows(self)
        return successor

    def check_follows(self, previous: Roster) -> None:
        """Check that this may follow ``previous``.

        Raises
        ------
        FormatError
            If the version is not the next, a member moved, was dropped, renamed or restored,
            or a key or an active name stands twice.
        KeyFormatError
            If a new key may not be enrolled.
        """
        if self.version != previous.version + 1:
            raise FormatError(f"expected roster version {previous.version + 1}, got {self.version}")
        for old, new in zip(previous.members, self.members, strict=False):
            revived = old.state is MemberState.REVOKED and new.state is MemberState.ACTIVE
            if (old.key, old.name) != (new.key, new.name) or revived:
                raise FormatError(f"expected member {old.name!r} unchanged, got {new.name!r}")
        if len(self.members) < (least := len(previous.members)):
            raise FormatError(f"expected at least {least} members, got {len(self.members)}")
        for member in self.members[least:]:
            check_public_key(member.key)
        keys = [member.key for member in self.members]
        names = [m.name for m in self.members if m.state is MemberState.ACTIVE]
        if len(set(keys)) < len(keys) or len(set(names)) < len(names):
            raise FormatError("expected every key once and every active name once")
