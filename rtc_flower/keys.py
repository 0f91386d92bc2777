"""Ed25519 keys: strict public keys, and private keys in files that only their owner can read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rtc_flower.errors import KeyFormatError, SignatureError

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
# y coordinates of the points of order 1, 2, 4 and 8; both signs of x are refused.
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


def check_public_key(key: bytes) -> None:
    """Refuse what may not be enrolled: no point, non-canonical, or of small order.

    With a key of small order one signature verifies many messages, and OpenSSL accepts it.

    Raises
    ------
    KeyFormatError
        If ``key`` is not the canonical 32-byte encoding of a point of large order.
    """
    if len(key) != 32:
        raise KeyFormatError(f"expected an Ed25519 public key of 32 bytes, got {len(key)}")
    y = int.from_bytes(key, "little") & (2**255 - 1)
    if y >= _P:
        raise KeyFormatError(f"expected a canonical Ed25519 key (y < 2**255 - 19), got {key.hex()}")
    if y in _SMALL_ORDER_Y:
        raise KeyFormatError(f"expected an Ed25519 key of large order, got {key.hex()}")
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(x_squared, (_P - 1) // 2, _P) != 1:
        raise KeyFormatError(f"expected a point of the Ed25519 curve, got {key.hex()}")


def check_signature(key: bytes, signature: bytes, message: bytes) -> None:
    """Verify an Ed25519 ``signature`` (64 bytes) of ``message`` under ``key`` (32 bytes).

    Raises
    ------
    SignatureError
        If it does not verify.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        what = f"expected a signature by {key.hex()[:16]}..., got one that fails"
        raise SignatureError(what) from error


class SigningKey:
    """An Ed25519 private key.

    Parameters
    ----------
    seed : bytes
        32 secret bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a key from the system's randomness."""
        return cls(os.urandom(32))

    def sign(self, message: bytes) -> bytes:
        """Sign ``message``; 64 bytes."""
        return self._private.sign(message)

    def save(self, path: Path) -> None:
        """Write the key as PKCS#8 PEM to a new file with mode 0600; never overwrites.

        Raises
        ------
        FileExistsError
            If ``path`` exists.
        """
        from cryptography.hazmat.primitives import serialization as form  # slow to import

        how = form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        pem = self._private.private_bytes(*how)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by process id: in a container one that was killed here had the same.
        temporary = path.parent / f"{path.name}.{os.urandom(4).hex()}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # atomic, and refuses to replace another process's key
        finally:
            temporary.unlink()

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key that `save` wrote.

        Raises
        ------
        KeyFormatError
            If others can read the file, or it is not an Ed25519 private key.
        FileNotFoundError
            If there is none.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        mode = path.stat().st_mode & 0o777
        if os.name == "posix" and mode & 0o077 and not path.is_dir():
            what = f"{path}: expected mode 0600, got {mode:04o}; others may have read this key"
            raise KeyFormatError(f"{what}. Rotate it, or run 'chmod 600 {path}' if they could not")
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise KeyFormatError(f"{path}: expected an Ed25519 private key in PEM") from error
        if not isinstance(private, Ed25519PrivateKey):
            kind = type(private).__name__
            raise KeyFormatError(f"{path}: expected an Ed25519 private key, got {kind}")
        return cls(private.private_bytes_raw())


def load_or_create_key(path: Path) -> SigningKey:
    """Read the key at ``path``; make it first when there is none.

    Raises
    ------
    KeyFormatError
        As `SigningKey.load`; also if the key can be neither read nor made.
    """
    try:
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process of this node was first
                SigningKey.generate().save(path)
        return SigningKey.load(path)
    except OSError as error:
        what = f"{path.parent}: expected a folder for {path.name} that this user may write"
        raise KeyFormatError(f"{what} ({error.strerror})") from error
