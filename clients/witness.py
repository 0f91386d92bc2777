"""What a node has seen of one ledger: it follows the log, keeps receipts, and audits.

Nothing here trusts the server. A node remembers the last checkpoint it verified and follows only
a log that continues it; it keeps a receipt for its ballots; and in a full audit it repeats every
decision, once, on its own replica of the log before it cosigns.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rtc_flower.ballot import Ballot
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.clients.replica import Replica, keep_text
from rtc_flower.consensus import Replay, rule_of
from rtc_flower.encoding import Reader, decompress
from rtc_flower.entries import NUMBERS, Genesis, ServerKey
from rtc_flower.errors import (
    BallotError,
    DataError,
    FormatError,
    ReplayError,
    RtcFlowerError,
    SignatureError,
    UnsupportedError,
)
from rtc_flower.keys import SigningKey
from rtc_flower.merkle import leaf_hash, verify_consistency
from rtc_flower.receipts import KeptReceipt
from rtc_flower.signatures import check_signatures
from rtc_flower.wire import (
    MAX_TEXT,
    AuditReply,
    AuditRequest,
    SentReceipt,
    read_leaf,
    server_key_of,
    split_hashes,
    split_leaves,
)

__all__ = ["Witness"]

_LOG = logging.getLogger("flwr.rtc_flower")
_BALLOT = bytes([NUMBERS[Ballot]])
_NOT_KEPT = (
    "a ballot under this node's key that it does not keep: somebody else has the key, or it was "
    "lost with the node's folder; in both cases the node needs a new key"
)


class _AuditError(Exception):
    """Something is wrong with the server's log; the first argument is the check's number."""


class Witness:
    """A node's memory of one ledger.

    Parameters
    ----------
    state_dir : Path
        The node's own directory.
    genesis, rotations : bytes
        As the server sent them.
    server_key : bytes, optional
        Refuses ledgers that began with another server key.

    Raises
    ------
    FormatError, SignatureError
        If the ledger is not one that this node wants, or its keys do not follow one another.
    """

    def __init__(
        self, state_dir: Path, genesis: bytes, rotations: bytes, *, server_key: bytes | None = None
    ) -> None:
        entry, self.ledger_id = read_leaf(genesis, Genesis)
        if server_key not in (None, entry.server_key):
            raise FormatError(
                f"expected the server with key {(server_key or b'').hex()}, "
                f"got {entry.server_key.hex()}"
            )
        self._genesis, self._rotations = genesis, rotations
        self._key = server_key_of(entry, rotations, ledger_id=self.ledger_id)
        later = (read_leaf(leaf, ServerKey)[0].key for leaf in split_leaves(rotations))
        self._keys = [entry.server_key, *later]
        self._directory = state_dir / "ledgers" / self.ledger_id.hex()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._replica = Replica(self._directory)

    def replica(self) -> list[bytes]:
        """Leaves of this node's copy of the log; what a crash cut off is dropped."""
        with self._alone():
            return self._replica.read()

    def ballot_path(self, task_id: bytes) -> Path:
        """Where the ballot for a task is kept."""
        return self._directory / f"{task_id.hex()}.ballot"

    @property
    def _held_path(self) -> Path:
        return self._directory / "checkpoint"

    @property
    def held(self) -> str:
        """The checkpoint that was verified last; "" for none.

        Raises
        ------
        DataError
            If this node's disk damaged it, for which the server is not to blame.
        """
        path = self._held_path
        if not path.exists():
            return ""
        note = path.read_text(encoding="utf-8", errors="replace")
        try:
            checkpoint = Checkpoint.parse(note)
            for key in self._keys:
                checkpoint.is_signed(note, key)
        except (FormatError, SignatureError) as error:
            raise DataError(
                f"{path}: the checkpoint that this node holds was damaged ({error}); bring a copy "
                "back. Without it the node forgets what it has seen of this ledger"
            ) from error
        return note

    def read_checkpoint(self, note: str) -> Checkpoint:
        """Read ``note``; `FormatError` or `SignatureError` if it is not of this ledger's server."""
        checkpoint = Checkpoint.verify(note, self._key)
        if checkpoint.ledger_id != self.ledger_id:
            raise FormatError("expected a checkpoint of the ledger that GENESIS begins")
        return checkpoint

    def follow(self, note: str, *, seen_size: int, consistency: bytes) -> Checkpoint:
        """Check that ``note`` continues what was seen, and remember it.

        Raises
        ------
        FormatError, SignatureError
            If it does not; what was seen stays.
        DataError
            If no key that the server names signed what was seen: a server key that was replaced
            may be a thief's by now.
        """
        with self._alone():
            return self._follow(note, seen_size, consistency)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let other messages to this node wait: Flower's simulation handles several at once."""
        with (self._directory / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _follow(self, note: str, seen_size: int, consistency: bytes) -> Checkpoint:
        checkpoint = self._continued(note, seen_size, consistency)
        keep_text(self._held_path, note)
        return checkpoint

    def _continued(self, note: str, seen_size: int, consistency: bytes) -> Checkpoint:
        """Check as `follow` does; remember nothing yet."""
        checkpoint = self.read_checkpoint(note)
        if note_held := self.held:
            held = Checkpoint.parse(note_held)
            if not any(held.is_signed(note_held, key) for key in self._keys):
                raise DataError(
                    f"expected a server that names the key which signed {self._held_path}, got one "
                    "that does not: it uses a key that was replaced, or that file was damaged"
                )
            if seen_size != held.size:
                raise FormatError(
                    f"expected a proof from size {held.size}, which this node has seen, "
                    f"got one from {seen_size}"
                )
            self._check_continues(held, checkpoint, split_hashes(consistency))
        return checkpoint

    def _check_continues(self, held: Checkpoint, now: Checkpoint, proof: list[bytes]) -> None:
        try:
            verify_consistency(
                held.size, now.size, old_root=held.root, new_root=now.root, proof=proof
            )
        except FormatError as error:
            raise FormatError(
                f"the server's log of {now.size} entries does not continue the {held.size} "
                f"entries that this node has seen: {error}"
            ) from error

    # -- audit ----------------------------------------------------------------------------

    def audit(
        self,
        request: AuditRequest,
        key: SigningKey,
        *,
        clock: Callable[[], float] = time.time,
    ) -> AuditReply:
        """Check receipts, and in a full audit the whole log; cosign what holds.

        Parameters
        ----------
        key : SigningKey
            The node's own.
        clock : callable
            Unix seconds, for the cosignature.
        """
        with self._alone():
            return self._audit(request, key, clock)

    def _audit(
        self, request: AuditRequest, key: SigningKey, clock: Callable[[], float]
    ) -> AuditReply:
        leaves, checkpoint = self._replica.read() if request.full else [], None
        if request.full and request.replica_size != len(leaves):
            return AuditReply("behind", "", len(leaves), "")
        try:
            checkpoint = self._follow_audit(request)
            self._take_receipts(request)
            cosignature = ""
            if request.full:
                known = self._replica.known(leaves)
                leaves += split_leaves(decompress(request.entries, "list of entries"))
                self._check_log(leaves, checkpoint, known=known)
                self._check_mine(leaves, key.public)
                self._replica.keep(leaves, len(leaves) - request.replica_size, checkpoint)
                cosignature = checkpoint.cosign(key, seconds=int(clock()))
        except (_AuditError, FormatError) as error:
            if request.full and self._replica.drop_damaged(leaves):
                # Nothing was followed yet: the server asks again from what it knows was seen.
                return AuditReply("behind", "the replica was damaged on this node's disk", 0, "")
            if checkpoint is not None:
                keep_text(self._held_path, request.checkpoint)
            number, detail = error.args if isinstance(error, _AuditError) else ("V2", str(error))
            detail = str(detail)[:MAX_TEXT]  # it may quote a whole ballot
            _LOG.error("audit failed: %s: %s", number, detail)
            return AuditReply(number, detail, request.replica_size, "")
        keep_text(self._held_path, request.checkpoint)
        missing = self._missing(leaves)
        if missing:  # the owner must hear it: a server that dropped the ballot tells nobody
            _LOG.warning("audit: %s", missing)
        return AuditReply("ok", missing[:MAX_TEXT], len(leaves), cosignature)

    def _follow_audit(self, request: AuditRequest) -> Checkpoint:
        try:
            return self._continued(request.checkpoint, request.seen_size, request.consistency)
        except DataError:
            raise
        except RtcFlowerError as error:
            raise _AuditError("V11", str(error)) from error

    def _take_receipts(self, request: AuditRequest) -> None:
        """Keep a receipt for every ballot of this node that the server proves."""
        for sent in SentReceipt.read_all(request.receipts):
            path = self.ballot_path(sent.task_id)
            if not path.exists():
                raise _AuditError("receipt", f"a receipt for {_NOT_KEPT}")
            kept = KeptReceipt(
                self._genesis,
                self._rotations,
                _read_ballot(path),
                sent.index,
                sent.time_ms,
                sent.proof,
                request.checkpoint,
            )
            try:
                kept.check()
            except RtcFlowerError as error:
                raise _AuditError("receipt", str(error)) from error
            keep_text(path.with_suffix(".receipt"), kept.to_json())

    @property
    def _receipt_paths(self) -> list[Path]:
        return sorted(self._directory.glob("*.receipt"))

    def _ballot_paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"{'[0-9a-f]' * 64}.ballot"))

    def unproved(self) -> list[Path]:
        """Where the ballots are kept that have no receipt."""
        paths = self._ballot_paths()
        return [path for path in paths if not path.with_suffix(".receipt").exists()]

    def receipts(self) -> list[KeptReceipt]:
        """Every receipt that was kept; `DataError` if this node's disk damaged one."""
        return [_read_receipt(path) for path in self._receipt_paths]

    def _check_log(self, leaves: list[bytes], checkpoint: Checkpoint, *, known: int) -> None:
        """Repeat every decision of the log, and compare with the checkpoint and the receipts.

        Among the first ``known`` entries, which it has checked before, only those of the last task.
        """
        replay = Replay()
        replay.resume(leaves[:known])
        for index, leaf in enumerate(leaves[known:], known):
            _check_entry(replay, leaf, index)
        if replay.size != checkpoint.size or replay.roots[-1] != checkpoint.root:
            raise _AuditError("V7", f"the log of {replay.size} entries is not the checkpoint's")
        if [key for _, key in replay.server_keys] != self._keys:
            raise _AuditError("V7", "the server's keys are not those that the log names")
        if replay.due is not None:
            raise _AuditError("V8", f"expected {replay.due} at the end, found nothing")
        for path in self._receipt_paths:
            receipt = _read_receipt(path)
            if not _is_in(replay, receipt):
                _read_receipt(path, check=True)  # or is it this node's own disk?
                raise _AuditError(
                    "receipt",
                    f"entry {receipt.index} is not the ballot this node has a receipt for",
                )

    def _check_mine(self, leaves: list[bytes], voter: bytes) -> None:
        """Check that the log has no ballot under this node's key that it does not keep."""
        for index, leaf in enumerate(leaves):  # a header: tag 16, ledger 32, task 32, voter 32
            mine = leaf[16:17] == _BALLOT and leaf[105:137] == voter
            if mine and not self.ballot_path(leaf[73:105]).exists():
                raise _AuditError("receipt", f"entry {index}: {_NOT_KEPT}")

    def _missing(self, leaves: list[bytes]) -> str:
        """Name the ballots that this node signed, with any key, and the server did not show it.

        The newest first: of many the last are cut.
        """
        if not leaves:
            bare = [path.stem for path in sorted(self.unproved(), key=_age)]
            return f"no receipt for my ballot for task {', '.join(bare)}" if bare else ""
        mine = {path.read_bytes(): path for path in sorted(self._ballot_paths(), key=_age)}
        for leaf in leaves:
            mine.pop(leaf[25:], None)  # behind tag, type and time
        lost = [path.stem for path in mine.values() if _read_ballot(path)]  # or is it its disk?
        return f"my ballot is not in the log for task {', '.join(lost)}" if lost else ""


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _check_entry(replay: Replay, leaf: bytes, index: int) -> None:
    try:
        check_signatures(replay.apply(leaf), replay)
    except SignatureError as error:
        step, _, detail = str(error).partition(": ")
        raise _AuditError(step, detail) from error
    except FormatError as error:
        raise _AuditError("V2", f"entry {index}: {error}") from error
    except (ReplayError, BallotError) as error:
        raise _AuditError(rule_of(error), f"entry {index}: {error}") from error
    except UnsupportedError as error:
        raise _AuditError("unsupported", f"entry {index}: {error}") from error


def _is_in(replay: Replay, receipt: KeptReceipt) -> bool:
    try:
        leaf = leaf_hash(receipt.leaf)
    except FormatError:
        return False
    return replay.tree.leaves[receipt.index : receipt.index + 1] == [leaf]


def _read_receipt(path: Path, *, check: bool = False) -> KeptReceipt:
    try:
        receipt = KeptReceipt.from_json(path.read_text(encoding="utf-8", errors="replace"))
        if check:
            receipt.check()
    except RtcFlowerError as error:
        raise DataError(
            f"{path}: the receipt that this node kept was damaged ({error}); delete it, and the "
            "next run's audit brings it again"
        ) from error
    return receipt


def _read_ballot(path: Path) -> bytes:
    """What this node signed; `DataError` if its own disk damaged it."""
    payload = path.read_bytes()
    try:
        Ballot.read(Reader(payload)).check_signature()
    except RtcFlowerError as error:
        raise DataError(
            f"{path}: the ballot that this node signed was damaged ({error}); bring a copy back"
        ) from error
    return payload
