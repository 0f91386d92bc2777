"""A node's trained models on its own disk, so that a second task needs no training.

A model is kept under the hash of what decided it: code, description, hyperparameters, seed and
data. Change any of them and the node trains anew; there is nothing to invalidate. A file is the
SHA-256 of the payload, then the payload, written beside its place and renamed into it, so that
a crash leaves either no file or a whole one.

The directory belongs to the node alone (files have mode 0600): estimators of scikit-learn, and
contracts that cannot write themselves as bytes, are pickled, and unpickling runs code. The
checksum tells damage, not malice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from rtc_flower.clients.source import code_digest
from rtc_flower.errors import ContractError

__all__ = ["ModelStore", "describe", "model_key"]

DESCRIPTION_BYTES = 200

_TAG = b"rtc-flower/model"
_LOG = logging.getLogger("flwr.rtc_flower")


def describe(contract: object) -> str:
    """Return what a contract says of itself, or else the place of its class.

    Returns
    -------
    str
        ``contract.description`` where that is a text; at most 200 bytes of UTF-8 either way.
    """
    said = getattr(contract, "description", None)
    kind = type(contract)
    text = said if isinstance(said, str) and said else f"{kind.__module__}:{kind.__qualname__}"
    return text.encode()[:DESCRIPTION_BYTES].decode(errors="ignore")


def model_key(contract: object, data_fingerprint: bytes) -> str:
    """Return the key of a contract trained on these data: 64 hexadecimal digits.

    Hyperparameters are the contract's ``hyperparameters`` or scikit-learn's ``get_params()``, the
    seed its ``seed``, and its code what `rtc_flower.clients.source` can see; what a contract does
    not tell cannot tell its models apart, so a contract of your own that has settings should name
    them in its ``description``.

    Parameters
    ----------
    contract : object
        Trained or not.
    data_fingerprint : bytes
        See `rtc_flower.clients.data.fingerprint`.
    """
    kind = type(contract)
    settings = _hyperparameters(contract)
    parts = (
        _TAG,
        f"{kind.__module__}:{kind.__qualname__}".encode(),
        describe(contract).encode(),
        data_fingerprint,
        _told(settings).encode(),
        repr(getattr(contract, "seed", None)).encode(),
        code_digest([contract, *settings.values()]),
    )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


class ModelStore:
    """Trained models in one directory.

    Parameters
    ----------
    directory : path
        Made with mode 0700 if it is not there; the node's own.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, contract: Any, data_fingerprint: bytes) -> Any | None:
        """Return the contract as it was trained on these data, or None where it was not yet.

        A damaged file is a miss: it is named in a warning, and the next `put` replaces it. So is a
        contract that has no key.

        Parameters
        ----------
        contract : object
            Untrained. One with ``loads`` takes the model over and is returned itself; any other
            is left as it is, and its unpickled twin is returned.
        data_fingerprint : bytes
            See `rtc_flower.clients.data.fingerprint`.
        """
        try:
            path = self._path(contract, data_fingerprint)
            content = path.read_bytes()
        except (FileNotFoundError, ContractError):  # `put` says why there is no key
            return None
        except OSError as error:
            _LOG.warning("model %s cannot be read and is trained again: %s", path, error)
            return None
        payload = content[32:]
        if hashlib.sha256(payload).digest() != content[:32]:
            _LOG.warning("model %s is damaged and is trained again: wrong checksum", path)
            return None
        try:
            restored = _restored(contract, payload)
        except Exception as error:  # a contract of anybody's may raise anything
            _LOG.warning("model %s is of no use and is trained again: %s", path, error)
            return None
        _LOG.info("using the model trained earlier, %s (delete it to train again)", path)
        return restored

    def put(self, contract: Any, data_fingerprint: bytes) -> None:
        """Keep a trained contract, on disk when this returns.

        Raises
        ------
        ContractError
            Its ``dumps`` failed, or it has none and cannot be pickled; or it has no key, since
            what it tells of itself raises.
        OSError
            The disk is full or failed; an earlier file of the same key is untouched.
        """
        path, payload = self._path(contract, data_fingerprint), _payload(contract)
        self._write(path, hashlib.sha256(payload).digest() + payload)

    def _path(self, contract: Any, data_fingerprint: bytes) -> Path:
        try:
            return self.directory / f"{model_key(contract, data_fingerprint)}.model"
        except Exception as error:  # whatever the object's own methods raise
            raise ContractError(f"{type(contract).__name__} cannot be kept: {error!r}") from error

    def _write(self, path: Path, content: bytes) -> None:
        # mkstemp gives mode 0600 and a name that no other writer has.
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self.directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        # A crash before this may forget the new name, never give it to half a file.
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _hyperparameters(contract: object) -> Mapping[Any, Any]:
    values = getattr(contract, "hyperparameters", None)
    if values is None and callable(getattr(contract, "get_params", None)):
        values = contract.get_params()  # type: ignore[attr-defined]
    return values if isinstance(values, Mapping) else {}


def _told(settings: Mapping[Any, Any]) -> str:
    told = repr(sorted((str(name), repr(value)) for name, value in settings.items()))
    for value in settings.values():
        if isinstance(value, FunctionType):  # it shows its address, another one in every process
            told = told.replace(repr(value), value.__qualname__)
    return told


def _payload(contract: Any) -> bytes:
    try:
        if callable(getattr(contract, "dumps", None)):
            return bytes(contract.dumps())
        return pickle.dumps(contract, protocol=5)
    except Exception as error:  # whatever the object's own methods raise
        raise ContractError(f"{describe(contract)} cannot be kept: {error}") from error


def _restored(contract: Any, payload: bytes) -> Any:
    if callable(getattr(contract, "loads", None)):
        contract.loads(payload)
        return contract
    return pickle.loads(payload)
