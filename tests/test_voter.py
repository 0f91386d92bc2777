"""A voter signs nothing for a server that cannot show its log, and never signs twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import consistency_proof
from populations import contract, copied, key_of, replayed, requested, run, task, truthful

from rtc_flower.ballot import Ballot
from rtc_flower.clients.contract import Contract, DeclinedError
from rtc_flower.clients.voter import Voter, read_server_key
from rtc_flower.encoding import Reader, pack_bits
from rtc_flower.entries import AbsenceReason, Genesis, Task
from rtc_flower.errors import FormatError, KeyFormatError, RtcFlowerError, SignatureError
from rtc_flower.keys import SigningKey
from rtc_flower.samples import Samples
from rtc_flower.wire import BallotReply, Declined, VoteRequest, read_leaf

Asked = tuple[VoteRequest, bytes]
N = 12
CONTRACTS = {"default": contract(lambda X: X[:, 0])}


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """A request of a real server to the node whose state is in ``nodes/0``."""
    return requested([task(N)], tmp_path)


def voter(tmp_path: Path, **options: Any) -> Voter:
    return Voter(tmp_path / "nodes" / "0", name="node-0", **options)


def vote(
    tmp_path: Path, sent: Asked, contracts: Mapping[str, Contract] = CONTRACTS, /, **changes: Any
) -> BallotReply | Declined:
    request, data = sent
    return voter(tmp_path).vote(replace(request, **changes), data, contracts)


def read(reply: BallotReply | Declined) -> Ballot:
    assert isinstance(reply, BallotReply)
    return Ballot.read(Reader(reply.ballot))


def again(asked: Asked) -> Asked:
    """The same request from a server that knows what the voter has seen since."""
    request, data = asked
    size = read_size(request)
    return replace(request, seen_size=size, consistency=b""), data


def read_size(request: VoteRequest) -> int:
    return int(request.checkpoint.splitlines()[1])


def assert_nothing_signed(tmp_path: Path) -> None:
    state = tmp_path / "nodes" / "0"
    assert list(state.rglob("*.ballot")) == []
    assert list(state.rglob("checkpoint")) == []


def test_a_ballot_is_signed_over_its_task_and_what_the_voter_has_seen(
    tmp_path: Path, asked: Asked
) -> None:
    ballot = read(vote(tmp_path, asked))
    request, data = asked
    ballot.check_signature()
    assert ballot.header.voter == key_of(tmp_path, 0).public
    assert ballot.header.ledger_id == read_leaf(request.genesis, Genesis)[1]
    assert ballot.header.task_id == read_leaf(request.task, Task)[1]
    assert ballot.header.seen_size == read_size(request)
    assert ballot.header.seen_root == replayed(tmp_path / "ledger.db").roots[read_size(request)]
    features = Samples.decode(data).features
    assert features is not None
    assert np.frombuffer(ballot.votes, np.uint8).tolist() == features[:, 0].tolist()
    assert ballot.description == "populations:Predicts"


def test_samples_that_are_not_asked_say_so_and_are_not_predicted(
    tmp_path: Path, asked: Asked
) -> None:
    mask = np.arange(N) % 3 == 0
    sizes: list[int] = []

    def count(X: Any) -> Any:
        sizes.append(len(X))
        return X[:, 0]

    reply = vote(tmp_path, asked, {"default": contract(count)}, asked=pack_bits(mask))
    votes = np.frombuffer(read(reply).votes, np.uint8)
    assert ((votes == 254) == ~mask).all()
    assert sizes == [int(mask.sum())]


def test_the_same_bytes_are_returned_a_hundred_times_and_after_a_restart(
    tmp_path: Path, asked: Asked
) -> None:
    first = vote(tmp_path, asked)
    other = {"default": contract(lambda X: X[:, 0] * 0)}
    for _ in range(100):  # every call is a new voter on the same directory: a restart
        assert vote(tmp_path, again(asked), other) == first
    assert len(list((tmp_path / "nodes" / "0").rglob("*.ballot"))) == 1


def test_the_ballot_is_on_disk_before_the_reply(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.link", full)
        with pytest.raises(OSError, match="No space left"):
            vote(tmp_path, asked)
    assert list((tmp_path / "nodes" / "0").rglob("*.ballot*")) == []
    reply = vote(tmp_path, again(asked))
    (kept,) = (tmp_path / "nodes" / "0").rglob("*.ballot")
    assert isinstance(reply, BallotReply)
    assert kept.read_bytes() == reply.ballot


def test_of_two_processes_of_one_node_the_first_to_sign_wins(tmp_path: Path, asked: Asked) -> None:
    inner: list[BallotReply | Declined] = []

    def slow(X: Any) -> Any:
        if not inner:
            inner.append(vote(tmp_path, again(asked)))
        return X[:, 0] * 0

    outer = vote(tmp_path, asked, {"default": contract(slow)})
    assert outer == inner[0]


# -- servers that cannot show their log ------------------------------------------------------


def test_a_server_that_is_not_the_wanted_one_is_refused(tmp_path: Path, asked: Asked) -> None:
    wanted = SigningKey.generate().public
    with pytest.raises(FormatError, match=f"expected the server with key {wanted.hex()}"):
        voter(tmp_path, server_key=wanted).vote(*asked, CONTRACTS)
    assert_nothing_signed(tmp_path)
    true = SigningKey.load(tmp_path / "server.key").public
    assert read(voter(tmp_path, server_key=true).vote(*asked, CONTRACTS))


def test_a_checkpoint_signed_by_another_key_is_refused(tmp_path: Path, asked: Asked) -> None:
    request, _ = requested([task(N)], tmp_path / "other")
    with pytest.raises((SignatureError, FormatError)):
        vote(tmp_path, asked, checkpoint=request.checkpoint)
    with pytest.raises((SignatureError, FormatError)):
        vote(tmp_path, asked, genesis=request.genesis)
    assert_nothing_signed(tmp_path)


def test_a_task_that_is_not_in_the_log_is_refused(tmp_path: Path, asked: Asked) -> None:
    request, _ = asked
    other, _ = requested([task(N)], tmp_path / "other")
    changes: list[dict[str, Any]] = [
        {"task": other.task},
        {"task": request.genesis},
        {"task_index": request.task_index + 1},
        {"task_index": 10**6},
        {"inclusion": b""},
        {"inclusion": request.inclusion[:-1]},
        {"inclusion": bytes(len(request.inclusion))},
    ]
    for change in changes:
        with pytest.raises(RtcFlowerError):
            vote(tmp_path, (replace_seen(tmp_path, request), asked[1]), **change)
    assert list((tmp_path / "nodes" / "0").rglob("*.ballot")) == []
    assert read(vote(tmp_path, (replace_seen(tmp_path, request), asked[1])))


@pytest.mark.parametrize("size", [1, 31, 33, 100_000])
def test_no_ballot_is_signed_that_no_ledger_takes(tmp_path: Path, asked: Asked, size: int) -> None:
    """Meta has 32 bytes for the bundle; what is signed is the node's ballot for good."""
    with pytest.raises(FormatError, match=f"a bundle hash of 32 bytes, got {size}"):
        vote(tmp_path, asked, bundle=bytes(size))
    assert_nothing_signed(tmp_path)
    assert read(vote(tmp_path, asked)).description


def test_samples_that_are_not_those_of_the_task_are_refused(tmp_path: Path, asked: Asked) -> None:
    request, data = asked
    features = Samples.decode(data).features
    assert features is not None
    for other in (features + 1, features[:-1]):
        with pytest.raises(FormatError, match="expected the samples that TASK names"):
            vote(tmp_path, (replace_seen(tmp_path, request), Samples(other).encode()))
    assert list((tmp_path / "nodes" / "0").rglob("*.ballot")) == []


def replace_seen(tmp_path: Path, request: VoteRequest) -> VoteRequest:
    """Ask from what the voter holds now, if it holds anything."""
    held = list((tmp_path / "nodes" / "0").rglob("checkpoint"))
    return again((request, b""))[0] if held else request


def test_a_log_that_forks_from_what_was_seen_is_refused(tmp_path: Path) -> None:
    # Two twins of one server: same key, same GENESIS, same first task, then different entries.
    run([task(N)], [truthful(), truthful()], tmp_path / "a")
    twin = copied(tmp_path / "a", tmp_path / "b")
    mine = requested([task(N, first=1)], tmp_path / "a", seed=1)
    assert read(voter(tmp_path / "a").vote(*mine, CONTRACTS))

    request, data = requested([task(N, first=2)], twin, seed=2)
    size = read_size(mine[0])
    leaves = replayed(twin / "ledger.db").tree.leaves[: read_size(request)]
    forked = replace(request, seen_size=size, consistency=b"".join(consistency_proof(leaves, size)))
    kept = list((tmp_path / "a" / "nodes" / "0").rglob("*.ballot"))
    with pytest.raises(FormatError, match="does not continue"):
        voter(tmp_path / "a").vote(forked, data, CONTRACTS)
    assert list((tmp_path / "a" / "nodes" / "0").rglob("*.ballot")) == kept
    # Its own branch goes on.
    assert read(voter(tmp_path / "a").vote(*again(mine), CONTRACTS))


def test_a_log_older_than_what_was_seen_is_refused(tmp_path: Path) -> None:
    old = requested([task(N)], tmp_path)
    new = requested([task(N, first=50)], tmp_path, seed=1)
    assert read_size(new[0]) > read_size(old[0])
    assert read(voter(tmp_path).vote(*new, CONTRACTS))
    held = next((tmp_path / "nodes" / "0").rglob("checkpoint")).read_bytes()
    with pytest.raises(FormatError, match="which this node has seen, got one from"):
        voter(tmp_path).vote(*old, CONTRACTS)
    claimed = replace(old[0], seen_size=read_size(new[0]), consistency=b"")
    with pytest.raises(FormatError):
        voter(tmp_path).vote(claimed, old[1], CONTRACTS)
    assert next((tmp_path / "nodes" / "0").rglob("checkpoint")).read_bytes() == held


# -- declining -------------------------------------------------------------------------------


def test_a_decline_is_signed_for_one_request(tmp_path: Path, asked: Asked) -> None:
    def busy(X: Any) -> Any:
        raise DeclinedError("the night shift is over")

    reply = vote(tmp_path, asked, {"default": contract(busy)})
    assert isinstance(reply, Declined)
    assert (reply.reason, reply.text) == (AbsenceReason.DECLINED, "the night shift is over")
    request, key = asked[0], key_of(tmp_path, 0).public
    context = {
        "ledger_id": read_leaf(request.genesis, Genesis)[1],
        "task_id": read_leaf(request.task, Task)[1],
        "nonce": request.nonce,
    }
    reply.check(key, **context)
    for field in context:
        with pytest.raises(SignatureError):
            reply.check(key, **(context | {field: bytes(32)}))
    with pytest.raises(SignatureError):
        replace(reply, reason=int(AbsenceReason.ERROR)).check(key, **context)
    # A decline is no vote: asked once more, it may still vote.
    assert read(vote(tmp_path, again(asked)))


def test_a_long_reason_to_decline_is_cut(tmp_path: Path, asked: Asked) -> None:
    def busy(X: Any) -> Any:
        raise DeclinedError("x" * 9999)

    reply = vote(tmp_path, asked, {"default": contract(busy)})
    assert isinstance(reply, Declined)
    assert reply.text == "x" * 400


def test_a_kind_that_no_contract_is_for_is_declined(tmp_path: Path, asked: Asked) -> None:
    reply = vote(tmp_path, asked, {"xray": CONTRACTS["default"]})
    assert isinstance(reply, Declined)
    assert reply.reason == AbsenceReason.DECLINED
    assert reply.text == "no contract for tasks of kind 'default' here (known: xray)"


# -- the state directory ---------------------------------------------------------------------


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = voter(tmp_path).key.public
    path = tmp_path / "nodes" / "0" / "node.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for mode in (0o644, 0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(KeyFormatError, match=f"expected mode 0600, got {mode:04o}"):
            voter(tmp_path)
    path.chmod(0o600)
    assert voter(tmp_path).key.public == key


def test_what_is_kept_is_for_its_owner_alone(tmp_path: Path, asked: Asked) -> None:
    vote(tmp_path, asked)
    state = tmp_path / "nodes" / "0"
    (kept,) = state.rglob("*.ballot")
    assert {path.stat().st_mode & 0o077 for path in (state, kept.parent, state / "models")} == {0}
    assert [path.name for path in kept.parent.iterdir() if path.name.startswith(".")] == []


def test_a_server_key_is_32_bytes_in_hexadecimal() -> None:
    assert read_server_key("ab" * 32) == b"\xab" * 32
    with pytest.raises(RtcFlowerError, match="in hexadecimal, got 'xy'"):
        read_server_key("xy")
    with pytest.raises(RtcFlowerError, match="of 32 bytes, got 2"):
        read_server_key("abcd")
