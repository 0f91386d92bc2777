"""Makes docs/results.md and its plots from the figures of the benchmarks.

``--run`` first runs every benchmark, each into ``docs/results/<name>.json``; what is in the cache
is not measured again, and an interrupted run goes on. A figure without a measurement is said to be
missing: no number is in the page that is not in a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from common import say
from results_plots import PLOTS, draw

from rtc_flower.files import write_atomically

Figures = dict[str, Any]
Lines = list[str]

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("speedup", "accuracy", "robustness", "stopping", "waves", "fedavg", "overhead", "audit")
SEEDS = (0, 1, 2)
ONE_SEED = ("overhead", "audit")  # they time; what is voted does not matter
MISSING = "not measured"

INTRODUCTION = """# Results: the paper's experiments, redone

Made by `make results` from the JSON files in [results/](results/). The nodes' votes are a real
ledger's, by the same strategy and verifier that users run. {fair}

**Read timings with care.** They come from one shared, noisy machine; every section states its load
average. Seconds are processor seconds unless it says wall: those of a process on one core, which is
what a machine of its own would take, though a busy neighbour makes even these longer. MNIST's
standard error is 0.14 points at 98 %: smaller differences between single runs mean nothing.
"""


def percent(value: float | None, digits: int = 2) -> str:
    """A share as per cent, or that it was not measured."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """A figure with its unit, or that it was not measured."""
    return MISSING if value is None else f"{value:,.{digits}f}{unit}"


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
        "after."
    )


def verdict(value: float | None, met: bool) -> str:
    """Whether a figure reached what was asked for."""
    return MISSING if value is None else ("yes" if met else "**no**")


def speedup(f: Figures) -> Lines:
    """Table 3 and Fig. 6."""
    pair = (
        f"**Equal epochs {f['critical_path_speedup']:.2f} x, equal accuracy "
        f"{number(f.get('equal_accuracy_speedup'), ' x')}.** Always read both: the first is the "
        "ratio of the data, since a node trains a tenth of it; the second stops the central "
        "machine when it is as good as the vote."
    )
    rows = [
        ["central seconds over critical path, equal epochs", number(f["critical_path_speedup"])],
        ["the same at equal accuracy", number(f.get("equal_accuracy_speedup"))],
        ["training alone, equal epochs", number(f["training_speedup"])],
        ["central on both cores (wall) over critical path", number(f.get("both_cores_speedup"))],
        ["critical path, processor s", number(f["critical_path_seconds"], "", 1)],
        ["of it strategy and ledger", number(f["coordination_seconds"])],
        ["central, processor s", number(f["central_seconds"], "", 1)],
        ["central, wall s, as it went", number(f["central_wall_seconds"], "", 1)],
        ["slowest node, wall s, as it went", number(f["slowest_node_wall_seconds"], "", 1)],
        ["with Flower's latency on this machine", number(f.get("wall_speedup"))],
        ["Flower's latency, wall s", number(f.get("flower_latency_seconds"), "", 1)],
        ["consensus accuracy", percent(f["consensus_accuracy"])],
        ["central accuracy, equal epochs", percent(f["central_accuracy"])],
        ["mean node accuracy", percent(f["node_accuracy_mean"])],
        ["processor seconds, all nodes", number(f["total_node_cpu_seconds"], "", 1)],
        ["processor seconds, central", number(f["central_cpu_seconds"], "", 1)],
        ["peak memory of a node, MiB", number(f["node_peak_rss_mib"], "", 0)],
        ["peak memory, central, MiB", number(f["central_peak_rss_mib"], "", 0)],
        ["message bytes per node, samples included", number(f["network_bytes_per_node"], "", 0)],
        ["disk per node, bytes", number(f["disk_bytes_per_node"], "", 0)],
    ]
    lines = [pair, "", *table(["median over seeds", ""], rows), *_latency(f)]
    return lines + _strong_mix(f.get("strong_mix"))


def _latency(f: Figures) -> Lines:
    """What Flower's processes add, and how busy the machine was meanwhile."""
    flower = f.get("flower")
    if flower is None:
        return []
    grown = ", ".join(
        f"{times} times as long: {value:.2f} x"
        for times, value in f["wall_speedup_with_longer_training"].items()
    )
    return [
        f"Flower's latency is one task of {flower['nodes']} real SuperNodes that compute nothing: "
        "a process started for each, all on this one machine, which imports torch and reads MNIST, "
        f"and polling. It was {flower['flower_latency_seconds']:.1f} s at a load average of "
        f"{flower['load']:.1f}, which says more about the load than about Flower. It matters less "
        f"the longer training takes ({grown}). Everything on the loopback wire, programs' "
        f"starts and polling included, was {flower['loopback_bytes'] / flower['nodes'] / 1e6:.2f} "
        "MB per node.",
        "",
    ]


def _strong_mix(strong: Figures | None) -> Lines:
    if strong is None:
        return ["The same pair for the demo's strong mix: not measured (`--strong`).", ""]
    return [
        f"The demo's strong mix: equal epochs {strong['critical_path_speedup']:.2f} x, equal "
        f"accuracy {number(strong.get('equal_accuracy_speedup'), ' x')}; consensus "
        f"{percent(strong['consensus_accuracy'])}, central {percent(strong['central_accuracy'])}.",
        "",
    ]


def accuracy(f: Figures) -> Lines:
    """Fig. 7."""
    sizes = list(next(iter(f["curves"].values())))
    rows = []
    for mix, curve in f["curves"].items():
        seeds = list(f["by_seed"][mix].values())
        last = [row["curve"][sizes[-1]]["mean"] for row in seeds]
        ends = f"{100 * min(last):.2f} to {100 * max(last):.2f}"
        cells = [f"{100 * curve[n]:.2f}" for n in sizes]
        mean, votes = f"{100 * f['mean_node'][mix]:.2f}", f"{f['effective_votes'][mix]:.1f}"
        many = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        rows.append([f"{mix} ({many})", mean, *cells, ends, votes])
    head = ["mix", "mean node", *(f"n = {n}" for n in sizes), f"seeds, n = {sizes[-1]}"]
    lines = table([*head, "effective votes"], rows)
    first = next(iter(f["by_seed"].values()))
    seed = next(iter(first.values()))
    lines += [
        "`plain`: equal CNNs, 8 epochs; `augmented`: the same with augmentation and 14 epochs (the "
        "two were not separated); `strong`: CNN, ResNet, LeNet, MLP and SVM with augmentation, the "
        "demo's mix, which was chosen on training images.",
        "",
        "Per cent; mean over at least 60 random orders and the seeds. The paper's shape holds: the "
        "vote is above the mean node and rises with n; a second node gives nothing. Its size does "
        f"not hold as theory has it: with independent errors three nodes would have "
        f"{percent(seed['theory_independent'].get('3'))}. Nodes err on the same samples, and "
        f"two wrong nodes give the same wrong label in {percent(seed['same_wrong_label'], 0)} of "
        "cases (11 % if wrong labels were uniform), so that 40 nodes are worth as many independent "
        "ones as the last column says. Even theory with the measured correlation is above what was "
        "measured, because it takes wrong labels as uniform.",
        "",
    ]
    equal, mixed = (f["curves"].get(mix, {}).get(sizes[-1], 0.0) for mix in ("augmented", "strong"))
    if 0 < mixed < equal:
        lines += [
            "**Different models gain more over their own mean, and still lose** to equal augmented "
            f"CNNs ({percent(mixed)} against {percent(equal)}), whose nodes are better to begin "
            "with: how good the nodes are matters more than how different.",
            "",
        ]
    return lines


def robustness(f: Figures) -> Lines:
    """Lazy nodes and Sybils."""
    rows = []
    for name in ("lazy", "sybil", "both"):
        for row in f[name]:
            rows.append(
                [
                    f"{row['lazy']} / {row['sybil']} / {row['honest']}",
                    percent(row["accuracy"]),
                    f"{100 * row['least']:.2f} to {100 * row['greatest']:.2f}",
                    percent(row["theory_independent"]),
                    f"{row['expected_target']:.1f} : {row['expected_rival']:.1f}",
                ]
            )
    head = ["lazy / Sybil / honest", "accuracy", "draws", "theory, independent"]
    return [
        *table([*head, "expected votes, target : rival"], rows),
        "Lazy nodes cost nothing up to half of all nodes, and little at three quarters. Sybils "
        "that vote together win as soon as they are as many as the honest nodes, and cost points "
        "well before, because honest votes split on hard samples. Eqs. (7) and (8) name the side "
        "that leads in expectation: where they say the target, samples are still lost. At 20 to 20 "
        "the counting order breaks nearly every tie, and the same way for all samples: hence the "
        "spread from none to most.",
        "",
    ]


def _decided(value: float | None, show: Callable[[float | None], str]) -> str:
    return "none decided" if value is None else show(value)


def stopping(f: Figures) -> Lines:
    """Votes saved by the stop rules."""
    rows = [
        [
            name,
            number(f["mean_votes"][name]),
            _decided(f["mean_votes_of_decided"][name], number),
            percent(f["share_decided"][name]),
            str(f["differing_samples"][name]),
            percent(f["error"][name]),
            _decided(f["error_of_decided"][name], percent),
        ]
        for name in f["mean_votes"]
    ]
    head = ["rule", "mean votes", "of the decided", "decided", "differ from full vote (worst)"]
    lines = table([*head, "error", "error of the decided"], rows)
    lines += [
        "Of 40 votes; an undecided sample counts 40. Where a rule decides, the full vote itself "
        "errs against the truth, not the early stop.",
        "",
    ]
    attacks = [
        [
            f"{row['sybils']} Sybils, {row['honest']} honest",
            name,
            percent(row[name]["sybils_first"]),
            percent(row[name]["invitation"]),
        ]
        for row in f["sybils_first"]
        for name in ("certain", "paper", "certified", "all")
    ]
    lines += table(["electorate", "rule", "Sybils win if first", "in random order"], attacks)
    lines += [
        "Sybils win where their class is the outcome; on about 2 % of samples honest nodes alone "
        "err that way. 15 Sybils are too few for a lead of 21. In the order of invitation, "
        "which no node can choose, no rule is fooled; first in line, 15 fool `certified`, which is "
        "why the ledger refuses it with the order of arrival.",
        "",
    ]
    waves = next(iter(f["waves"].values()))
    for rule, row in waves.items():
        lines.append(
            f"In waves of 5, closing at 99 % decided, rule `{rule}`: {row['never_asked']} of 40 "
            f"nodes never trained, accuracy {percent(row['accuracy'])}, "
            f"{row['cpu_seconds_saved']:.0f} of {row['cpu_seconds_full']:.0f} processor seconds "
            "saved."
        )
    ms = f["timing"]["fires_ms_10000_samples"]["certified"]
    tables = f["timing"]["table_seconds"]
    lines += [
        "",
        f"Rule `certified` on 10,000 samples after a ballot: {ms:.2f} ms warm; its whole table "
        + ", ".join(f"{value:.2f} s at {nodes} nodes" for nodes, value in tables.items())
        + ".",
        "",
    ]
    return lines


def waves(f: Figures) -> Lines:
    """Nodes that never trained."""
    rows = [
        [
            seed,
            f"{row['idle_nodes']} of {row['nodes']}",
            percent(row["accuracy"]),
            percent(row["full_accuracy"]),
            str(row["differing_samples"]),
            f"{row['cpu_seconds_saved']:.0f} of {row['full_cpu_seconds']:.0f}",
        ]
        for seed, row in f["by_seed"].items()
    ]
    chosen = f["settings"]
    head = ["seed", "never trained", "accuracy", "full vote", "differ", "processor seconds saved"]
    return [
        f"Nodes train when they are invited, {chosen['wave_size']} at a time (mix "
        f"`{chosen['mix']}`, rule {chosen['rule']}), and the task closes when "
        f"{percent(chosen['close_when'], 0)} of the samples are decided.",
        "",
        *table(head, rows),
    ]


def fedavg(f: Figures) -> Lines:
    """Federated averaging beside the vote."""
    rounds = f["fedavg_accuracy_by_round"]
    sent = f["vote_bytes_per_node"]
    shown = [n for n in ("1", "2", "3", "5", "8", "10", "15", "20") if n in rounds]
    without = sum(value for name, value in sent.items() if name != "samples_down")
    lines = table(["round", *shown], [["FedAvg, %", *(f"{100 * rounds[n]:.2f}" for n in shown)]])
    rows = [[name.replace("_", " "), number(value, "", 0)] for name, value in sent.items()] + [
        ["all without samples", number(without, "", 0)]
    ]
    lines += table(["the vote's bytes per node", ""], rows)
    met = [row for row in f["at_vote_accuracy"] if row["round"]]
    lines.append(f"The vote has {percent(f['vote_accuracy']['mean'])} (one vote, mean of seeds).")
    if met:
        ratio = statistics.median(row["ratio_without_samples"] for row in met)
        samples = statistics.median(row["ratio_with_samples"] for row in met)
        seconds = statistics.median(row["fedavg_seconds_over_vote"] for row in met)
        lines.append(
            f"FedAvg is as good after {statistics.median(row['round'] for row in met):.0f} rounds "
            f"(median), with {ratio:.1f} times the vote's bytes; {samples:.1f} times if samples "
            f"are counted with the vote; and {seconds:.2f} times its seconds."
        )
    lines += [
        "**FedAvg wins** on accuracy once it may run on: it learns from all data, a vote only "
        "averages opinions; it has one model at the end; and where the samples have to be sent for "
        "the vote's sake, their bytes can outweigh its saving. It needs equal, differentiable "
        "models and a server that sees weights.",
        "",
    ]
    return lines + _wire(f)


def _wire(f: Figures) -> Lines:
    """Everything between SuperNodes and SuperLink, beside the messages alone."""
    wire = f.get("on_the_wire")
    if wire is None:
        return ["Everything on the wire (polling, heartbeats): not measured.", ""]
    sent, rounds = f["vote_bytes_per_node"], wire["fedavg"]["rounds"]
    samples = sent["samples_down"]
    first = next(iter(f["by_seed"].values()))["fedavg"][rounds]
    rows = [
        [
            "vote, full audit",
            number(sum(sent.values()) - samples, "", 0),
            number(samples, "", 0),
            number(wire["vote"]["up"] + wire["vote"]["down"], "", 0),
            number(wire["vote"]["seconds"], "", 0),
        ],
        [
            f"FedAvg, {rounds} rounds",
            number(first["bytes_down"] + first["bytes_up"], "", 0),
            "0",
            number(wire["fedavg"]["up"] + wire["fedavg"]["down"], "", 0),
            number(wire["fedavg"]["seconds"], "", 0),
        ],
    ]
    head = ["bytes per node", "messages", "samples", "everything on the wire", "wall s"]
    return [
        *table(head, rows),
        "Everything on the wire: what crosses between real SuperNodes and the SuperLink from their "
        "start to the end of the run, samples included: the app's own file, polling, heartbeats "
        "and headers (one seed, as many rounds as FedAvg needed, the nodes train).",
        "",
    ]


def overhead(f: Figures) -> Lines:
    """Round trips and scale."""
    rows = [
        [
            f"{row['nodes']:.0f}",
            number(1000 * row["seconds_per_ballot"], "", 1),
            number(1000 * row["ledger_seconds_per_ballot"], "", 1),
            number(row["memory_above_start_mib"], "", 0),
            number(row["ledger_bytes"] / 2**20, "", 1),
            number(row["verify_seconds"], "", 2),
        ]
        for row in f["scale"]
    ]
    head = ["nodes", "ms per ballot", "of it ledger (wall)", "memory above start, MiB"]
    lines = table([*head, "ledger, MiB", "verify, s"], rows)
    lines += [
        f"{f['settings']['samples']:,} samples, in memory; the grid's own work and counting of "
        "bytes are in it. Time per ballot at the most nodes over that at the fewest: "
        f"{f['seconds_per_ballot_ratio']:.2f}.",
        "",
        f"`replay` of {f['replay']['nodes']} x {f['replay']['samples']:,} votes, verified: "
        f"{f['replay']['seconds']:.1f} s wall, {f['replay']['cpu_seconds']:.1f} s of processor.",
        "",
    ]
    trip = f.get("round_trip")
    if trip is None:
        return [*lines, "A vote against Flower's plain round trip: not measured.", ""]
    lines.append(
        f"A vote task against Flower's plain round trip of the same payload ({trip['nodes']} real "
        f"SuperNodes, {trip['samples']:,} samples, median of {len(trip['vote_seconds'])} pairs): "
        f"{trip['vote_median']:.1f} s against {trip['plain_median']:.1f} s, median of ratios "
        f"{trip['median_of_ratios']:.2f}; hello {trip['hello_seconds']:.1f} s once."
    )
    for audit, row in f.get("audit", {}).items():
        lines.append(f"Audit {audit}: {statistics.median(row['audit_seconds']):.1f} s a task.")
    for nodes, row in f.get("many_processes", {}).items():
        median = statistics.median(row["vote_seconds"])
        lines.append(f"{nodes} real SuperNodes, 1,000 samples: {median:.1f} s wall a task.")
    if f.get("many_processes"):
        lines.append(
            "The paper says that more nodes do not make a task slower. It holds for what the "
            "server does, which is flat per ballot; on this one machine every SuperNode starts a "
            "process for its answer, so that more of them take longer for lack of cores."
        )
    return [*lines, ""]


def audit(f: Figures) -> Lines:
    """What an audit round costs."""
    rows = [
        [
            f"{row['nodes']}",
            row["audit"],
            number(row["bytes_down_per_node"], "", 0),
            number(row["bytes_up_per_node"], "", 0),
            number(1000 * row["node_seconds"], "", 0),
            number(row["vote_seconds"]),
            " to ".join(number(value) for value in row["vote_seconds_spread"]),
            number(row["vote_ratio_to_off"]),
        ]
        for row in f["rows"]
    ]
    head = ["nodes", "audit", "bytes to a node", "bytes from it", "ms of a node", "vote round, s"]
    runs, samples = f["settings"]["runs"], f["settings"]["samples"]
    return [
        *table([*head, "least to most", "over audit off"], rows),
        f"{samples:,} votes a node, processor seconds, medians of {runs} runs in turns. The first "
        "three figures are those of one audit round after one task: a full auditor gets the whole "
        "log then, later only what is new. The vote round is all nodes, strategy and ledger, "
        "without the audit; the last column is the median of its ratios to the run beside it with "
        "the audit off.",
        "",
    ]


SECTIONS: dict[str, tuple[str, Callable[[Figures], Lines]]] = {
    "speedup": ("Ten nodes against one machine (Table 3, Fig. 6)", speedup),
    "accuracy": ("Accuracy over the number of nodes (Fig. 7)", accuracy),
    "robustness": ("Lazy nodes and Sybils", robustness),
    "stopping": ("Stop rules", stopping),
    "waves": ("Nodes that stay idle", waves),
    "fedavg": ("Against FedAvg", fedavg),
    "overhead": ("Overhead and scale", overhead),
    "audit": ("What an audit costs", audit),
}


def asked(found: dict[str, Figures]) -> Lines:
    """What the project set out to show, against what was measured."""
    speed, curves = found.get("speedup", {}), found.get("accuracy", {}).get("curves", {})
    rows: list[list[str]] = []

    def row(what: str, least: str, value: float | None, met: bool, shown: str) -> None:
        rows.append([what, least, MISSING if value is None else shown, verdict(value, met)])

    for name, key, least in (
        ("speedup at equal epochs, critical path", "critical_path_speedup", 8.0),
        ("consensus of 10 plain CNNs x 5,000", "consensus_accuracy", 0.98),
    ):
        value = speed.get(key)
        row(name, f"at least {least:g}", value, (value or 0) >= least, f"{value or 0:.4f}")
    for mix, least in (("plain", 0.970), ("augmented", 0.982), ("strong", 0.986)):
        value = curves.get(mix, {}).get("40")
        name = f"40 nodes, {mix}"
        row(name, f"at least {percent(least, 1)}", value, (value or 0) >= least, percent(value))
    for mix in ("plain", "augmented"):
        curve = curves.get(mix)
        lift = None if curve is None else curve["40"] - curve["1"]
        shown = "" if lift is None else f"{100 * lift:.2f} points"
        row(f"{mix}: 40 nodes over 1", "at least 0.4 points", lift, (lift or 0) >= 0.004, shown)
        two = None if curve is None else abs(curve["2"] - curve["1"])
        shown = "" if two is None else f"{100 * two:.2f} points"
        row(f"{mix}: 2 nodes against 1", "at most 0.4 points", two, (two or 0) <= 0.004, shown)
        down = None if curve is None else _largest_step_down(list(curve.values()))
        shown = "" if down is None else f"{100 * down:.2f} points"
        row(f"{mix}: a step down", "at most 0.15 points", down, (down or 0) <= 0.0015, shown)
    _asked_of_stopping(found.get("stopping"), row)
    _asked_of_bytes(speed, found.get("fedavg"), row)
    _asked_of_overhead(found.get("overhead"), row)
    return table(["asked for", "bar", "measured", "met"], rows)


def _largest_step_down(values: list[float]) -> float:
    return max(0.0, *(a - b for a, b in pairwise(values)))


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


def fair(found: dict[str, Figures]) -> str:
    """The paragraph that a reviewer would call fair, from what was measured."""
    said = []
    few = [name for name, one in found.items() if name not in ONE_SEED and len(one["seeds"]) < 3]
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
            f"Ten nodes, each with a tenth of the data and a core of its own, are "
            f"{f['critical_path_speedup']:.1f} times as fast as one machine at equal epochs, and "
            f"{number(f.get('equal_accuracy_speedup'), '', 2)} times at equal accuracy; together "
            f"they use {f['total_node_cpu_seconds']:.0f} processor seconds against "
            f"{f['central_cpu_seconds']:.0f}, and the vote ends at "
            f"{percent(f['consensus_accuracy'])} and the central model at "
            f"{percent(f['central_accuracy'])}."
        )
    f = found.get("accuracy")
    if f:
        mix, curve = next(iter(f["curves"].items()))
        last = list(curve)[-1]
        said.append(
            f"{last} nodes vote {100 * (curve[last] - f['mean_node'][mix]):.2f} points better than "
            f"their mean, but are worth only {f['effective_votes'][mix]:.1f} independent ones."
        )
    f = found.get("fedavg")
    if f:
        best = max(f["fedavg_accuracy_by_round"].values())
        said.append(
            f"FedAvg on the same nodes reaches {percent(best)} against the vote's "
            f"{percent(f['vote_accuracy']['mean'])}, for many times the bytes."
        )
    return " ".join(said)


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


class Runs:
    """Runs benchmarks as a user would, two at a time where each can have a core of its own.

    The plain nodes of `speedup.py` are measured alone. Then every core takes one piece of work
    after another, the longest first. What starts Flower's processes comes last, alone.
    """

    def __init__(self, figures: Path, arguments: argparse.Namespace) -> None:
        self._figures, self._arguments = figures, arguments

    def all(self) -> None:
        """Run everything that is asked for in the page."""
        self._run("speedup", [], ["--no-strong", "--no-flower"])
        strong, *others = [["--one-core", "--no-flower", "--seeds", str(seed)] for seed in SEEDS]
        work: list[Callable[[list[int]], None]] = [
            partial(self._run, "speedup", options=strong),
            self._votes,
            *(partial(self._run, "speedup", options=options) for options in others),
            *(
                partial(self._run, "fedavg", options=["--no-flower", "--seeds", str(seed)])
                for seed in SEEDS
            ),
        ]
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        free: SimpleQueue[int] = SimpleQueue()
        for core in cores[:2]:
            free.put(core)

        def on_a_core(piece: Callable[[list[int]], None]) -> None:
            core = free.get()
            try:
                piece([core])
            finally:
                free.put(core)

        with ThreadPoolExecutor(len(cores[:2])) as lanes:
            ends = [lanes.submit(on_a_core, piece) for piece in work]
            try:
                for end in ends:
                    end.result()
            finally:
                lanes.shutdown(cancel_futures=True)
        for name in ("speedup", "fedavg", "overhead", "audit"):
            self._run(name, [], json=True)

    def _votes(self, cores: list[int]) -> None:
        for name in ("accuracy", "robustness", "stopping", "waves"):
            self._run(name, cores, json=True)

    def _run(
        self, name: str, cores: list[int], options: Sequence[str] = (), json: bool = False
    ) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
        command += ["--json", str(self._figures / f"{name}.json")] if json else []
        command += ["--cores", *map(str, cores)] if cores else []
        command += ["--cache-dir", str(self._arguments.cache_dir)]
        if self._arguments.data_dir:
            command += ["--data-dir", str(self._arguments.data_dir)]
        say(f"{name}: {' '.join(command[1:])}")
        subprocess.run(command, check=True)


def main() -> None:
    """Run what was asked for, then write the plots and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of results.md")
    parser.add_argument("--cache-dir", type=Path, default=Path(".cache"))
    parser.add_argument("--data-dir", type=Path, help="folder that holds MNIST/raw")
    arguments = parser.parse_args()
    figures = arguments.docs / "results"
    for folder in (figures, arguments.docs / "img"):
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        begin = time.monotonic()
        try:
            Runs(figures, arguments).all()
        except subprocess.CalledProcessError as error:
            program = Path(error.cmd[1]).name
            raise SystemExit(f"error: {program} ended with exit code {error.returncode}") from None
        except KeyboardInterrupt:
            raise SystemExit("interrupted; the same command goes on where it stopped") from None
        say(f"all benchmarks took {(time.monotonic() - begin) / 60:.0f} minutes")
    found: dict[str, Figures] = {}
    for name in ORDER:
        path = figures / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    for name in found.keys() & PLOTS.keys():
        draw(name, found[name], arguments.docs / "img" / f"results-{name}.png")
    write_atomically(arguments.docs / "results.md", page(found))
    say(f"wrote {arguments.docs / 'results.md'} from {', '.join(found) or 'nothing'}")


if __name__ == "__main__":
    main()
