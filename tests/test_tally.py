import tracemalloc

import pytest
from ledgers import World, lengths, make_ballot, names, voter

from rtc_flower.entries import CloseReason, Refusal
from rtc_flower.errors import BallotError, TaskError
from rtc_flower.forks import NO_CLASS
from rtc_flower.stopping import Order, Rule
from rtc_flower.tally import How, Tally, invitation_order


def closed(tally: Tally) -> tuple[CloseReason, int, int, int, int]:
    assert tally.closed is not None
    close = tally.closed
    return close.reason, close.counted, close.uncounted, close.absent, close.uninvited


def test_the_task_shuffles_the_invitation_order() -> None:
    keys = [voter(i).public for i in range(8)]
    one, two = invitation_order(b"1" * 32, keys), invitation_order(b"2" * 32, keys)
    assert sorted(one) == sorted(two) == sorted(keys)
    assert one != two
    assert invitation_order(b"1" * 32, keys[::-1]) == one


def test_certain_closes_when_no_one_left_can_change_anything() -> None:
    world = World.with_voters(5)
    tally = world.post(5, n=2)
    for i in range(2):
        world.vote(voter(i), [0, 1])
        assert tally.closed is None
    applied = world.vote(voter(2), [0, 1])
    assert applied.counted[0].decided == 2
    assert closed(tally) == (CloseReason.DECIDED, 3, 0, 0, 0)
    outcomes = tally.outcomes()
    assert outcomes.classes.tolist() == [0, 1]
    assert outcomes.support.tolist() == [3, 3]
    assert set(outcomes.how.tolist()) == {How.CERTAIN}
    assert outcomes.decided_at.tolist() == [3, 3]


def test_all_waits_for_everyone_and_says_full_or_none() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=2, rule=Rule.ALL)
    world.vote(voter(0), [0, None])
    world.vote(voter(1), [0, None])
    world.absent(voter(2))
    assert closed(tally) == (CloseReason.EXHAUSTED, 2, 0, 1, 0)
    outcomes = tally.outcomes()
    assert outcomes.classes.tolist() == [0, NO_CLASS]
    assert outcomes.how.tolist() == [How.FULL, How.NONE]
    assert outcomes.support.tolist() == [2, 0]


def test_an_absence_can_decide() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=1)
    world.vote(voter(0), [2])
    world.absent(voter(1))
    assert tally.closed is None
    world.absent(voter(2))
    assert closed(tally) == (CloseReason.DECIDED, 1, 0, 2, 0)
    assert tally.outcomes().how.tolist() == [How.CERTAIN]


def test_nobody_votes() -> None:
    world = World.with_voters(2)
    tally = world.post(2, n=1)
    world.absent(voter(0))
    world.absent(voter(1))
    assert closed(tally) == (CloseReason.EXHAUSTED, 0, 0, 2, 0)
    assert tally.outcomes().how.tolist() == [How.NONE]


def test_enough_decided_samples_close_and_the_rest_is_open() -> None:
    world = World.with_voters(5)
    tally = world.post(5, n=3, close_min=2)
    for i, third in enumerate([0, 1, 0]):
        world.vote(voter(i), [0, 1, third])
    assert closed(tally) == (CloseReason.ENOUGH, 3, 0, 0, 0)
    assert tally.outcomes().how.tolist() == [How.CERTAIN, How.CERTAIN, How.OPEN]


def test_the_uninvited_could_still_vote_and_delay_certainty() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=1, invite=1)
    world.vote(world.ranked(0), [0])
    assert tally.closed is None
    world.invite(1)
    world.vote(world.ranked(1), [0])
    assert closed(tally) == (CloseReason.DECIDED, 2, 0, 0, 1)


def test_a_later_wave_is_asked_only_what_is_undecided() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=2, invite=2)
    world.vote(world.ranked(0), [0, 0])
    world.vote(world.ranked(1), [0, 1])
    world.invite(1)
    last = world.ranked(2)
    assert tally.asked(last.public).tolist() == [False, True]
    blocks = world.vote(last, [2, 1]).counted[0].blocks
    assert blocks.samples.tolist() == [1]
    assert tally.outcomes().classes.tolist() == [0, 1]


def test_waves_that_are_asked_the_same_keep_it_once() -> None:
    """Else a log of 10 kB, with an INVITE for every rank, takes a verifier's memory."""
    world = World.with_voters(90)
    tally = world.post(90, n=100_000, k=2, invite=0)
    tracemalloc.start()
    try:
        for _ in range(90):
            world.invite(1)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert tally.asked(world.ranked(89).public).all()


def test_under_invitation_a_ballot_waits_for_every_lower_rank() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=1, order=Order.INVITATION, rule=Rule.ALL)
    assert world.vote(world.ranked(2), [2]).counted == ()
    assert world.vote(world.ranked(1), [1]).counted == ()
    assert (tally.counted, tally.passed) == (0, 0)
    counted = world.vote(world.ranked(0), [0]).counted
    assert [c.index for c in counted] == [tally.ballots[key] for key in tally.ranks]
    assert [c.position for c in counted] == [0, 1, 2]


def test_under_invitation_an_absence_takes_effect_at_its_rank() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=1, order=Order.INVITATION, rule=Rule.ALL)
    world.absent(world.ranked(1))
    assert tally.passed == 0
    world.vote(world.ranked(0), [0])
    assert tally.passed == 2


@pytest.mark.parametrize("order", Order)
def test_a_late_ballot_is_stored_and_never_counts(order: Order) -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=1, order=order, rule=Rule.ALL)
    first = world.ranked(0)
    world.absent(first)
    assert world.vote(first, [1]).counted == ()
    for rank in (1, 2):
        world.vote(world.ranked(rank), [0])
    assert closed(tally) == (CloseReason.EXHAUSTED, 2, 1, 1, 0)
    assert tally.outcomes().classes.tolist() == [0]


def test_a_ballot_after_close_is_stored_and_changes_nothing() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=1)
    world.vote(voter(0), [0])
    world.vote(voter(1), [0])
    before = tally.close(CloseReason.DECIDED)
    assert world.vote(voter(2), [1]).counted == ()
    assert voter(2).public in tally.ballots
    assert tally.closed == before
    assert lengths(tally.forks).sum() == 2


def test_ballots_beyond_the_rank_that_closes_stay_uncounted() -> None:
    world = World.with_voters(5)
    tally = world.post(5, n=1, rule=Rule.PAPER, lead=2)
    for rank in (4, 3, 1):
        world.vote(world.ranked(rank), [0])
    world.vote(world.ranked(0), [0])
    assert closed(tally) == (CloseReason.DECIDED, 2, 2, 0, 0)
    assert tally.outcomes().how.tolist() == [How.LEAD]


@pytest.mark.parametrize("rule", [Rule.PAPER, Rule.CERTIFIED])
def test_a_decided_sample_is_frozen(rule: Rule) -> None:
    world = World.with_voters(40)
    tally = world.post(40, n=2, k=2, rule=rule, lead=3, inv_delta=2)
    for rank in range(40):
        if tally.closed:
            break
        world.vote(world.ranked(rank), [0, rank % 2])
    outcomes = tally.outcomes()
    assert int(outcomes.decided_at[0]) == int(outcomes.support[0]) < 40
    assert int(lengths(tally.forks)[1].sum()) == tally.counted > int(outcomes.support[0])


def test_min_ballots_holds_every_rule_back() -> None:
    world = World.with_voters(5)
    tally = world.post(5, n=1, min_ballots=5)
    for i in range(4):
        world.vote(voter(i), [0])
    assert tally.closed is None
    world.vote(voter(4), [None])  # an abstention is a ballot
    assert closed(tally)[:2] == (CloseReason.DECIDED, 5)


# Boundaries of both vote widths: the last class, the codes between, and the two special codes.
BOUNDARY = [
    (2, 1, None), (2, 2, Refusal.CLASS), (2, 253, Refusal.CLASS), (2, 254, Refusal.NOT_ASKED),
    (2, 255, None),
    (250, 249, None), (250, 250, Refusal.CLASS), (250, 253, Refusal.CLASS),
    (250, 254, Refusal.NOT_ASKED), (250, 255, None),
    (251, 250, None), (251, 251, Refusal.CLASS), (251, 254, Refusal.CLASS),
    (251, 255, Refusal.CLASS), (251, 65533, Refusal.CLASS), (251, 65534, Refusal.NOT_ASKED),
    (251, 65535, None),
    (1000, 999, None), (1000, 1000, Refusal.CLASS), (1000, 65533, Refusal.CLASS),
    (1000, 65534, Refusal.NOT_ASKED), (1000, 65535, None),
]  # fmt: skip


@pytest.mark.parametrize(("k", "code", "refusal"), BOUNDARY)
def test_which_codes_are_votes(k: int, code: int, refusal: Refusal | None) -> None:
    world = World.with_voters(1)
    tally = world.post(1, n=2, class_names=names(k))
    ballot = make_ballot(world.replay, voter(0), [0, code])
    if refusal is None:
        tally.check_ballot(ballot)
        return
    with pytest.raises(BallotError) as refused:
        tally.check_ballot(ballot)
    assert refused.value.reason == refusal
    assert "sample 1" in str(refused.value)


def test_not_asked_must_stand_exactly_where_it_was_not_asked() -> None:
    world = World.with_voters(3)
    tally = world.post(3, n=2, invite=2)
    world.vote(world.ranked(0), [0, 0])
    world.vote(world.ranked(1), [0, 1])
    world.invite(1)
    last = world.ranked(2)
    for raw in (b"\0\1", b"\xfe\xfe", b"\xff\1"):
        ballot = make_ballot(world.replay, last, [0, 1], raw=raw)
        with pytest.raises(BallotError, match="NOT-ASKED exactly") as refused:
            tally.check_ballot(ballot)
        assert refused.value.reason == Refusal.NOT_ASKED
    tally.check_ballot(make_ballot(world.replay, last, [0, 1], raw=b"\xfe\1"))


@pytest.mark.parametrize(
    ("raw", "n"), [(b"", 3), (b"\0\0", 3), (b"\0\0\0\0", 3), (b"\0\0", 2), (b"\0\0\0", 4)]
)
def test_a_ballot_of_another_length_is_refused(raw: bytes, n: int) -> None:
    world = World.with_voters(1)
    tally = world.post(1, n=3)
    with pytest.raises(BallotError) as refused:
        tally.check_ballot(make_ballot(world.replay, voter(0), [0, 0, 0], raw=raw, n=n))
    assert refused.value.reason == Refusal.FORMAT


def test_outstanding_are_the_invited_without_an_answer() -> None:
    world = World.with_voters(4)
    tally = world.post(4, n=1, invite=3)
    world.vote(world.ranked(1), [0])
    assert tally.outstanding() == [tally.ranks[0], tally.ranks[2]]


def test_the_rules_that_freeze_need_the_invitation_order() -> None:
    world = World.with_voters(1)
    task = world.post(1, n=1).task
    for rule in (Rule.PAPER, Rule.CERTIFIED):
        with pytest.raises(TaskError, match="needs counting order invitation"):
            type(task.stop_rule)(rule, 3).check(Order.ARRIVAL, 3)
