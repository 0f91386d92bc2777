"""Every error that rtc-flower raises on bad data, bad input or an attack.

::

    RtcFlowerError
    ├── FormatError          bytes that do not decode: length, tag, range, trailing bytes
    ├── KeyFormatError       a key that may not be enrolled, or a key file that may not be used
    ├── SignatureError       a signature that does not verify
    ├── BallotError          a ballot that is refused; ``reason`` is the code that REFUSED records
    ├── ContractError        a node's contract raised, or answered something that is not a vote
    ├── DataError            no data, half a file, a partition that does not exist
    ├── TaskError            parameters of a task that cannot be posted
    ├── ReplayError          an entry that the rules of replay forbid; ``rule`` is its number
    ├── LedgerError          the ledger file
    │   ├── LedgerLockedError    another writer holds it
    │   ├── LedgerFormatError    not a ledger, or half a file
    │   │   └── UnsupportedError     of a newer version: what depends on it cannot be checked
    │   └── LedgerFullError      the disk is full or failed; nothing was written
    ├── QuorumError          fewer nodes than a task needs
    └── DeploymentError      a SuperLink, SuperNode or run that did not start or did not finish

A bug (a call in the wrong order) is a ``RuntimeError``; mathematical functions raise
``ValueError``, as their callers expect.
"""

from __future__ import annotations


class RtcFlowerError(Exception):
    """Root of every error of this package."""


class FormatError(RtcFlowerError):
    """Bytes that are not the canonical encoding of what was expected."""


class KeyFormatError(RtcFlowerError):
    """A key that is malformed, weak, or kept where others can read it."""


class SignatureError(RtcFlowerError):
    """A signature that does not verify under the expected key."""


class BallotError(RtcFlowerError):
    """A ballot that is refused.

    Attributes
    ----------
    reason : int
        The reason code that a REFUSED entry records (`rtc_flower.entries.Refusal`).
    """

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ContractError(RtcFlowerError):
    """A contract that raised or whose answer is not a vote per sample."""


class DataError(RtcFlowerError):
    """Private data or samples that are missing, truncated or out of range."""


class TaskError(RtcFlowerError):
    """A task whose parameters cannot be posted; raised before anything is written."""


class ReplayError(RtcFlowerError):
    """An entry that the rules of replay forbid.

    Attributes
    ----------
    rule : str
        Number of the rule in ``docs/spec.md``, for example ``"R12"``.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


class LedgerError(RtcFlowerError):
    """The ledger file cannot be used as asked."""


class LedgerLockedError(LedgerError):
    """Another process is writing this ledger."""


class LedgerFormatError(LedgerError):
    """Not a ledger, a damaged one, or one written by a newer version."""


class UnsupportedError(LedgerFormatError):
    """A format, entry type or rule of a newer version: what depends on it cannot be checked.

    The message ends with what to do about it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Install a newer rtc-flower")


class LedgerFullError(LedgerError):
    """The disk is full or failed during an append, which was rolled back."""


class QuorumError(RtcFlowerError):
    """Fewer nodes answered than the task needs."""


class DeploymentError(RtcFlowerError):
    """A SuperLink, a SuperNode or a run that did not start or did not finish."""
