from dataclasses import replace

import pytest
from ledgers import (
    ADMIN,
    NEXT,
    NOW,
    SERVER,
    World,
    make_ballot,
    make_task,
    newer_genesis,
    tree_root,
    voter,
    without,
)

from rtc_flower.ballot import Ballot
from rtc_flower.consensus import MAX_REFUSALS, Replay, rule_of
from rtc_flower.encoding import TAG_ENTRY
from rtc_flower.entries import (
    AbsenceReason,
    Absent,
    Close,
    CloseReason,
    Enrolment,
    Entry,
    Evidence,
    Genesis,
    Invite,
    Refusal,
    Refused,
    ServerKey,
    encode_leaf,
)
from rtc_flower.errors import BallotError, FormatError, ReplayError, UnsupportedError
from rtc_flower.merkle import leaf_hash
from rtc_flower.roster import Roster
from rtc_flower.stopping import Order, Rule


def refused(world: World, entry: Entry, rule: str, message: str | None = None) -> None:
    """``entry`` breaks ``rule``, and the state is as before."""
    before = (world.replay.size, world.replay.roots[-1], world.replay.due, world.replay.roster)
    with pytest.raises((ReplayError, BallotError), match=message) as error:
        world.add(entry)
    assert isinstance(error.value, ReplayError | BallotError)
    assert rule_of(error.value) == rule
    after = (world.replay.size, world.replay.roots[-1], world.replay.due, world.replay.roster)
    assert after == before


def test_the_tree_is_over_the_leaves() -> None:
    world = World.with_voters(2)
    world.post(2, n=1)
    hashes = [leaf_hash(leaf) for leaf in world.log]
    assert world.replay.tree.leaves == hashes
    assert world.replay.roots == [tree_root(hashes[:size]) for size in range(len(hashes) + 1)]
    assert world.replay.ledger_id == hashes[0]


def test_r1_genesis_first_and_nowhere_else(world: World) -> None:
    refused(world, Genesis(bytes(32), SERVER.public), "R1")
    empty = Replay()
    with pytest.raises(ReplayError, match="R1"):
        empty.apply(encode_leaf(Roster(1, (), bytes(64)), NOW))
    assert empty.size == 0


@pytest.mark.parametrize(
    ("enrolment", "admin"),
    [
        (Enrolment.ROSTER, bytes(32)),
        (Enrolment.ROSTER, SERVER.public),
        (Enrolment.OPEN, ADMIN.public),
        (Enrolment.REPLAY, ADMIN.public),
        (Enrolment.OPEN, SERVER.public),
    ],
)
def test_r1_an_admin_key_under_roster_only_and_never_the_servers(
    enrolment: Enrolment, admin: bytes
) -> None:
    leaf = encode_leaf(Genesis(bytes(32), SERVER.public, enrolment, admin), NOW)
    with pytest.raises(ReplayError, match="R1"):
        Replay().apply(leaf)
    World(enrolment=Enrolment.ROSTER, admin_key=ADMIN.public)


def test_r2_a_roster_follows_the_last(world: World) -> None:
    following = world.roster([voter(3)])
    refused(world, replace(following, version=1), "R2", "version 2, got 1")
    refused(world, replace(following, members=following.members[1:]), "R2")
    weak = replace(following.members[-1], key=(1).to_bytes(32, "little"))
    refused(world, replace(following, members=(*following.members[:3], weak)), "R2", "large order")
    world.add(following)


def test_r3_one_task_at_a_time(world: World) -> None:
    world.post(3, n=1)
    refused(world, make_task(world.replay, [voter(0)]), "R3")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 1}, "classes must be an integer in 2 to 1000, got 1"),
        ({"k": 1001}, "classes must be an integer in 2 to 1000, got 1001"),
        ({"k": 65535}, "classes must be an integer in 2 to 1000, got 65535"),  # at once
        ({"n": 0, "samples_hash": bytes(32)}, "close_min must be 1 to 0 samples"),
        ({"class_names": ("a", "b", "a")}, "got 'a' repeated"),
        ({"class_names": ("a", "")}, "must not be empty"),
        ({"order": 2}, "counting order must be"),
        ({"close_min": 0}, "close_min must be 1 to 3 samples, got 0"),
        ({"close_min": 4}, "close_min must be 1 to 3 samples, got 4"),
        ({"electorate": b"\0"}, "min_ballots is 1, the electorate 0"),
        ({"rule": Rule.PAPER, "order": Order.ARRIVAL}, "needs counting order invitation"),
        ({"rule": Rule.PAPER, "lead": 0}, "lead must be"),
        ({"rule": Rule.CERTIFIED, "inv_delta": 1}, "inv_delta must be"),
        ({"min_ballots": 0}, "min_ballots must be"),
        ({"min_ballots": 4}, "min_ballots is 4, the electorate 3"),
        ({"roster_version": 2}, r"expected roster version and size \(1, 3\), got \(2, 3\)"),
        ({"roster_size": 4}, r"got \(1, 4\)"),
        ({"last_close": bytes(32)}, "name the last CLOSE"),
    ],
    ids=str,
)
def test_r4_what_a_task_may_not_say(world: World, fields: dict[str, object], message: str) -> None:
    voters = [voter(i) for i in range(3)]
    if fields.get("n") == 0:
        task = replace(make_task(world.replay, voters), n=0)
    else:
        task = make_task(world.replay, voters, **fields)
    refused(world, task, "R4", message)


def test_r4_only_active_members_vote(world: World) -> None:
    task = make_task(world.replay, [voter(0), voter(1)])
    revoked = without(world.replay.roster, voter(1).public)
    world.add(revoked.sign(SERVER, ledger_id=world.replay.ledger_id))
    refused(
        world, replace(task, roster_version=2), "R4", r"active members only, got positions \[1\]"
    )


def test_revocation_takes_effect_with_the_next_task(world: World) -> None:
    world.post(3, n=1, rule=Rule.ALL)
    revoked = without(world.replay.roster, voter(1).public)
    world.add(revoked.sign(SERVER, ledger_id=world.replay.ledger_id))
    for i in range(3):
        world.vote(voter(i), [0])
    assert world.tally.counted == 3
    task = make_task(world.replay, [voter(0), voter(2)])
    world.add(task)
    assert len(world.tally.ranks) == 2


def test_a_task_hangs_on_the_last_close(world: World) -> None:
    first = make_task(world.replay, [voter(0)])
    assert first.last_close == world.replay.ledger_id
    world.post(1, n=1)
    world.vote(voter(0), [0])
    assert make_task(world.replay, [voter(0)]).last_close == leaf_hash(world.log[-1])


@pytest.mark.parametrize("more", [0, 4, 2**32 - 1])
def test_r5_an_invitation_asks_one_to_all_that_are_left(world: World, more: int) -> None:
    world.post(3, n=1, invite=0)
    refused(world, Invite(world.tally.task_id, more), "R5")
    world.invite(3)
    refused(world, Invite(world.tally.task_id, 1), "R5", "expected 1 to 0")


def test_r5_r10_r11_r13_need_the_open_task(world: World) -> None:
    reason = AbsenceReason.ERROR
    wrong = bytes(32)
    entries: list[tuple[Entry, str]] = [
        (Invite(wrong, 1), "R5"),
        (Absent(wrong, voter(0).public, reason), "R10"),
        (Refused(wrong, voter(0).public, Refusal.SIZE, bytes(32), 1), "R11"),
        (Close(wrong, CloseReason.ABORTED, 0, 0, 0, 0), "R13"),
    ]
    for entry, rule in entries:
        refused(world, entry, rule, "expected the open task")
    world.post(3, n=1)
    for entry, rule in entries:
        refused(world, entry, rule, "expected the open task")


def test_r6_a_ballot_for_another_ledger_task_or_electorate(world: World) -> None:
    other = World.with_voters(3)
    other.post(3, n=1)
    refused(world, make_ballot(other.replay, voter(0), [0]), "R6", "this ledger's current task")
    world.post(2, n=1, invite=1)
    ok, uninvited = world.ranked(0), world.ranked(1)
    refused(world, make_ballot(world.replay, ok, [0], ledger_id=bytes(32)), "R6")
    refused(world, make_ballot(world.replay, ok, [0], task_id=bytes(32)), "R6")
    for key in (uninvited, voter(2), voter(77)):
        refused(world, make_ballot(world.replay, key, [0]), "R6", "an invited voter")


def test_r6_a_ballot_of_the_last_task_is_refused_once_the_next_is_posted(world: World) -> None:
    world.post(3, n=1)
    late = make_ballot(world.replay, voter(2), [0])
    for i in range(2):
        world.vote(voter(i), [0])
    world.post(3, n=1)
    refused(world, late, "R6")


def test_r7_one_ballot_of_a_voter(world: World) -> None:
    world.post(3, n=1)
    world.vote(voter(0), [0])
    refused(world, make_ballot(world.replay, voter(0), [1]), "R7")


def test_r8_votes_that_are_none(world: World) -> None:
    world.post(3, n=2)
    for raw, n in ((b"\0", 2), (b"\0\0", 3), (b"\0\3", 2), (b"\0\xfe", 2)):
        refused(world, make_ballot(world.replay, voter(0), [0, 0], raw=raw, n=n), "R8")


def test_r9_a_ballot_has_seen_its_task_and_no_future(world: World) -> None:
    tally = world.post(3, n=1)
    replay = world.replay
    for size in (0, tally.index, replay.size + 1, 2**64 - 1):
        seen = (size, replay.roots[min(size, replay.size)])
        refused(world, make_ballot(replay, voter(0), [0], seen=seen), "R9", "a seen size in")
    for size in range(tally.index + 1, replay.size + 1):
        refused(
            world,
            make_ballot(replay, voter(0), [0], seen=(size, bytes(32))),
            "R9",
            "a different history",
        )
    world.vote(voter(0), [0], seen=(tally.index + 1, replay.roots[tally.index + 1]))


def test_r10_only_an_invited_unsettled_voter_is_absent(world: World) -> None:
    world.post(3, n=1, invite=2, rule=Rule.ALL)
    first, second, third = (world.ranked(i) for i in range(3))
    task_id, reason = world.tally.task_id, AbsenceReason.DEADLINE
    refused(world, Absent(task_id, third.public, reason), "R10")
    world.vote(first, [0])
    refused(world, Absent(task_id, first.public, reason), "R10")
    world.absent(second)
    refused(world, Absent(task_id, second.public, AbsenceReason.DECLINED), "R10")


def test_r11_four_refusals_of_an_invited_voter_settle_nobody(world: World) -> None:
    world.post(3, n=1, invite=1)
    key = world.ranked(0)
    entry = Refused(world.tally.task_id, key.public, Refusal.SIGNATURE, bytes(32), 9)
    refused(world, replace(entry, voter=world.ranked(1).public), "R11")
    for _ in range(MAX_REFUSALS):
        world.add(entry)
    refused(world, entry, "R11", "at most 4")
    assert world.tally.outstanding() == [key.public]
    world.vote(key, [0])
    assert world.tally.counted == 1


def test_r12_a_close_that_is_due_comes_next_and_says_just_that(world: World) -> None:
    world.post(3, n=1)
    world.vote(voter(0), [0])
    world.add(make_ballot(world.replay, voter(1), [0]), close=False)
    due = world.replay.due
    assert due is not None
    task_id = world.tally.task_id
    refused(world, Absent(task_id, voter(2).public, AbsenceReason.DEADLINE), "R12")
    refused(world, make_ballot(world.replay, voter(2), [0]), "R12")
    refused(world, world.roster([voter(5)]), "R12")
    for change in (
        {"reason": CloseReason.EXHAUSTED}, {"counted": 3}, {"uncounted": 1}, {"absent": 1},
        {"uninvited": 1}, {"outcomes_hash": bytes(32)}, {"tips_hash": bytes(32)},
    ):  # fmt: skip
        refused(world, replace(due, **change), "R12")
    world.add(due)
    assert world.replay.open_task is None


def test_r13_no_close_before_it_is_due_but_an_abort(world: World) -> None:
    tally = world.post(3, n=1)
    world.vote(voter(0), [0])
    for reason in (CloseReason.DECIDED, CloseReason.ENOUGH, CloseReason.EXHAUSTED):
        refused(world, tally.close(reason), "R13")
    abort = tally.close(CloseReason.ABORTED)
    refused(world, replace(abort, counted=0), "R13")
    refused(world, replace(abort, tips_hash=b"x" * 32), "R13")
    world.add(abort)
    assert world.replay.open_task is None
    refused(world, abort, "R13")
    assert make_task(world.replay, [voter(0)]).last_close == leaf_hash(world.log[-1])


def test_r14_evidence_is_two_headers_of_one_voter_for_one_task_once(world: World) -> None:
    world.post(3, n=1)
    one = make_ballot(world.replay, voter(0), [0])
    two = make_ballot(world.replay, voter(0), [1])
    other = make_ballot(world.replay, voter(1), [1])
    elsewhere = [make_ballot(world.replay, voter(0), [v], task_id=bytes(32)) for v in (0, 1)]

    def evidence(first: Ballot, second: Ballot) -> Evidence:
        return Evidence(first.header, first.signature, second.header, second.signature)

    refused(world, evidence(one, other), "R14", "one voter for one task")
    refused(world, evidence(one, one), "R14", "two different ballots")
    refused(world, evidence(*elsewhere), "R14", "a task of this ledger")
    world.add(one)
    before = world.tally.forks.tips_hash(world.tally.task_id)
    world.add(evidence(one, two))
    assert (world.tally.task_id, voter(0).public) in world.replay.accused
    assert world.tally.forks.tips_hash(world.tally.task_id) == before
    refused(world, evidence(two, one), "R14", "one EVIDENCE for a voter and task")


def test_r15_a_new_server_key_was_never_used_and_signs_from_there_on(world: World) -> None:
    for key in (SERVER.public, (1).to_bytes(32, "little"), bytes(31) + b"\xff"):
        refused(world, ServerKey(key, bytes(64), bytes(64)), "R15")
    world.add(ServerKey(NEXT.public, bytes(64), bytes(64)))
    assert world.replay.server_key == NEXT.public
    assert [world.replay.key_at(size) for size in (0, 1, 2, 3, 99)] == [
        SERVER.public, SERVER.public, SERVER.public, NEXT.public, NEXT.public,
    ]  # fmt: skip
    refused(world, ServerKey(SERVER.public, bytes(64), bytes(64)), "R15", "used before")


def test_block_rows_of_tasks_follow_one_another(world: World) -> None:
    rows = []
    for n, voters in ((3, 2), (5, 3), (1, 1)):
        rows.append(world.post(voters, n=n).first_row)
        world.add(world.tally.close(CloseReason.ABORTED))
    assert rows == [1, 1 + 3 * 2, 1 + 3 * 2 + 5 * 3]


def test_an_unknown_entry_type_or_rule_or_version_is_unsupported(world: World) -> None:
    size = world.replay.size
    with pytest.raises(UnsupportedError, match="entry 2 is of the unknown type 11"):
        world.replay.apply(TAG_ENTRY + b"\x0b" + bytes(8))
    with pytest.raises(UnsupportedError, match="rule 5; this program knows rules 1 to 4"):
        world.add(replace(make_task(world.replay, [voter(0)]), rule=5))
    with pytest.raises(UnsupportedError, match="format version 2"):
        Replay().apply(newer_genesis())
    assert world.replay.size == size


def test_bytes_that_are_no_entry_leave_the_state_alone(world: World) -> None:
    for leaf in (b"", world.log[1][:-1], world.log[1] + b"\0"):
        with pytest.raises(FormatError):
            world.replay.apply(leaf)
    assert world.replay.size == 2


def test_a_skipped_entry_is_hashed_and_has_no_effect(world: World) -> None:
    leaf = TAG_ENTRY + b"\x0b" + bytes(8)
    roster = world.replay.roster
    world.replay.skip(leaf)
    assert world.replay.roots[-1] == tree_root([*map(leaf_hash, world.log), leaf_hash(leaf)])
    assert world.replay.roster == roster


def test_times_are_claims_and_decide_nothing() -> None:
    outcomes = []
    for time in (0, NOW, 2**64 - 1):
        world = World.with_voters(3)
        world.add(make_task(world.replay, [voter(i) for i in range(3)]), time=time)
        world.add(Invite(world.tally.task_id, 3), time=time)
        for i, cls in enumerate((1, 0, 1)):
            world.add(make_ballot(world.replay, voter(i), [cls, cls, 2]), time=time)
        outcomes.append(world.tally.outcomes().classes.tolist())
    assert outcomes == [[1, 1, 2]] * 3
