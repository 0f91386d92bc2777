from __future__ import annotations

from typing import Any

import pytest

from rtc_flower.network import Block, gossip, random_race

ALICE, BOB, CAROL, DAVE = range(4)
HOT, COLD = 0, 1


def chain(tip: Block | None) -> list[int]:
    nodes: list[int] = []
    while tip is not None:
        nodes.append(tip.node)
        tip = tip.parent
    return nodes[::-1]


def test_figure_3_step_by_step() -> None:
    def delay(sender: int, receiver: int, _: float) -> float:
        if receiver == DAVE:  # Dave is nearer to Alice than to Carol.
            return 0.5 if sender == ALICE else 0.8
        return 1.0

    race = gossip([COLD, HOT, COLD, COLD], [2.0, 1.0, 2.0, 4.0], delay)
    bob, alice, carol, carol_again, alice_again, dave = race.blocks
    # t1: Bob's block; t2: Alice and Carol cannot follow it, nor each other.
    assert (bob.node, bob.time, bob.solution, bob.parent) == (BOB, 1.0, HOT, None)
    assert (alice.node, alice.time, alice.parent) == (ALICE, 2.0, None)
    assert (carol.node, carol.time, carol.parent) == (CAROL, 2.0, None)
    # t3: each publishes again behind the other's block; both forks are the longest.
    assert (alice_again.node, alice_again.time, alice_again.parent) == (ALICE, 3.0, carol)
    assert (carol_again.node, carol_again.time, carol_again.parent) == (CAROL, 3.0, alice)
    assert alice_again.height == carol_again.height == 2
    # t4: Dave follows the one that reached him first; his fork is the best chain everywhere.
    assert (dave.node, dave.time, dave.parent) == (DAVE, 4.0, alice_again)
    assert dave.height == race.supporters == 3
    assert set(race.tips) == {dave}
    assert chain(dave) == [CAROL, ALICE, DAVE]
    assert race.agreed_at == 5.0
    assert race.messages == 6 * 3, "six blocks for four votes"


def test_two_supporters_stay_split_when_nobody_follows() -> None:
    race = gossip([COLD, COLD], [0.0, 0.0], lambda *_: 1.0)
    assert [block.height for block in race.blocks] == [1, 1, 2, 2]
    assert race.agreed_at is None
    assert race.split_time == 2.0
    assert race.tips[0] is not race.tips[1]


def test_votes_far_apart_build_one_fork_without_publishing_again() -> None:
    race = gossip([COLD] * 5, [10.0, 20.0, 30.0, 40.0, 50.0], lambda *_: 1.0)
    assert chain(race.tips[0]) == [0, 1, 2, 3, 4]
    assert len(race.blocks) == 5
    assert race.messages_per_vote == 4
    assert race.agreed_at == 51.0
    assert race.split_time == 5.0, "one delay after each vote"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("peers", [1, 10, 40])
def test_a_fork_holds_each_supporter_once_and_no_other_solution(peers: int, seed: int) -> None:
    race = random_race(peers, seed)
    for block in race.blocks:
        nodes = chain(block)
        assert len(nodes) == len(set(nodes)) == block.height == block.voters.bit_count()
        assert block.parent is None or block.parent.solution == block.solution
    assert {block.node for block in race.blocks} == set(range(peers))
    assert all(tip is not None for tip in race.tips)
    assert max(tip.height for tip in race.tips if tip) <= race.supporters
    assert race == random_race(peers, seed)


def test_slower_links_cost_blocks() -> None:
    fast = [random_race(40, seed, latency=0.01) for seed in range(10)]
    slow = [random_race(40, seed, latency=2.0) for seed in range(10)]
    assert sum(len(race.blocks) for race in fast) < sum(len(race.blocks) for race in slow)
    assert sum(race.split_time for race in fast) < sum(race.split_time for race in slow)
    assert max(race.messages_per_vote for race in slow) > 39, "more than one block per voter"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"peers": 0}, "got 0, 10"),
        ({"peers": 3, "classes": 1}, "got 3, 1"),
        ({"peers": 3, "accuracy": 1.5}, "1.5"),
        ({"peers": 3, "latency": -1.0}, "-1.0"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        random_race(seed=0, **arguments)


def test_peers_without_a_time_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2, 1"):
        gossip([0, 1], [1.0], lambda *_: 1.0)
    with pytest.raises(ValueError, match="got 0, 0"):
        gossip([], [], lambda *_: 1.0)
