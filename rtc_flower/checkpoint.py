"""Signed statements of the whole ledger's state: C2SP signed notes and tree heads."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from rtc_flower.errors import FormatError, SignatureError
from rtc_flower.keys import SigningKey, check_signature

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_DASH = "\u2014 "


def origin_of(ledger_id: bytes) -> str:
    """Origin line and key name of a ledger's checkpoints."""
    return f"rtc-flower/ledger/{ledger_id.hex()}"


def witness_name(key: bytes) -> str:
    """Key name of a node's cosignatures."""
    return f"rtc-flower/node/{key.hex()}"


def _key_hash(name: str, key: bytes, kind: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + kind + key).digest()[:4]


def _signature_line(name: str, key: bytes, kind: bytes, content: bytes) -> str:
    blob = base64.b64encode(_key_hash(name, key, kind) + content).decode()
    return f"{_DASH}{name} {blob}"


def _unbase64(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or base64.b64encode(raw).decode() != text:
        raise FormatError(f"expected canonical base64 for the {what}, got {text[:40]!r}")
    return raw


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of a ledger's log.

    Attributes
    ----------
    ledger_id : bytes
        32 bytes; becomes the note's origin.
    size : int
        Number of entries.
    root : bytes
        RFC 6962 root, 32 bytes.
    """

    ledger_id: bytes
    size: int
    root: bytes

    def body(self) -> str:
        """The three signed lines."""
        root = base64.b64encode(self.root).decode()
        return f"{origin_of(self.ledger_id)}\n{self.size}\n{root}\n"

    def sign(self, key: SigningKey) -> str:
        """Return the note with one Ed25519 signature."""
        name, body = origin_of(self.ledger_id), self.body()
        line = _signature_line(name, key.public, _ED25519, key.sign(body.encode()))
        return f"{body}\n{line}\n"

    @classmethod
    def parse(cls, note: str) -> Checkpoint:
        """Read the statement of ``note`` without checking who signed it.

        Raises
        ------
        FormatError
            If it is not a checkpoint of an rtc-flower ledger.
        """
        text, _, tail = note.partition("\n\n")
        lines, signatures = text.split("\n"), tail.removesuffix("\n").split("\n")
        strange = tail and not all(line.startswith(_DASH) for line in signatures)
        prefix = origin_of(b"")
        if len(lines) != 3 or strange or not lines[0].startswith(prefix):
            raise FormatError(f"expected a checkpoint and signatures, got {lines[0][:60]!r}")
        try:
            note.encode()  # a file's bytes that are no UTF-8 come as surrogates
            ledger_id, size = bytes.fromhex(lines[0][len(prefix) :]), int(lines[1])
        except ValueError as error:
            raise FormatError(f"expected a ledger id and a size, got {lines[:2]!r}") from error
        checkpoint = cls(ledger_id, size, _unbase64(lines[2], "root"))
        canonical = 0 <= size < 2**64 and len(ledger_id) == len(checkpoint.root) == 32
        if not canonical or checkpoint.body() != "\n".join(lines) + "\n":
            raise FormatError(f"expected a canonical checkpoint, got {note[:60]!r}")
        return checkpoint

    @classmethod
    def verify(cls, note: str, key: bytes) -> Checkpoint:
        """Read ``note`` and check the server's signature under ``key``.

        Raises
        ------
        FormatError, SignatureError
            If it is not a checkpoint, or ``key`` did not sign it.
        """
        checkpoint = cls.parse(note)
        if not checkpoint.is_signed(note, key):
            raise SignatureError(f"expected a checkpoint signed by {key.hex()[:16]}..., found none")
        return checkpoint

    def is_signed(self, note: str, key: bytes) -> bool:
        """Whether the further lines of ``note`` have one by ``key``.

        Raises
        ------
        FormatError, SignatureError
            If its signature fails, or a line of the server's before it is not base64.
        """
        name = origin_of(self.ledger_id)
        for line in note.partition("\n\n")[2].split("\n"):
            if line.startswith(prefix := f"{_DASH}{name} "):
                blob = _unbase64(line.removeprefix(prefix), "signature")
                if blob[:4] == _key_hash(name, key, _ED25519):
                    check_signature(key, blob[4:], self.body().encode())
                    return True
        return False

    def _cosigned(self, seconds: int) -> bytes:
        return f"cosignature/v1\ntime {seconds}\n{self.body()}".encode()

    def check_stored(self, note: str) -> None:
        """Refuse a note that is not these three lines, an empty one and one signature line.

        A ledger stores notes in this form alone, so that every changed byte shows.
        """
        prefix = f"{self.body()}\n{_DASH}{origin_of(self.ledger_id)} "
        if not note.startswith(prefix) or note.count("\n") != 5 or not note.endswith("\n"):
            body = self.body()
            raise FormatError(f"expected {body!r} and one signature, got {note[: len(body)]!r}")

    def cosign(self, key: SigningKey, *, seconds: int) -> str:
        """Return a C2SP cosignature line (without its newline) by a node.

        Parameters
        ----------
        seconds : int
            Unix time at which the node verified this checkpoint.
        """
        content = seconds.to_bytes(8, "big") + key.sign(self._cosigned(seconds))
        return _signature_line(witness_name(key.public), key.public, _COSIGNATURE, content)

    def check_cosignature(self, line: str, key: bytes) -> int:
        """Verify a node's cosignature line; return its Unix time.

        Raises
        ------
        FormatError, SignatureError
        """
        name = witness_name(key)
        prefix = f"{_DASH}{name} "
        if not line.startswith(prefix):
            raise FormatError(f"expected a cosignature by {key.hex()[:16]}..., got {line[:40]!r}")
        blob = _unbase64(line[len(prefix) :], "cosignature")
        if len(blob) != 76 or blob[:4] != _key_hash(name, key, _COSIGNATURE):
            raise FormatError(f"expected a cosignature by {key.hex()[:16]}..., got another key's")
        seconds = int.from_bytes(blob[4:12], "big")
        check_signature(key, blob[12:], self._cosigned(seconds))
        return seconds
