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
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.clients.contract import Contract, DeclinedError, TaskInfo
from rtc_flower.clients.store import ModelStore
from rtc_flower.encoding import unpack_bits
from rtc_flower.entries import AbsenceReason, Task
from rtc_flower.errors import ContractError, FormatError, RtcFlowerError
from rtc_flower.files import write_atomically
from rtc_flower.keys import load_or_create_key
from rtc_flower.merkle import leaf_hash, verify_consistency, verify_inclusion
from rtc_flower.samples import Samples
from rtc_flower.wire import (
    BallotReply,
    Declined,
    HelloReply,
    HelloRequest,
    VoteRequest,
    read_genesis,
    read_task,
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
    KeyFormatError
        If others can read the node's key.
    """

    def __init__(self, state_dir: Path, *, name: str, server_key: bytes | None = None) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        server_key, ledger_id = self._server(request.genesis)
        Checkpoint.verify(request.checkpoint, server_key)
        held = self._held(ledger_id)
        return HelloReply.sign(
            self.key,
            ledger_id=ledger_id,
            challenge=request.challenge,
            name=self.name,
            seen_size=held.size if held else 0,
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
        server_key, ledger_id = self._server(request.genesis)
        seen = self._follow(request, server_key, ledger_id)
        task, task_id = read_task(request.task)
        kept = self._path(ledger_id, f"{task_id.hex()}.ballot")
        if kept.exists():
            return BallotReply(kept.read_bytes())
        try:
            contract = _choose(contracts, task)
            codes = self._codes(task, request, data, contract)
            meta = encode_meta(contract.said, request.bundle)
        except (DeclinedError, ContractError) as error:
            _LOG.warning("%s does not vote: %s", self.name, error)
            failed = isinstance(error, ContractError)
            return Declined.sign(
                self.key,
                AbsenceReason.ERROR if failed else AbsenceReason.DECLINED,
                text=str(error),
                ledger_id=ledger_id,
                task_id=task_id,
                nonce=request.nonce,
            )
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
        samples = Samples.decode(data)
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

    # -- what the node has seen -----------------------------------------------------------

    def _server(self, genesis_leaf: bytes) -> tuple[bytes, bytes]:
        """Server key and ledger id; refuses a server that this node does not want."""
        genesis, ledger_id = read_genesis(genesis_leaf)
        if self._server_key not in (None, genesis.server_key):
            raise FormatError(
                f"expected the server with key {(self._server_key or b'').hex()}, "
                f"got {genesis.server_key.hex()}"
            )
        return genesis.server_key, ledger_id

    def _path(self, ledger_id: bytes, name: str) -> Path:
        directory = self.state_dir / "ledgers" / ledger_id.hex()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory / name

    def _held(self, ledger_id: bytes) -> Checkpoint | None:
        path = self._path(ledger_id, "checkpoint")
        return Checkpoint.parse(path.read_text()) if path.exists() else None

    def _follow(self, request: VoteRequest, server_key: bytes, ledger_id: bytes) -> Checkpoint:
        """Check that TASK is in a log that continues what this node has seen, and remember it."""
        checkpoint = Checkpoint.verify(request.checkpoint, server_key)
        if checkpoint.ledger_id != ledger_id:
            raise FormatError("expected a checkpoint of the ledger that GENESIS begins")
        verify_inclusion(
            leaf_hash(request.task),
            request.task_index,
            size=checkpoint.size,
            root=checkpoint.root,
            proof=split_hashes(request.inclusion),
        )
        held = self._held(ledger_id)
        if held is not None:
            _check_continues(held, checkpoint, request)
        write_atomically(self._path(ledger_id, "checkpoint"), request.checkpoint)
        return checkpoint


def _check_continues(held: Checkpoint, now: Checkpoint, request: VoteRequest) -> None:
    if request.seen_size != held.size:
        raise FormatError(
            f"expected a proof from size {held.size}, which this node has seen, "
            f"got one from {request.seen_size}"
        )
    try:
        verify_consistency(
            held.size,
            now.size,
            old_root=held.root,
            new_root=now.root,
            proof=split_hashes(request.consistency),
        )
    except FormatError as error:
        raise FormatError(
            f"the server's log of {now.size} entries does not continue the {held.size} entries "
            f"that this node has seen: {error}"
        ) from error


def _choose(contracts: Mapping[str, Contract], task: Task) -> Contract:
    if task.kind not in contracts:
        known = ", ".join(sorted(contracts)) or "none"
        raise DeclinedError(f"no contract for tasks of kind {task.kind!r} here (known: {known})")
    return contracts[task.kind]


def _write_once(path: Path, content: bytes) -> bytes:
    """Store ``content`` unless something is stored already; return what is stored."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    with open(temporary, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
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
