"""The voting behaviours do what they say, and a simulation can be repeated."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ledgers import query
from populations import ballots, labels, refused, replayed, run, task, truthful

from rtc_flower.entries import Refusal
from rtc_flower.simulator import (
    MALFORMATIONS,
    SimulatedClock,
    SimulatedNode,
    Spy,
    copying,
    crashing,
    equivocating,
    honest,
    labelled_task,
    lazy,
    malformed,
    silent,
    simulate,
    slow,
    sybil,
)
from rtc_flower.tally import How

N, K = 400, 5
TRUTH = labels(N, K)


def votes_of(nodes: list[SimulatedNode], state_dir: Path) -> dict[str, np.ndarray]:
    """What each node voted on one task of N samples."""
    result = run([labelled_task(TRUTH, K)], nodes, state_dir, rule="all")
    return {
        name: np.frombuffer(ballot.votes, np.uint8)
        for name, ballot in ballots(result.ledger).items()
    }


def test_honest_and_lazy_nodes_vote_with_their_accuracy_and_independently(tmp_path: Path) -> None:
    nodes = [
        honest(0.8, seed=1),
        honest(0.8, seed=2),
        lazy(seed=3),
        honest(0.7, seed=4, abstains=0.5),
    ]
    one, two, idle, careful = (
        votes_of(nodes, tmp_path)[name] for name in ("honest-0", "honest-1", "lazy-2", "honest-3")
    )
    assert (one == TRUTH).mean() == pytest.approx(0.8, abs=0.06)
    assert ((one == TRUTH) & (two == TRUTH)).mean() == pytest.approx(0.64, abs=0.08)
    # Wrong votes spread over the other classes.
    assert np.bincount((one - TRUTH) % K, minlength=K)[1:].min() > 5
    assert (idle == TRUTH).mean() == pytest.approx(1 / K, abs=0.06)
    assert (careful == 255).mean() == pytest.approx(0.5, abs=0.08)
    assert (careful[careful < K] == TRUTH[careful < K]).mean() == pytest.approx(0.7, abs=0.1)


def test_sybils_agree_on_one_wrong_class_per_sample(tmp_path: Path) -> None:
    nodes = [sybil(), sybil(), sybil("hash"), sybil("hash"), sybil(3), truthful()]
    votes = votes_of(nodes, tmp_path)
    assert (votes["sybil-0"] == (TRUTH + 1) % K).all()
    assert (votes["sybil-0"] == votes["sybil-1"]).all()
    assert (votes["sybil-2"] == votes["sybil-3"]).all()
    assert (votes["sybil-2"] != TRUTH).all()
    assert len(set((votes["sybil-2"] - TRUTH) % K)) == K - 1
    assert (votes["sybil-4"] == 3).all()


def test_one_call_runs_every_behaviour_and_decides_by_the_honest(tmp_path: Path) -> None:
    nodes = [
        *(honest(0.9, seed=i) for i in range(8)),
        lazy(),
        sybil(),
        silent(),
        slow(200.0),
        crashing(),
        crashing(after=1, code=5),
        malformed("signature"),
        copying(Spy()),
    ]
    clock = SimulatedClock()
    result = run([labelled_task(TRUTH, K)], nodes, tmp_path, deadline=300.0, clock=clock)
    decided = result.tasks[0]
    assert (decided.outcomes.classes == TRUTH).mean() > 0.98
    assert set(decided.ballots) == {
        *(f"honest-{i}" for i in range(8)),
        "lazy-8",
        "sybil-9",
        "slow-11",
        "copying-15",
    }
    assert decided.absent == {
        "silent-10": "deadline",
        "crashing-12": "error",
        "crashing-13": "deadline",
        "malformed-signature-14": "deadline",
    }
    assert clock.now >= 300.0


def test_a_simulation_can_be_repeated(tmp_path: Path) -> None:
    nodes = [honest(0.6, seed=i) for i in range(5)] + [lazy(seed=9), crashing(), malformed("size")]

    def once(name: str, seed: int) -> list[object]:
        tasks = [labelled_task(TRUTH, K), labelled_task(TRUTH, K, first=N)]
        result = run(tasks, nodes, tmp_path / name, seed=seed)
        return [
            (x.outcomes.classes.tolist(), x.outcomes.support.tolist(), x.ballots, x.refusals)
            for x in result.tasks
        ]

    first = once("a", 7)
    assert once("b", 7) == first
    assert once("c", 8) != first
    assert first[0] != first[1]


def test_nothing_runs_in_the_background_and_no_time_passes(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    alive: list[set[threading.Thread]] = []
    run(
        [task()],
        [honest(seed=i) for i in range(3)] + [silent()],
        tmp_path,
        deadline=100.0,
        on_event=lambda event: alive.append(set(threading.enumerate())),
    )
    assert all(threads == before for threads in alive)


def test_a_slow_node_answers_after_its_delay(tmp_path: Path) -> None:
    clock, times = SimulatedClock(), dict[str, float]()
    run(
        [task()],
        [slow(30.0), honest(), replace(honest(seed=2), delay=50.0)],
        tmp_path,
        clock=clock,
        rule="all",
        on_event=lambda event: times.setdefault(f"{event.what} {event.node}", clock.now),
    )
    assert times["ballot honest-1"] - times["asked honest-1"] < 5
    assert 30 <= times["ballot slow-0"] - times["asked slow-0"] < 35
    assert 50 <= times["ballot honest-2"] - times["asked honest-2"] < 55


EXPECTED = {
    "size": Refusal.SIZE,
    "rubbish": Refusal.FORMAT,
    "short": Refusal.FORMAT,
    "signature": Refusal.SIGNATURE,
    "ledger": Refusal.CONTEXT,
    "task": Refusal.CONTEXT,
    "voter": Refusal.CONTEXT,
    "class": Refusal.CLASS,
    "not-asked": Refusal.NOT_ASKED,
    "seen-small": Refusal.SEEN,
    "seen-large": Refusal.SEEN,
    "seen-root": Refusal.SEEN,
}


def test_every_malformation_is_refused_with_its_reason_and_settles_nobody(tmp_path: Path) -> None:
    assert set(MALFORMATIONS) == set(EXPECTED)
    nodes = [malformed(how) for how in EXPECTED] + [truthful()]
    result = run([task()], nodes, tmp_path)
    found: dict[str, set[Refusal]] = {}
    for name, reason in refused(result.ledger):
        found.setdefault(name.split("-", 1)[1].rsplit("-", 1)[0], set()).add(reason)
    assert found == {how: {reason} for how, reason in EXPECTED.items()}
    decided = result.tasks[0]
    assert set(decided.refusals.values()) == {4}
    assert set(decided.absent.values()) == {"deadline"}
    assert (decided.outcomes.classes == labels()).all()
    assert query(result.ledger, "SELECT DISTINCT node FROM vote") == [("node-12",)]


def test_a_node_that_equivocates_signs_two_different_ballots(tmp_path: Path) -> None:
    nodes = [equivocating(1.0, victim=1), truthful(delay=10.0), truthful()]
    result = run([task()], nodes, tmp_path)
    assert refused(result.ledger) == [("node-1", Refusal.CONTEXT)]
    votes = np.frombuffer(ballots(result.ledger)["equivocating-0"].votes, np.uint8)
    assert (votes == labels()).all()
    assert (result.tasks[0].outcomes.support >= 2).all()


def test_without_a_victim_flower_delivers_the_first_ballot_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = run([task()], [equivocating(1.0), truthful()], tmp_path)
    assert "refused: unknown or duplicate" in caplog.text
    assert refused(result.ledger) == []
    assert set(result.tasks[0].ballots) == {"equivocating-0", "node-1"}


def test_a_copier_finds_nothing_while_votes_are_sealed(tmp_path: Path) -> None:
    spy = Spy()
    votes = votes_of(
        [*(honest(0.9, seed=i) for i in range(5)), copying(spy, delay=30.0, seed=8)], tmp_path
    )
    assert spy.ballots == []
    assert len(spy.seen) > 10
    assert (votes["copying-5"] == TRUTH).mean() == pytest.approx(1 / K, abs=0.06)


def test_a_copier_that_is_given_the_ballots_copies_their_plurality(tmp_path: Path) -> None:
    first = run(
        [labelled_task(TRUTH, K)], [honest(0.9, seed=i) for i in range(5)], tmp_path, rule="all"
    )
    spy = Spy()
    spy.ballots += ballots(first.ledger).values()
    tally_task = first.tasks[0]
    tally = replayed(first.ledger).tally
    assert tally is not None
    copied = spy.plurality(tally.task, tally_task.task_id)
    assert copied is not None
    assert (copied == TRUTH).mean() > 0.95
    assert spy.plurality(tally.task, bytes(32)) is None


def test_parameters_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"accuracy is 1.5, expected a probability"):
        honest(1.5)
    with pytest.raises(ValueError, match=r"abstains is -1"):
        honest(abstains=-1)
    with pytest.raises(ValueError, match="target is 'first', expected a class, 'next' or 'hash'"):
        sybil("first")
    with pytest.raises(ValueError, match="how is 'odd', expected one of size, rubbish"):
        malformed("odd")


def test_the_example_of_the_module(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).integers(0, 10, 1000)
    nodes = [honest(0.8, seed=i) for i in range(8)] + [sybil(), sybil(), silent()]
    result = simulate([labelled_task(truth, 10)], nodes, state_dir=tmp_path)
    outcomes = result.tasks[0].outcomes
    assert (outcomes.classes == truth).mean() > 0.99
    assert set(outcomes.how.tolist()) <= {How.CERTAIN, How.FULL}
