"""Makes docs/results.md, its plots and the README's claims from the figures of the benchmarks.

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
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from common import Stopwatch, say
from results_plots import PLOTS, draw

from rtc_flower.files import write_atomically

Figures = dict[str, Any]
Lines = list[str]

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    *("speedup", "accuracy", "robustness", "stopping", "waves", "fedavg", "overhead", "audit"),
    "ledger",
)
SEEDS = (0, 1, 2)
ONE_SEED = ("overhead", "audit", "ledger")  # they time; what is voted does not matter
WHOLE = "make"  # how long everything took, from an empty cache
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


def least_to_most(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The range of some figures."""
    return f"{min(values):,.{digits}f} to {max(values):,.{digits}f}{unit}"


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
        f"machine when it is as good as the vote: {_equal_accuracy(f)}."
    )
    wanted = (
        ("central seconds over critical path, equal epochs", "critical_path_speedup", 2),
        ("the same at equal accuracy", "equal_accuracy_speedup", 2),
        ("training alone, equal epochs", "training_speedup", 2),
        ("central on both cores (wall) over critical path, equal epochs", "both_cores_speedup", 2),
        ("critical path, processor s", "critical_path_seconds", 1),
        ("of it strategy and ledger", "coordination_seconds", 2),
        ("of it sending the bytes, wall s", "transfer_seconds", 3),
        ("central, processor s", "central_seconds", 1),
        ("central, wall s, as it went", "central_wall_seconds", 1),
        ("slowest node, wall s, as it went", "slowest_node_wall_seconds", 1),
        ("consensus accuracy", "consensus_accuracy", None),
        ("central accuracy, equal epochs", "central_accuracy", None),
        ("mean node accuracy", "node_accuracy_mean", None),
        ("processor seconds, all nodes, programs' starts included", "total_node_cpu_seconds", 1),
        ("processor seconds, central, its start included", "central_cpu_seconds", 1),
        ("peak memory of a node, MiB", "node_peak_rss_mib", 0),
        ("peak memory, central, MiB", "central_peak_rss_mib", 0),
        ("message bytes per node, samples included", "network_bytes_per_node", 0),
        ("disk per node, bytes", "disk_bytes_per_node", 0),
    )
    rows = []
    for what, key, digits in wanted:
        found = [row[key] for row in f["by_seed"].values() if row[key] is not None]
        if digits is None:
            shown = least_to_most([100 * value for value in found], unit=" %")
            rows.append([what, percent(f[key]), shown])
        else:
            shown = least_to_most(found, digits) if found else MISSING
            rows.append([what, number(f.get(key), "", digits), shown])
    lines = [
        pair,
        "",
        *table(["", "median over seeds", "least to most"], rows),
        "The plot is one node's and the central process's of the first seed: processor, memory and "
        "disk as psutil saw them every 0.2 s; the network, which psutil cannot tell by process, as "
        "the serialised messages: instruction and samples before it begins, the ballot when it "
        "ends. The central machine has all data already.",
        "",
        *_latency(f),
    ]
    return lines + _strong_mix(f.get("strong_mix"))


def _equal_accuracy(f: Figures) -> str:
    """After how many epochs the central machine was as good as the vote, by seed."""
    epochs = [row["equal_accuracy_epochs"] for row in f["by_seed"].values()]
    shown = ", ".join("never" if each is None else f"{each:g}" for each in epochs)
    return f"after {shown} epochs by seed, of the lengths 1/4, 1/2, 1, 2, 4 and 8 that were tried"


def _latency(f: Figures) -> Lines:
    """What Flower's processes add, and how busy the machine was meanwhile."""
    flower = f.get("flower")
    if flower is None:
        return ["With Flower's latency: not measured.", ""]
    grown = ", ".join(
        f"{times} times as long: {value:.2f} x"
        for times, value in f["wall_speedup_with_longer_training"].items()
    )
    path, latency = f["critical_path_seconds"], flower["flower_latency_seconds"]
    equal = f.get("equal_accuracy_speedup")
    equal = None if equal is None else equal * path / (path + latency)
    busy = flower["load"] > 2 * f["machine"]["cores"]
    load = ", which says more about the load than about Flower" if busy else ""
    return [
        f"**With Flower's latency on this machine: equal epochs {f['wall_speedup']:.2f} x, equal "
        f"accuracy {number(equal, ' x')}.**",
        "",
        f"Flower's latency is one task of {flower['nodes']} real SuperNodes that compute nothing: "
        "a process started for each, all on this one machine, which imports torch and reads MNIST, "
        f"and polling. It was {latency:.1f} s (wall) at a load average of {flower['load']:.1f}"
        f"{load}. It matters less the longer training takes (equal epochs, {grown}). "
        "Everything on the loopback wire, programs' starts and "
        f" polling included, was {flower['loopback_bytes'] / flower['nodes'] / 1e6:.2f} "
        "MB per node.",
        "",
    ]


def _strong_mix(strong: Figures | None) -> Lines:
    if strong is None:
        return ["The same pair for the demo's strong mix: not measured (`--strong`).", ""]
    return [
        f"The demo's strong mix: equal epochs {strong['critical_path_speedup']:.2f} x, equal "
        f"accuracy {number(strong.get('equal_accuracy_speedup'), ' x')}; consensus "
        f"{percent(strong['consensus_accuracy'])}, central CNN with the same augmentation and "
        f"epochs {percent(strong['central_accuracy'])} (medians). Equal epochs by seed "
        f"{_by_seed(strong, 'critical_path_speedup')}, equal accuracy "
        f"{_by_seed(strong, 'equal_accuracy_speedup')}, {_equal_accuracy(strong)}. Its nodes were "
        "measured once each, beside another benchmark on another core.",
        "",
    ]


def _by_seed(f: Figures, key: str) -> str:
    found = (row[key] for row in f["by_seed"].values())
    return ", ".join("none" if value is None else f"{value:.2f}" for value in found)


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
    theory = [
        [mix, told, *(f"{100 * _mean(f, mix, key, n):.2f}" for n in sizes)]
        for mix in f["curves"]
        for told, key in (
            ("independent errors", "theory_independent"),
            ("measured correlation", "theory_correlated"),
        )
    ]
    lines += [
        "Per cent; mean over at least 60 random orders and the seeds; the plot's bars are the "
        "standard deviation over orders. `plain`: equal CNNs, 8 epochs; `augmented`: the same with "
        "augmentation and 14 epochs (the two were not separated); `strong`: CNN, ResNet, LeNet, "
        "MLP and SVM with augmentation, the demo's mix, which was chosen on training images.",
        "",
        *table(["theory for", "with", *(f"n = {n}" for n in sizes)], theory),
        _shape(f),
        "",
    ]
    equal, mixed = (f["curves"].get(mix, {}).get(sizes[-1]) for mix in ("augmented", "strong"))
    if equal is None or mixed is None:
        return lines
    gains = [f["curves"][mix][sizes[-1]] - f["mean_node"][mix] for mix in ("augmented", "strong")]
    if mixed < equal and gains[0] < gains[1]:
        lines += [
            "**Different models gain more over their own mean, and still lose** to equal augmented "
            f"CNNs ({percent(mixed)} against {percent(equal)}), whose nodes are better to begin "
            "with: how good the nodes are matters more than how different.",
            "",
        ]
    return lines


def _mean(f: Figures, mix: str, key: str, n: str) -> float:
    return statistics.fmean(row[key][n] for row in f["by_seed"][mix].values())


def _shape(f: Figures) -> str:
    """Whether the curve of equal CNNs has the paper's shape, and what theory makes of it."""
    mix, curve = next(iter(f["curves"].items()))
    sizes, seeds = list(curve), list(f["by_seed"][mix].values())
    rises = _largest_step_down(list(curve.values())) <= 0.0005
    lift = curve[sizes[-1]] - f["mean_node"][mix]
    said = [
        "The paper's shape holds: the vote is above the mean node and rises with n."
        if rises and lift > 0
        else "The paper's shape does not hold: the vote does not always rise with n."
    ]
    if "2" in curve:
        said.append(f"A second node changes it by {100 * (curve['2'] - curve['1']):+.2f} points.")
    same = statistics.fmean(row["same_wrong_label"] for row in seeds)
    if "3" in curve:
        alone = _mean(f, mix, "theory_independent", "3")
        said.append(
            f"With independent errors three nodes would have {percent(alone)}, and they have "
            f"{percent(curve['3'])}:"
        )
    said.append(
        f"nodes err on the same samples, and two wrong nodes give the same wrong label in "
        f"{percent(same, 0)} of cases (11 % if wrong labels were uniform), so that {sizes[-1]} "
        "nodes are worth as many independent ones as the last column of the first table says."
    )
    if all(_mean(f, mix, "theory_correlated", n) > curve[n] + 0.001 for n in sizes[2:]):
        said.append(
            "Even theory with the measured correlation is above what was measured, because it "
            "takes wrong labels as uniform."
        )
    return " ".join(said)


def robustness(f: Figures) -> Lines:
    """Lazy nodes and Sybils."""
    rows: list[list[str]] = []
    for name in ("lazy", "sybil", "both"):
        for row in f[name]:
            if rows and not row["lazy"] + row["sybil"]:
                continue  # the row without attackers is there
            rows.append(
                [
                    f"{row['lazy']} / {row['sybil']} / {row['honest']}",
                    percent(row["accuracy"]),
                    f"{100 * row['least']:.2f} to {100 * row['greatest']:.2f}",
                    percent(row["theory_independent"]),
                    f"{row['expected_target']:.1f} : {row['expected_rival']:.1f}",
                    row["expectation_says"],
                ]
            )
    head = ["lazy / Sybil / honest", "accuracy", "draws", "theory, independent"]
    return [
        *table([*head, "expected votes, target : rival", "who leads by eqs."], rows),
        "Nodes of the mix `plain`. Expected votes: the target's by eqs. (2) and (7), the rival's "
        "by the greater of (3), a wrong class, and (8), the Sybils'. The exact theory takes errors "
        f"as independent. {_attacks(f)}",
        "",
    ]


def _attacks(f: Figures) -> str:
    """What lazy nodes and Sybils cost, in the figures' own words."""
    base = f["lazy"][0]["accuracy"]

    def cost(row: Figures) -> str:
        return f"{100 * (base - row['accuracy']):.2f} points"

    half = [row for row in f["lazy"] if 2 * row["lazy"] <= row["lazy"] + row["honest"]][-1]
    most = f["lazy"][-1]
    said = [
        f"Lazy nodes alone cost {cost(half)} where they are {half['lazy']} of "
        f"{half['lazy'] + half['honest']}, and {cost(most)} where they are {most['lazy']}."
    ]
    weaker = [row for row in f["sybil"] if 0 < row["sybil"] < row["honest"]]
    if weaker:
        last = weaker[-1]
        said.append(
            f"Sybils that vote together cost {cost(last)} where {last['sybil']} stand against "
            f"{last['honest']} honest nodes"
        )
        said[-1] += (
            ", although eqs. (7) and (8) still say that the target leads: they speak of the mean "
            "sample, and honest votes split on hard ones."
            if last["expectation_says"] == "target" and base - last["accuracy"] > 0.005
            else "."
        )
    for row in f["sybil"]:
        if row["sybil"] == row["honest"]:
            said.append(
                f"At {row['sybil']} to {row['honest']} it is "
                f"{percent(row['accuracy'])}, from {percent(row['least'])} to "
                f"{percent(row['greatest'])}: most samples tie, and the counting order breaks "
                "their ties, the same way for all of them."
            )
        elif row["sybil"] > row["honest"]:
            said.append(
                f"With {row['sybil']} against {row['honest']} honest, "
                f"{percent(row['accuracy'])} are left."
            )
    return " ".join(said)


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
        "Of 40 votes; an undecided sample counts 40. The errors are those of the full vote against "
        "the truth, but for the samples that differ from it.",
        "",
    ]
    kinds = sorted({(row["sybils"], row["honest"]) for row in f["sybils_first"]})
    attacks, fooled, safe = [], [], True
    for sybils, honest in kinds:
        group = [r for r in f["sybils_first"] if (r["sybils"], r["honest"]) == (sybils, honest)]
        every = statistics.fmean(row["all"]["invitation"] for row in group)
        for name in ("certain", "paper", "certified", "all"):
            first, drawn = (
                statistics.fmean(row[name][order] for row in group)
                for order in ("sybils_first", "invitation")
            )
            electorate = f"{sybils} Sybils, {honest} honest"
            attacks.append([electorate, name, percent(first), percent(drawn)])
            safe = safe and drawn <= every + 0.005
            if first > 0.5:
                fooled.append(f"{sybils} of {sybils + honest} fool `{name}`")
    head = ["electorate", "rule", "Sybils win if first", "in random order"]
    lines += table(head, attacks)
    lines += [
        "Sybils win where their class is the outcome (mean of seeds); row `all` says where they "
        "win without any rule. "
        + (
            "In the order of invitation, which no node can choose, no rule gives them more. "
            if safe
            else "**In the order of invitation a rule gives them more.** "
        )
        + (f"First in line, {'; '.join(fooled)}. " if fooled else "")
        + "The ledger refuses `certified` with the order of arrival.",
        "",
    ]
    seed, waves = next(iter(f["waves"].items()))
    for rule, row in waves.items():
        lines.append(
            f"In waves of 5, closing at 99 % decided, rule `{rule}`, seed {seed}: "
            f"{row['never_asked']} of {row['asked'] + row['never_asked']} nodes never trained, "
            f"accuracy {percent(row['accuracy'])}, {row['cpu_seconds_saved']:.0f} of "
            f"{row['cpu_seconds_full']:.0f} processor seconds saved if all took the same.\n"
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
    seeds = list(f["by_seed"].values())

    def of(n: str, key: str) -> list[float]:
        return [row["fedavg"][int(n)][key] for row in seeds]

    lines = table(
        ["FedAvg, round", *shown],
        [
            ["accuracy, %", *(f"{100 * rounds[n]:.2f}" for n in shown)],
            [
                "least to most",
                *(least_to_most([100 * a for a in of(n, "accuracy")]) for n in shown),
            ],
            [
                "kB per node, down and up",
                *(f"{(of(n, 'bytes_down')[0] + of(n, 'bytes_up')[0]) / 1000:,.0f}" for n in shown),
            ],
            [
                "processor s, slowest node and server",
                *(f"{statistics.median(of(n, 'critical_path_seconds')):.1f}" for n in shown),
            ],
        ],
    )
    rows = [[name.replace("_", " "), number(value, "", 0)] for name, value in sent.items()] + [
        ["all without samples", number(without, "", 0)]
    ]
    lines += table(["the vote's bytes per node", ""], rows)
    met = [row for row in f["at_vote_accuracy"] if row["round"]]
    took = [row["vote"]["critical_path_seconds"] for row in seeds]
    each = [100 * row["vote"]["accuracy"] for row in seeds]
    lines.append(
        f"The vote has {percent(f['vote_accuracy']['mean'])} (mean of seeds, "
        f"{least_to_most(each, unit=' %')}) in {statistics.median(took):.1f} s of the slowest "
        "node's processor and the server's."
    )
    faster, bytes_too = False, ""
    if met:
        columns = [
            [row[key] for row in met]
            for key in ("ratio_without_samples", "ratio_with_samples", "fedavg_seconds_over_vote")
        ]
        ratio, samples, seconds = map(statistics.median, columns)
        faster = seconds < 1
        if samples < 1.5:
            bytes_too = (
                "nearly or wholly on bytes where the samples have to be sent for the vote's sake"
            )
        lines.append(
            f"FedAvg is as good after {statistics.median(row['round'] for row in met):.0f} rounds "
            f"(median), with {ratio:.1f} times the vote's bytes ({least_to_most(columns[0], 1)}); "
            f"{samples:.1f} times if samples are counted with the vote "
            f"({least_to_most(columns[1], 1)}); and {seconds:.2f} times its seconds "
            f"({least_to_most(columns[2])})."
        )
    if len(met) < len(seeds):
        lines.append(
            f"On {len(seeds) - len(met)} of {len(seeds)} seeds it was never as good within "
            f"{list(rounds)[-1]} rounds."
        )
    last = rounds[list(rounds)[-1]]
    better = last > f["vote_accuracy"]["mean"]
    accurate = "on accuracy once it may run on: it learns from all data, a vote only averages"
    wins = [
        f"{accurate} opinions ({percent(last)} after {list(rounds)[-1]} rounds)" if better else "",
        "on seconds to the vote's accuracy" if faster else "",
        "on having one model at the end",
        bytes_too,
    ]
    lines += [
        f"**FedAvg wins** {'; '.join(filter(None, wins))}. It needs equal, differentiable models "
        "and a server that sees weights.",
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
            least_to_most([1000 * row["seconds_per_ballot_spread"][k] for k in ("min", "max")], 1),
            number(1000 * row["ledger_seconds_per_ballot"], "", 1),
            number(row["memory_above_start_mib"], "", 0),
            number(row["ledger_bytes"] / 2**20, "", 1),
            number(row["verify_seconds"], "", 2),
        ]
        for row in f["scale"]
    ]
    head = ["nodes", "ms per ballot", "least to most", "ledger alone, wall ms per ballot"]
    lines = table([*head, "memory above start, MiB", "ledger, MiB", "verify, s"], rows)
    lines += [
        f"{f['settings']['samples']:,} samples, in memory, medians of {f['settings']['runs']} "
        "runs; the strategy's time per ballot has the grid's own work and counting of bytes in it. "
        "Time per ballot at the most nodes over that at the fewest: "
        f"{f['seconds_per_ballot_ratio']:.2f}.",
        "",
        f"`replay` of {f['replay']['nodes']} x {f['replay']['samples']:,} votes, verified: "
        f"{f['replay']['seconds']:.1f} s wall, {f['replay']['cpu_seconds']:.1f} s of processor.",
        "",
    ]
    trip = f.get("round_trip")
    if trip is None:
        return [*lines, "A vote against Flower's plain round trip: not measured.", ""]
    vote, plain = trip["vote_seconds"], trip["plain_seconds"]
    ratios = [one / other for one, other in zip(vote, plain, strict=True)]
    lines += [
        f"Real SuperNodes, wall seconds: {len(vote)} pairs of a vote task and Flower's plain round "
        f"trip of the same payload, in turns; median of the ratios "
        f"{trip['median_of_ratios']:.2f} ({least_to_most(ratios)}).",
        "",
    ]
    real = [("vote, audit off", trip, vote), ("Flower's plain round trip", trip, plain)]
    real += [("hello, once", trip, [trip["hello_seconds"]])]
    for audit, row in f.get("audit", {}).items():
        real.append((f"audit {audit}, after a vote", row, row["audit_seconds"]))
    for row in f.get("many_processes", {}).values():
        real.append(("vote, audit off", row, row["vote_seconds"]))
        real.append(("Flower's plain round trip", row, row["plain_seconds"]))
    lines += table(
        [
            *("what", "SuperNodes", "samples", "wall s, median", "least to most"),
            *("ledger, ms a ballot", "ServerApp above its start, MiB", "ledger, MiB"),
        ],
        [
            [
                what,
                str(row["nodes"]),
                f"{row['samples']:,}",
                number(statistics.median(taken), "", 1),
                least_to_most(taken, 1),
                *(_of_the_server(row) if what.startswith("vote") else [""] * 3),
            ]
            for what, row, taken in real
            if taken
        ],
    )
    return [*lines, _slower(f), ""]


def _of_the_server(row: Figures) -> list[str]:
    """What the votes of a run of real processes took in the ServerApp, over all its tasks."""
    ballots = len(row["vote_seconds"]) * row["nodes"]
    return [
        number(1000 * row["ledger_seconds"] / ballots, "", 1),
        number(row.get("memory_above_start_mib"), "", 0),
        number(row["ledger_bytes"] / 2**20, "", 1),
    ]


def _slower(f: Figures) -> str:
    """The paper's claim that more nodes do not make a task slower."""
    first, last = f["scale"][0], f["scale"][-1]
    said = (
        "The paper says that more nodes do not make a task slower. Nodes with machines of their "
        "own work at the same time, but the server has every ballot to count: its work in a task "
        f"goes from {first['coordination_seconds']:.1f} s at {first['nodes']:.0f} nodes to "
        f"{last['coordination_seconds']:.1f} s at {last['nodes']:.0f}"
    )
    flat = f["seconds_per_ballot_ratio"] <= 1.5
    said += ", since a ballot costs no more. " if flat else ", and **a ballot costs more**. "
    many = list(f.get("many_processes", {}).values())
    if len(many) > 1:
        few, lots = (statistics.median(row["vote_seconds"]) for row in (many[0], many[-1]))
        said += (
            f"On this one machine every SuperNode starts a process for its answer, and a task "
            f"takes {lots / few:.1f} times as long with {many[-1]['nodes']} SuperNodes as with "
            f"{many[0]['nodes']}; Flower's plain round trip takes as many processes."
        )
    return said.rstrip()


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


def ledger(f: Figures) -> Lines:
    """Speed and size of the ledger."""
    chosen = f["settings"]
    rows = [
        ["votes a second, every check, durable", number(f["append_votes_per_second"], "", 0)],
        ["raw SQLite, the same rows and commits", number(f["raw_votes_per_second"], "", 0)],
        ["ratio (of processor seconds)", _pair(f["append_ratio"], f["append_ratio_cpu"])],
        ["log only, votes a second", number(f["log_only_votes_per_second"], "", 0)],
        [
            f"{f.get('pymerkle', 'pymerkle')}, entries a second",
            number(f.get("pymerkle_entries_per_second"), "", 0),
        ],
        ["`rtc-flower verify`, cold, s", number(f["verify_seconds"])],
        ["its memory, MiB", number(f["verify_rss_mib"], "", 0)],
        ["bytes of entries sent to a replica, a vote", number(f["replica_bytes_per_vote"])],
        ["bytes of the file, a vote", number(f["file_bytes_per_vote"], "", 1)],
        [
            "time for ten times the data (of processor seconds)",
            _pair(f.get("time_ratio_10x"), f.get("time_ratio_10x_cpu")),
        ],
        ["memory of `verify` then, MiB", number(f.get("verify_rss_mib_10x"), "", 0)],
    ]
    return [
        *table([f"{chosen['nodes']} x {chosen['samples']:,} votes", ""], rows),
        f"Medians of {chosen['runs']} runs in turns, wall seconds. An append is one commit and one "
        "signed checkpoint a ballot, with every block row; raw SQLite writes the identical rows "
        "with the same settings and checks nothing.",
        "",
    ]


def _pair(value: float | None, of_cpu: float | None) -> str:
    return MISSING if value is None else f"{number(value)} ({number(of_cpu)})"


SECTIONS: dict[str, tuple[str, Callable[[Figures], Lines]]] = {
    "speedup": ("Ten nodes against one machine (Table 3, Fig. 6)", speedup),
    "accuracy": ("Accuracy over the number of nodes (Fig. 7)", accuracy),
    "robustness": ("Lazy nodes and Sybils", robustness),
    "stopping": ("Stop rules", stopping),
    "waves": ("Nodes that stay idle", waves),
    "fedavg": ("Against FedAvg", fedavg),
    "overhead": ("Overhead and scale", overhead),
    "audit": ("What an audit costs", audit),
    "ledger": ("The ledger beside raw SQLite", ledger),
}


def asked(found: dict[str, Figures]) -> Lines:
    """What the project set out to show, against what was measured."""
    speed, curves = found.get("speedup", {}), found.get("accuracy", {}).get("curves", {})
    rows: list[list[str]] = []

    def row(what: str, least: str, value: float | None, met: bool, shown: str) -> None:
        rows.append([what, least, MISSING if value is None else shown, verdict(value, met)])

    value, equal = speed.get("critical_path_speedup"), speed.get("equal_accuracy_speedup")
    pair = f"{number(value)}; {number(equal)}"
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
        down = None if curve is None else _largest_step_down(list(curve.values()))
        shown = "" if down is None else f"{100 * down:.2f} points"
        row(f"{mix}: a step down", "at most 0.15 points", down, (down or 0) <= 0.0015, shown)
    _asked_of_stopping(found.get("stopping"), row)
    _asked_of_bytes(speed, found.get("fedavg"), row)
    _asked_of_overhead(found.get("overhead"), row)
    _asked_of_ledger(found.get("ledger"), row)
    took = found[WHOLE]["seconds"] / 60 if WHOLE in found else None
    row(
        "`make results` from an empty cache, minutes",
        "below 90",
        took,
        (took or 0) < 90,
        number(took, "", 0),
    )
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
        row(what, told, value, met, number(value))


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


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


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


def claim(readme: Path, found: dict[str, Figures]) -> None:
    """Write the README's claims between their marks, where there is such a README."""
    text = readme.read_text() if readme.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        write_atomically(readme, f"{before}{BEGIN}\n{claims(found)}\n{END}{after}")


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
        for name in ("speedup", "fedavg", "overhead", "audit", "ledger"):
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
        if name != "ledger":  # it keeps nothing and needs no data
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
        cache: Path = arguments.cache_dir
        fresh, watch = not cache.exists() or not any(cache.iterdir()), Stopwatch()
        try:
            Runs(figures, arguments).all()
        except subprocess.CalledProcessError as error:
            program = Path(error.cmd[1]).name
            raise SystemExit(f"error: {program} ended with exit code {error.returncode}") from None
        except KeyboardInterrupt:
            raise SystemExit("interrupted; the same command goes on where it stopped") from None
        whole = watch.report()
        say(f"all benchmarks took {whole['seconds'] / 60:.0f} minutes")
        if fresh:
            write_atomically(figures / f"{WHOLE}.json", json.dumps(whole, indent=1) + "\n")
    found: dict[str, Figures] = {}
    for name in (*ORDER, WHOLE):
        path = figures / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    for name in found.keys() & PLOTS.keys():
        draw(name, found[name], arguments.docs / "img" / f"results-{name}.png")
    write_atomically(arguments.docs / "results.md", page(found))
    claim(arguments.docs.resolve().parent / "README.md", found)
    say(f"wrote {arguments.docs / 'results.md'} from {', '.join(found) or 'nothing'}")


if __name__ == "__main__":
    main()
