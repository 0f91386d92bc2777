from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from itertools import product
from math import comb, factorial, perm
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_flower.errors import TaskError
from rtc_flower.stopping import (
    LARGEST_CERTIFIED,
    Order,
    Rule,
    StopRule,
    certified_int,
    least_leaders,
    paper_rule,
    stop_positions,
)
from rtc_flower.theory import honest_needed, nakamoto_risk

VECTORS = json.loads((Path(__file__).parent / "vectors" / "theory.json").read_text())


def rows(section: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = VECTORS[section]["rows"]
    assert found
    return found


def top_two(counts: list[int]) -> tuple[int, int]:
    first, second = sorted(counts)[-1:-3:-1]
    return first, second


def one(rule: StopRule, a: int, b: int, *, remaining: int, counted: int) -> bool:
    return bool(rule.fires(np.array([a]), np.array([b]), remaining, counted)[0])


@pytest.mark.parametrize("row", rows("stop_decisions"))
def test_decisions_of_every_rule_match_the_reference(row: dict[str, Any]) -> None:
    a, b = top_two(row["counts"])
    cast = sum(row["counts"]) + row["abstained"]
    inv_delta = round(1 / row["delta"])
    state = {"remaining": row["remaining"], "counted": cast}
    expected = {
        Rule.CERTAIN: row["eq9_strict"],
        Rule.CERTIFIED: row["stop_wor_beta41"],
        Rule.PAPER: row["paper_lead21"],
        Rule.ALL: False,
    }
    for rule, decided in expected.items():
        stop = StopRule(rule, row["K"], inv_delta=inv_delta)
        assert one(stop, a, b, **state) is decided, rule


@pytest.mark.parametrize("row", [row for row in rows("integer_boundary") if row["N"] is not None])
def test_least_certified_leader_matches_the_reference(row: dict[str, Any]) -> None:
    for b, expected in zip(row["b"], row["min_a"], strict=True):
        certified = [
            a
            for a in range(row["N"] - b + 1)
            if certified_int(a, b, row["N"] - a - b, row["K"], row["inv_delta"])
        ]
        assert (certified[0] if certified else None) == expected


@pytest.mark.parametrize("row", rows("unanimous_votes_needed"))
def test_unanimous_votes_needed_match_the_reference(row: dict[str, Any]) -> None:
    inv_delta = round(1 / row["delta"])
    for n in (10, 21, 40, 100, 1000):
        least = next(a for a in range(1, n + 1) if certified_int(a, 0, n - a, row["K"], inv_delta))
        assert least == row[f"wor_beta41_N{n}"]


def e_value(a: int, b: int, total: int) -> Fraction | None:
    """E-value against a pair total of which the leader holds at most half; None is infinite."""
    half = total // 2
    if a > half:
        return None
    beta = Fraction(4 * factorial(a + 3) * factorial(b), factorial(a + b + 4))
    return beta * Fraction(perm(total, a + b), perm(half, a) * perm(total - half, b))


@pytest.mark.parametrize("k", [2, 10])
def test_certified_is_the_least_e_value_over_every_possible_final_count(k: int) -> None:
    checked = 0
    for a in range(17):
        for b in range(a):
            for r in range(30):
                values = [e_value(a, b, total) for total in range(a + b, a + b + r + 1)]
                finite = [value for value in values if value is not None]
                reached = not finite or min(finite) >= (k - 1) * 50
                assert certified_int(a, b, r, k, 50) is reached, (a, b, r)
                assert (not finite) is (a - b > r), "an infinite e-value is exactly certainty"
                checked += 1
    assert checked == 4_080


@pytest.mark.parametrize(("k", "inv_delta"), [(2, 2), (10, 100), (1_000, 1_000)])
def test_a_row_holds_the_least_certified_leader_and_certified_is_monotone(
    k: int, inv_delta: int
) -> None:
    for electorate in (1, 2, 9, 30):
        for remaining in range(electorate):
            counted = electorate - remaining
            row = least_leaders(remaining, counted, k, inv_delta)
            for b, least in enumerate(row):
                tests = [
                    certified_int(a, b, remaining, k, inv_delta) for a in range(counted - b + 1)
                ]
                assert tests == sorted(tests)
                assert least == (tests.index(True) if True in tests else counted + 1)
            assert (np.diff(row) >= 0).all()


def certificates_at_a_tie(electorate: int, k: int, inv_delta: int) -> tuple[Fraction, Fraction]:
    """Exact shares of the orders of a two-way tie that certify, and that certify the loser."""
    half = electorate // 2
    clean = np.zeros((half + 1, half + 1), dtype=object)
    ever = wrong = Fraction(0)
    for a, b in product(range(half + 1), repeat=2):
        ways = (clean[a - 1, b] if a else 0) + (clean[a, b - 1] if b else 0) if a + b else 1
        left = electorate - a - b
        if certified_int(max(a, b), min(a, b), left, k, inv_delta):
            share = Fraction(int(ways) * comb(left, half - a), comb(electorate, half))
            ever += share
            # The class of the very last vote is the second to reach the tie.
            wrong += share * Fraction(half - max(a, b), left)
        else:
            clean[a, b] = ways
    return ever, wrong


@pytest.mark.parametrize("electorate", [10, 20, 40, 100])
@pytest.mark.parametrize(("k", "inv_delta"), [(2, 100), (2, 20), (10, 100), (10, 1_000)])
def test_false_certificates_at_a_two_way_tie_stay_below_delta(
    electorate: int, k: int, inv_delta: int
) -> None:
    ever, wrong = certificates_at_a_tie(electorate, k, inv_delta)
    delta = Fraction(1, inv_delta)
    assert wrong <= delta
    assert ever / 2 <= delta / (k - 1), "one class alone keeps its share of the union bound"


def test_with_two_classes_a_tie_may_be_certified_more_often_than_delta() -> None:
    # Either class of the tie, although only one can differ from the first to reach it.
    ever, wrong = certificates_at_a_tie(100, 2, 100)
    assert Fraction(138, 10_000) < ever < Fraction(139, 10_000)
    assert 0 < wrong < ever / 2


@st.composite
def vote_matrices(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], int]:
    k = draw(st.integers(2, 5))
    nodes = draw(st.integers(1, 14))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    votes = rng.integers(-1, k, size=(nodes, 20))
    favoured = rng.random((nodes, 20)) < rng.random(20)
    return np.where(favoured, 0, votes), k


@given(vote_matrices())
@settings(max_examples=60, deadline=None)
def test_certain_never_differs_from_the_full_vote(drawn: tuple[np.ndarray[Any, Any], int]) -> None:
    votes, k = drawn
    early = stop_positions(votes, StopRule(Rule.CERTAIN, k))
    full = stop_positions(votes, StopRule(Rule.ALL, k))
    np.testing.assert_array_equal(early.outcome, full.outcome)
    for sample, position in enumerate(early.position):
        counts = np.bincount(votes[votes[:, sample] >= 0, sample], minlength=k)
        unique = np.count_nonzero(counts == counts.max()) == 1
        assert (position > 0) == unique, "certain fires exactly when one fork is the longest"


@given(vote_matrices())
@settings(max_examples=60, deadline=None)
def test_counting_agrees_with_a_slow_count(drawn: tuple[np.ndarray[Any, Any], int]) -> None:
    votes, k = drawn
    for rule in (Rule.CERTIFIED, Rule.PAPER, Rule.ALL):
        stop = StopRule(rule, k, inv_delta=20, lead=3, min_ballots=2)
        got = stop_positions(votes, stop)
        for sample in range(votes.shape[1]):
            expected = slow_count(votes[:, sample].tolist(), stop)
            assert (got.outcome[sample], got.position[sample]) == expected
        np.testing.assert_array_equal(
            got.used, np.where(got.position > 0, got.position, got.used.max())
        )


def slow_count(votes: list[int], stop: StopRule) -> tuple[int, int]:
    counts = [0] * stop.k
    leader = -1
    for counted, vote in enumerate(votes, start=1):
        if vote >= 0:
            counts[vote] += 1
            if leader < 0 or counts[vote] > counts[leader]:
                leader = vote
        a, b = top_two(counts)
        if one(stop, a, b, remaining=len(votes) - counted, counted=counted):
            return leader, counted
    return leader, 0


@pytest.mark.parametrize("row", rows("first_to_reach_fixed_order"))
def test_a_tie_goes_to_the_first_to_reach_it(row: dict[str, Any]) -> None:
    k, ps = row["K"], row["p"]
    votes = np.array(list(product(range(k), repeat=len(ps)))).T
    chance = np.ones(votes.shape[1])
    for vote, p in zip(votes, ps, strict=True):
        chance *= np.where(vote == 0, p, (1 - p) / (k - 1))
    won = stop_positions(votes, StopRule(Rule.ALL, k)).outcome == 0
    assert chance[won].sum() == pytest.approx(row["P_first"], abs=1e-12)


def test_paper_fires_on_the_lead_alone() -> None:
    stop = StopRule(Rule.PAPER, 10)
    assert one(stop, 21, 0, remaining=19, counted=21)
    assert not one(stop, 20, 0, remaining=0, counted=20), "not even when nothing can change"
    votes = np.zeros((20, 3), dtype=int)
    stopped = stop_positions(votes, stop)
    assert stopped.position.tolist() == [0, 0, 0]
    assert stopped.outcome.tolist() == [0, 0, 0]
    assert stopped.used.tolist() == [20, 20, 20]


@pytest.mark.parametrize("rule", [Rule.CERTAIN, Rule.CERTIFIED, Rule.PAPER])
def test_no_rule_fires_before_the_turnout_floor(rule: Rule) -> None:
    votes = np.zeros((40, 2), dtype=int)
    floor = stop_positions(votes, StopRule(rule, 2, lead=3, min_ballots=30))
    assert floor.position.tolist() == [30, 30]
    assert stop_positions(votes, StopRule(rule, 2, lead=3)).position.max() < 30


def test_early_sybils_fool_the_lead_but_never_certain() -> None:
    votes = np.array([1] * 25 + [0] * 75)[:, None]
    assert stop_positions(votes, StopRule(Rule.PAPER, 10)).outcome.tolist() == [1]
    assert stop_positions(votes, StopRule(Rule.CERTIFIED, 10)).outcome.tolist() == [1]
    assert stop_positions(votes, StopRule(Rule.CERTAIN, 10)).outcome.tolist() == [0]


def test_a_task_closes_when_enough_samples_are_decided() -> None:
    votes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 1]])
    stopped = stop_positions(votes, StopRule(Rule.CERTAIN, 2), close_min=1)
    assert stopped.position.tolist() == [3, 0, 0]
    assert stopped.used.tolist() == [3, 3, 3]
    assert stopped.outcome.tolist() == [0, 0, 0], "the longest forks so far"
    assert stop_positions(votes, StopRule(Rule.CERTAIN, 2)).outcome.tolist() == [0, 1, 1]


def test_abstentions_count_as_ballots_and_nobody_as_no_class() -> None:
    stopped = stop_positions(np.full((4, 2), -1), StopRule(Rule.CERTAIN, 3))
    assert stopped.outcome.tolist() == [-1, -1]
    assert stopped.position.tolist() == [0, 0]
    one_vote = stop_positions(np.array([[-1], [2], [-1]]), StopRule(Rule.CERTAIN, 3))
    assert one_vote.outcome.tolist() == [2]
    assert one_vote.position.tolist() == [3]


def test_a_matrix_without_nodes_or_samples_decides_nothing() -> None:
    stop = StopRule(Rule.CERTIFIED, 3)
    assert stop_positions(np.zeros((0, 2), dtype=int), stop).outcome.tolist() == [-1, -1]
    assert stop_positions(np.zeros((2, 0), dtype=int), stop).outcome.size == 0


def test_rules_that_freeze() -> None:
    assert [rule.name for rule in Rule if StopRule(rule, 2).freezes] == ["CERTIFIED", "PAPER"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"k": 1}, "classes .* got 1"),
        ({"k": 1_001}, "classes .* got 1001"),
        ({"k": 2.0}, "classes .* got 2.0"),
        ({"inv_delta": 1}, "inv_delta .* got 1"),
        ({"inv_delta": 0.01}, "inv_delta .* got 0.01"),
        ({"inv_delta": 2**32}, "inv_delta .* got 4294967296"),
        ({"lead": 0}, "lead .* got 0"),
        ({"min_ballots": 0}, "min_ballots .* got 0"),
        ({"min_ballots": True}, "min_ballots .* got True"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    parameters: dict[str, Any] = {"rule": Rule.CERTIFIED, "k": 10} | changes
    with pytest.raises(TaskError, match=named):
        StopRule(**parameters)


def test_tasks_in_which_a_rule_is_void_are_refused() -> None:
    for rule in (Rule.CERTIFIED, Rule.PAPER):
        with pytest.raises(TaskError, match=f"{rule.name.lower()}.*invitation, got arrival"):
            StopRule(rule, 10).check(Order.ARRIVAL, 40)
        StopRule(rule, 10).check(Order.INVITATION, 40)
    StopRule(Rule.CERTAIN, 10).check(Order.ARRIVAL, 40)
    with pytest.raises(TaskError, match="min_ballots is 41, the electorate 40"):
        StopRule(Rule.ALL, 10, min_ballots=41).check(Order.ARRIVAL, 40)
    StopRule(Rule.CERTIFIED, 10).check(Order.INVITATION, LARGEST_CERTIFIED)
    with pytest.raises(TaskError, match="at most 1000, got 1001"):
        StopRule(Rule.CERTIFIED, 10).check(Order.INVITATION, LARGEST_CERTIFIED + 1)


@pytest.mark.parametrize(
    ("votes", "close_min", "named"),
    [
        ([[0, 1], [2, 3]], None, "class 3, expected below 3"),
        ([[0.0, 1.0]], None, "integer matrix, got float64"),
        ([0, 1], None, "integer matrix"),
        ([[0, 1]], 0, "close_min must be in 1 to 2, got 0"),
        ([[0, 1]], 3, "close_min must be in 1 to 2, got 3"),
    ],
)
def test_a_bad_vote_matrix_is_refused(votes: Any, close_min: int | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        stop_positions(votes, StopRule(Rule.ALL, 3), close_min=close_min)


def test_paper_rule_computes_its_integers_beforehand() -> None:
    assert paper_rule(10) == StopRule(Rule.PAPER, 10, lead=21, min_ballots=1)
    declared = paper_rule(10, ratio=0.5, risk=0.01, sybil=20, p=0.9)
    assert declared.lead == 22, "21 keeps 0.011, not 0.01"
    assert nakamoto_risk(22, 0.5) < 0.01 <= nakamoto_risk(21, 0.5)
    assert declared.min_ballots == honest_needed(20, 0.9, 0.1 / 9) + 20 == 43
    assert paper_rule(10, sybil=5, p=0.9, p_w=0.1).min_ballots == 7 + 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"k": 1}, "k .* got 1"),
        ({"k": 10, "lead": 0}, "lead .* got 0"),
        ({"k": 10, "ratio": 0.5}, "ratio and risk go together"),
        ({"k": 10, "ratio": 1.0, "risk": 0.01}, "rho .* got 1.0"),
        ({"k": 10, "ratio": 0.5, "risk": 0.0}, "risk .* got 0.0"),
        ({"k": 10, "sybil": -1}, "sybil .* got -1"),
        ({"k": 10, "sybil": 3}, "needs p"),
        ({"k": 10, "sybil": 3, "p": 1.2}, "p must be in .* got 1.2"),
        ({"k": 10, "sybil": 3, "p": 0.1, "p_w": 0.2}, "p must be above p_w"),
    ],
)
def test_paper_rule_names_what_is_wrong(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(TaskError, match=named):
        paper_rule(**arguments)


def test_the_voting_path_does_without_scipy() -> None:
    code = "import sys, rtc_flower.stopping; print('scipy' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "False"
