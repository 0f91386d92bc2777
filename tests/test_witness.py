"""What a node checks in an audit: receipts, the log from its own replica, and whose history."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ledgers import (
    NEXT,
    SERVER,
    cast,
    consistency_proof,
    forge,
    log_of,
    make_ballot,
    open_ledger,
    post,
    voter,
)

from rtc_flower.ballot import Ballot
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.clients import witness as witness_module
from rtc_flower.clients.replica import Replica, keep_text
from rtc_flower.clients.witness import Witness
from rtc_flower.consensus import Applied, Replay
from rtc_flower.entries import decode_leaf
from rtc_flower.errors import DataError, FormatError, SignatureError
from rtc_flower.ledger import Ledger
from rtc_flower.signatures import check_signatures
from rtc_flower.wire import (
    AuditReply,
    AuditRequest,
    SentReceipt,
    join_leaves,
)

ME = voter(0)


@dataclass
class Node:
    """A node's memory, and the server that audits with it."""

    directory: Path
    ledger: Ledger

    @property
    def witness(self) -> Witness:
        ledger = self.ledger
        return Witness(self.directory, ledger.leaf(0), join_leaves(ledger.rotations()))

    def vote(self) -> None:
        """Sign a ballot, keep it, and send it."""
        payload = cast(self.ledger, ME, (0, 1, 2))
        self.witness.ballot_path(self.ledger.tally.task_id).write_bytes(payload)

    def request(self, *, full: bool = True, replica: int | None = None) -> AuditRequest:
        ledger, held = self.ledger, self.witness.held
        seen = Checkpoint.parse(held).size if held else 0
        size = len(self.witness.replica()) if replica is None else replica
        receipts = b""
        for task_id, index in ledger.ballots_of(ME.public):
            time_ms = decode_leaf(ledger.leaf(index))[1]
            proof = tuple(ledger.replay.tree.inclusion_proof(index))
            receipts += SentReceipt(task_id, index, time_ms, proof).encode()
        return AuditRequest(
            genesis=ledger.leaf(0),
            rotations=join_leaves(ledger.rotations()),
            checkpoint=ledger.checkpoint,
            seen_size=seen,
            consistency=b"".join(consistency_proof(ledger.replay.tree.leaves, seen)),
            receipts=receipts,
            full=full,
            replica_size=size,
            entries=zlib.compress(join_leaves(ledger.leaves(size))) if full else b"",
        )

    def audit(self, request: AuditRequest | None = None) -> AuditReply:
        return self.witness.audit(request or self.request(), ME, clock=lambda: 7.0)

    @property
    def replica(self) -> Path:
        return next(self.directory.rglob("replica"))


@pytest.fixture
def node(ledger: Ledger, tmp_path: Path) -> Node:
    """A node that has voted on a task that is closed."""
    made = Node(tmp_path / "me", ledger)
    post(ledger, 3)
    made.vote()
    cast(ledger, voter(1), (0, 1, 2))
    return made


def test_light_takes_receipts_and_neither_replica_nor_cosignature(node: Node) -> None:
    reply = node.audit(node.request(full=False))
    assert reply == AuditReply("ok", "", 0, "")
    (receipt,) = node.witness.receipts()
    assert receipt.check().header.voter == ME.public
    assert list(node.directory.rglob("replica")) == []
    assert node.witness.held == node.ledger.checkpoint


def test_full_replicates_repeats_and_cosigns(node: Node) -> None:
    reply = node.audit()
    assert (reply.verdict, reply.detail) == ("ok", "")
    assert node.witness.replica() == log_of(node.ledger.path)
    stated = Checkpoint.parse(node.ledger.checkpoint)
    assert stated.check_cosignature(reply.cosignature, ME.public) == 7
    for other in (voter(1).public, SERVER.public):
        with pytest.raises((FormatError, SignatureError)):
            stated.check_cosignature(reply.cosignature, other)
        with pytest.raises((FormatError, SignatureError)):
            node.ledger.cosign(stated.size, reply.cosignature, voter=other)
    with pytest.raises(SignatureError):
        node.ledger.cosign(stated.size - 1, reply.cosignature, voter=ME.public)
    node.ledger.cosign(stated.size, reply.cosignature, voter=ME.public)


def test_missing_receipts_are_fetched_in_the_next_audit(node: Node) -> None:
    node.audit()
    for path in node.directory.rglob("*.receipt"):
        path.unlink()
    post(node.ledger, 3)
    node.vote()
    assert node.audit(node.request(full=False)).verdict == "ok"
    assert len(node.witness.receipts()) == 2


def test_a_replica_grows_by_new_entries_only(node: Node) -> None:
    node.audit()
    before = node.replica.read_bytes()
    post(node.ledger, 3)
    node.vote()
    request = node.request()
    assert len(request.entries) < len(before)
    assert node.audit(request).verdict == "ok"
    assert node.replica.read_bytes() == before + zlib.decompress(request.entries)


@pytest.mark.parametrize("cut", [1, 3, 50])
def test_a_torn_tail_of_a_replica_is_dropped_and_sent_again(node: Node, cut: int) -> None:
    node.audit()
    whole = node.replica.read_bytes()
    size = len(node.witness.replica())
    node.replica.write_bytes(whole[:-cut])
    behind = node.audit(node.request(replica=size))
    assert behind.verdict == "behind"
    assert 0 < behind.replica_size < size
    assert node.audit(node.request(replica=behind.replica_size)).verdict == "ok"
    assert node.replica.read_bytes() == whole


def test_a_replica_on_a_full_disk_is_named_and_goes_on_with_space(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.audit()
    held, size = node.witness.held, len(node.witness.replica())
    post(node.ledger, 3)
    node.vote()

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/replica"):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)  # half of it is written
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"replica: cannot be written \(No space left"):
            node.audit()
    assert node.witness.held == held  # nothing was followed that was not kept
    assert len(node.witness.replica()) == size
    assert node.audit().verdict == "ok"
    assert node.witness.replica() == log_of(node.ledger.path)


def test_what_a_crash_left_behind_the_replica_accuses_nobody(node: Node) -> None:
    """A power cut may leave a longer file whose end was never written."""
    node.audit()
    whole = node.replica.read_bytes()
    root = node.replica.with_name("replica.root").read_bytes()
    for tail in (bytes(40), join_leaves([b"\x07" * 50]), whole):
        node.replica.write_bytes(whole + tail)
        assert node.audit().verdict == "ok"
        assert node.replica.read_bytes() == whole
    for damaged in (b"", b"\xff", b"5", b"x y\n", root[1:]):
        node.replica.with_name("replica.root").write_bytes(damaged)
        assert node.audit().verdict == "ok"
        assert node.replica.read_bytes() == whole
    node.replica.with_name("replica.root").unlink()  # killed in the first audit
    node.replica.write_bytes(bytes(40))
    assert node.audit().verdict == "ok"
    assert node.replica.read_bytes() == whole


def test_a_damaged_replica_accuses_nobody_and_is_sent_again(node: Node) -> None:
    node.audit()
    replica, whole = node.replica, node.replica.read_bytes()
    size = len(node.witness.replica())
    for place in (20, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        replica.write_bytes(damaged)
        behind = AuditReply("behind", "the replica was damaged on this node's disk", 0, "")
        assert node.audit(node.request(replica=size)) == behind
        assert replica.with_suffix(".damaged").read_bytes() == damaged
        assert node.audit().verdict == "ok"
        assert replica.read_bytes() == whole


def counted(node: Node, monkeypatch: pytest.MonkeyPatch) -> int:
    """Ballots whose signatures an audit checks."""
    checked: list[int] = []

    def check(applied: Applied, replay: Replay) -> None:
        if isinstance(applied.entry, Ballot):
            checked.append(applied.index)
        check_signatures(applied, replay)

    with monkeypatch.context() as patch:
        patch.setattr("rtc_flower.clients.witness.check_signatures", check)
        assert node.audit().verdict == "ok"
    return len(checked)


def test_what_was_checked_in_an_earlier_audit_is_not_checked_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But by another version of the program, and where the replica is not what was checked."""
    votes = counted(node, monkeypatch)
    assert votes == 2
    for _ in range(3):
        post(node.ledger, 3)
        node.vote()
        cast(node.ledger, voter(1), (0, 1, 2))
        assert counted(node, monkeypatch) == 2
        votes += 2
    kept = node.replica.with_name("replica.root")
    size, root, version = kept.read_text().split()
    for text in (f"{size} {root} 0.0.1\n", f"{size} {root}\n", "", "x y z", f"-1 {root} {version}"):
        kept.write_text(text)
        assert counted(node, monkeypatch) == votes
        assert kept.read_text().split() == [size, root, version]
        assert counted(node, monkeypatch) == 0
    node.replica.unlink()  # what the server sends instead is not taken for what was checked
    assert counted(node, monkeypatch) == votes


def test_a_damaged_memory_of_the_node_accuses_nobody(node: Node) -> None:
    """A checkpoint or receipt that is not whole is named, and no verdict on the server."""
    node.audit()
    directory = node.replica.parent
    (receipt,) = directory.glob("*.receipt")
    request = node.request()
    silent = replace(request, receipts=b"")  # else the receipt is written anew
    for path in (directory / "checkpoint", receipt):
        whole = path.read_bytes()
        for damaged in (b"", whole[:-9], whole[: len(whole) // 3], b"\xff" * len(whole)):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match="was damaged"):
                node.audit(silent)
        path.write_bytes(whole)
    (ballot,) = directory.glob("*.ballot")
    whole = ballot.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", whole[:-1] + bytes([whole[-1] ^ 1])):
        ballot.write_bytes(damaged)
        with pytest.raises(DataError, match="the ballot that this node signed was damaged"):
            node.audit(node.request())
        with pytest.raises(DataError, match="the ballot that this node signed was damaged"):
            node.audit(silent)  # as of a ballot under an older key, for which no receipt is sent
    ballot.write_bytes(whole)
    assert node.audit(node.request()).verdict == "ok"


@pytest.mark.parametrize("name", ["checkpoint", "receipt"])
def test_a_flipped_bit_in_what_the_node_keeps_accuses_nobody(node: Node, name: str) -> None:
    node.audit()
    directory = node.replica.parent
    (path,) = directory.glob(f"*{name}")
    silent, whole = replace(node.request(), receipts=b""), path.read_bytes()
    named = whole.index(b"\n\n") if name == "checkpoint" else 0
    places = range(named)  # what its signature covers
    if name == "receipt":
        places = range(0, len(whole), 7)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            verdict = node.audit(silent).verdict
        except DataError:
            verdict = "ok"
        assert verdict == "ok", place
        path.write_bytes(whole)


def test_a_replica_that_is_whole_is_no_excuse_for_the_server(node: Node) -> None:
    node.audit()
    request = node.request()
    wrong = replace(request, entries=zlib.compress(join_leaves([node.ledger.leaf(1)])))
    assert node.audit(wrong).verdict not in ("ok", "behind")
    assert len(node.witness.replica()) == request.replica_size


def test_behind_ahead_and_a_lost_replica_are_told(node: Node) -> None:
    node.audit()
    size = len(node.witness.replica())
    for claimed in (0, size - 1):
        assert node.audit(node.request(replica=claimed)) == AuditReply("behind", "", size, "")
    node.replica.unlink()
    assert node.audit(node.request(replica=size)) == AuditReply("behind", "", 0, "")
    assert node.audit().verdict == "ok"
    assert len(node.witness.replica()) == size


def test_a_rotated_server_is_followed(node: Node) -> None:
    node.audit()
    node.ledger.rotate_key(NEXT)
    assert node.audit().verdict == "ok"
    other = Checkpoint.parse(node.ledger.checkpoint).sign(SERVER)
    assert node.audit(replace(node.request(), checkpoint=other)).verdict == "V11"


def thief(node: Node, *, full: bool = True) -> AuditRequest:
    """What whoever stole the key before the rotation asks; the log goes on as it should."""
    forged = Checkpoint.parse(node.ledger.checkpoint).sign(SERVER)
    return replace(node.request(full=full), rotations=b"", checkpoint=forged)


def test_n9_a_server_key_that_was_replaced_is_followed_by_nobody_who_saw_the_next(
    node: Node,
) -> None:
    node.ledger.rotate_key(NEXT)
    assert node.audit().verdict == "ok"
    held = node.witness.held
    node.ledger.enrol([(voter(7).public, "seven")])
    for full in (True, False):
        request = thief(node, full=full)
        witness = Witness(node.directory, request.genesis, request.rotations)
        with pytest.raises(DataError, match="it uses a key that was replaced"):
            witness.audit(request, ME)
        with pytest.raises(DataError, match="it uses a key that was replaced"):
            witness.follow(
                request.checkpoint, seen_size=request.seen_size, consistency=request.consistency
            )
    assert node.witness.held == held
    assert node.audit().verdict == "ok"


def test_n9_a_full_audit_takes_no_checkpoint_by_a_key_that_the_log_replaced(node: Node) -> None:
    """Also of a node that has not seen the next key."""
    assert node.audit().verdict == "ok"
    node.ledger.rotate_key(NEXT)
    request = thief(node)
    reply = Witness(node.directory, request.genesis, request.rotations).audit(request, ME)
    assert (reply.verdict, reply.cosignature) == ("V7", "")
    assert "not those that the log names" in reply.detail


def audit_at_once(node: Node, requests: Sequence[AuditRequest]) -> dict[int, str]:
    """Verdicts of requests that one node handles at the same time, by place."""
    verdicts: dict[int, str] = {}

    def handle(place: int) -> None:
        request = requests[place]
        witness = Witness(node.directory, request.genesis, request.rotations)
        verdicts[place] = witness.audit(request, ME).verdict

    threads = [threading.Thread(target=handle, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return verdicts


def test_of_messages_at_once_the_older_takes_back_nothing_that_was_seen(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's simulation lets one node handle several messages at a time."""
    node.audit(node.request(full=False))
    node.ledger.enrol([(voter(7).public, "seven")])
    older = node.request(full=False)
    node.ledger.enrol([(voter(8).public, "eight")])
    newer, keep = node.request(full=False), keep_text

    def slow(path: Path, text: str) -> None:
        time.sleep(0.5 if text == older.checkpoint else 0)
        keep(path, text)

    monkeypatch.setattr(witness_module, "keep_text", slow)
    assert audit_at_once(node, [older, newer]) == {0: "ok", 1: "V11"}
    assert node.witness.held == older.checkpoint
    assert node.audit(node.request(full=False)).verdict == "ok"
    assert node.witness.held == newer.checkpoint


def test_of_full_audits_at_once_every_entry_is_kept_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Replica.keep

    def slow(replica: Replica, leaves: list[bytes], fresh: int, checkpoint: Checkpoint) -> None:
        time.sleep(0.5)
        keep(replica, leaves, fresh, checkpoint)

    monkeypatch.setattr(Replica, "keep", slow)
    assert audit_at_once(node, [node.request()] * 2) == {0: "ok", 1: "behind"}
    assert node.witness.replica() == log_of(node.ledger.path)


def test_s5_a_twin_history_is_refused_and_what_was_seen_stays(node: Node, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    twin = tmp_path / "b" / "ledger.db"
    node.ledger.close()
    shutil.copy(node.ledger.path, twin)
    node.ledger = Ledger(node.ledger.path, SERVER)
    post(node.ledger, 3)
    node.vote()
    assert node.audit().verdict == "ok"
    held, replica = node.witness.held, node.replica.read_bytes()
    with Ledger(twin, SERVER) as other:
        post(other, 3)
        for number in range(3):
            cast(other, voter(number), (2, 2, 2))
        forked = Node(node.directory, other)
        for full in (False, True):
            reply = forked.audit(forked.request(full=full))
            assert reply.verdict == "V11"
            assert "does not continue" in reply.detail
            assert reply.cosignature == ""
    node.ledger.close()
    assert (next(node.directory.rglob("checkpoint")).read_text(), node.replica.read_bytes()) == (
        held,
        replica,
    )


def test_entries_that_are_not_the_checkpoints_are_not_kept(node: Node) -> None:
    request = node.request()
    leaves = log_of(node.ledger.path)
    for entries, step in (
        (leaves[:-1], "V7"),
        ([*leaves[:-1], leaves[-1][:-1]], "V2"),
        ([*leaves[:2], leaves[3], leaves[2], *leaves[4:]], "R"),
    ):
        reply = node.audit(
            replace(request, entries=zlib.compress(join_leaves(entries)), seen_size=0)
        )
        assert reply.verdict.startswith(step) or reply.verdict == "V11"
        assert reply.cosignature == ""
        assert node.witness.replica() == []


def test_a_receipt_that_lies_or_is_for_no_ballot_of_mine_is_reported(node: Node) -> None:
    request = node.request(full=False)
    (sent,) = SentReceipt.read_all(request.receipts)
    for wrong in (
        replace(sent, index=sent.index + 1),
        replace(sent, time_ms=sent.time_ms + 1),
        replace(sent, proof=sent.proof[:-1]),
        replace(sent, task_id=bytes(32)),
    ):
        seen = Checkpoint.parse(node.witness.held).size if node.witness.held else 0
        reply = node.audit(
            replace(node.request(full=False), receipts=wrong.encode(), seen_size=seen)
        )
        assert reply.verdict == "receipt"
    assert node.witness.receipts() == []


def test_s1_a_ballot_dropped_after_its_receipt_is_named(node: Node, tmp_path: Path) -> None:
    node.audit(node.request(full=False))
    (receipt,) = node.witness.receipts()
    for path in node.directory.rglob("checkpoint"):
        path.unlink()  # even a node that forgot what it has seen
    log = [leaf for leaf in log_of(node.ledger.path) if leaf != receipt.leaf]
    forge(tmp_path / "dropped.db", log[: receipt.index])
    with Ledger(tmp_path / "dropped.db", SERVER, head_file=tmp_path / "H") as other:
        reply = Node(node.directory, other).audit()
    assert reply.verdict == "receipt"
    assert f"entry {receipt.index} is not the ballot" in reply.detail


def test_of_many_ballots_that_are_lost_the_newest_is_named(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path / "me", ledger)
    post(ledger, 3)
    lost = []
    for number in range(9):
        payload = make_ballot(ledger.replay, ME, (0, 1, 2)).encode()
        path = node.witness.ballot_path(bytes([number]) * 32)
        path.write_bytes(payload)
        os.utime(path, (number, number))
        lost.append(path.stem)
    for full in (False, True):
        caplog.clear()
        reply = node.audit(node.request(full=full))
        assert reply.verdict == "ok"
        assert lost[-1] in reply.detail
        assert lost[0] not in reply.detail
        assert all(task in caplog.text for task in lost)  # its owner reads all


@pytest.mark.parametrize("full", [False, True])
def test_a_ballot_lost_before_its_receipt_is_told_by_its_voter(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, full: bool
) -> None:
    """To its owner first: the server may have dropped it."""
    node = Node(tmp_path / "me", ledger)
    tally = post(ledger, 3)
    lost = make_ballot(ledger.replay, ME, (0, 1, 2)).encode()
    node.witness.ballot_path(tally.task_id).write_bytes(lost)
    reply = node.audit(node.request(full=full))
    assert reply.verdict == "ok"
    assert tally.task_id.hex() in reply.detail
    assert [record.getMessage() for record in caplog.records] == [f"audit: {reply.detail}"]


def test_a_newer_entry_is_not_cosigned(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger:
        request = Node(tmp_path / "me", ledger).request()
        newer = bytearray(ledger.leaf(1))
        newer[16] = 99
        entries = zlib.compress(join_leaves([ledger.leaf(0), bytes(newer)]))
        reply = Node(tmp_path / "me", ledger).audit(replace(request, entries=entries))
    assert (reply.verdict, reply.cosignature) == ("unsupported", "")


def test_garbage_in_a_request_is_an_error_and_no_cosignature(node: Node) -> None:
    cut = b"\x00\x00\x00\x09x"
    whole = zlib.compress(join_leaves(node.ledger.leaves(0)))
    for change in (
        {"entries": cut},
        {"entries": zlib.compress(cut)},
        {"entries": whole[:-1]},
        {"entries": whole + b"x"},
        {"receipts": b"x"},
    ):
        reply = node.audit(replace(node.request(), **change))  # type: ignore[arg-type]
        assert (reply.verdict, reply.cosignature) == ("V2", "")
        assert node.witness.replica() == []
