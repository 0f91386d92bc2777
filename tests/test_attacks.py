"""One test per attack of a node: what is on disk afterwards, and that the file verifies."""

from __future__ import annotations

import os
import random
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from ledgers import SERVER, cast, log_of, make_ballot, open_ledger, post, query, voter
from populations import (
    ballots,
    contract,
    entries,
    key_of,
    killed,
    labels,
    node_of,
    of_kind,
    refused,
    run,
    task,
    truthful,
)

from rtc_flower.ballot import HEADER_SIZE, Ballot, ballot_size
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.encoding import TAG_HEADER, TAG_VOTES, Reader, digest
from rtc_flower.entries import AbsenceReason, Absent, Evidence, Refusal, Refused
from rtc_flower.errors import BallotError, FormatError, SignatureError
from rtc_flower.keys import check_signature
from rtc_flower.ledger import Ledger
from rtc_flower.maintenance import backup, repair
from rtc_flower.simulator import (
    Spy,
    asked_to_vote,
    copying,
    equivocating,
    forging,
    honest,
    labelled_task,
    malformed,
)
from rtc_flower.strategies.events import Event
from rtc_flower.verify import verify
from rtc_flower.wire import Declined, HelloReply

ALICE, BOB, CAROL = voter(0), voter(1), voter(2)
VOTES = [0, 1, 2]


def sealed(ledger: Ledger) -> None:
    """Close the file and verify it."""
    ledger.close()
    report = verify(ledger.path, held=ledger.checkpoint)
    assert report.summary == "ok", report.summary


def attempt(ledger: Ledger, payload: bytes) -> Refusal:
    """Submit in Alice's name and record the refusal, as the strategy does."""
    with pytest.raises(BallotError) as caught:
        ledger.submit(payload, voter=ALICE.public)
    return Refusal(caught.value.reason)


# -- N1 --------------------------------------------------------------------------------------


def test_n1_forged_vote_every_flipped_bit_is_refused(ledger: Ledger) -> None:
    post(ledger, 3)
    payload = make_ballot(ledger.replay, ALICE, VOTES).encode()
    before = log_of(ledger.path)
    reasons = Counter[Refusal]()
    for bit in range(8 * (HEADER_SIZE + 64)):
        forged = bytearray(payload)
        forged[bit // 8] ^= 1 << bit % 8
        reasons[attempt(ledger, bytes(forged))] += 1
    assert log_of(ledger.path) == before
    assert set(reasons) == {Refusal.FORMAT, Refusal.CONTEXT, Refusal.SIGNATURE}
    assert reasons[Refusal.SIGNATURE] > 8 * 64
    ledger.submit(payload, voter=ALICE.public)
    sealed(ledger)


def test_n1_forged_vote_signed_by_another_enrolled_key_is_refused(ledger: Ledger) -> None:
    post(ledger, 3)
    own = make_ballot(ledger.replay, ALICE, VOTES)
    by_bob = replace(own, signature=BOB.sign(own.header.encode()))
    assert attempt(ledger, by_bob.encode()) is Refusal.SIGNATURE
    assert attempt(ledger, make_ballot(ledger.replay, BOB, VOTES).encode()) is Refusal.CONTEXT
    ledger.refuse(ALICE.public, Refusal.SIGNATURE, content=by_bob.encode())
    (entry,) = of_kind(ledger.path, Refused)
    assert entry.voter == ALICE.public
    assert entry.size == len(by_bob.encode())
    assert entry.content_hash == sha256(by_bob.encode()).digest()
    sealed(ledger)


@pytest.mark.parametrize(
    ("how", "reason"), [("signature", Refusal.SIGNATURE), ("voter", Refusal.CONTEXT)]
)
def test_n1_forged_vote_from_a_node_is_recorded_and_the_task_goes_on(
    tmp_path: Path, how: str, reason: Refusal
) -> None:
    result = run([task()], [truthful(), malformed(how), truthful()], tmp_path, rule="all")
    name = f"malformed-{how}-1"
    assert refused(result.ledger) == [(name, reason)] * 4
    assert set(result.tasks[0].ballots) == {"node-0", "node-2"}
    assert (result.tasks[0].outcomes.classes == labels()).all()


# -- N3 --------------------------------------------------------------------------------------


def test_n3_resent_ballot_a_hundred_times_is_one_entry_with_one_receipt(ledger: Ledger) -> None:
    post(ledger, 3)
    payload = cast(ledger, ALICE, VOTES)
    before = log_of(ledger.path)
    receipts = {ledger.submit(payload, voter=ALICE.public) for _ in range(100)}
    assert receipts == {len(before) - 1}
    assert log_of(ledger.path) == before
    sealed(ledger)


def test_n3_second_ballot_is_refused_becomes_evidence_and_the_first_counts(ledger: Ledger) -> None:
    tally = post(ledger, 3)
    first = cast(ledger, ALICE, VOTES)
    second = make_ballot(ledger.replay, ALICE, [2, 2, 2]).encode()
    assert attempt(ledger, second) is Refusal.DUPLICATE
    assert ledger.accuse(second, voter=ALICE.public)
    assert not ledger.accuse(second, voter=ALICE.public)
    assert not ledger.accuse(first, voter=BOB.public)
    (proof,) = of_kind(ledger.path, Evidence)
    stored, other = Ballot.read(Reader(first)), Ballot.read(Reader(second))
    assert (proof.first, proof.second) == (stored.header, other.header)
    # It convinces without the file: two valid signatures, one key, one task, two ballots.
    assert stored.header.ballot_id != other.header.ballot_id
    check_signature(ALICE.public, proof.first_signature, proof.first.encode())
    check_signature(ALICE.public, proof.second_signature, proof.second.encode())
    assert [entry.encode() for entry in of_kind(ledger.path, Ballot)] == [first]
    assert tally.counted == 1
    assert tally.outcomes().classes.tolist() == VOTES
    sealed(ledger)


def test_n3_the_same_votes_under_a_new_salt_are_a_second_ballot_too(ledger: Ledger) -> None:
    post(ledger, 3)
    cast(ledger, ALICE, VOTES)
    again = make_ballot(ledger.replay, ALICE, VOTES).encode()
    assert attempt(ledger, again) is Refusal.DUPLICATE
    sealed(ledger)


def test_n3_evidence_after_close_reopens_nothing(ledger: Ledger) -> None:
    tally = post(ledger, 3)
    for key in (ALICE, BOB, CAROL):
        if not tally.closed:
            cast(ledger, key, VOTES)
    assert tally.closed is not None
    outcome = tally.outcomes().digest(tally.task_id)
    second = make_ballot(ledger.replay, ALICE, [2, 2, 2]).encode()
    assert attempt(ledger, second) is Refusal.DUPLICATE
    assert ledger.accuse(second, voter=ALICE.public)
    assert tally.outcomes().digest(tally.task_id) == outcome == tally.closed.outcomes_hash
    sealed(ledger)


def test_n3_a_node_killed_after_signing_returns_the_same_bytes(tmp_path: Path) -> None:
    nodes = [truthful(crash_after=2), truthful(), truthful()]
    killed([task()], nodes, tmp_path, after="ballot", count=1, rule="all")
    signed = {path: path.read_bytes() for path in (tmp_path / "nodes").rglob("*.ballot")}
    assert signed
    # It would vote otherwise now.
    turned = [node_of(contract(lambda X: X[:, 0] * 0)) for _ in nodes]
    result = run([task()], turned, tmp_path, seed=9, rule="all")
    stored = {entry.encode() for entry in of_kind(result.ledger, Ballot)}
    assert set(signed.values()) <= stored
    assert len(stored) == 3
    for path, content in signed.items():
        assert path.read_bytes() == content


def test_n3_two_ballots_of_one_node_count_once_in_the_simulation(tmp_path: Path) -> None:
    nodes = [equivocating(1.0, victim=1), truthful(delay=9.0), truthful()]
    result = run([task()], nodes, tmp_path, rule="all")
    assert len(of_kind(result.ledger, Ballot)) == 3
    assert refused(result.ledger) == [("node-1", Refusal.CONTEXT)]
    assert (result.tasks[0].outcomes.classes == labels()).all()


# -- N4 --------------------------------------------------------------------------------------


def test_n4_replay_of_ballots_between_ledgers_and_tasks(tmp_path: Path) -> None:
    signed: dict[tuple[int, int], bytes] = {}
    opened = [open_ledger(tmp_path / str(i) / "ledger.db") for i in range(3)]
    for number in range(3):
        for place, ledger in enumerate(opened):
            tally = post(ledger, 1)
            for payload in signed.values():
                assert attempt(ledger, payload) is Refusal.CONTEXT
            signed[place, number] = cast(ledger, ALICE, VOTES)
            assert tally.closed is not None
    assert len(set(signed.values())) == 9
    for ledger in opened:
        assert len(of_kind(ledger.path, Ballot)) == 3
        sealed(ledger)


def test_n4_replay_as_another_type_of_message(tmp_path: Path, ledger: Ledger) -> None:
    tally = post(ledger, 3)
    ballot = make_ballot(ledger.replay, ALICE, VOTES)
    ledger_id, context = ledger.replay.ledger_id, bytes(32)
    names = {"ledger_id": ledger_id, "task_id": tally.task_id, "nonce": context}
    reason = int(AbsenceReason.DECLINED)
    message = Declined.message(ledger_id, tally.task_id, context, reason)
    declined = Declined(reason, "", ALICE.sign(message))
    declined.check(ALICE.public, **names)
    note = Checkpoint(ledger_id, ledger.replay.size, ledger.replay.roots[-1])
    # A ballot's signature proves nothing else ...
    with pytest.raises(SignatureError):
        replace(declined, signature=ballot.signature).check(ALICE.public, **names)
    hello = {"ledger_id": ledger_id, "challenge": context}
    with pytest.raises(SignatureError):
        greeting(ballot.signature).check(**hello)
    # ... and nothing else is a ballot.
    with pytest.raises(FormatError):
        Ballot.read(Reader(note.sign(ALICE).encode()))
    for signature in (declined.signature, ALICE.sign(ballot.header.encode()[16:])):
        forged = replace(ballot, signature=signature).encode()
        assert attempt(ledger, forged) is Refusal.SIGNATURE
    other_tag = b"rtc-flower hello" + ballot.encode()[len(TAG_HEADER) :]
    assert attempt(ledger, other_tag) is Refusal.FORMAT
    assert len(of_kind(ledger.path, Ballot)) == 0
    sealed(ledger)


def greeting(signature: bytes) -> HelloReply:
    """A hello of Alice with that signature and nothing in its other fields."""
    blank: dict[str, object] = {
        name: {"bytes": b"", "str": "", "int": 0}[str(kind)]
        for name, kind in HelloReply.__annotations__.items()
    }
    return HelloReply(**(blank | {"key": ALICE.public, "signature": signature}))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["ledger", "task"])
def test_n4_replay_from_a_node_is_recorded(tmp_path: Path, how: str) -> None:
    result = run([task()], [truthful(), malformed(how), truthful()], tmp_path, rule="all")
    assert refused(result.ledger) == [(f"malformed-{how}-1", Refusal.CONTEXT)] * 4
    assert (result.tasks[0].outcomes.classes == labels()).all()


# -- N5 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 249, 250, 251, 256, 1000])
def test_n5_class_out_of_range_in_both_widths(ledger: Ledger, k: int) -> None:
    tally = post(ledger, 3, k=k)
    codec = tally.task.codec
    assert codec.dtype.itemsize == (1 if k <= 250 else 2)
    most = 255 if k <= 250 else 65535
    for code in {k, (k + most - 1) // 2, most - 2} - {most - 1, most}:
        if k <= code < most - 1:
            raw = codec.encode(np.array([0, code, 1]))
            payload = make_ballot(ledger.replay, ALICE, VOTES, raw=raw).encode()
            assert attempt(ledger, payload) is Refusal.CLASS
    raw = codec.encode(np.array([0, codec.not_asked, 1]))
    payload = make_ballot(ledger.replay, ALICE, VOTES, raw=raw).encode()
    assert attempt(ledger, payload) is Refusal.NOT_ASKED
    raw = codec.encode(np.array([k - 1, codec.abstain, 0]))
    ledger.submit(make_ballot(ledger.replay, ALICE, VOTES, raw=raw).encode(), voter=ALICE.public)
    assert tally.counted == 1
    assert tally.outcomes().classes[0] == k - 1
    assert tally.outcomes().support.tolist() == [1, 0, 1]
    sealed(ledger)


@pytest.mark.parametrize("k", [250, 251])
def test_n5_wrong_length_in_both_widths(ledger: Ledger, k: int) -> None:
    tally = post(ledger, 3, k=k)
    width = tally.task.codec.dtype.itemsize
    for size in (0, 1, 3 * width - 1, 3 * width + 1, 4 * width):
        payload = make_ballot(ledger.replay, ALICE, VOTES, raw=bytes(size)).encode()
        assert attempt(ledger, payload) is Refusal.FORMAT
    for n in (0, 2, 4, 2**32 - 1):
        payload = make_ballot(ledger.replay, ALICE, VOTES, raw=bytes(3 * width), n=n).encode()
        assert attempt(ledger, payload) is Refusal.FORMAT
    sealed(ledger)


def test_n5_a_class_where_it_was_not_asked_is_refused(ledger: Ledger) -> None:
    tally = post(ledger, 3, invite=2)
    keys = {key.public: key for key in (ALICE, BOB, CAROL)}
    cast(ledger, keys[tally.ranks[0]], VOTES)
    cast(ledger, keys[tally.ranks[1]], [0, 1, None])
    ledger.invite(1)
    last = keys[tally.ranks[2]]
    assert tally.asked(last.public).tolist() == [False, False, True]
    for codes in ([0, 254, 2], [254, 1, 2], [0, 1, 2], [255, 254, 2]):
        payload = make_ballot(ledger.replay, last, VOTES, raw=bytes(codes)).encode()
        with pytest.raises(BallotError) as caught:
            ledger.submit(payload, voter=last.public)
        assert caught.value.reason == Refusal.NOT_ASKED
    cast(ledger, last, VOTES)
    assert tally.outcomes().support.tolist() == [2, 2, 2]
    sealed(ledger)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("class", Refusal.CLASS),
        ("not-asked", Refusal.NOT_ASKED),
        ("short", Refusal.FORMAT),
        ("seen-large", Refusal.SEEN),
    ],
)
def test_n5_from_a_node_is_recorded(tmp_path: Path, how: str, reason: Refusal) -> None:
    result = run([task()], [truthful(), malformed(how), truthful()], tmp_path, rule="all")
    assert refused(result.ledger) == [(f"malformed-{how}-1", reason)] * 4
    assert result.tasks[0].absent == {f"malformed-{how}-1": "deadline"}
    assert len(of_kind(result.ledger, Absent)) == 1


# -- N6 --------------------------------------------------------------------------------------


def fuzzed(payload: bytes, count: int) -> Iterator[bytes]:
    """Random bytes, cuts, insertions and changes of a true ballot."""
    noise = random.Random(6)
    for number in range(count):
        match number % 4:
            case 0:
                yield noise.randbytes(noise.randrange(len(payload) * 2))
            case 1:
                yield payload[: noise.randrange(len(payload))]
            case 2:
                place = noise.randrange(len(payload))
                yield payload[:place] + noise.randbytes(noise.randrange(1, 9)) + payload[place:]
            case _:
                changed = bytearray(payload)
                for _ in range(noise.randrange(1, 9)):
                    changed[noise.randrange(len(payload))] ^= noise.randrange(1, 256)
                if bytes(changed) != payload:
                    yield bytes(changed)


@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_n6_malformed_payloads_are_never_accepted(ledger: Ledger, count: int) -> None:
    tally = post(ledger, 3)
    payload = make_ballot(ledger.replay, ALICE, VOTES).encode()
    before = log_of(ledger.path)
    reasons = Counter(attempt(ledger, fuzz) for fuzz in fuzzed(payload, count))
    assert log_of(ledger.path) == before
    assert reasons[Refusal.FORMAT] > count // 3
    assert reasons[Refusal.SIGNATURE] > 0
    for key in (ALICE, BOB):
        cast(ledger, key, VOTES)
    assert tally.outcomes().classes.tolist() == VOTES
    sealed(ledger)


def test_n6_oversize_payload_is_refused_before_it_is_read(ledger: Ledger) -> None:
    tally = post(ledger, 3)
    huge = make_ballot(ledger.replay, ALICE, VOTES).encode() + bytes(64 << 20)
    tracemalloc.start()
    assert attempt(ledger, huge) is Refusal.SIZE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert ballot_size(tally.task.n, 1) < 1000
    ledger.refuse(ALICE.public, Refusal.SIZE, content=huge)
    assert ledger.path.stat().st_size < 1 << 20
    (entry,) = of_kind(ledger.path, Refused)
    assert entry.size == len(huge)
    sealed(ledger)


def test_n6_rubbish_of_nodes_stops_nobody(tmp_path: Path) -> None:
    kinds = ("empty", "records", "bytes", "huge")
    nodes = [truthful(), truthful(), *(truthful(rubbish=kind) for kind in kinds)]
    result = run([task()], nodes, tmp_path, rule="all")
    assert set(result.tasks[0].ballots) == {"node-0", "node-1"}
    assert Counter(name for name, _ in refused(result.ledger)) == {
        f"node-{i}": 4 for i in range(2, 6)
    }
    assert result.ledger.stat().st_size < 1 << 20


# -- N7 --------------------------------------------------------------------------------------


def test_n7_copying_finds_no_class_no_tally_and_no_guessable_hash(tmp_path: Path) -> None:
    spy = Spy()
    truth = labels(40, 2)
    nodes = [*(honest(1.0, seed=i) for i in range(5)), copying(spy, delay=30.0)]
    # In waves of one, the spy is asked after others have voted, with proofs over their entries.
    result = run([labelled_task(truth, 2)], nodes, tmp_path, rule="all", wave_size=1, seed=4)
    assert spy.seen
    assert spy.ballots == []
    everything = b"\0".join(spy.seen)
    others = [b for name, b in ballots(result.ledger).items() if name.startswith("honest")]
    assert len(others) == 5
    (hashes,) = (dict(query(result.ledger, "SELECT id, hash FROM block")),)
    for ballot in others:
        for secret in (
            ballot.votes,
            ballot.salt,
            ballot.header.votes_hash,
            ballot.header.ballot_id,
        ):
            assert secret not in everything
        # The votes of all are the truth, so they can be guessed: the hash cannot be checked.
        guess = truth.astype(np.uint8).tobytes()
        assert ballot.votes == guess
        assert digest(TAG_VOTES, guess) != ballot.header.votes_hash
        assert digest(TAG_VOTES, ballot.salt, guess) == ballot.header.votes_hash
    assert len({ballot.header.votes_hash for ballot in others}) == 5
    assert not any(bytes(value) in everything for value in hashes.values())


def test_n7_views_of_an_open_task_show_no_class(tmp_path: Path) -> None:
    shown: list[list[tuple[object, ...]]] = []
    views = ("vote", "fork", "outcome", "best_chain", "node_score")

    def look(event: Event) -> None:
        if event.what == "ballot" and event.ballots < 4:
            connection = sqlite3.connect(f"file:{tmp_path / 'ledger.db'}?mode=ro", uri=True)
            for view in views:
                shown.append(connection.execute(f"SELECT * FROM {view}").fetchall())
            shown.append(connection.execute("SELECT counted FROM progress").fetchall())
            connection.close()

    result = run([task()], [truthful() for _ in range(4)], tmp_path, rule="all", on_event=look)
    assert shown == [*[[]] * 5, [(1,)], *[[]] * 5, [(2,)], *[[]] * 5, [(3,)]]
    for view in views:
        assert query(result.ledger, f"SELECT count(*) FROM {view}") != [(0,)]


def test_n7_nodes_cannot_read_what_another_node_keeps(tmp_path: Path) -> None:
    run([task()], [truthful(), truthful()], tmp_path)
    for position in range(2):
        state = tmp_path / "nodes" / str(position)
        assert state.stat().st_mode & 0o077 == 0
        assert (state / "node.key").stat().st_mode & 0o077 == 0


def test_n7_the_servers_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Votes of an open task are in it, and in a copy, whatever the process's umask."""
    mask = os.umask(0o022)
    try:
        with Ledger.create(tmp_path / "ledger.db", SERVER) as ledger:
            backup(ledger.path, tmp_path / "copy.db")
        repair(ledger.path)
    finally:
        os.umask(mask)
    for name in ("ledger.db", "copy.db"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


# -- N10 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_n10_reply_under_another_nodes_id_changes_nothing(tmp_path: Path, accuracy: float) -> None:
    others = [honest(0.8, seed=i, delay=3.0 + i) for i in range(4)]
    plain = run([task()], others, tmp_path / "plain", rule="all").tasks[0].outcomes
    result = run([task()], [*others, forging(1, accuracy)], tmp_path / "forged", rule="all")
    forger = key_of(tmp_path / "forged", 4)
    assert refused(result.ledger) == [("honest-1", Refusal.CONTEXT)]
    assert forger.public not in {b.header.voter for b in of_kind(result.ledger, Ballot)}
    assert result.tasks[0].absent == {"forging-4": "deadline"}
    assert result.tasks[0].outcomes.support.tolist() == plain.support.tolist()
    agreed = result.tasks[0].outcomes.classes == plain.classes
    assert agreed[plain.support > plain.runner_up].all()


def test_n10_forged_replies_can_delay_but_not_settle_a_voter(tmp_path: Path) -> None:
    # Three forgers hit the same voter: it is asked again each time, and votes.
    nodes = [truthful(delay=8.0), truthful(), *(forging(0, 0.0, seed=i) for i in range(3))]
    result = run([task()], nodes, tmp_path, rule="all")
    names = [name for name, _ in refused(result.ledger)]
    assert set(names) <= {"node-0"}
    assert 1 <= len(names) <= 3
    assert {"node-0", "node-1"} <= set(result.tasks[0].ballots)
    assert [type(entry).__name__ for entry in entries(result.ledger)].count("Refused") == len(names)


def test_n10_nobody_declines_for_another(tmp_path: Path) -> None:
    decliner = node_of(contract(lambda X: X[:, 0], accept=lambda info: False), forge=0)
    result = run([task()], [truthful(delay=5.0), truthful(), decliner], tmp_path, rule="all")
    assert refused(result.ledger) == [("node-0", Refusal.ANSWER)]
    assert set(result.tasks[0].ballots) == {"node-0", "node-1"}
    assert result.tasks[0].absent == {"node-2": "deadline"}


def test_n10_an_error_in_another_nodes_name_settles_nobody(tmp_path: Path) -> None:
    def fail(reply: Message) -> Message:
        asked = reply_of[reply.metadata.reply_to_message_id]
        return Message(Error(2, "it raised"), reply_to=asked)

    reply_of: dict[str, Message] = {}

    def note(message: Message) -> bool:
        if asked_to_vote(message):
            reply_of[message.metadata.message_id] = message
        return asked_to_vote(message)

    victim = replace(truthful(delay=5.0), when=note)
    forger = replace(truthful(), forge=0, tamper=fail)
    result = run([task()], [victim, truthful(), forger], tmp_path, rule="all")
    assert set(result.tasks[0].ballots) == {"node-0", "node-1"}
    assert refused(result.ledger) == []
