"""The vote against federated averaging: accuracy by bytes and by seconds.

Flower's own FedAvg, the same ten nodes, parts and CNN as `speedup.py`, one local epoch a round.
Both run over the in-memory grid, where every Message is serialised to count its bytes; the samples
to decide, which only the vote sends, have a column of their own. Seconds are processor seconds of
the slowest node plus those of the server, as if every node had a machine. Then both run once with
real processes, to count everything on the wire.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Cache, PlainCNN, code_digest, main, mnist, options, say, spread
from counting import CountingGrid, recorded_vote
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from speedup import NODES, Bench, flower
from torch import nn
from torch.nn import functional
from wire import averaged_for_real

from rtc_flower.clients.data import Dataset, Samples, partition
from rtc_flower.clients.models import networks
from rtc_flower.simulator import SimulatedNode

RATE, MOMENTUM, BATCH = 0.02, 0.9, 50


def network(seed: int) -> nn.Module:
    """Return the benchmarks' plain CNN, untrained."""
    torch.manual_seed(seed)
    made = networks.convolutional((28, 28), 10, width=8)
    return made.to(memory_format=torch.channels_last)


def _images(x: Any) -> torch.Tensor:
    images = (torch.from_numpy(x).float().unsqueeze(1) / 255 - 0.1307) / 0.3081
    return images.contiguous(memory_format=torch.channels_last)  # as the vote's models have them


class Client:
    """A node of FedAvg: one local epoch on its part with each message."""

    def __init__(self, part: Samples, seed: int) -> None:
        self._x, self._y = _images(part.x), torch.from_numpy(part.y)
        self._draw = torch.Generator().manual_seed(seed)
        self.seconds: list[float] = []

    def app(self) -> ClientApp:
        """Return its ClientApp."""
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            begin = time.process_time()
            reply = self.train(message)
            self.seconds.append(time.process_time() - begin)
            return reply

        return app

    def train(self, message: Message) -> Message:
        """Answer the weights of a message with those after one epoch."""
        arrays = message.content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        model = network(0)
        model.load_state_dict(arrays.to_torch_state_dict())
        self._epoch(model)
        metrics = MetricRecord({"num-examples": len(self._y)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    def _epoch(self, model: nn.Module) -> None:
        # Stochastic gradient descent with momentum, in place: the first optimizer of torch.optim
        # takes 1.7 s of imports, which every message to a real node would pay again.
        weights = list(model.parameters())
        velocity = [torch.zeros_like(weight) for weight in weights]
        model.train()
        order = torch.randperm(len(self._y), generator=self._draw)
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            loss = functional.cross_entropy(model(self._x[rows]), self._y[rows])
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, speed, gradient in zip(weights, velocity, gradients, strict=True):
                    weight.sub_(speed.mul_(MOMENTUM).add_(gradient), alpha=RATE)


def averaged(data: Dataset, seed: int, *, nodes: int, size: int, rounds: int, samples: int) -> Any:
    """Run FedAvg; returns accuracy, bytes per node and seconds after every round."""
    torch.set_num_threads(1)
    parts = [
        partition(data, i, 50_000 // size, samples_per_node=size, seed=seed) for i in range(nodes)
    ]
    clients = [Client(part, 1000 * seed + i) for i, part in enumerate(parts)]
    x, y = _images(data.test.x[:samples]), torch.from_numpy(data.test.y[:samples])
    start = network(1000 * seed)
    rows: list[dict[str, float]] = []
    evaluating = 0.0
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    simulated = [SimulatedNode(client.app()) for client in clients]
    with CountingGrid(simulated, seed=seed, workers=1) as grid:
        begin = time.process_time()

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            nonlocal evaluating
            asked = time.process_time()
            model = network(0)
            model.load_state_dict(arrays.to_torch_state_dict())
            model.eval()
            with torch.inference_mode():
                batches = [x[first : first + 500] for first in range(0, len(x), 500)]
                found = torch.cat([model(batch).argmax(1) for batch in batches])
            accuracy = float((found == y).float().mean())
            evaluating += time.process_time() - asked
            work = sum(sum(client.seconds) for client in clients)
            # The last round's slowest node, added up over rounds: rounds wait for all.
            slowest = sum(map(max, zip(*(client.seconds for client in clients), strict=True)))
            rows.append(
                {
                    "round": server_round,
                    "accuracy": accuracy,
                    "bytes_down": grid.down["train"] / nodes,
                    "bytes_up": grid.up["train"] / nodes,
                    "critical_path_seconds": slowest
                    + (time.process_time() - begin - work - evaluating),
                    "total_node_cpu_seconds": work,
                }
            )
            say(f"FedAvg seed {seed}, round {server_round}: {accuracy:.2%}")
            return MetricRecord({"accuracy": accuracy})

        strategy.start(
            grid,
            ArrayRecord(start.state_dict()),
            num_rounds=rounds,
            evaluate_fn=evaluate,
        )
    return rows


def voted(arguments: argparse.Namespace, data: Dataset, seed: int) -> dict[str, Any]:
    """Bytes and accuracy of the vote by the nodes that `speedup.py` trained."""
    bench = Bench(arguments, "plain")
    nodes = [
        bench.run(
            f"node-{i}",
            seed,
            model="plain",
            epochs=arguments.epochs,
            size=arguments.size,
            part=i,
            repeats=arguments.repeats,
        )
        for i in range(arguments.nodes)
    ]
    votes = np.stack([np.load(path) for _, path in nodes])
    x, y = data.test.x[: arguments.samples], data.test.y[: arguments.samples]
    with tempfile.TemporaryDirectory() as folder:
        result, grid, spent = recorded_vote(
            votes, x, data.class_names, state_dir=Path(folder), audit="full"
        )
    each = {
        "hello_down": grid.down["query.hello"],
        "hello_up": grid.up["query.hello"],
        "instruction_down": grid.down["train"],
        "ballot_up": grid.up["train"],
        "audit_down": grid.down["evaluate"],
        "audit_up": grid.up["evaluate"],
        "samples_down": grid.down["samples"],
    }
    bytes_per_node = {name: value / arguments.nodes for name, value in each.items()}
    return {
        "accuracy": float((result.tasks[0].outcomes.classes == y).mean()),
        "bytes_per_node": bytes_per_node,
        "bytes_without_samples": sum(bytes_per_node.values()) - bytes_per_node["samples_down"],
        "bytes_with_samples": sum(bytes_per_node.values()),
        "critical_path_seconds": max(n["train_cpu"] + n["predict_cpu"] for n, _ in nodes)
        + spent["coordination"],
        "total_node_cpu_seconds": sum(n["train_cpu"] + n["predict_cpu"] for n, _ in nodes),
    }


def compared(vote: dict[str, Any], rounds: list[dict[str, float]]) -> dict[str, Any]:
    """FedAvg's first round that is as good as the vote, and the ratios there."""
    reached = next((r for r in rounds if r["round"] and r["accuracy"] >= vote["accuracy"]), None)
    if reached is None:
        return {"round": None}
    total = reached["bytes_down"] + reached["bytes_up"]
    return {
        "round": reached["round"],
        "fedavg_bytes_per_node": total,
        "ratio_without_samples": total / vote["bytes_without_samples"],
        "ratio_with_samples": total / vote["bytes_with_samples"],
        "fedavg_seconds_over_vote": reached["critical_path_seconds"]
        / vote["critical_path_seconds"],
    }


def on_the_wire(
    arguments: argparse.Namespace, cache: Cache, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Run FedAvg once with real processes for the rounds it needed, beside the vote's run."""
    needed = [row["at_vote_accuracy"]["round"] or arguments.rounds for row in rows]
    settings = {
        "nodes": arguments.nodes,
        "size": arguments.size,
        "seed": arguments.seeds[0],
        "rounds": int(np.median(needed)),
    }
    found = cache.result(
        "fedavg-wire",
        settings,
        lambda: averaged_for_real(**settings, data_dir=arguments.data_dir),
    )
    return {"vote": flower(arguments), "fedavg": found}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both methods on every seed."""
    cache = Cache(arguments.cache_dir)
    data = mnist(arguments.data_dir)
    chosen = {name: getattr(arguments, name) for name in ("nodes", "size", "rounds", "samples")}
    by_seed: dict[str, Any] = {}
    for seed in arguments.seeds:
        settings = {**chosen, "seed": seed, "code": code_digest(PlainCNN, Client, network)}
        found = cache.result(
            f"fedavg-{seed}",
            settings,
            lambda seed=seed: {"rounds": averaged(data, seed, **chosen)},  # type: ignore[misc]
        )
        vote = voted(arguments, data, seed)
        equal = compared(vote, found["rounds"])
        by_seed[str(seed)] = {"vote": vote, "fedavg": found["rounds"], "at_vote_accuracy": equal}
        last = found["rounds"][-1]
        print(
            f"seed {seed}: vote {vote['accuracy']:.2%} with {vote['bytes_without_samples']:,.0f} B "
            f"a node; FedAvg {last['accuracy']:.2%} after {last['round']:.0f} rounds, as good as "
            f"the vote after {equal['round']}",
            flush=True,
        )
    rows = list(by_seed.values())
    return {
        "benchmark": "fedavg",
        "on_the_wire": None if arguments.no_flower else on_the_wire(arguments, cache, rows),
        "settings": {**chosen, "epochs": arguments.epochs, "rate": RATE, "momentum": MOMENTUM},
        "seeds": arguments.seeds,
        "vote_accuracy": spread([row["vote"]["accuracy"] for row in rows]),
        "vote_bytes_per_node": rows[0]["vote"]["bytes_per_node"],
        "fedavg_accuracy_by_round": {
            str(int(group[0]["round"])): float(np.mean([one["accuracy"] for one in group]))
            for group in zip(*(row["fedavg"] for row in rows), strict=True)
        },
        "at_vote_accuracy": [row["at_vote_accuracy"] for row in rows],
        "by_seed": by_seed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--nodes", type=int, default=NODES, help="nodes (%(default)s)")
    parser.add_argument("--size", type=int, default=5_000, help="images a node (%(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, help="to decide (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of the vote (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="see speedup.py (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="of FedAvg (%(default)s)")
    parser.add_argument("--no-flower", action="store_true", help="no run of Flower's processes")
    return parser


if __name__ == "__main__":
    main(measure, _parser())
