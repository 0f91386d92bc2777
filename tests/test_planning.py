from __future__ import annotations

from typing import Any

import pytest

from rtc_flower.errors import TaskError
from rtc_flower.planning import plan
from rtc_flower.theory import betabinom_accuracy, mixed_accuracy, nodes_needed


def test_forty_good_nodes() -> None:
    got = plan(10, 0.9, honest=40, risk=0.01)
    assert got.electorate == 40
    assert got.accuracy == pytest.approx(1)
    assert got.accuracy_correlated == pytest.approx(got.accuracy)
    assert got.effective_votes == 40
    assert got.nodes_needed == got.nodes_needed_correlated == nodes_needed(10, 0.9, 0.99) == 4
    # Exact expectations: certain 22.4 (strict), certified 12.8, a lead of 21 at 24.6, all 40.
    assert got.expected_votes["certain"] == pytest.approx(22.3, abs=0.4)
    assert got.expected_votes["certified"] == pytest.approx(12.8, abs=0.2)
    assert got.expected_votes["paper"] == pytest.approx(24.6, abs=0.3)
    assert got.expected_votes["all"] == 40
    assert got.share_decided["certified"] == 1
    assert got.share_decided["all"] == 0
    assert (got.rule, got.inv_delta) == ("certified", 100)


def test_correlated_errors_put_a_ceiling_on_accuracy() -> None:
    got = plan(10, 0.9436, honest=40, icc=0.5, target=0.999)
    assert got.accuracy > 1 - 1e-9
    assert got.accuracy_correlated == betabinom_accuracy(40, 10, 0.9436, 0.5) < 0.99
    assert got.effective_votes == pytest.approx(40 / 20.5)
    assert got.nodes_needed == nodes_needed(10, 0.9436, 0.999) < 40
    assert got.nodes_needed_correlated is None
    reachable = plan(10, 0.9, honest=5, icc=0.1, target=0.99).nodes_needed_correlated
    assert reachable is not None
    assert betabinom_accuracy(reachable, 10, 0.9, 0.1) >= 0.99
    assert betabinom_accuracy(reachable - 1, 10, 0.9, 0.1) < 0.99


def test_sybils_and_lazy_nodes() -> None:
    got = plan(10, 0.9, honest=23, lazy=5, sybil=20, target=0.99)
    assert got.electorate == 48
    assert got.accuracy == mixed_accuracy(23, 0.9, 5, 20, 10) < 0.65
    assert got.expected_lead == pytest.approx(23 * 0.9 - 23 * 0.1 / 9 - 20)
    assert got.nodes_needed == 29
    assert got.accuracy_correlated is None
    assert got.expected_votes["paper"] >= 43, "not before the honest nodes and Sybils that it needs"


def test_nodes_that_only_guess_never_reach_a_target() -> None:
    got = plan(4, 0.25, honest=6)
    assert got.nodes_needed is None
    assert "paper" not in got.expected_votes
    assert got.accuracy == pytest.approx(0.25)


def test_too_small_an_electorate_for_a_certificate_uses_certain() -> None:
    assert plan(10, 0.9, honest=3, risk=1e-6).rule == "certain"


def test_a_plan_repeats() -> None:
    assert plan(3, 0.7, honest=9, icc=1.0) == plan(3, 0.7, honest=9, icc=1.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"k": 1}, "k .* got 1"),
        ({"p": 1.5}, "p .* got 1.5"),
        ({"honest": 0}, "honest .* got 0"),
        ({"lazy": -1}, "lazy .* got -1"),
        ({"sybil": 1.5}, "sybil .* got 1.5"),
        ({"icc": -0.1}, "icc .* got -0.1"),
        ({"target": 1.0}, "target .* got 1.0"),
        ({"risk": 0.0}, "risk .* got 0.0"),
    ],
)
def test_bad_input_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"k": 10, "p": 0.9, "honest": 5} | changes
    with pytest.raises(ValueError, match=named):
        plan(**arguments)


def test_more_classes_than_a_task_takes() -> None:
    with pytest.raises(TaskError, match=r"classes .* got 1001"):
        plan(1_001, 0.9, honest=5)
