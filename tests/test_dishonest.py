"""S1 to S9: ten dishonest servers, and what the nodes that audit them say.

Every server here holds its own key and signs whatever it shows. A node is its state directory:
what it has followed, the ballots it signed, the receipts and the replica it keeps.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import pytest
from ledgers import (
    NOW,
    SERVER,
    World,
    cast,
    consistency_proof,
    forge,
    inclusion_proof,
    make_ballot,
    make_task,
    open_ledger,
    post,
    tree_root,
    voter,
)
from ledgers import tamper as edit

from rtc_flower.ballot import Ballot, encode_meta, sign
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.clients.witness import Witness
from rtc_flower.consensus import Replay
from rtc_flower.encoding import TAG_VOTES, Reader, digest
from rtc_flower.entries import (
    AbsenceReason,
    Absent,
    Close,
    CloseReason,
    Invite,
    decode_leaf,
    encode_leaf,
)
from rtc_flower.errors import FormatError, LedgerError
from rtc_flower.ledger import Ledger
from rtc_flower.merkle import leaf_hash
from rtc_flower.stopping import Rule
from rtc_flower.tally import Tally
from rtc_flower.verify import verify
from rtc_flower.wire import AuditReply, AuditRequest, SentReceipt, join_leaves

Log = list[bytes]
N, K, NODES = 4, 3, 5
NEWCOMER = 9
"""A node that has seen nothing of this ledger before the audit."""


# -- a server that shows a log ---------------------------------------------------------------


def note_of(log: Log) -> str:
    hashes = [leaf_hash(leaf) for leaf in log]
    return Checkpoint(hashes[0], len(log), tree_root(hashes)).sign(SERVER)


def seen(log: Log) -> tuple[int, bytes]:
    return len(log), tree_root([leaf_hash(leaf) for leaf in log])


def sent_receipts(log: Log, number: int) -> bytes:
    """Receipts of every ballot that ``log`` has in the node's name."""
    hashes, sent = [leaf_hash(leaf) for leaf in log], b""
    for index, leaf in enumerate(log):
        entry, time_ms = decode_leaf(leaf)
        if isinstance(entry, Ballot) and entry.header.voter == voter(number).public:
            proof = tuple(inclusion_proof(hashes, index))
            sent += SentReceipt(entry.header.task_id, index, time_ms, proof).encode()
    return sent


def request(log: Log, node: Witness, number: int, *, full: bool) -> AuditRequest:
    """What a server whose log is ``log`` sends to a node."""
    size = Checkpoint.parse(node.held).size if node.held else 0
    hashes = [leaf_hash(leaf) for leaf in log]
    proof = consistency_proof(hashes, size) if size <= len(log) else []
    replica = len(node.replica()) if full else 0
    return AuditRequest(
        genesis=log[0],
        rotations=b"",
        checkpoint=note_of(log),
        seen_size=size,
        consistency=b"".join(proof),
        receipts=sent_receipts(log, number),
        full=full,
        replica_size=replica,
        entries=zlib.compress(join_leaves(log[replica:])) if full else b"",
    )


def resume(log: Log) -> World:
    """A world in which ``log`` has happened."""
    world = World.__new__(World)
    world.replay, world.log, world.applied = Replay(), [], []
    for leaf in log:
        world.applied.append(world.replay.apply(leaf))
        world.log.append(leaf)
    return world


# -- the honest history, and what each server makes of it ------------------------------------


@dataclass
class Show:
    """What a dishonest server shows in the audit, and what the nodes had seen before.

    Attributes
    ----------
    log, asked : list of bytes
        The log of the audit, and that of when task 2 was posted.
    followed : dict of int to list of bytes
        What each node followed last before the audit, where it is not ``asked``.
    signed : dict of int to bytes
        Ballots of task 2 by node.
    affected : int
        The node that this is done to.
    """

    log: Log
    asked: Log
    followed: dict[int, Log] = field(default_factory=dict)
    signed: dict[int, bytes] = field(default_factory=dict)
    affected: int = 0


def first_task() -> World:
    """Task 1: everybody votes, and the log is audited by everybody."""
    world = World.with_voters(NODES)
    world.post(NODES, n=N, k=K, rule=Rule.ALL)
    asked = seen(world.log)
    for number in range(NODES):
        world.vote(voter(number), [number % K] * N, seen=asked)
    assert world.tally.closed is not None
    return world


def second_task(audited: Log, *, rule: Rule = Rule.ALL) -> tuple[World, dict[int, bytes]]:
    """Task 2 is posted, and nodes 0 to 3 sign what they will vote."""
    world = resume(audited)
    world.post(NODES, n=N, k=K, rule=rule, nonce=b"\x02" * 32)
    signed = {i: make_ballot(world.replay, voter(i), [i % 2] * N).encode() for i in range(4)}
    return world, signed


def put(world: World, payload: bytes) -> None:
    world.add(Ballot.read(Reader(payload)))


def seal(log: Log, close: Close) -> Log:
    return [*log, encode_leaf(close, NOW)]


def closed(world: World) -> Close:
    assert world.tally.closed is not None
    return world.tally.closed


def absent(tally: Tally, number: int) -> Absent:
    return Absent(tally.task_id, voter(number).public, AbsenceReason.DEADLINE)


def drop_after_receipt(audited: Log) -> Show:
    """Task 1 anew, without the ballot of node 0: valid in itself."""
    world = resume(audited[:4])
    world.add(absent(world.tally, 0))
    for leaf in audited[5:-1]:
        world.add(decode_leaf(leaf)[0])
    asked, signed = second_task(audited)
    return Show(world.log, asked.log, signed=signed)


def alter(audited: Log) -> Show:
    """Node 0's votes say something else, and its header commits to them."""
    world, signed = second_task(audited)
    ballot = Ballot.read(Reader(signed[0]))
    votes = bytes([2] * N)
    header = replace(ballot.header, votes_hash=digest(TAG_VOTES, ballot.salt, votes))
    world.add(replace(ballot, header=header, votes=votes))
    for number in (1, 2, 3):
        put(world, signed[number])
    world.add(absent(world.tally, 4))
    return Show(world.log, world.log[: len(audited) + 2], signed=signed)


def voted(audited: Log) -> tuple[World, dict[int, bytes], Log]:
    """Nodes 0 to 2 vote, then node 4, which has seen their ballots; 3 is not heard of."""
    world, signed = second_task(audited)
    for number in range(3):
        put(world, signed[number])
    before = world.log.copy()
    signed[4] = make_ballot(world.replay, voter(4), [1] * N).encode()
    put(world, signed[4])
    return world, signed, before


def reorder(audited: Log) -> Show:
    """The first two ballots change places, after node 4 has seen them."""
    world, signed, before = voted(audited)
    world.add(absent(world.tally, 3))
    log, at = world.log, len(audited) + 2
    log[at], log[at + 1] = log[at + 1], log[at]
    return Show(log, log[: len(audited) + 2], {4: before}, signed, affected=4)


def backdate(audited: Log) -> Show:
    """A ballot that came after CLOSE stands where it would have counted."""
    world, signed, _ = voted(audited)
    tally, open_ = world.tally, world.log.copy()
    world.add(absent(tally, 3))
    after = world.log.copy()
    late = make_ballot(world.replay, voter(3), [1] * N)
    signed[3] = late.encode()
    close = replace(closed(world), counted=5, absent=0)
    log = [*open_, encode_leaf(late, NOW), encode_leaf(close, NOW)]
    return Show(log, log[: len(audited) + 2], {3: after}, signed, affected=3)


def twin_history(audited: Log) -> Show:
    """Node 0 was shown another task 2 than the others."""
    other = resume(audited)
    other.post(NODES, n=N, k=K, rule=Rule.ALL, nonce=b"\x03" * 32)
    world, signed, _ = voted(audited)
    world.add(absent(world.tally, 3))
    signed[0] = make_ballot(other.replay, voter(0), [0] * N).encode()
    return Show(world.log, world.log[: len(audited) + 2], {0: other.log}, signed)


def old_file(audited: Log) -> Show:
    """The file of before task 2 is back, and nobody is told."""
    asked, signed = second_task(audited)
    return Show(audited, asked.log, signed=signed)


def fabricate(audited: Log) -> Show:
    """A ballot in the name of node 3, which never signed it."""
    world, signed, _ = voted(audited)
    tally = world.tally
    del signed[3]
    votes = sign(
        SERVER, bytes([2] * N), ledger_id=world.replay.ledger_id, task_id=tally.task_id, n=N,
        meta=encode_meta("test"), seen=(world.replay.size, world.replay.roots[-1]),
    )  # fmt: skip
    header = replace(votes.header, voter=voter(3).public)
    world.add(replace(votes, header=header, signature=SERVER.sign(header.encode())))
    return Show(world.log, world.log[: len(audited) + 2], signed=signed, affected=3)


def early_close(audited: Log) -> Show:
    """CLOSE comes while nodes 3 and 4 can still turn the outcome."""
    world, signed = second_task(audited)
    for number in range(3):
        put(world, signed[number])
    early = world.tally.close(CloseReason.EXHAUSTED)
    return Show(seal(world.log, early), world.log[: len(audited) + 2], signed=signed, affected=3)


def late_close(audited: Log) -> Show:
    """Everything is decided after four ballots; a fifth goes in before CLOSE."""
    world, signed = second_task(audited, rule=Rule.CERTAIN)
    signed = {i: make_ballot(world.replay, voter(i), [1] * N).encode() for i in range(4)}
    for number in (0, 1):
        put(world, signed[number])
    world.add(Ballot.read(Reader(signed[2])), close=False)
    due = world.replay.due
    assert due is not None
    late = encode_leaf(Ballot.read(Reader(signed[3])), NOW)
    log = seal([*world.log, late], replace(due, counted=4))
    return Show(log, log[: len(audited) + 2], signed=signed)


def change_rule(audited: Log) -> Show:
    """After the votes TASK names another rule, under which fewer of them are enough."""
    world, signed, _ = voted(audited)
    other = resume(audited)
    other.add(replace(world.tally.task, rule=Rule.CERTAIN))
    other.add(Invite(other.tally.task_id, NODES))
    ballots = world.log[len(audited) + 2 :]
    return Show(other.log + ballots, world.log[: len(audited) + 2], signed=signed)


def steer_a_tie(audited: Log) -> Show:
    """CLOSE states the outcomes of another counting order."""
    world, signed = second_task(audited)
    for number in range(4):
        put(world, signed[number])
    world.add(absent(world.tally, 4), close=False)
    due = world.replay.due
    assert due is not None
    other = resume(audited)
    other.post(NODES, n=N, k=K, rule=Rule.ALL, nonce=b"\x02" * 32)
    for number in (1, 0, 3, 2):
        put(other, signed[number])
    other.add(absent(other.tally, 4), close=False)
    wanted = other.replay.due
    assert wanted is not None
    assert wanted.outcomes_hash != due.outcomes_hash
    return Show(seal(world.log, wanted), world.log[: len(audited) + 2], signed=signed)


SERVERS: dict[str, Callable[[Log], Show]] = {
    "drop after receipt": drop_after_receipt,
    "alter": alter,
    "reorder": reorder,
    "backdate": backdate,
    "twin history": twin_history,
    "old file": old_file,
    "fabricated ballot": fabricate,
    "early CLOSE": early_close,
    "late CLOSE": late_close,
    "changed rule": change_rule,
}

# What says so: in full audits the node that it is done to, another, and one that joins now; in
# light audits the node that it is done to, and another.
CAUGHT = {
    "drop after receipt": ("V11", "V11", "ok", "V11", "V11"),
    "alter": ("receipt", "V5", "V5", "receipt", "ok"),
    "reorder": ("V11", "R9", "R9", "V11", "ok"),
    "backdate": ("V11", "R9", "R9", "V11", "ok"),
    "twin history": ("V11", "ok", "ok", "V11", "ok"),
    "old file": ("V11", "V11", "ok", "V11", "V11"),
    "fabricated ballot": ("receipt", "V5", "V5", "receipt", "ok"),
    "early CLOSE": ("R13", "R13", "R13", "ok", "ok"),
    "late CLOSE": ("R12", "R12", "R12", "ok", "ok"),
    "changed rule": ("V11", "V11", "R6", "V11", "V11"),
}


# -- nodes -----------------------------------------------------------------------------------


def node(folder: Path, log: Log) -> Witness:
    return Witness(folder, log[0], b"")


def follow(witness: Witness, log: Log) -> None:
    """Take the checkpoint that an honest server sends with a task."""
    held = Checkpoint.parse(witness.held).size if witness.held else 0
    proof = consistency_proof([leaf_hash(leaf) for leaf in log], held)
    witness.follow(note_of(log), seen_size=held, consistency=b"".join(proof))


def history(folder: Path, audited: Log, show: Show, number: int, *, full: bool) -> Witness:
    """A node that took part: it voted in task 1, audited it, and was asked in task 2."""
    witness = node(folder, audited)
    for leaf in audited:
        entry, _ = decode_leaf(leaf)
        if isinstance(entry, Ballot) and entry.header.voter == voter(number).public:
            witness.ballot_path(entry.header.task_id).write_bytes(entry.encode())
    assert audit(witness, audited, number, full=full).verdict == "ok"
    follow(witness, show.followed.get(number, show.asked))
    if number in show.signed:
        payload = show.signed[number]
        task_id = Ballot.read(Reader(payload)).header.task_id
        witness.ballot_path(task_id).write_bytes(payload)
    return witness


def audit(witness: Witness, log: Log, number: int, *, full: bool) -> AuditReply:
    key = voter(number)
    return witness.audit(request(log, witness, number, full=full), key, clock=lambda: 0.0)


def verdicts(folder: Path, audited: Log, show: Show) -> tuple[str, ...]:
    """The columns of `CAUGHT`."""
    hit, other, found = show.affected, (show.affected + 1) % 3, []
    newcomer = audit(node(folder / "new", show.log), show.log, NEWCOMER, full=True).verdict
    for full in (True, False):
        for number in (hit, other):
            witness = history(folder / f"{full} {number}", audited, show, number, full=full)
            found.append(audit(witness, show.log, number, full=full).verdict)
    return (*found[:2], newcomer, *found[2:])


@pytest.fixture(scope="module")
def audited() -> Log:
    return first_task().log


@pytest.mark.parametrize("name", SERVERS)
def test_a_dishonest_server_is_caught_in_one_audit_round(
    tmp_path: Path, audited: Log, name: str
) -> None:
    assert verdicts(tmp_path, audited, SERVERS[name](audited)) == CAUGHT[name]


def test_a_full_auditor_catches_every_dishonest_server() -> None:
    assert list(CAUGHT) == list(SERVERS)
    assert all(affected != "ok" for affected, *_ in CAUGHT.values())


def test_the_table_of_dishonest_servers_is_the_documented_one() -> None:
    page = (Path(__file__).parents[1] / "docs" / "threats.md").read_text()
    for name, row in CAUGHT.items():
        assert f"| {name} | {' | '.join(row)} |" in page


def test_an_honest_server_is_cosigned_by_everybody(tmp_path: Path, audited: Log) -> None:
    world, signed, before = voted(audited)
    world.add(absent(world.tally, 3))
    show = Show(world.log, world.log[: len(audited) + 2], {4: before}, signed)
    assert verdicts(tmp_path, audited, show) == ("ok",) * 5
    witness = history(tmp_path / "again", audited, show, 4, full=True)
    reply = audit(witness, world.log, 4, full=True)
    stated = Checkpoint.parse(note_of(world.log))
    assert stated.check_cosignature(reply.cosignature, voter(4).public) == 0
    assert [kept.check().header.voter for kept in witness.receipts()] == [voter(4).public] * 2


# -- S1 to S9 --------------------------------------------------------------------------------


def ledger_of(path: Path, show: Show) -> Path:
    """The dishonest server's file, as it would hand it to a stranger."""
    return forge(path, show.log)


def test_s1_a_ballot_dropped_after_its_receipt_is_named_by_the_receipt(
    tmp_path: Path, audited: Log
) -> None:
    show = drop_after_receipt(audited)
    path = ledger_of(tmp_path / "ledger.db", show)
    assert verify(path).summary == "ok"  # to a stranger nothing is missing
    (kept,) = history(tmp_path / "node", audited, show, 0, full=False).receipts()
    kept.check()
    assert verify(path, held=kept.checkpoint).summary.startswith("V11 bad: ")
    assert leaf_hash(kept.leaf) not in [leaf_hash(leaf) for leaf in show.log]


def test_s1_a_ballot_dropped_before_its_receipt_is_missed_by_its_voter_alone(
    tmp_path: Path, audited: Log
) -> None:
    world, signed = second_task(audited)
    for number in (1, 2, 3):
        put(world, signed[number])
    world.add(absent(world.tally, 0))
    world.add(absent(world.tally, 4))
    show = Show(world.log, world.log[: len(audited) + 2], {}, signed)
    mine = history(tmp_path / "0", audited, show, 0, full=True)
    other = history(tmp_path / "1", audited, show, 1, full=True)
    task_id = world.tally.task_id.hex()
    answer = audit(mine, show.log, 0, full=True)
    assert answer.detail == f"my ballot is not in the log for task {task_id}"
    assert audit(other, show.log, 1, full=True).detail == ""
    # CLOSE counts it as absent: the number is there for everybody.
    assert closed(world).absent == 2
    assert verify(ledger_of(tmp_path / "ledger.db", show)).summary == "ok"


def test_s2_an_altered_vote_fails_its_signature(tmp_path: Path, audited: Log) -> None:
    path = ledger_of(tmp_path / "ledger.db", alter(audited))
    report = verify(path)
    assert report.summary == (
        f"V5 bad: entry {len(audited) + 2}: expected a signature by "
        f"{voter(0).public.hex()[:16]}..., got one that fails"
    )


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ("UPDATE block SET class = 2 WHERE id = (SELECT min(id) FROM block)", "V9"),
        ("UPDATE block SET hash = zeroblob(32) WHERE id = (SELECT min(id) FROM block)", "V9"),
        ("UPDATE ballot SET voter = zeroblob(32)", "V9"),
        ("UPDATE decision SET class = 2 WHERE sample = 0", "V9"),
        ("UPDATE entry SET leaf = CAST(leaf || x'00' AS BLOB) WHERE idx = 5", "V2"),
        ("UPDATE entry SET leaf = substr(leaf, 1, 30) WHERE idx = 5", "V2"),
        ("DELETE FROM entry WHERE idx = 5", "V2"),
    ],
)
def test_s2_a_row_altered_in_the_file_is_named(
    tmp_path: Path, audited: Log, change: str, step: str
) -> None:
    path = forge(tmp_path / "ledger.db", audited)
    edit(path, change)
    assert verify(path).summary.startswith(f"{step} bad: ")


def test_s3_two_entries_swapped(tmp_path: Path, audited: Log) -> None:
    path = ledger_of(tmp_path / "ledger.db", reorder(audited))
    assert verify(path).summary.startswith("V4 bad: entry 15, rule R9: ")


def test_s3_under_invitation_no_arrival_order_changes_an_outcome(audited: Log) -> None:
    digests = set()
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        world = resume(audited)
        world.post(NODES, n=N, k=K, rule=Rule.PAPER, nonce=b"\x02" * 32)
        asked = seen(world.log)
        for number in order:
            if world.replay.open_task:
                world.vote(voter(number), [number % 2] * N, seen=asked)
        digests.add(closed(world).outcomes_hash)
    assert len(digests) == 1


@pytest.mark.parametrize("times", [(0,), (4_102_444_800_000,), (2**63, 0, 7)])
def test_s4_times_are_claims_and_decide_nothing(
    tmp_path: Path, audited: Log, times: tuple[int, ...]
) -> None:
    told, world = cycle(times), World()
    world.add(world.roster(map(voter, range(NODES))), time=next(told))
    world.add(make_task(world.replay, map(voter, range(NODES)), n=N, k=K, rule=Rule.ALL))
    world.add(Invite(world.tally.task_id, NODES), time=next(told))
    for number in range(NODES):
        ballot = make_ballot(world.replay, voter(number), [number % K] * N)
        world.add(ballot, time=next(told))
    honest, moved = resume(audited).tally.outcomes(), world.tally.outcomes()
    assert moved.classes.tolist() == honest.classes.tolist()
    assert moved.support.tolist() == honest.support.tolist()
    assert moved.how.tolist() == honest.how.tolist()
    assert verify(forge(tmp_path / "ledger.db", world.log)).summary == "ok"


def test_s4_a_ballot_that_saw_what_comes_after_it(tmp_path: Path, audited: Log) -> None:
    path = ledger_of(tmp_path / "ledger.db", backdate(audited))
    assert "rule R9: expected a seen size in (10, 16], got 18" in verify(path).summary


def test_s5_two_histories_are_caught_by_every_node_asked_to_follow_the_other(
    tmp_path: Path, audited: Log
) -> None:
    show = twin_history(audited)
    branch = show.followed[0]
    for number in range(NODES):
        witness = history(tmp_path / str(number), audited, show, number, full=False)
        told = audit(witness, branch if number else show.log, number, full=False)
        assert told.verdict == "V11"
        assert "does not continue" in told.detail
    # Two notes of one size, one key, two roots: whoever holds both has the proof.
    size = len(branch)
    ours, theirs = Checkpoint.verify(note_of(branch), SERVER.public), show.log[:size]
    other = Checkpoint.verify(note_of(theirs), SERVER.public)
    assert (ours.ledger_id, ours.size) == (other.ledger_id, other.size)
    assert ours.root != other.root


def test_s6_an_old_file_is_refused_by_its_head_and_without_one_by_the_first_node(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    with open_ledger(path) as ledger:
        post(ledger, 3, n=N)
        old = path.read_bytes()
        cast(ledger, voter(0), [0] * N)
        node_held = ledger.checkpoint
    path.write_bytes(old)
    with pytest.raises(LedgerError, match="it is an old copy, 1 entries behind"):
        Ledger(path, SERVER)
    (tmp_path / "HEAD").unlink()
    with Ledger(path, SERVER) as ledger:
        log = ledger.leaves(0)
    assert verify(path).summary == "ok"  # alone, the file looks well
    assert verify(path, held=node_held).summary == (
        "V11 bad: your checkpoint has 5 entries, the file 4"
    )
    witness = node(tmp_path / "node", log)
    witness.follow(node_held, seen_size=0, consistency=b"")
    with pytest.raises(FormatError, match="does not continue the 5 entries"):
        witness.follow(note_of(log), seen_size=5, consistency=b"")


def test_s7_a_ballot_that_the_server_made_up(tmp_path: Path, audited: Log) -> None:
    path = ledger_of(tmp_path / "ledger.db", fabricate(audited))
    assert verify(path).summary.startswith("V5 bad: entry 16: expected a signature by ")


@pytest.mark.parametrize(
    ("server", "rule"),
    [(early_close, "R13"), (late_close, "R12"), (change_rule, "R6"), (steer_a_tie, "R12")],
)
def test_s8_when_and_how_a_task_closes_is_no_choice_of_the_server(
    tmp_path: Path, audited: Log, server: Callable[[Log], Show], rule: str
) -> None:
    show = server(audited)
    summary = verify(ledger_of(tmp_path / "ledger.db", show)).summary
    assert summary.startswith("V4 bad: ")
    assert f"rule {rule}: " in summary
    newcomer = audit(node(tmp_path / "new", show.log), show.log, NEWCOMER, full=True)
    assert newcomer.verdict == rule
    assert newcomer.cosignature == ""
