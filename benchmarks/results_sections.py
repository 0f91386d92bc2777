"""The sections of docs/results.md: what each benchmark found, in words that its figures decide."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from results_words import (
    MISSING,
    Figures,
    Lines,
    largest_step_down,
    least_to_most,
    number,
    percent,
    table,
)


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
        f"Everything between a SuperNode and the SuperLink, polling and a full audit included, was "
        f"{(flower['up'] + flower['down']) / 1e6:.2f} MB.",
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
        "augmentation; `strong`: CNN, ResNet, LeNet, "
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
    rises = largest_step_down(list(curve.values())) <= 0.0005
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
        ],
        [
            f"FedAvg, {rounds} rounds",
            number(first["bytes_down"] + first["bytes_up"], "", 0),
            "0",
            number(wire["fedavg"]["up"] + wire["fedavg"]["down"], "", 0),
        ],
    ]
    head = ["bytes per node", "messages", "samples", "everything on the wire"]
    return [
        *table(head, rows),
        "Everything on the wire: what crosses between real SuperNodes and the SuperLink from their "
        "start to the end of the run, samples included: the app's own file, polling, heartbeats "
        "and headers (one seed, as many rounds as FedAvg needed). The vote's nodes answer what "
        "they had found when each was trained alone; training would add polling alone.",
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
    lives = [
        [
            row["audit"],
            number(1000 * row["first_seconds"], "", 1),
            number(1000 * row["last_seconds"], "", 1),
            number(row["seconds_ratio"]),
            number(row["first_bytes"], "", 0),
            number(row["last_bytes"], "", 0),
        ]
        for row in f.get("life", [])
    ]
    tasks, (nodes, each) = f["settings"].get("tasks", 0), f["settings"].get("life", (0, 0))
    grown = ["audit", "ms of a node, first tasks", "last tasks", "ratio", "bytes to it, first"]
    aged = [
        *table([*grown, "last"], lives),
        f"One ledger of {tasks} tasks, {nodes} nodes x {each:,} votes each: an audit behind the "
        "first tasks and behind the last, medians of ten.",
        "",
    ]
    return [
        *table([*head, "least to most", "over audit off"], rows),
        f"{samples:,} votes a node, processor seconds, medians of {runs} runs in turns. The first "
        "three figures are those of one audit round after one task: a full auditor gets the whole "
        "log then, later only what is new. The vote round is all nodes, strategy and ledger, "
        "without the audit; the last column is the median of its ratios to the run beside it with "
        "the audit off.",
        "",
        *(aged if lives else []),
    ]


def ledger(f: Figures) -> Lines:
    """Speed and size of the ledger."""
    chosen = f["settings"]
    rows = [
        ["votes a second, every check, durable", number(f["append_votes_per_second"], "", 0)],
        ["raw SQLite, the same rows and commits", number(f["raw_votes_per_second"], "", 0)],
        ["ratio (of processor seconds)", _pair(f["append_ratio"], f["append_ratio_cpu"])],
        ["ratio by turn, least to most", _turns(f, "append_ratio")],
        ["log only, votes a second", number(f["log_only_votes_per_second"], "", 0)],
        [
            f"{f.get('pymerkle', 'pymerkle')}, entries a second",
            number(f.get("pymerkle_entries_per_second"), "", 0),
        ],
        ["`rtc-flower verify`, cold, s", number(f["verify_seconds"])],
        ["the same by turn, least to most", _turns(f, "verify_seconds")],
        ["its memory, MiB", number(f["verify_rss_mib"], "", 0)],
        ["bytes of entries sent to a replica, a vote", number(f["replica_bytes_per_vote"])],
        ["bytes of the file, a vote", number(f["file_bytes_per_vote"], "", 1)],
        [
            "time for ten times the data (of processor seconds)",
            _pair(f.get("time_ratio_10x"), f.get("time_ratio_10x_cpu")),
        ],
        ["the same by turn, least to most", _turns(f, "time_ratio_10x")],
        ["memory of `verify` then, MiB", number(f.get("verify_rss_mib_10x"), "", 0)],
    ]
    return [
        *table([f"{chosen['nodes']} x {chosen['samples']:,} votes", ""], rows),
        f"Medians of {chosen['runs']} runs in turns, wall seconds. An append is one commit and one "
        "signed checkpoint a ballot, with every block row; raw SQLite writes the identical rows "
        "with the same settings and checks nothing.",
        "",
    ]


def _turns(f: Figures, key: str) -> str:
    turns = f.get(f"{key}_turns")
    return MISSING if turns is None else least_to_most(turns)


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
