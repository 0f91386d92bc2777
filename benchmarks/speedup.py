"""Ten nodes with 5,000 images each against one machine with 50,000: Table 3 and Fig. 6.

Every node is a process of its own, kept on one core and measured alone, since ten nodes have ten
machines and this one has few cores. A plain node trains twice, and a third time where the two
differ by more than 5 %; the median counts: the slowest of ten single runs would be the noise of the
machine. The central run comes after half of the nodes, since a machine's speed drifts. Seconds are
processor seconds of processes that use one core (on an idle core they are the wall seconds, which
are in the JSON as well); two cores are measured by wall time. The nodes' votes then go through
strategy and ledger, five times, and once through Flower's own processes, which gives the latency
that polling and process starts add, and counts what is on the wire.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Cache, PlainCNN, code_digest, main, mnist, options, say, spread
from counting import RECORDED, recorded_vote
from wire import CountingProxy
from worker import measure_process, worker

from rtc_flower.clients.data import Dataset
from rtc_flower.clients.models import composition
from rtc_flower.clients.models.neural import Neural
from rtc_flower.demo import find_app
from rtc_flower.deployment import Deployment, Node
from rtc_flower.errors import DataError
from rtc_flower.processes import free_ports
from rtc_flower.verify import verify

NODES = 10
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Epochs of the central runs that look for equal accuracy."""
VOTES = 5  # of the same ballots: the median of their seconds in strategy and ledger counts
FIRST = {"plain": 1.0, "strong": 4.0}  # which of them is tried first


class Bench:
    """Workers of one comparison, each measured once and kept in the cache."""

    def __init__(self, arguments: argparse.Namespace, kind: str) -> None:
        self.arguments, self.kind = arguments, kind
        self.cache = Cache(arguments.cache_dir)
        self.cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]

    def run(self, name: str, seed: int, **fields: Any) -> tuple[dict[str, Any], Path]:
        """Return the figures of a worker and the file with its votes."""
        spec = {
            "seed": seed,
            "data_dir": str(self.arguments.data_dir) if self.arguments.data_dir else None,
            "samples": self.arguments.samples,
            "cores": self.cores[-1:],
            "share": 1.0,
            "part": 0,
            "repeats": 1,
            **fields,
        }
        settings = {**spec, "code": code_digest(Neural, PlainCNN, worker)}
        del settings["data_dir"], settings["cores"]
        settings["cores"] = len(spec["cores"])
        name = f"speedup-{self.kind}-{seed}-{name}"
        folder = self.cache.folder(name, settings)

        def make() -> dict[str, Any]:
            say(f"{name}: {spec['model']} on {spec['size']} images")
            return measure_process(spec, folder / "worker.json")

        return self.cache.result(name, settings, make), folder / "worker.npy"

    def one_seed(self, seed: int, models: list[str], epochs: int | None, data: Dataset) -> Any:
        """All figures of one seed."""
        arguments = self.arguments
        size = arguments.size
        repeats = arguments.repeats if self.kind == "plain" else 1
        big = size * len(models)
        alone = {"model": models[0], "size": big, "epochs": epochs}
        nodes = []
        for i, model in enumerate(models):
            if i == len(models) // 2:
                central, _ = self.run("central", seed, **alone)
            fields = {"model": model, "epochs": epochs, "size": size, "part": i}
            nodes.append(self.run(f"node-{i}", seed, **fields, repeats=repeats))
        both = None
        alone_here = self.kind == "plain" and not arguments.one_core
        if len(self.cores) > 1 and alone_here and seed == arguments.seeds[0]:
            both, _ = self.run("central-cores", seed, **alone, cores=self.cores)
        votes = np.stack([np.load(path) for _, path in nodes])
        truth = data.test.y[: arguments.samples]
        asked, coordination = data.test.x[: arguments.samples], []
        for _ in range(VOTES):
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                result, grid, spent = recorded_vote(votes, asked, data.class_names, state_dir=place)
                coordination.append(spent["coordination"])
                if verify(result.ledger).summary != "ok":
                    raise DataError("expected a ledger that verifies")
                ledger_bytes = result.ledger.stat().st_size
                kept = _bytes_of(place / "nodes" / "0")
        consensus = float((result.tasks[0].outcomes.classes == truth).mean())
        per_node = {
            "up": sum(grid.up.values()) / len(models),
            "down": (sum(grid.down.values()) - grid.down["samples"]) / len(models),
            "samples": grid.down["samples"] / len(models),
        }
        equal = self._equal(seed, models[0], big, consensus)
        return _figures(
            [figures for figures, _ in nodes],
            central,
            both,
            equal,
            consensus=consensus,
            coordination=coordination,
            transfer=_loopback(int(sum(per_node.values()))),
            bytes_per_node=per_node,
            disk=kept,
            ledger_bytes=ledger_bytes,
        )

    def _equal(self, seed: int, model: str, size: int, wanted: float) -> dict[str, Any] | None:
        """Find the shortest central run that reaches the consensus, each with its own cycle."""

        def reaching(epochs: float) -> dict[str, Any] | None:
            fields = {"model": model, "size": size, "epochs": max(1, int(epochs))}
            name = f"central-{epochs:g}"
            found, _ = self.run(name, seed, **fields, share=min(1.0, epochs))
            return {**found, "epochs": epochs} if found["accuracy"] >= wanted else None

        first = LENGTHS.index(FIRST[self.kind])
        best = reaching(LENGTHS[first])
        if best is None:
            return next(filter(None, map(reaching, LENGTHS[first + 1 :])), None)
        for epochs in reversed(LENGTHS[:first]):
            shorter = reaching(epochs)
            if shorter is None:
                break
            best = shorter
        return best


def _figures(
    nodes: list[dict[str, Any]],
    central: dict[str, Any],
    both: dict[str, Any] | None,
    equal: dict[str, Any] | None,
    *,
    consensus: float,
    coordination: list[float],
    transfer: float,
    bytes_per_node: dict[str, float],
    disk: int,
    ledger_bytes: int,
) -> dict[str, Any]:
    work = [node["train_cpu"] + node["predict_cpu"] for node in nodes]
    coordinating = float(np.median(coordination))
    path = max(work) + coordinating + transfer
    alone = central["train_cpu"] + central["predict_cpu"]
    short = None if equal is None else equal["train_cpu"] + equal["predict_cpu"]
    two = None if both is None else both["train_wall"] + both["predict_wall"]
    return {
        "critical_path_speedup": alone / path,
        "training_speedup": central["train_cpu"] / max(node["train_cpu"] for node in nodes),
        "equal_accuracy_speedup": None if short is None else short / path,
        "equal_accuracy_epochs": None if equal is None else equal["epochs"],
        "equal_accuracy_central": None if equal is None else equal["accuracy"],
        "both_cores_speedup": None if two is None else two / path,
        "consensus_accuracy": consensus,
        "central_accuracy": central["accuracy"],
        "node_accuracy_mean": float(np.mean([node["accuracy"] for node in nodes])),
        "critical_path_seconds": path,
        "slowest_node_seconds": max(work),
        "coordination_seconds": coordinating,
        "coordination_runs": coordination,
        "transfer_seconds": transfer,
        "central_seconds": alone,
        "central_wall_seconds": central["train_wall"] + central["predict_wall"],
        "central_both_cores_wall_seconds": two,
        "slowest_node_wall_seconds": max(n["train_wall"] + n["predict_wall"] for n in nodes),
        "total_node_cpu_seconds": sum(node["process_cpu"] for node in nodes),
        "central_cpu_seconds": central["process_cpu"],
        "node_peak_rss_mib": max(node["peak_rss_mib"] for node in nodes),
        "central_peak_rss_mib": central["peak_rss_mib"],
        "network_bytes_per_node": sum(bytes_per_node.values()),
        "network_bytes": bytes_per_node,
        "disk_bytes_per_node": disk + max(node["model_bytes"] for node in nodes),
        "ledger_bytes": ledger_bytes,
        "load_during": [node["load"] for node in nodes] + [central["load"]],
        "series": {"node": nodes[0]["series"], "central": central["series"]},
        "series_trainings": len(nodes[0]["train_cpu_runs"]),
    }


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _loopback(size: int) -> float:
    """Seconds to send so many bytes over TCP on this machine: the median of five."""
    taken = []
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_drain, args=(server,))
            thread.start()
            begin = time.perf_counter()
            with socket.create_connection(server.getsockname()) as sender:
                sender.sendall(bytes(size))
            thread.join()
            taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


def _drain(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while connection.recv(1 << 20):
            pass


def flower(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the first seed's plain nodes vote through Flower's processes, once; see below."""
    cache, seed = arguments.cache_dir.resolve(), arguments.seeds[0]
    folders = [cache / f"speedup-plain-{seed}-node-{i}" for i in range(arguments.nodes)]
    votes = [folder / "worker.npy" for folder in folders]
    return Cache(arguments.cache_dir).result(
        "speedup-flower",
        {"nodes": arguments.nodes, "samples": arguments.samples, "seed": seed},
        lambda: flower_latency(votes, seed, arguments.data_dir),
    )


def flower_latency(votes: list[Path], seed: int, data_dir: Path | None) -> dict[str, Any]:
    """Run the recorded votes through a SuperLink and SuperNodes: what Flower adds to a vote.

    Returns
    -------
    dict
        ``flower_latency_seconds``: from the posted task to its close, in which nodes compute
        nothing but start a process each, read the samples, sign and reply;
        ``deployment_seconds``: with all programs' starts and a full audit; ``up`` and ``down``:
        bytes per node between SuperNodes and SuperLink in that time.
    """
    count = len(votes)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        recorded, events = work / "votes", work / "events.jsonl"
        recorded.mkdir()
        for i, path in enumerate(votes):
            np.save(recorded / f"{i}.npy", np.load(path))
        shared: dict[str, Any] = {
            "dataset": "mnist",
            "data-dir": str((data_dir or Path(os.environ["RTC_FLOWER_DATA"])).resolve()),
            "num-partitions": count,
            "seed": seed,
        }
        (port,) = free_ports(1)
        with CountingProxy(port) as proxy:
            nodes = [
                Node(
                    {
                        **shared,
                        "partition-id": i,
                        "model": "counting:Recorded",
                        "name": f"node-{i}",
                        "state-dir": str(work / "nodes" / str(i)),
                    },
                    env={RECORDED: str(recorded)},
                    python_path=[Path(__file__).parent],
                    superlink=proxy.address,
                )
                for i in range(count)
            ]
            run = {
                **shared,
                "state-dir": str(work / "server"),
                "min-nodes": count,
                "audit": "full",
                "events": str(events),
            }
            say(f"a vote with {count} SuperNodes, counting bytes")
            begin = time.perf_counter()
            seen: dict[str, float] = {}
            with Deployment(
                find_app(),
                nodes,
                work_dir=work / "flower",
                run_config=run,
                superlink_port=port,
                startup_timeout=300.0,
            ) as running:
                stop = threading.Event()
                watcher = threading.Thread(target=_watch, args=(events, seen, stop))
                watcher.start()
                for _ in running.run(timeout=600):
                    pass
                stop.set()
                watcher.join()
                counted = {"up": proxy.up / count, "down": proxy.down / count}
        return {
            **counted,
            "flower_latency_seconds": seen["closed"] - seen["posted"],
            "deployment_seconds": time.perf_counter() - begin,
            "load": os.getloadavg()[0],
            "nodes": count,
        }


def _watch(events: Path, seen: dict[str, float], stop: threading.Event) -> None:
    """Note when the first event of each kind is in the file."""
    while not stop.is_set():
        if events.exists():
            for line in events.read_text().splitlines():
                try:
                    what = json.loads(line)["what"]
                except ValueError:
                    continue  # half a line, whole at the next look
                seen.setdefault(what, time.perf_counter())
        time.sleep(0.05)


def compare(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """One comparison over all seeds, with medians."""
    bench = Bench(arguments, kind)
    data = mnist(arguments.data_dir)
    if kind == "plain":
        models, epochs = ["plain"] * arguments.nodes, arguments.epochs
    else:
        models, epochs = list(composition("mnist", arguments.nodes)), arguments.strong_epochs
    by_seed = {}
    for seed in arguments.seeds:
        by_seed[str(seed)] = row = bench.one_seed(seed, models, epochs, data)
        print(
            f"{kind} {seed}: equal epochs {row['critical_path_speedup']:.2f} x, equal accuracy "
            f"{row['equal_accuracy_speedup'] or float('nan'):.2f} x; consensus "
            f"{row['consensus_accuracy']:.2%}, central {row['central_accuracy']:.2%}",
            flush=True,
        )
    rows = list(by_seed.values())
    numbers = [name for name, value in rows[0].items() if isinstance(value, (int, float))]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in numbers}
    return {
        **{name: float(np.median(values)) for name, values in known.items() if values},
        "spread": {name: spread(values) for name, values in known.items() if values},
        "models": models,
        "epochs": epochs,
        "by_seed": by_seed,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain CNNs, Flower's latency, and the demo's mix when asked."""
    result = compare(arguments, "plain")
    latency = None
    if not arguments.no_flower:
        latency = flower(arguments)
        result |= _with_latency(result, latency["flower_latency_seconds"])
    strong = compare(arguments, "strong") if arguments.strong else None
    return {
        "benchmark": "speedup",
        "settings": {
            name: getattr(arguments, name)
            for name in ("nodes", "size", "samples", "epochs", "repeats")
        },
        "seeds": arguments.seeds,
        **result,
        "flower": latency,
        "strong_mix": strong,
    }


def _with_latency(result: dict[str, Any], latency: float) -> dict[str, Any]:
    """Speedups with Flower's latency, also when training takes 2, 5, 10 and 100 times as long."""
    node, central = result["critical_path_seconds"], result["central_seconds"]
    return {
        "flower_latency_seconds": latency,
        "wall_speedup": central / (node + latency),
        "wall_speedup_with_longer_training": {
            str(times): times * central / (times * node + latency) for times in (1, 2, 5, 10, 100)
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--nodes", type=int, default=NODES, help="nodes (%(default)s)")
    parser.add_argument("--size", type=int, default=5_000, help="images a node (%(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, help="to decide (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of all (%(default)s)")
    parser.add_argument(
        "--strong",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the demo's mix as well (default)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="at most, of a plain node; median taken (%(default)s)",
    )
    parser.add_argument(
        "--strong-epochs", type=int, help="of all but svm; the models' own if unset"
    )
    parser.add_argument("--one-core", action="store_true", help="no central run on all cores")
    parser.add_argument("--no-flower", action="store_true", help="no run of Flower's processes")
    return parser


if __name__ == "__main__":
    main(measure, _parser())
