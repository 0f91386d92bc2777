from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise, product
from math import comb, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtc_flower import theory
from rtc_flower.theory import (
    algorithm1,
    betabinom_accuracy,
    catch_up,
    effective_votes,
    expected_fork_lengths,
    heterogeneous_accuracy,
    honest_needed,
    icc,
    lead_error,
    mixed_accuracy,
    nakamoto_risk,
    nodes_needed,
    partition_count,
    plurality_accuracy,
    plurality_failure,
    plurality_from_pmf,
    plurality_profile,
    race_exact,
    rr_accuracy,
    win_probabilities,
    z_for_risk,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "theory.json").read_text())
TIES = ("random", "fail", "success")


def rows(section: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = VECTORS[section]["rows"]
    assert found
    return found


def enumerated(ps: list[list[Fraction]], offsets: list[int], tie: str) -> list[Fraction]:
    """Win probabilities by listing every sequence of votes."""
    k = len(offsets)
    wins = [Fraction(0)] * k
    for votes in product(range(k), repeat=len(ps)):
        chance = Fraction(1)
        counts = list(offsets)
        for node, vote in enumerate(votes):
            chance *= ps[node][vote]
            counts[vote] += 1
        tied = [c for c in range(k) if counts[c] == max(counts)]
        for c in tied:
            unique = Fraction(len(tied) == 1)
            share = {"random": Fraction(1, len(tied)), "fail": unique, "success": Fraction(1)}
            wins[c] += chance * share[tie]
    return wins


def alike(n: int, k: int, p: Fraction) -> list[list[Fraction]]:
    return [[p] + [(1 - p) / (k - 1)] * (k - 1)] * n


# Section 4.1: plurality


@pytest.mark.parametrize("row", rows("plurality"))
def test_plurality_and_its_failure_in_relative_terms(row: dict[str, Any]) -> None:
    arguments = row["N"], row["K"], row["p"]
    assert plurality_accuracy(*arguments) == pytest.approx(row["P"], rel=1e-12)
    assert plurality_failure(*arguments) == pytest.approx(row["one_minus_P"], rel=1e-12)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow] if row["N"] == 100_000 else [])
        for row in rows("big") + rows("equation1_limits")
    ],
)
def test_many_nodes(row: dict[str, Any]) -> None:
    assert plurality_accuracy(row["N"], row["K"], row["p"]) == pytest.approx(row["P"], abs=2e-13)


def test_failures_far_below_the_spacing_of_doubles_at_one() -> None:
    # Two classes: an exact binomial tail.
    for n, p in ((41, Fraction(99, 100)), (101, Fraction(9, 10)), (1_001, Fraction(3, 4))):
        exact = sum(comb(n, m) * p**m * (1 - p) ** (n - m) for m in range((n + 1) // 2))
        assert plurality_failure(n, 2, float(p)) == pytest.approx(float(exact), rel=1e-11)
    assert plurality_failure(40, 10, 0.97) == pytest.approx(2.755e-35, rel=1e-3)
    assert plurality_failure(100_000, 10, 0.9) == 0.0


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize(("n", "k"), [(1, 2), (2, 2), (4, 2), (2, 3), (5, 3), (4, 4), (3, 6)])
def test_plurality_equals_enumeration(n: int, k: int, tie: Any) -> None:
    for p in (Fraction(0), Fraction(1, 10), Fraction(1, k), Fraction(3, 5), Fraction(1)):
        wins = enumerated(alike(n, k, p), [0] * k, tie)
        assert plurality_accuracy(n, k, float(p), tie) == pytest.approx(float(wins[0]), rel=1e-13)
        if tie == "random":
            failure = plurality_failure(n, k, float(p))
            assert failure == pytest.approx(float(1 - wins[0]), rel=1e-13)


@pytest.mark.parametrize("row", rows("W_profile"))
def test_profile(row: dict[str, Any]) -> None:
    profile = plurality_profile(row["N"], row["K"], row["tie"])
    np.testing.assert_allclose(profile, row["W"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("tie", TIES)
def test_profile_is_sure_above_half_and_hopeless_below_a_kth(tie: Any) -> None:
    profile = plurality_profile(30, 4, tie)
    assert (profile[16:] == 1).all()
    assert (profile[:8] == 0).all()
    assert (np.diff(profile) >= -1e-15).all()


@pytest.mark.parametrize("tie", TIES)
def test_an_array_of_accuracies_shares_one_profile(tie: Any) -> None:
    p = np.array([[0.0, 1e-6, 0.25], [0.4, 0.9, 1.0]])
    many = plurality_accuracy(12, 4, p, tie)
    assert many.shape == p.shape
    single = [plurality_accuracy(12, 4, float(one), tie) for one in p.ravel()]
    np.testing.assert_allclose(many.ravel(), single, rtol=1e-12)


def test_accuracy_at_a_kth_is_flat_and_two_nodes_equal_one() -> None:
    for k in (2, 3, 4, 10, 100):
        for n in (1, 2, 7, 30, 300):
            assert plurality_accuracy(n, k, 1 / k) == pytest.approx(1 / k, rel=1e-12)
        for p in (0.01, 0.3, 0.97):
            assert plurality_accuracy(2, k, p) == pytest.approx(p, rel=1e-13)
    # Only with the symmetric tie rule: the two others move away at n = 2, |C| = 4.
    assert plurality_accuracy(2, 4, 0.25, "fail") == pytest.approx(0.0625)
    assert plurality_accuracy(2, 4, 0.25, "success") == pytest.approx(0.4375)


@pytest.mark.parametrize("row", rows("algorithm1_partitions"))
def test_partitions_of_algorithm_1(row: dict[str, Any]) -> None:
    assert partition_count(row["N"], row["K"]) == row["count"]


@pytest.mark.parametrize(("n", "k"), [(1, 2), (3, 10), (10, 4), (20, 3), (30, 4), (25, 10)])
def test_algorithm_1_agrees_with_the_transform(n: int, k: int) -> None:
    for p in (0.0, 0.004, 0.25, 0.6, 1.0):
        assert algorithm1(n, k, p) == pytest.approx(plurality_accuracy(n, k, p), rel=1e-12)


def test_algorithm_1_refuses_what_would_take_hours() -> None:
    with pytest.raises(ValueError, match=r"n = 100, k = 10 has 6292069 partitions"):
        algorithm1(100, 10, 0.5)


# Section 4.1: what the paper claims of it


def test_claim_1_a_more_accurate_node_improves_the_chain() -> None:
    for base in ([0.4] * 6, [0.9, 0.5, 0.3, 0.3], [0.26] * 9):
        better = [*base[:-1], base[-1] + 0.05]
        assert heterogeneous_accuracy(better, 4) > heterogeneous_accuracy(base, 4)


def test_claim_2_enough_weaker_nodes_do_reach_high_accuracy_but_a_few_do_harm() -> None:
    assert heterogeneous_accuracy([0.99], 10) == pytest.approx(0.99)
    assert heterogeneous_accuracy([0.99, 0.5, 0.5], 10) == pytest.approx(0.820, abs=5e-4)
    assert heterogeneous_accuracy([0.9, 0.6, 0.6], 10) == pytest.approx(0.849, abs=5e-4)
    assert heterogeneous_accuracy([0.9, *[0.6] * 4], 10) == pytest.approx(0.935, abs=5e-4)
    assert heterogeneous_accuracy([0.99, *[0.5] * 40], 10) > 0.99


def test_equation_1_has_its_three_limits() -> None:
    sizes = (1, 10, 100, 1_000, 10_000)
    rising = [plurality_accuracy(n, 4, 0.3) for n in sizes]
    falling = [plurality_accuracy(n, 4, 0.2) for n in sizes]
    level = [plurality_accuracy(n, 4, 0.25) for n in sizes]
    assert rising == sorted(rising)
    assert rising[-1] > 1 - 1e-9
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 1e-9
    assert level == pytest.approx([0.25] * len(sizes), rel=1e-12)


def test_equation_1_needs_the_target_to_be_the_most_likely_class() -> None:
    probs = [0.3, 0.4, *[0.0375] * 8]
    assert probs[0] > 1 / len(probs)
    wins = [win_probabilities(n, probs)[0] for n in (10, 40, 160, 640)]
    assert wins == sorted(wins, reverse=True)
    assert wins[1] == pytest.approx(0.224, abs=5e-4)
    assert wins[-1] < 0.01


@pytest.mark.parametrize("k", [2, 3, 4, 10])
def test_more_nodes_never_hurt_above_a_kth(k: int) -> None:
    for p in (1 / k + 0.01, 0.6, 0.9):
        curve = [plurality_failure(n, k, p) for n in range(1, 30)]
        assert all(b <= a * (1 + 1e-12) for a, b in pairwise(curve))


# Other distributions of votes


@pytest.mark.parametrize("row", rows("general_confusion"))
def test_win_probabilities(row: dict[str, Any]) -> None:
    wins = win_probabilities(row["N"], row["probs"])
    np.testing.assert_allclose(wins, row["win"], rtol=1e-9, atol=1e-13)
    assert wins.sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("offsets", [[0, 0, 0], [0, 2, 0], [5, 0, 1], [0, 9, 0]])
def test_win_probabilities_equal_enumeration(offsets: list[int], tie: Any) -> None:
    probs = [Fraction(1, 2), Fraction(1, 2), Fraction(0)]
    for weights in (probs, [Fraction(3, 5), Fraction(3, 10), Fraction(1, 10)]):
        for n in (1, 4, 6):
            expected = [float(w) for w in enumerated([weights] * n, offsets, tie)]
            got = win_probabilities(n, [float(w) for w in weights], offsets, tie)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("row", rows("common_cause"))
def test_hard_samples_put_a_plateau_on_the_accuracy(row: dict[str, Any]) -> None:
    n, k, hard = row["N"], row["K"], row["hard_fraction"]
    other = (1 - row["p_hard"] - row["q_hard_rival"]) / (k - 2)
    on_hard = win_probabilities(n, [row["p_hard"], row["q_hard_rival"], *[other] * (k - 2)])[0]
    accuracy = (1 - hard) * plurality_accuracy(n, k, row["p_easy"]) + hard * on_hard
    assert accuracy == pytest.approx(row["P"], abs=1e-13)


@pytest.mark.parametrize("row", rows("abstain"))
def test_abstaining_nodes_thin_the_electorate(row: dict[str, Any]) -> None:
    n, k, p, a = row["N"], row["K"], row["p"], row["a"]
    weight = [comb(n, m) * (1 - a) ** m * a ** (n - m) for m in range(n + 1)]
    voted = sum(weight[m] * plurality_accuracy(m, k, p) for m in range(1, n + 1))
    assert voted == pytest.approx(row["P_novote_counts_as_failure"], abs=1e-13)


@pytest.mark.parametrize("row", rows("heterogeneous"))
def test_heterogeneous_nodes(row: dict[str, Any]) -> None:
    assert heterogeneous_accuracy(row["p"], row["K"]) == pytest.approx(row["P"], abs=1e-13)
    same = plurality_accuracy(len(row["p"]), row["K"], float(np.mean(row["p"])))
    assert same == pytest.approx(row["P_same_mean"], abs=1e-13)


def test_a_pmf_of_one_count_reads_the_profile() -> None:
    assert plurality_from_pmf([0, 0, 1, 0, 0], 3) == plurality_profile(4, 3)[2]


@pytest.mark.parametrize("row", rows("beta_binomial"))
def test_correlated_nodes(row: dict[str, Any]) -> None:
    got = betabinom_accuracy(row["N"], row["K"], row["p"], row["rho"])
    assert got == pytest.approx(row["P"], abs=1e-12)
    assert effective_votes(row["N"], row["rho"]) == pytest.approx(row["n_eff"], rel=1e-14)


def test_correlation_runs_from_independent_to_a_single_node() -> None:
    assert betabinom_accuracy(15, 4, 0.6, 0.0) == pytest.approx(plurality_accuracy(15, 4, 0.6))
    assert betabinom_accuracy(15, 4, 0.6, 1e-9) == pytest.approx(plurality_accuracy(15, 4, 0.6))
    assert betabinom_accuracy(15, 4, 0.6, 1.0) == 0.6
    assert betabinom_accuracy(15, 4, 0.6, 1 - 1e-9) == pytest.approx(0.6, abs=1e-6)
    assert effective_votes(40, 0.0) == 40
    assert effective_votes(40, 1.0) == 1


def test_icc_recovers_the_correlation_it_was_drawn_with() -> None:
    rng = np.random.default_rng(7)
    for rho in (0.05, 0.5):
        theta = rng.beta(0.9 * (1 / rho - 1), 0.1 * (1 / rho - 1), size=20_000)
        right = rng.random((20, 20_000)) < theta
        assert icc(right) == pytest.approx(rho, abs=0.02)
        votes = np.where(right, 3, rng.integers(0, 3, right.shape))
        assert icc(votes, np.full(20_000, 3)) == icc(right)
    assert icc(rng.random((20, 20_000)) < 0.8) == pytest.approx(0, abs=0.003)
    assert icc(np.tile([0, 1, 1, 1], (5, 1))) == 1.0


def test_icc_leaves_abstentions_out() -> None:
    rng = np.random.default_rng(8)
    theta = rng.beta(0.8, 0.2, size=30_000)
    right = (rng.random((10, 30_000)) < theta).astype(int)
    right[rng.random(right.shape) < 0.3] = -1
    assert icc(right) == pytest.approx(0.5, abs=0.02)


# Sections 4.2 and 4.4: lazy and Sybil nodes


@pytest.mark.parametrize("row", rows("mix_honest_lazy_sybil"))
def test_mixed_accuracy(row: dict[str, Any]) -> None:
    got = mixed_accuracy(row["H"], row["p"], row["L"], row["S"], row["K"])
    assert got == pytest.approx(row["P_target"], abs=1e-13)


@pytest.mark.parametrize(
    ("h", "lazy", "sybil", "k"), [(2, 1, 1, 2), (3, 2, 2, 3), (0, 3, 1, 3), (2, 0, 0, 4)]
)
def test_mixed_accuracy_equals_enumeration(h: int, lazy: int, sybil: int, k: int) -> None:
    p = Fraction(7, 10)
    ps = alike(h, k, p) + alike(lazy, k, Fraction(1, k))
    offsets = [0, sybil] + [0] * (k - 2)
    exact = float(enumerated(ps, offsets, "random")[0])
    assert mixed_accuracy(h, 0.7, lazy, sybil, k) == pytest.approx(exact, rel=1e-12)


def test_lazy_nodes_keep_the_expected_gap_and_lose_the_vote() -> None:
    lazy = (0, 10, 50, 100, 500)
    gaps = [expected_fork_lengths(11, 0.5, many, 10) for many in lazy]
    assert [gap.target - gap.other for gap in gaps] == pytest.approx([4.888889] * 5)
    accuracy = [mixed_accuracy(11, 0.5, many, 0, 10) for many in lazy]
    assert accuracy == pytest.approx([0.9476, 0.8709, 0.6236, 0.4756, 0.2442], abs=5e-5)


@pytest.mark.parametrize("row", rows("expected_fork_lengths"))
def test_expected_fork_lengths(row: dict[str, Any]) -> None:
    lengths = expected_fork_lengths(row["H"], row["p"], row["L"], row["K"], row["S"], row["p_w"])
    expected = (row["eq2_target"], row["eq3_other"], row["eq8_cw"])
    assert tuple(lengths) == pytest.approx(expected, rel=1e-13)
    assert lengths.target == pytest.approx(row["eq7_target"], rel=1e-13)
    default = expected_fork_lengths(row["H"], row["p"], row["L"], row["K"], row["S"])
    assert tuple(default) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("row", rows("sybil_honest_needed"))
def test_honest_nodes_needed_against_sybils(row: dict[str, Any]) -> None:
    s, p, rival = row["S"], row["p"], (1 - row["p"]) / (row["K"] - 1)
    assert honest_needed(s, p, rival) == row["H_paper"]
    won = mixed_accuracy(row["H_paper"], p, 0, s, row["K"])
    assert won == pytest.approx(row["P_at_H_paper"], abs=1e-12)
    for level in ("0.9", "0.99", "0.999"):
        assert honest_needed(s, p, rival, float(level)) == row[f"H_for_{level}"]


def test_the_papers_bound_is_little_better_than_a_coin() -> None:
    assert honest_needed(20, 0.9, 0.1 / 9) == 23
    assert mixed_accuracy(23, 0.9, 0, 20, 10) == pytest.approx(0.637, abs=5e-4)
    assert honest_needed(20, 0.9, 0.1 / 9, 0.99) == 29
    assert honest_needed(20, 0.9, 0.1 / 9, 0.999) == 31


def test_honest_nodes_needed_with_a_favoured_or_unused_sybil_class() -> None:
    assert honest_needed(0, 0.6, 0.4) == 1
    assert honest_needed(5, 0.5, 0.5 - 1e-3) == 5_001
    level = honest_needed(5, 0.6, 0.4, 0.9)
    wins = [win_probabilities(n, [0.6, 0.4], [0, 5])[0] for n in (level - 1, level)]
    assert wins[0] < 0.9 <= wins[1]
    assert honest_needed(3, 0.9, 0.0, 0.9) >= honest_needed(3, 1.0, 0.0, 0.9) == 4


@pytest.mark.parametrize("row", rows("nodes_needed"))
def test_nodes_needed(row: dict[str, Any]) -> None:
    for level in set(row) - {"K", "p"}:
        assert nodes_needed(row["K"], row["p"], float(level)) == row[level]


@pytest.mark.parametrize("row", rows("randomised_response"))
def test_randomised_response(row: dict[str, Any]) -> None:
    p = rr_accuracy(row["p"], row["K"], row["eps"])
    assert p == pytest.approx(row["p_eff"], rel=1e-13)
    assert plurality_accuracy(21, row["K"], p) == pytest.approx(row["P21"], rel=1e-12)
    for level in ("0.9", "0.99", "0.999"):
        if f"N_{level}" in row:
            assert nodes_needed(row["K"], p, float(level)) == row[f"N_{level}"]


def test_randomised_response_from_a_guess_to_no_noise() -> None:
    got = rr_accuracy(0.9, 10, np.array([0.0, 800.0, np.inf]))
    np.testing.assert_allclose(got, [0.1, 0.9, 0.9], rtol=1e-14)


# Section 4.3: catching up


@pytest.mark.parametrize("row", rows("equation6"))
def test_equation_6_and_its_logarithm(row: dict[str, Any]) -> None:
    if row["P"] > 0:
        assert nakamoto_risk(row["z"], row["ratio"]) == pytest.approx(row["P"], rel=1e-10)
    logs = nakamoto_risk(row["z"], row["ratio"], log=True)
    assert logs / log(10) == pytest.approx(row["log10P"], abs=1e-9)


def test_equation_6_has_the_papers_anchor_and_nakamotos_tables() -> None:
    assert f"{nakamoto_risk(21, 0.5):.6f}" == VECTORS["equation6"]["anchor"]["paper"]
    for row in VECTORS["equation6"]["whitepaper"]:
        risk = nakamoto_risk(row["z"], row["q"] / (1 - row["q"]))
        assert risk == pytest.approx(row["P"], abs=5.1e-8)


@pytest.mark.parametrize(
    ("section", "key", "function"),
    [
        ("race_exact", "P", race_exact),
        ("catch_up_eq4", "P", catch_up),
        ("first_to_lead_z", "P_wrong", lambda z, rho: lead_error(z, rho, 2)),
    ],
)
def test_other_races(section: str, key: str, function: Callable[[int, float], float]) -> None:
    for row in rows(section):
        assert function(row["z"], row["ratio"]) == pytest.approx(row[key], rel=1e-12)


@pytest.mark.parametrize("row", rows("z_for_risk"))
def test_z_for_risk(row: dict[str, Any]) -> None:
    rho, risk = row["ratio"], float(row["risk"])
    assert z_for_risk(rho, risk) == row["z_eq6"]
    assert z_for_risk(rho, risk, "catch-up") == row["z_eq4"]
    assert z_for_risk(rho, risk, "race") == row["z_exact_race"]
    assert z_for_risk(rho, risk, "lead", 2) == row["z_lead_K2"]
    assert z_for_risk(rho, risk, "lead", 10) == row["z_lead_K10"]


def test_21_blocks_do_not_keep_one_percent() -> None:
    assert nakamoto_risk(21, 0.5) > 0.01 > nakamoto_risk(22, 0.5)
    assert race_exact(21, 0.5) > 2 * nakamoto_risk(21, 0.5)
    assert lead_error(21, 0.5, 10) < 5e-6, "but a lead of 21 is far safer than the paper says"


def test_no_advantage_is_certainty_not_an_error() -> None:
    for rho in (1.0, 1.5, np.inf):
        assert catch_up(5, rho) == race_exact(5, rho) == lead_error(5, rho, 3) == 1.0
        assert nakamoto_risk(5, rho) == 1.0
        assert nakamoto_risk(5, rho, log=True) == 0.0


def test_an_impossible_rival_is_no_risk() -> None:
    assert nakamoto_risk(0, 0.0) == catch_up(0, 0.0) == race_exact(0, 0.0) == 1.0
    assert nakamoto_risk(3, 0.0) == catch_up(3, 0.0) == race_exact(3, 0.0) == 0.0
    assert nakamoto_risk(3, 0.0, log=True) == -np.inf
    assert z_for_risk(0.0, 1e-6) == 1


def test_races_broadcast() -> None:
    z, rho = np.arange(0, 40)[:, None], np.array([0.1, 0.5, 0.9, 1.0])
    for function in (catch_up, nakamoto_risk, race_exact):
        surface = function(z, rho)
        assert surface.shape == (40, 4)
        assert surface[21, 1] == function(21, 0.5)
        assert (np.diff(surface, axis=0) <= 0).all()
        assert (np.diff(surface, axis=1) >= 0).all()


# Bad input

CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: plurality_accuracy(0, 4, 0.5), "n .* got 0"),
    (lambda: plurality_accuracy(2.5, 4, 0.5), "n .* got 2.5"),  # type: ignore[call-overload]
    (lambda: plurality_accuracy(5, 1, 0.5), "k .* got 1"),
    (lambda: plurality_accuracy(5, 4, -0.1), r"p must be in \[0, 1\], got -0.1"),
    (lambda: plurality_accuracy(5, 4, float("nan")), r"p must be in \[0, 1\], got nan"),
    (lambda: plurality_accuracy(5, 4, np.array([0.1, 1.2])), "p must be .* got 1.2"),
    (lambda: plurality_accuracy(5, 4, 0.5, "coin"), "tie .* got 'coin'"),  # type: ignore[call-overload]
    (lambda: plurality_failure(5, 4, 1.1), "p must be .* got 1.1"),
    (lambda: plurality_profile(0, 4), "n .* got 0"),
    (lambda: plurality_from_pmf([1.0], 4), "pmf must hold"),
    (lambda: plurality_from_pmf([0.5, 0.4], 4), "pmf must sum to 1, got 0.9"),
    (lambda: plurality_from_pmf([1.5, -0.5], 4), "pmf must be in"),
    (lambda: algorithm1(0, 4, 0.5), "n .* got 0"),
    (lambda: algorithm1(5, 1, 0.5), "k .* got 1"),
    (lambda: partition_count(5, 0), "k .* got 0"),
    (lambda: heterogeneous_accuracy([], 4), "ps must hold"),
    (lambda: heterogeneous_accuracy([0.5, 1.2], 4), "ps must be .* got 1.2"),
    (lambda: mixed_accuracy(-1, 0.5, 0, 0, 4), "honest .* got -1"),
    (lambda: mixed_accuracy(1, 0.5, -2, 0, 4), "lazy .* got -2"),
    (lambda: mixed_accuracy(1, 0.5, 0, -3, 4), "sybil .* got -3"),
    (lambda: mixed_accuracy(0, 0.5, 0, 0, 4), r"honest \+ lazy \+ sybil .* got 0"),
    (lambda: expected_fork_lengths(1, 1.5, 0, 4), "p must be .* got 1.5"),
    (lambda: expected_fork_lengths(1, 0.5, 0, 4, 1, 0.6), "p_w must be at most .* got 0.6"),
    (lambda: honest_needed(-1, 0.9, 0.1), "sybil .* got -1"),
    (lambda: honest_needed(5, 0.4, 0.4), "p must be above p_w = 0.4 .* got 0.4"),
    (lambda: honest_needed(5, 0.9, 0.1, 1.0), r"level must be in \(0, 1\), got 1.0"),
    (lambda: win_probabilities(5, [1.0]), "probs must hold"),
    (lambda: win_probabilities(5, [0.5, 0.4]), "probs must sum to 1, got 0.9"),
    (lambda: win_probabilities(5, [0.5, 0.5], [0, -1]), "offsets must be"),
    (lambda: win_probabilities(5, [0.5, 0.5], [0]), "offsets must be 2 integers"),
    (lambda: catch_up(-1, 0.5), "z .* got -1"),
    (lambda: nakamoto_risk(2.5, 0.5), "z .* got 2.5"),
    (lambda: nakamoto_risk(2, -0.5), "rho .* got -0.5"),
    (lambda: race_exact(2, float("nan")), "rho .* got nan"),
    (lambda: lead_error(2, 0.5, 1), "k .* got 1"),
    (lambda: z_for_risk(1.0, 0.1), r"rho must be in \[0, 1\).* got 1.0"),
    (lambda: z_for_risk(-0.1, 0.1), "rho .* got -0.1"),
    (lambda: z_for_risk(0.5, 1.0), r"risk must be in \(0, 1\), got 1.0"),
    (lambda: z_for_risk(0.5, 0.1, "luck"), "kind .* got 'luck'"),  # type: ignore[arg-type]
    (lambda: nodes_needed(4, 0.25, 0.9), "p must be above 1/k = 0.25"),
    (lambda: nodes_needed(4, 0.5, 0.0), r"level must be in \(0, 1\), got 0.0"),
    (lambda: rr_accuracy(1.5, 4, 1.0), "p must be .* got 1.5"),
    (lambda: rr_accuracy(0.5, 4, -1.0), "eps .* got -1.0"),
    (lambda: betabinom_accuracy(5, 4, 0.5, 1.5), "icc must be .* got 1.5"),
    (lambda: effective_votes(0, 0.5), "n .* got 0"),
    (lambda: effective_votes(5, -0.5), "icc must be .* got -0.5"),
    (lambda: icc([0, 1]), "votes must be a matrix"),
    (lambda: icc([[0, 2], [1, 1]]), "votes without truth must be 0 or 1, got 2"),
    (lambda: icc([[0, 2], [1, 1]], [0]), "truth must have shape"),
    (lambda: icc([[0, 1]]), "2 samples with 2 votes"),
    (lambda: icc([[1, 1], [1, 1]]), "got accuracy 1"),
]


@pytest.mark.parametrize(("call", "named"), CALLS)
def test_bad_input_is_refused_by_name(call: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()


def test_public_names() -> None:
    assert theory.__all__ == sorted(theory.__all__)
    assert all(hasattr(theory, name) for name in theory.__all__)
