"""Words for figures: numbers, tables, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Figures = dict[str, Any]
Lines = list[str]

ONE_SEED = ("overhead", "audit", "ledger")  # they time; what is voted does not matter
MISSING = "not measured"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as per cent, or that it was not measured."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """A figure with its unit, or that it was not measured."""
    return MISSING if value is None else f"{value:,.{digits}f}{unit}"


def least_to_most(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The range of some figures."""
    return f"{min(values):,.{digits}f} to {max(values):,.{digits}f}{unit}"


def largest_step_down(values: Sequence[float]) -> float:
    """By how much a curve falls at most from one point to the next."""
    return max(0.0, *(a - b for a, b in pairwise(values)))


def table(head: list[str], rows: list[list[str]]) -> Lines:
    """Return a table in Markdown, and a blank line."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def made_by(figures: Figures) -> str:
    """Command, seeds, machine and load of a benchmark."""
    m, load = figures["machine"], figures["load_average"]
    seeds = figures["seeds"]
    few = "" if len(seeds) >= 3 else f" **({len(seeds)} of the 3 seeds asked for)**"
    drawn = f", seeds {', '.join(map(str, seeds))}{few}"
    if figures["benchmark"] in ONE_SEED:
        drawn = ", one fixed seed"
    return (
        f"`{figures['command']}`{drawn}; "
        f"{m['cores']} cores of {m['processor']}, {m['memory_gib']} GiB, torch {m['torch']}, "
        f"flwr {m['flwr']}; load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} "
        f"after{taken(figures)}."
    )


def taken(figures: Figures) -> str:
    """What the host of a virtual machine took meanwhile, where that is known."""
    share = figures.get("stolen_share")
    return "" if share is None else f"; its host took {percent(share, 0)} of the cores' time"


def verdict(value: float | None, met: bool) -> str:
    """Whether a figure reached what was asked for."""
    return MISSING if value is None else ("yes" if met else "**no**")
