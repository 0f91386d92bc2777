from hashlib import sha256

import numpy as np
import pytest
from ledgers import lengths, u16, u32

from rtc_flower.encoding import TAG_BLOCK, TAG_TIPS, digest
from rtc_flower.forks import NO_CLASS, Forks

TASK = b"T" * 32


def ballot_id(number: int) -> bytes:
    return sha256(b"ballot %d" % number).digest()


def block(sample: int, cls: int, height: int, parent: bytes, ballot: bytes) -> bytes:
    return digest(TAG_BLOCK, u32(sample), u16(cls), u32(height), parent, ballot)


def test_a_block_is_ninety_bytes_and_hangs_on_its_task_or_its_parent() -> None:
    forks = Forks(TASK, 2, 3)
    everywhere = np.ones(2, bool)
    first = forks.mint(ballot_id(0), np.array([1, 2], np.uint16), everywhere)
    second = forks.mint(ballot_id(1), np.array([1, 0], np.uint16), everywhere)
    assert first.hashes == [block(0, 1, 1, TASK, ballot_id(0)), block(1, 2, 1, TASK, ballot_id(0))]
    assert second.hashes == [
        block(0, 1, 2, first.hashes[0], ballot_id(1)),
        block(1, 0, 1, TASK, ballot_id(1)),
    ]
    tips = (
        (0, 1, 2, second.hashes[0]),
        (1, 0, 1, second.hashes[1]),
        (1, 2, 1, first.hashes[1]),
    )
    expected = b"".join(u32(s) + u16(c) + u32(h) + tip for s, c, h, tip in tips)
    assert forks.tips_hash(TASK) == digest(TAG_TIPS, TASK, expected)
    assert lengths(forks).tolist() == [[0, 2, 0], [1, 0, 1]]


def test_only_asked_samples_mint_and_what_stands_elsewhere_is_not_read() -> None:
    forks = Forks(TASK, 3, 2)
    blocks = forks.mint(ballot_id(0), np.array([254, 1, 255], np.uint16), np.array([0, 1, 0], bool))
    assert (blocks.samples.tolist(), blocks.classes.tolist()) == ([1], [1])
    assert forks.leader.tolist() == [NO_CLASS, 1, NO_CLASS]


def test_a_ballot_of_abstentions_mints_nothing() -> None:
    forks = Forks(TASK, 2, 2)
    before = forks.tips_hash(TASK)
    blocks = forks.mint(ballot_id(0), np.full(2, 255, np.uint16), np.zeros(2, bool))
    assert blocks.hashes == []
    assert forks.tips_hash(TASK) == before == digest(TAG_TIPS, TASK, b"")
    assert lengths(forks).sum() == 0


@pytest.mark.parametrize("seed", range(20))
def test_leader_and_runner_up_are_those_of_a_plain_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 5, 4
    forks = Forks(TASK, n, k)
    counts = np.zeros((n, k), int)
    leader = [NO_CLASS] * n
    for number in range(12):
        votes = rng.integers(0, k, n).astype(np.uint16)
        where = rng.random(n) < 0.8
        forks.mint(ballot_id(number), votes, where)
        for sample in np.flatnonzero(where).tolist():
            cls = int(votes[sample])
            counts[sample, cls] += 1
            others = np.delete(counts[sample], cls)
            if counts[sample, cls] > others.max():  # first to reach a height keeps a tie
                leader[sample] = cls
        ranked = np.sort(counts, axis=1)
        assert lengths(forks).tolist() == counts.tolist()
        assert forks.leader_votes.tolist() == ranked[:, -1].tolist()
        assert forks.runner_votes.tolist() == ranked[:, -2].tolist()
        assert forks.leader.tolist() == leader


def test_a_tie_stays_with_the_first_to_reach_the_height() -> None:
    forks = Forks(TASK, 1, 3)
    history = []
    for number, cls in enumerate([2, 0, 0, 2, 1, 2]):
        forks.mint(ballot_id(number), np.array([cls], np.uint16), np.ones(1, bool))
        history.append((int(forks.leader[0]), int(forks.leader_votes[0]),
                        int(forks.runner_votes[0])))  # fmt: skip
    assert history == [(2, 1, 0), (2, 1, 1), (0, 2, 1), (0, 2, 2), (0, 2, 2), (2, 3, 2)]
