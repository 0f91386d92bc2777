"""A node's side of a vote, without Flower: its key, what it has seen, and what it has signed.

Everything a voter must not lose lies in its state directory: the key, the checkpoint that it
verified last, and every ballot it signed, written before it is sent. A node asked again, in any
run, returns the very bytes it signed first.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rtc_flower.ballot import encode_meta, sign
from rtc_flower.clients.contract import Contract, DeclinedError, TaskInfo
from rtc_flower.clients.store import ModelStore
from rtc_flower.clients.witness import Witness
from rtc_flower.encoding import unpack_bits
from rtc_flower.entries import AbsenceReason, Task
from rtc_flower.errors import ContractError, DataError, FormatError, RtcFlowerError
from rtc_flower.files import sync_directory
from rtc_flower.keys import load_or_create_key
from rtc_flower.merkle import leaf_hash, verify_inclusion
from rtc_flower.samples import Samples
from rtc_flower.wire import (
    MAX_TEXT,
    AuditReply,
    AuditRequest,
    BallotReply,
    Declined,
    HelloReply,
    HelloRequest,
    VoteRequest,
    read_leaf,
    split_hashes,
)

__all__ = ["Voter"]

_LOG = logging.getLogger("flwr.rtc_flower")


class Voter:
    """One node.

    Parameters
    ----------
    state_dir : Path
        The node's own directory, mode 0700; made on first use.
    name : str
        What the node's owner calls it; shown in rosters and tables.
    server_key : bytes, optional
        Answers no other server than the one with this public key.

    Raises
    ------
    DataError
        If the directory cannot be made.
    KeyFormatError
        If others can read the node's key.
    """

    def __init__(self, state_dir: Path, *, name: str, server_key: bytes | None = None) -> None:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"state-dir {state_dir}: expected a folder that this user may write "
                f"({error.strerror})"
            ) from error
        self.state_dir, self.name, self._server_key = state_dir, name, server_key
        self.key = load_or_create_key(state_dir / "node.key")
        self.store = ModelStore(state_dir / "models")

    def hello(self, request: HelloRequest) -> HelloReply:
        """Prove possession of the key and tell what was seen.

        Raises
        ------
        FormatError, SignatureError
            If the server cannot show that it holds the ledger's key.
        """
        witness = self._witness(request)
        witness.read_checkpoint(request.checkpoint)
        size = len(witness.replica())  # before what it holds: an audit may run in between
        proof = self.key.sign(
            HelloReply.message(witness.ledger_id, request.challenge, self.key.public)
        )
        return HelloReply(
            self.key.public,
            proof,
            self.name,
            witness.held,
            replica_size=size,
            unproved=b"".join(bytes.fromhex(path.stem) for path in witness.unproved()),
        )

    def audit(self, request: AuditRequest) -> AuditReply:
        """Check the server's log; see `Witness.audit`."""
        return self._witness(request).audit(request, self.key)

    def _witness(self, request: HelloRequest | VoteRequest | AuditRequest) -> Witness:
        return Witness(
            self.state_dir, request.genesis, request.rotations, server_key=self._server_key
        )

    def vote(
        self, request: VoteRequest, data: bytes, contracts: Mapping[str, Contract]
    ) -> BallotReply | Declined:
        """Answer a task: a ballot, or a signed decline.

        Parameters
        ----------
        data : bytes
            The encoded sample set.
        contracts : mapping of str to Contract
            The node's contracts by kind of task.

        Raises
        ------
        FormatError, SignatureError
            If the request is not from the ledger's server, the task is not in its log, or its log
            does not continue what this node has seen. Nothing is signed.
        """
        witness = self._witness(request)
        ledger_id = witness.ledger_id
        task, task_id = read_leaf(request.task, Task)
        if len(request.bundle) not in (0, 32):  # else it would sign what no ledger takes
            raise FormatError(f"expected a bundle hash of 32 bytes, got {len(request.bundle)}")
        seen = witness.follow(
            request.checkpoint, seen_size=request.seen_size, consistency=request.consistency
        )
        verify_inclusion(
            leaf_hash(request.task),
            request.task_index,
            size=seen.size,
            root=seen.root,
            proof=split_hashes(request.inclusion),
        )
        kept = witness.ballot_path(task_id)
        if kept.exists():
            return BallotReply(kept.read_bytes())
        try:
            contract = _choose(contracts, task)
            codes = self._codes(task, request, data, contract)
            meta = encode_meta(contract.said, request.bundle)
        except (DeclinedError, ContractError) as error:
            _LOG.warning("%s does not vote: %s", self.name, error)
            failed = isinstance(error, ContractError)
            reason = AbsenceReason.ERROR if failed else AbsenceReason.DECLINED
            message = Declined.message(ledger_id, task_id, request.nonce, reason)
            return Declined(int(reason), str(error)[:MAX_TEXT], self.key.sign(message))
        ballot = sign(
            self.key,
            codes,
            ledger_id=ledger_id,
            task_id=task_id,
            n=task.n,
            meta=meta,
            seen=(seen.size, seen.root),
        )
        return BallotReply(_write_once(kept, ballot.encode()))

    def _codes(self, task: Task, request: VoteRequest, data: bytes, contract: Contract) -> bytes:
        """Encoded votes of the contract."""
        samples = Samples.decode(data, task.n)
        if samples.digest() != task.samples_hash or len(samples) != task.n:
            raise FormatError("expected the samples that TASK names, got others")
        asked = unpack_bits(request.asked, task.n)
        info = TaskInfo(task.kind, int(asked.sum()), task.class_names, request.seconds)
        if not contract.accept(info):
            raise DeclinedError("busy")
        votes = contract.votes(samples, asked, classes=task.k, store=self.store)
        codes = np.full(task.n, task.codec.not_asked)
        codes[asked] = np.where(votes < 0, task.codec.abstain, votes)
        return task.codec.encode(codes)


def _choose(contracts: Mapping[str, Contract], task: Task) -> Contract:
    if task.kind not in contracts:
        known = ", ".join(sorted(contracts)) or "none"
        raise DeclinedError(f"no contract for tasks of kind {task.kind!r} here (known: {known})")
    return contracts[task.kind]


def _write_once(path: Path, content: bytes) -> bytes:
    """Store ``content`` unless something is stored already; return what is stored."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        sync_directory(path.parent)  # a power cut must not make the node sign another ballot
    finally:  # a full disk leaves no scrap behind
        temporary.unlink(missing_ok=True)
    return path.read_bytes()


def read_server_key(text: str) -> bytes:
    """Public key from its hexadecimal form; `RtcFlowerError` if it is none."""
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise RtcFlowerError(f"expected a server key in hexadecimal, got {text!r}") from error
    if len(key) != 32:
        raise RtcFlowerError(f"expected a server key of 32 bytes, got {len(key)}")
    return key
