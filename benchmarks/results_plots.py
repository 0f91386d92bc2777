"""Plots of docs/results.md from the figures of the benchmarks.

Okabe and Ito's colours with different markers and line styles, so that colour-blind readers and
grey print tell the lines apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["PLOTS", "draw"]

BLACK, ORANGE, SKY, GREEN, BLUE, RED = (
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#0072b2",
    "#d55e00",
)
_STYLES = {
    "plain": (BLUE, "o", "equal CNNs"),
    "augmented": (GREEN, "s", "equal CNNs, augmented"),
    "strong": (RED, "^", "strong mix, augmented"),
}
Figures = dict[str, Any]


def draw(name: str, figures: Figures, path: Path) -> None:
    """Draw one plot into a PNG."""
    plotter, shape = PLOTS[name]
    rows, columns = shape
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.5 * columns, 3.3 * rows), layout="constrained", squeeze=False
    )
    plotter(figures, list(axes.flat))
    for axis in axes.flat:
        axis.spines["top"].set_visible(False)
        axis.spines["right"].set_visible(False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _accuracy(figures: Figures, axes: list[Any]) -> None:
    measured, theory = axes
    for mix, curve in figures["curves"].items():
        colour, marker, label = _STYLES[mix]
        n = [int(key) for key in curve]
        sd = [
            np.mean([row["curve"][key]["sd"] for row in figures["by_seed"][mix].values()])
            for key in curve
        ]
        percent = 100 * np.array(list(curve.values()))
        measured.errorbar(
            n,
            percent,
            100 * np.array(sd),
            color=colour,
            marker=marker,
            ms=4,
            capsize=2,
            label=label,
        )
        measured.axhline(100 * figures["mean_node"][mix], color=colour, ls=":", lw=1)
    measured.set(xscale="log", xlabel="nodes that vote", ylabel="accuracy (%)")
    measured.set_xticks([1, 2, 3, 5, 10, 20, 40], ["1", "2", "3", "5", "10", "20", "40"])
    measured.minorticks_off()
    measured.legend(fontsize=8, loc="lower right")
    measured.set_title("Measured (dotted: mean node)", fontsize=9)
    mix = next(iter(figures["curves"]))
    seeds = list(figures["by_seed"][mix].values())
    n = [int(key) for key in figures["curves"][mix]]

    def mean(key: str) -> Any:
        return 100 * np.mean([[row[key][str(i)] for i in n] for row in seeds], axis=0)

    theory.plot(n, mean("theory_independent"), "--", color=BLACK, label="independent errors")
    theory.plot(n, mean("theory_correlated"), "-.", color=ORANGE, label="measured correlation")
    values = 100 * np.array(list(figures["curves"][mix].values()))
    theory.plot(n, values, "o-", color=BLUE, ms=4, label="measured")
    theory.set(xscale="log", xlabel="nodes that vote", ylabel="accuracy (%)")
    theory.set_xticks([1, 2, 3, 5, 10, 20, 40], ["1", "2", "3", "5", "10", "20", "40"])
    theory.minorticks_off()
    theory.legend(fontsize=8)
    theory.set_title(f"Against theory ({_STYLES[mix][2]})", fontsize=9)


def _robustness(figures: Figures, axes: list[Any]) -> None:
    for axis, name, colour in zip(axes[:2], ("lazy", "sybil"), (BLUE, RED), strict=True):
        rows = figures[name]
        nodes = rows[0]["honest"] + rows[0]["lazy"] + rows[0]["sybil"]
        x = [100 * row[name] / nodes for row in rows]
        axis.plot(
            x, [100 * r["accuracy"] for r in rows], "o-", color=colour, ms=4, label="measured"
        )
        axis.plot(
            x,
            [100 * r["theory_independent"] for r in rows],
            "--",
            color=BLACK,
            lw=1.2,
            label="theory, independent errors",
        )
        flips = [s for s, r in zip(x, rows, strict=True) if r["expectation_says"] == "rival"]
        if flips:
            axis.axvspan(flips[0], x[-1], color="0.9", label="eqs. (7), (8): Sybils expected ahead")
        axis.set(xlabel=f"{'lazy nodes' if name == 'lazy' else 'Sybils'} (% of {nodes})")
        axis.set(ylabel="accuracy (%)", ylim=(96, 100.2) if name == "lazy" else (-3, 103))
        axis.legend(fontsize=8, loc="lower left")
    axes[0].set_title("Lazy nodes vote at random", fontsize=9)
    axes[1].set_title("Sybils vote together", fontsize=9)
    _both(figures["both"], axes[2])


def _both(rows: list[Any], axis: Any) -> None:
    """Lazy nodes and Sybils together: a line per number of lazy nodes."""
    for lazy, (colour, marker) in zip(
        sorted({row["lazy"] for row in rows}),
        ((GREEN, "s"), (ORANGE, "^"), (SKY, "D")),
        strict=False,
    ):
        chosen = [row for row in rows if row["lazy"] == lazy]
        nodes = lazy + chosen[0]["sybil"] + chosen[0]["honest"]
        x = [100 * row["sybil"] / nodes for row in chosen]
        label = f"{100 * lazy / nodes:.0f} % lazy"
        measured = [100 * row["accuracy"] for row in chosen]
        theory = [100 * row["theory_independent"] for row in chosen]
        axis.plot(x, measured, f"{marker}-", color=colour, ms=4, label=f"{label}, measured")
        axis.plot(x, theory, "--", color=colour, lw=1.2, label=f"{label}, theory")
    axis.set(xlabel=f"Sybils (% of {nodes})", ylabel="accuracy (%)", ylim=(-3, 103))
    axis.legend(fontsize=8, loc="lower left")
    axis.set_title("Both", fontsize=9)


def _speedup(figures: Figures, axes: list[Any]) -> None:
    first = next(iter(figures["by_seed"].values()))
    series, sent, times = first["series"], first["network_bytes"], first.get("series_trainings", 1)
    often = "" if times == 1 else f", {times} times in a row"
    panels = {
        "node": (BLUE, "-", f"a node (5,000 images{often})"),
        "central": (RED, "--", "central (50,000 images)"),
    }
    for name, (colour, style, label) in panels.items():
        rows = np.array(series[name])
        rows = rows[rows[:, 2] > 0]
        t = rows[:, 0]
        axes[0].plot(t, rows[:, 1], ls=style, color=colour, label=label)
        axes[2].plot(t, rows[:, 2], ls=style, color=colour, label=label)
        axes[3].plot(t, rows[:, 3], ls=style, color=colour, label=label)
        # One process's messages: down before it begins, up when it has voted.
        if name == "node":
            down, total = (sent["down"] + sent["samples"]) / 1e6, sum(sent.values()) / 1e6
            axes[1].step([0, 0, t[-1], t[-1]], [0, down, down, total], color=colour, label=label)
        else:
            axes[1].plot([0, t[-1]], [0, 0], ls=style, color=colour, label=label)
    titles = (
        "(a) processor seconds used",
        "(b) network, MB of messages",
        "(c) resident memory, MiB",
        "(d) disk written, MiB",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="wall seconds, machine shared")
        axis.legend(fontsize=8)


def _stopping(figures: Figures, axes: list[Any]) -> None:
    names = list(figures["mean_votes"])
    colours = (BLUE, ORANGE, GREEN, "0.6")
    for axis, key, factor, title in (
        (axes[0], "mean_votes", 1, "Votes until decided (of 40; undecided = 40)"),
        (axes[1], "share_decided", 100, "Samples decided by the rule (%)"),
    ):
        values = [factor * figures[key][name] for name in names]
        bars = axis.bar(names, values, color=colours, width=0.6)
        axis.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("stop rule")


def _fedavg(figures: Figures, axes: list[Any]) -> None:
    seed = next(iter(figures["by_seed"].values()))
    vote, rounds = seed["vote"], [row for row in seed["fedavg"] if row["round"]]
    accuracy = [100 * row["accuracy"] for row in rounds]
    sent = [(row["bytes_down"] + row["bytes_up"]) / 1e3 for row in rounds]
    axes[0].semilogx(sent, accuracy, "o-", color=RED, ms=3, label="FedAvg, round by round")
    right = 100 * vote["accuracy"]
    axes[0].plot(
        vote["bytes_without_samples"] / 1e3, right, "s", color=BLUE, label="vote, with full audit"
    )
    axes[0].plot(
        vote["bytes_with_samples"] / 1e3, right, "D", color=SKY, label="... and the samples"
    )
    axes[0].set(xlabel="kB per node, down and up", ylabel="accuracy (%)")
    seconds = [row["critical_path_seconds"] for row in rounds]
    axes[1].plot(seconds, accuracy, "o-", color=RED, ms=3, label="FedAvg")
    axes[1].plot(vote["critical_path_seconds"], right, "s", color=BLUE, label="vote")
    axes[1].set(xlabel="processor seconds, slowest node and server", ylabel="accuracy (%)")
    for axis in axes:
        axis.set_ylim(max(90.0, min(accuracy) - 1), 100)
        axis.legend(fontsize=8, loc="lower right")


def _overhead(figures: Figures, axes: list[Any]) -> None:
    n = [row["nodes"] for row in figures["scale"]]
    per = [1000 * row["seconds_per_ballot"] for row in figures["scale"]]
    axes[0].semilogx(n, per, "o-", color=BLUE)
    axes[0].set(xlabel="nodes", ylabel="ms per ballot", ylim=(0, None))
    axes[0].set_title("Strategy, ledger and grid", fontsize=9)
    memory = [row["memory_above_start_mib"] for row in figures["scale"]]
    size = [row["ledger_bytes"] / 2**20 for row in figures["scale"]]
    axes[1].semilogx(n, memory, "s-", color=RED, label="memory above start")
    axes[1].semilogx(n, size, "^--", color=GREEN, label="ledger file")
    axes[1].set(xlabel="nodes", ylabel="MiB", ylim=(0, None))
    axes[1].legend(fontsize=8)
    axes[1].set_title("Memory of the server's process and its file", fontsize=9)
    for axis in axes:
        axis.set_xticks(n, [f"{value:.0f}" for value in n])
        axis.minorticks_off()


PLOTS: dict[str, tuple[Callable[[Figures, list[Any]], None], tuple[int, int]]] = {
    "accuracy": (_accuracy, (1, 2)),
    "fedavg": (_fedavg, (1, 2)),
    "overhead": (_overhead, (1, 2)),
    "robustness": (_robustness, (1, 3)),
    "speedup": (_speedup, (2, 2)),
    "stopping": (_stopping, (1, 2)),
}
