"""docs/results.md as a whole, and what the README claims: what was asked for and found."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable

from results_plots import PLOTS
from results_sections import SECTIONS
from results_words import (
    MISSING,
    ONE_SEED,
    Figures,
    Lines,
    largest_step_down,
    least_to_most,
    made_by,
    number,
    percent,
    table,
    taken,
    verdict,
)

ORDER = tuple(SECTIONS)
WHOLE = "make"  # how long everything took, from an empty cache

INTRODUCTION = """# Results: the paper's experiments, redone

Made by `make results` from the JSON files in [results/](results/). The nodes' votes are a real
ledger's, by the same strategy and verifier that users run. {fair}

**Read timings with care.** They come from one shared, noisy machine; every section states its load
average. Seconds are processor seconds unless it says wall: those of a process on one core, which is
what a machine of its own would take, though a busy neighbour makes even these longer. MNIST's
standard error is 0.14 points at 98 %: smaller differences between single runs mean nothing.
"""


def asked(found: dict[str, Figures]) -> Lines:
    """What the project set out to show, against what was measured."""
    speed, curves = found.get("speedup", {}), found.get("accuracy", {}).get("curves", {})
    rows: list[list[str]] = []

    def row(what: str, least: str, value: float | None, met: bool, shown: str) -> None:
        rows.append([what, least, MISSING if value is None else shown, verdict(value, met)])

    value, equal = speed.get("critical_path_speedup"), speed.get("equal_accuracy_speedup")
    pair = f"{number(value)}; {number(equal)}"
    if seeds := speed.get("by_seed"):
        pair += f"; seeds {least_to_most([s['critical_path_speedup'] for s in seeds.values()])}"
    what = "speedup at equal epochs, critical path (median); at equal accuracy"
    row(what, "at least 8; as measured", value, (value or 0) >= 8.0, pair)
    strong = speed.get("strong_mix") or {}
    value, equal = strong.get("critical_path_speedup"), strong.get("equal_accuracy_speedup")
    pair = f"{number(value)}; {number(equal)}"
    row("the same for the demo's strong mix", "as measured", value, True, pair)
    value = speed.get("consensus_accuracy")
    what = "consensus of 10 plain CNNs x 5,000"
    row(what, "at least 98.0 %", value, (value or 0) >= 0.98, percent(value))
    for mix, least in (("plain", 0.970), ("augmented", 0.982), ("strong", 0.986)):
        value = curves.get(mix, {}).get("40")
        name = f"40 nodes, {mix}"
        row(name, f"at least {percent(least, 1)}", value, (value or 0) >= least, percent(value))
    for mix in ("plain", "augmented"):
        curve = curves.get(mix)
        if curve is not None and not {"1", "2", "40"} <= curve.keys():
            curve = None  # fewer nodes than asked for
        lift = None if curve is None else curve["40"] - curve["1"]
        shown = "" if lift is None else f"{100 * lift:.2f} points"
        row(f"{mix}: 40 nodes over 1", "at least 0.4 points", lift, (lift or 0) >= 0.004, shown)
        two = None if curve is None else abs(curve["2"] - curve["1"])
        shown = "" if two is None else f"{100 * two:.2f} points"
        row(f"{mix}: 2 nodes against 1", "at most 0.4 points", two, (two or 0) <= 0.004, shown)
        down = None if curve is None else largest_step_down(list(curve.values()))
        shown = "" if down is None else f"{100 * down:.2f} points"
        row(f"{mix}: a step down", "at most 0.15 points", down, (down or 0) <= 0.0015, shown)
    _asked_of_stopping(found.get("stopping"), row)
    _asked_of_bytes(speed, found.get("fedavg"), row)
    _asked_of_overhead(found.get("overhead"), row)
    _asked_of_ledger(found.get("ledger"), row)
    whole = found.get(WHOLE)
    took = None if whole is None else whole["seconds"] / 60
    shown = "" if whole is None else number(took, "", 0) + taken(whole)
    row("`make results` from an empty cache, minutes", "below 90", took, (took or 0) < 90, shown)
    return table(["asked for", "bar", "measured", "met"], rows)


def _asked_of_stopping(f: Figures | None, row: Callable[..., None]) -> None:
    mean = None if f is None else f["mean_votes"]["certified"]
    row("votes of 40, `certified`", "at most 13", mean, (mean or 0) <= 13, number(mean))
    differ = None if f is None else f["differing_samples"]["certified"]
    shown = str(differ)
    row("samples that differ, `certified`", "at most 5", differ, (differ or 0) <= 5, shown)


def _asked_of_bytes(speed: Figures, f: Figures | None, row: Callable[..., None]) -> None:
    seeds = list(speed.get("by_seed", {}).values())
    up = seeds[0]["network_bytes"]["up"] if seeds else None
    row(
        "bytes up per node, hello and audit's answer too",
        "at most 12,000",
        up,
        (up or 0) <= 12_000,
        number(up, "", 0),
    )
    met = (
        []
        if f is None
        else [r["ratio_without_samples"] for r in f["at_vote_accuracy"] if r["round"]]
    )
    ratio = statistics.median(met) if met else None
    name = "FedAvg's bytes over the vote's with full audit, no samples"
    row(name, "at least 15", ratio, (ratio or 0) >= 15, number(ratio))


def _asked_of_overhead(f: Figures | None, row: Callable[..., None]) -> None:
    trip = (f or {}).get("round_trip")
    ratio = None if trip is None else trip["median_of_ratios"]
    row("vote over Flower's round trip", "at most 1.3", ratio, (ratio or 0) <= 1.3, number(ratio))
    flat = None if f is None else f["seconds_per_ballot_ratio"]
    row("time per ballot, 400 over 10 nodes", "at most 1.5", flat, (flat or 0) <= 1.5, number(flat))
    most = None if f is None else f["scale"][-1]["memory_above_start_mib"]
    row("memory at 400 nodes, MiB", "below 1,024", most, (most or 0) < 1_024, number(most, "", 0))
    took = None if f is None else f["replay"]["seconds"]
    row("replay of 40 x 10,000, s", "below 10", took, (took or 0) < 10, number(took, "", 1))


def _asked_of_ledger(f: Figures | None, row: Callable[..., None]) -> None:
    for what, key, least, bar in (
        ("ledger's append over raw SQLite", "append_ratio", True, 0.6),
        ("verify of 400,000 votes, s", "verify_seconds", False, 1.5),
        ("replica bytes a vote", "replica_bytes_per_vote", False, 1.3),
        ("time for ten times the votes, times", "time_ratio_10x", False, 11.0),
    ):
        value = None if f is None else f.get(key)
        told = f"at {'least' if least else 'most'} {bar:g}"
        met = value is not None and (value >= bar if least else value <= bar)
        turns = (f or {}).get(f"{key}_turns")
        spread = f"; turns {least_to_most(turns)}" if turns else ""
        row(what, told, value, met, number(value) + spread)


def fair(found: dict[str, Figures]) -> str:
    """The paragraph that a reviewer would call fair, from what was measured."""
    said = []
    drawn = [name for name in ORDER if name in found and name not in ONE_SEED]
    few = [name for name in drawn if len(found[name]["seeds"]) < 3]
    if few:
        said.append(f"**Provisional: fewer than three seeds in {', '.join(few)}.**")
    absent = [name for name in ORDER if name not in found]
    mixes = found.get("accuracy", {}).get("curves", {})
    absent += [f"the mix {mix}" for mix in ("augmented", "strong") if mixes and mix not in mixes]
    if absent:
        said.append(f"**Missing: {', '.join(absent)}.**")
    f = found.get("speedup")
    if f:
        said.append(
            "Medians of seeds: ten nodes, each with a tenth of the data and a core of its own, are "
            f"{f['critical_path_speedup']:.1f} times as fast as one machine at equal epochs, and "
            f"{number(f.get('equal_accuracy_speedup'), '', 2)} times at equal accuracy; together "
            f"they use {f['total_node_cpu_seconds']:.0f} processor seconds against "
            f"{f['central_cpu_seconds']:.0f}, and the vote ends at "
            f"{percent(f['consensus_accuracy'])} and the central model at "
            f"{percent(f['central_accuracy'])}."
        )
        if f.get("wall_speedup") is not None:
            said.append(
                "With Flower's polling and process starts, all on this one machine, the "
                f"{f['critical_path_speedup']:.1f} become {f['wall_speedup']:.1f}, and "
                f"{f['wall_speedup_with_longer_training']['100']:.1f} if training takes 100 times "
                "as long."
            )
    f = found.get("accuracy")
    if f:
        mix, curve = next(iter(f["curves"].items()))
        last = list(curve)[-1]
        said.append(
            f"{last} equal CNNs vote {100 * (curve[last] - f['mean_node'][mix]):.2f} points better "
            f"than their mean, but are worth only {f['effective_votes'][mix]:.1f} independent ones."
        )
    f = found.get("fedavg")
    if f:
        said.append(_fair_to_fedavg(f))
    return " ".join(said)


def _fair_to_fedavg(f: Figures) -> str:
    rounds, met = f["fedavg_accuracy_by_round"], [r for r in f["at_vote_accuracy"] if r["round"]]
    last = list(rounds)[-1]
    said = (
        f"FedAvg on the same nodes has {percent(rounds[last])} after {last} rounds, the vote "
        f"{percent(f['vote_accuracy']['mean'])} (means of seeds)"
    )
    if not met:
        return f"{said}."
    ratio, samples, seconds = (
        statistics.median(row[key] for row in met)
        for key in ("ratio_without_samples", "ratio_with_samples", "fedavg_seconds_over_vote")
    )
    return (
        f"{said}; it passes the vote after {least_to_most_rounds(met)} rounds, with {ratio:.0f} "
        f"times the vote's bytes, {samples:.1f} times where the samples have to be sent for the "
        f"vote, and {seconds:.2f} times its seconds."
    )


def least_to_most_rounds(met: list[Figures]) -> str:
    """The rounds after which FedAvg was as good as the vote, over the seeds."""
    counts = sorted({int(row["round"]) for row in met})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def claims(found: dict[str, Figures]) -> str:
    """What the README says was measured, from the same figures as the page."""
    said = []
    f = found.get("speedup")
    if f:
        said.append(
            f"Ten nodes with 5,000 images each are {f['critical_path_speedup']:.1f} times as fast "
            "as one machine with 50,000 at equal epochs, and "
            f"{number(f.get('equal_accuracy_speedup'))} times at equal accuracy, before what "
            "Flower's polling and process starts add; ten plain CNNs decide "
            f"{percent(f['consensus_accuracy'], 1)}, the central one has "
            f"{percent(f['central_accuracy'], 1)}."
        )
    f = found.get("accuracy")
    if f:
        mix, curve = next(iter(f["curves"].items()))
        last = list(curve)[-1]
        said.append(
            f"{last} equal CNNs are {100 * (curve[last] - f['mean_node'][mix]):.1f} points better "
            f"together than their mean, and worth {f['effective_votes'][mix]:.1f} independent "
            "voters."
        )
    f = found.get("fedavg")
    if f:
        said.append(_fair_to_fedavg(f))
    f = found.get("stopping")
    if f:
        most = f["differing_samples"]["certified"]
        said.append(
            f"Rule `certified` decides with {f['mean_votes']['certified']:.1f} votes of 40 "
            f"instead of {f['mean_votes']['certain']:.1f} for `certain`; at most {most} of 10,000 "
            f"samples differ{'s' if most == 1 else ''} from the full vote."
        )
    lines = (
        textwrap.fill(
            each, 128, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
        )
        for each in said
    )
    return "\n".join(lines)


def page(found: dict[str, Figures]) -> str:
    """The whole page."""
    lines = [INTRODUCTION.format(fair=fair(found)), "## Asked for and measured", "", *asked(found)]
    for name, (title, section) in SECTIONS.items():
        lines += [f"## {title}", ""]
        if name not in found:
            lines += [f"Not measured yet: `python benchmarks/{name}.py`.", ""]
            continue
        if name in PLOTS:
            lines += [f"![{title}](img/results-{name}.png)", ""]
        lines += section(found[name])
        lines += [f"Made by {made_by(found[name])}", ""]
    return "\n".join(lines).rstrip() + "\n"
