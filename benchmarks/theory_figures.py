"""Draws the figures of docs/theory.md: the paper's Figs. 4 and 5, and what they leave out.

Run ``python benchmarks/theory_figures.py``; it writes four PNGs to docs/img/ (``--out`` changes
that) and prints the numbers behind them, as JSON with ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from rtc_flower.theory import (
    catch_up,
    expected_fork_lengths,
    mixed_accuracy,
    nakamoto_risk,
    nodes_needed,
    plurality_accuracy,
    race_exact,
)

# Okabe and Ito's colours, told apart by colour-blind readers; line styles and labels at the
# lines do the same in grey print.
BLACK, ORANGE, SKY, GREEN, BLUE, RED = (
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#0072b2",
    "#d55e00",
)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def fig_accuracy(axes: Any) -> dict[str, Any]:
    """Fig. 4: accuracy of the plurality over the number of nodes, |C| = 4."""
    nodes = np.arange(1, 31)
    grid = np.arange(1, 257) / 256
    surface = np.array([plurality_accuracy(int(n), 4, grid) for n in nodes])
    for column in range(7, 256, 8):
        axes[0].plot(nodes, surface[:, column], color="0.8", lw=0.7)
    shown = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
    colours = (RED, ORANGE, BLACK, SKY, BLUE, GREEN, RED)
    for p, colour in zip(shown, colours, strict=True):
        curve = [plurality_accuracy(int(n), 4, p) for n in nodes]
        axes[0].plot(nodes, curve, color=colour, lw=1.8)
        place = (30.3, curve[-1] + {0.5: -0.02, 0.7: 0.02}.get(p, 0.0))
        axes[0].annotate(f"{p:.2f}", place, va="center", fontsize=8, annotation_clip=False)
    axes[0].set(xlim=(1, 30), ylim=(0, 1), xlabel="nodes that vote")
    axes[0].set_ylabel("probability that the longest fork is right")
    axes[0].set_title("Four classes; at each line: one node's accuracy", fontsize=9)
    ties: tuple[Literal["success", "random", "fail"], ...] = ("success", "random", "fail")
    for tie, style in zip(ties, ("--", "-", ":"), strict=True):
        curve = [plurality_accuracy(int(n), 4, 0.25, tie) for n in nodes]
        axes[1].plot(nodes, curve, ls=style, color=BLACK, lw=1.8)
    axes[1].annotate("tie counts as right\n(Algorithm 1 as printed)", (6, 0.39), fontsize=8)
    axes[1].annotate("first to reach the height, or at random", (6, 0.262), fontsize=8)
    axes[1].annotate("tie counts as wrong", (9, 0.15), fontsize=8)
    axes[1].set(xlim=(1, 30), ylim=(0, 0.5), xlabel="nodes that vote")
    axes[1].set_title("Nodes that guess (accuracy 0.25): the tie rule decides", fontsize=9)
    return {"p": grid[[0, 63, 127]].tolist(), "at_30": surface[-1, [0, 63, 127]].tolist()}


def fig_catch_up(axes: Any) -> dict[str, Any]:
    """Fig. 5: eq. (6) over z, and the three risks that the paper's 21 could mean."""
    z = np.arange(0, 61)
    for rho, style in zip((0.1, 0.3, 0.5, 0.7, 0.9), STYLES, strict=True):
        curve = nakamoto_risk(z, rho)
        axes[0].plot(z, curve, ls=style, color=BLUE, lw=1.6)
        at = {0.1: 2, 0.3: 4, 0.5: 8, 0.7: 14, 0.9: 45}[rho]
        axes[0].annotate(f"{rho}", (at + 0.8, curve[at] + 0.015), fontsize=8)
    axes[0].plot([21], [nakamoto_risk(21, 0.5)], "o", color=RED)
    axes[0].annotate(
        "the paper's choice:\nz = 21, ratio 0.5, risk 0.011",
        (21, nakamoto_risk(21, 0.5)),
        (26, 0.36),
        fontsize=8,
        arrowprops={"arrowstyle": "-", "color": RED},
    )
    axes[0].set(xlim=(0, 60), ylim=(0, 1.02), xlabel="z: blocks of the target's fork")
    axes[0].set_ylabel("probability that the rival catches up")
    axes[0].set_title("Eq. (6); at each line: rival's votes per target vote", fontsize=9)
    labels: list[tuple[str, Callable[[Any, Any], Any], Any, str, float]] = [
        ("exact race to z blocks", race_exact, "--", BLACK, 2.5),
        ("eq. (6): race to z blocks", nakamoto_risk, "-", BLUE, 0.003),
        ("eq. (4): rival z votes behind", catch_up, ":", RED, 2.5),
    ]
    for label, function, style, colour, above in labels:
        axes[1].semilogy(z, function(z, 0.5), ls=style, color=colour, lw=1.8)
        place = (24, above * function(24, 0.5))
        axes[1].annotate(label, place, fontsize=8, color=colour)
    axes[1].axvline(21, color="0.7", lw=0.8)
    axes[1].set(xlim=(0, 60), ylim=(1e-10, 1.5), xlabel="z")
    axes[1].set_title("Ratio 0.5: being 21 ahead is safer than eq. (6) says", fontsize=9)
    return {name: [function(21, 0.5)] for name, function, *_ in labels}


def fig_robustness(axes: Any) -> dict[str, Any]:
    """Lazy and Sybil nodes: what is expected (eqs. 2, 3, 7, 8) beside what happens."""
    lazy = np.unique(np.linspace(0, 300, 61).astype(int))
    won = [mixed_accuracy(11, 0.5, int(many), 0, 10) for many in lazy]
    gap = [expected_fork_lengths(11, 0.5, int(many), 10) for many in lazy]
    axes[0].plot(lazy, won, color=BLUE, lw=1.8)
    axes[0].annotate("probability that the target wins", (95, 0.55), fontsize=8, color=BLUE)
    axes[0].set(
        xlim=(0, 300), ylim=(0, 1.02), xlabel="lazy nodes beside 11 honest ones (accuracy 0.5)"
    )
    axes[0].set_ylabel("probability")
    twin = axes[0].twinx()
    twin.plot(lazy, [one.target - one.other for one in gap], "--", color=RED, lw=1.8)
    twin.annotate("expected lead, eq. (2) - eq. (3)", (95, 5.1), fontsize=8, color=RED)
    twin.set(ylim=(0, 6), ylabel="votes")
    axes[0].set_title("Lazy nodes keep the expected lead, not the result", fontsize=9)
    honest = np.arange(15, 41)
    won = [mixed_accuracy(int(many), 0.9, 0, 20, 10) for many in honest]
    axes[1].plot(honest, won, "o-", color=BLUE, ms=3, lw=1.2)
    axes[1].axvline(22.5, ls="--", color=RED, lw=1.4)
    axes[1].annotate("eqs. (7), (8):\nmore than 22.5", (22.2, 0.86), ha="right", fontsize=8)
    for level, many, height in ((0.637, 23, 0.5), (0.99, 29, 0.7), (0.999, 31, 0.82)):
        line = {"arrowstyle": "-", "color": "0.5", "lw": 0.8}
        text = f"{many} nodes: {level}"
        place = (many + 2, height)
        axes[1].annotate(text, (many, level), place, fontsize=8, arrowprops=line)
    axes[1].set(
        xlim=(15, 40), ylim=(0, 1.02), xlabel="honest nodes (accuracy 0.9) against 20 Sybils"
    )
    axes[1].set_title("The paper's bound is where winning starts", fontsize=9)
    return {"sybil_20_honest_23": mixed_accuracy(23, 0.9, 0, 20, 10)}


def fig_planning(axes: Any) -> dict[str, Any]:
    """How many nodes are needed for an accuracy, if their errors are independent."""
    out: dict[str, Any] = {}
    for axis, k in zip(axes, (2, 10), strict=True):
        grid = np.concatenate(
            [1 / k + np.geomspace(0.02, 0.1, 8), np.arange(1 / k + 0.12, 0.97, 0.02)]
        )
        for level, style, colour in ((0.9, "-", BLUE), (0.99, "--", RED), (0.999, "-.", BLACK)):
            need = [nodes_needed(k, float(p), level) for p in grid]
            axis.semilogy(grid, need, ls=style, color=colour, lw=1.7, label=f"{level}")
            out[f"k={k} level={level} p=0.5+"] = nodes_needed(k, max(0.5, 1 / k + 0.1), level)
        axis.axhline(40, color="0.75", lw=0.8)
        axis.annotate("40 nodes", (0.985, 43), ha="right", fontsize=8, color="0.4")
        axis.set(xlim=(1 / k, 1), ylim=(0.9, 5e3), xlabel="accuracy of one node")
        axis.set_title(f"{k} classes", fontsize=9)
    axes[0].set_ylabel("nodes needed")
    axes[0].legend(title="accuracy of the outcome", fontsize=8, title_fontsize=8)
    return out


FIGURES: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "accuracy": (fig_accuracy, "More nodes help exactly when one beats guessing (paper, Fig. 4)"),
    "catch-up": (fig_catch_up, "Can the rival still catch up? (paper, Fig. 5)"),
    "robustness": (fig_robustness, "Expectation and probability differ (10 classes)"),
    "nodes-needed": (fig_planning, "How many nodes do I need, if errors are independent?"),
}


def main() -> None:
    """Draw every figure and report the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    folder = Path(__file__).resolve().parents[1] / "docs" / "img"
    parser.add_argument("--out", type=Path, default=folder, help="folder for the PNGs")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for name, (draw, title) in FIGURES.items():
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        numbers[name] = draw(axes)
        figure.suptitle(title, fontsize=11)
        for axis in axes:
            axis.spines["top"].set_visible(False)
        figure.savefig(arguments.out / f"theory-{name}.png", dpi=100)
        plt.close(figure)
        print(name, json.dumps(numbers[name]))
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
