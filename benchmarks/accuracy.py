"""Accuracy of the vote over the number of nodes: the paper's Fig. 7, by the real ledger.

20 parts of 2,500 MNIST images, 40 nodes (each part twice), 10,000 samples to decide. Every node
votes through the strategy into a ledger that is verified; the curves are then drawn from the 40
ballots. Ballots are kept in ``--cache-dir``, where `stopping.py` and `robustness.py` find them.
The models were chosen on training images (`rtc_flower.clients.data.pool`) alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import (
    Cache,
    PlainCNN,
    Votes,
    code_digest,
    first_count,
    main,
    mnist,
    options,
    say,
    spread,
)

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.contract import Contract
from rtc_flower.clients.data import PAPER_PARTS, Dataset, Samples, paper_parts, tasks
from rtc_flower.clients.models import create
from rtc_flower.clients.models.classical import Classical
from rtc_flower.clients.models.neural import Neural, warped
from rtc_flower.errors import DataError
from rtc_flower.reading import list_tasks, votes_of
from rtc_flower.simulator import SimulatedNode, simulate
from rtc_flower.strategies.events import Event
from rtc_flower.strategies.proof_of_prediction import VoteTask
from rtc_flower.theory import (
    betabinom_accuracy,
    effective_votes,
    heterogeneous_accuracy,
    icc,
    plurality_accuracy,
)
from rtc_flower.verify import verify

__all__ = ["MIXES", "Record", "ballots"]

NODES = 40
SIZES = (1, 2, 3, 5, 10, 20, 40)
CLASSES = 10

# (model, options) by node, from the start again as needed. The strong mix is the demo's.
_CNN = ("cnn", {"epochs": 10})
_RESNET = ("resnet", {"epochs": 6})
_LENET = ("lenet", {"epochs": 14})
_MLP = ("mlp", {"epochs": 20})
_SVM = ("svm", {"copies": 2})
MIXES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "plain": (("plain", {"epochs": 8, "augment": False}),),
    "augmented": (("plain", {"epochs": 8, "augment": True}),),
    "strong": (_CNN, _RESNET, _LENET, _MLP, _SVM, _CNN, _RESNET, _LENET, _MLP, _CNN),
}


class Record(NamedTuple):
    """The ballots of one vote.

    Attributes
    ----------
    votes : int64 array, shape (nodes, samples)
        Row i is node i, which trained on part i modulo 20.
    truth : int64 array, shape (samples,)
    contracts : list of str
        What each ballot says about its model.
    ledger_bytes : int
    seconds : float
        Processor seconds of the whole vote, training included; 0 when resumed.
    """

    votes: Votes
    truth: Votes
    contracts: list[str]
    ledger_bytes: int
    seconds: float


def estimator(mix: str, node: int, seed: int, scale: float) -> Any:
    """Return the untrained model of a node; ``scale`` multiplies epochs."""
    named = MIXES[mix]
    # The second half is shifted by one, so that the two nodes of a part differ in a mix.
    kind, chosen = named[(node + node // PAPER_PARTS) % len(named)]
    chosen = dict(chosen)
    if "epochs" in chosen:
        chosen["epochs"] = max(1, round(scale * chosen["epochs"]))
    if scale < 1:
        chosen |= {} if kind == "svm" else {"min_steps": 1}
    made = {"seed": 1000 * seed + node, **chosen}
    return PlainCNN(**made) if kind == "plain" else create(kind, **made)


def ballots(
    mix: str,
    seed: int,
    *,
    cache: Cache,
    data: Callable[[], Dataset],
    nodes: int = NODES,
    samples: int | None = None,
    scale: float = 1.0,
) -> Record:
    """Return the ballots of a mix, from the cache or by a vote through a real ledger.

    Parameters
    ----------
    data : callable
        Loads MNIST, when a vote has to be held.
    nodes, samples, scale
        Fewer nodes, samples or epochs than the published figures have, for a quick look.

    Raises
    ------
    DataError
        If MNIST is missing, the cache was made with other settings, or its ledger does not verify.
    """
    settings = {
        "mix": mix,
        "models": [list(model) for model in MIXES[mix]],
        "seed": seed,
        "nodes": nodes,
        "samples": samples,
        "scale": scale,
        "code": code_digest(Neural, warped, Classical, PlainCNN, estimator),
    }
    folder = cache.folder(f"ballots-{mix}-{seed}", settings)
    found = folder / "votes.npz"
    if not found.exists():
        _vote(mix, seed, folder, data(), settings)
    with np.load(found, allow_pickle=False) as kept:
        return Record(
            kept["votes"],
            kept["truth"],
            [str(text) for text in kept["contracts"]],
            int(kept["ledger_bytes"]),
            float(kept["seconds"]),
        )


def _vote(mix: str, seed: int, folder: Path, data: Dataset, settings: dict[str, Any]) -> None:
    """Hold the vote, verify its ledger, and keep the ballots as an array."""
    parts = paper_parts(data, seed=seed)
    asked = tasks(data, PAPER_PARTS, samples_per_node=2_500, samples_per_task=settings["samples"])
    truth, ledger = asked[0].y, folder / "ledger.db"
    begin = time.process_time()
    if not (ledger.exists() and any(row.reason for row in list_tasks(ledger))):

        def node(i: int) -> SimulatedNode:
            app = make_client_app(
                lambda context: Contract(
                    estimator(mix, i, seed, settings["scale"]), lambda: _private(parts[i % 20])
                )
            )
            return SimulatedNode(app, node_config={"name": "node"})

        task = VoteTask(asked[0].x, data.class_names)
        simulate(
            [task],
            [node(i) for i in range(settings["nodes"])],
            state_dir=folder,
            seed=seed,
            rule="all",
            on_event=_Progress(f"{mix}, seed {seed}"),
        )
    report = verify(ledger)
    if report.summary != "ok":
        raise DataError(f"{ledger}: expected a ledger that verifies, got {report.summary}")
    cast = votes_of(ledger, 1)
    order = np.argsort([int(name.rsplit("-", 1)[1]) for name in cast.names])
    # A ballot per node: a run that lost one would give other curves.
    if len(order) != settings["nodes"]:
        raise DataError(f"{ledger}: expected {settings['nodes']} ballots, got {len(order)}")
    draft = folder / "votes.new.npz"
    np.savez_compressed(
        draft,
        votes=cast.votes[order].astype(np.int64),
        truth=truth,
        contracts=np.array([cast.contracts[i] for i in order]),
        ledger_bytes=ledger.stat().st_size,
        seconds=time.process_time() - begin,
    )
    draft.replace(folder / "votes.npz")


def _private(part: Samples) -> tuple[Any, Any]:
    return part.x, part.y


class _Progress:
    """Says how far a vote is."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, event: Event) -> None:
        if event.what == "ballot" and event.ballots % 5 == 0:
            say(f"{self._what}: {event.ballots} of {event.voters} ballots")


def curve(votes: Votes, truth: Votes, sizes: Sequence[int], *, draws: int, seed: int) -> Any:
    """Accuracy of the vote of n random nodes: mean and spread over draws, by n."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(votes)) for _ in range(draws)]
    return {
        str(n): spread(
            [float((first_count(votes[order[:n]], CLASSES) == truth).mean()) for order in orders]
        )
        for n in sizes
    }


def one_seed(record: Record, sizes: Sequence[int], *, draws: int, seed: int) -> dict[str, Any]:
    """All figures of one mix and seed."""
    right = record.votes == record.truth
    each = right.mean(axis=1)
    correlation = icc(right.astype(int))
    mean = float(each.mean())
    wrong = ~right
    both = _pairs(wrong)
    same = _pairs_same(record.votes, wrong)
    return {
        "curve": curve(record.votes, record.truth, sizes, draws=draws, seed=seed),
        "mean_node": mean,
        "best_node": float(each.max()),
        "worst_node": float(each.min()),
        "icc": correlation,
        "effective_votes": float(effective_votes(len(each), max(0.0, correlation))),
        "theory_independent": {str(n): _independent(n, each) for n in sizes},
        "theory_correlated": {
            str(n): float(betabinom_accuracy(n, CLASSES, mean, max(0.0, correlation)))
            for n in sizes
        },
        "both_wrong_over_independent": both / float(wrong.mean()) ** 2,
        "same_wrong_label": same / both if both else 0.0,
        "all_wrong": float(wrong.all(axis=0).mean()),
        "by_model": _by_model(record.contracts, each),
        "ledger_bytes": record.ledger_bytes,
        "cpu_seconds": record.seconds,
    }


def _independent(n: int, each: Any) -> float:
    """Exact plurality accuracy if nodes erred independently; of all nodes, by their accuracies."""
    if n == len(each):
        return float(heterogeneous_accuracy(each, CLASSES))
    return float(np.asarray(plurality_accuracy(n, CLASSES, float(each.mean()))))


def _pairs(wrong: Any) -> float:
    """Probability that two different nodes are both wrong."""
    count = wrong.sum(axis=0)
    return float((count * (count - 1)).mean()) / (len(wrong) * (len(wrong) - 1))


def _pairs_same(votes: Votes, wrong: Any) -> float:
    """Probability that two different nodes give the same wrong label."""
    total = 0.0
    for label in range(CLASSES):
        count = ((votes == label) & wrong).sum(axis=0)
        total += float((count * (count - 1)).mean())
    return total / (len(wrong) * (len(wrong) - 1))


def _by_model(contracts: list[str], each: Any) -> dict[str, float]:
    kinds = [text.split()[0] for text in contracts]
    return {
        kind: float(np.mean([a for k, a in zip(kinds, each, strict=True) if k == kind]))
        for kind in sorted(set(kinds))
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold or recall every vote, and draw the curves."""
    cache = Cache(arguments.cache_dir)
    loaded: list[Dataset] = []

    def data() -> Dataset:
        if not loaded:
            loaded.append(mnist(arguments.data_dir))
        return loaded[0]

    sizes = [n for n in SIZES if n <= arguments.nodes]
    found: dict[str, dict[str, Any]] = {mix: {} for mix in arguments.mixes}
    for seed in arguments.seeds:  # a whole figure per seed, so that an early stop leaves some
        for mix in arguments.mixes:
            record = ballots(
                mix,
                seed,
                cache=cache,
                data=data,
                nodes=arguments.nodes,
                samples=arguments.samples,
                scale=arguments.scale,
            )
            found[mix][str(seed)] = one_seed(record, sizes, draws=arguments.draws, seed=seed)
            row = found[mix][str(seed)]["curve"]
            print(mix, seed, {n: round(100 * row[n]["mean"], 2) for n in row}, flush=True)
    return {
        "benchmark": "accuracy",
        "settings": {
            "nodes": arguments.nodes,
            "parts": PAPER_PARTS,
            "draws": arguments.draws,
            "samples": arguments.samples or 10_000,
            "scale": arguments.scale,
            "models": {mix: [list(model) for model in MIXES[mix]] for mix in arguments.mixes},
        },
        "seeds": arguments.seeds,
        "curves": {mix: _over_seeds(seeds, "curve", "mean") for mix, seeds in found.items()},
        "mean_node": {mix: _mean(seeds, "mean_node") for mix, seeds in found.items()},
        "effective_votes": {mix: _mean(seeds, "effective_votes") for mix, seeds in found.items()},
        "by_seed": found,
    }


def _mean(seeds: dict[str, Any], key: str) -> float:
    return float(np.mean([row[key] for row in seeds.values()]))


def _over_seeds(seeds: dict[str, Any], key: str, part: str) -> dict[str, float]:
    names = next(iter(seeds.values()))[key]
    return {n: float(np.mean([row[key][n][part] for row in seeds.values()])) for n in names}


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--mixes", nargs="+", choices=sorted(MIXES), default=list(MIXES))
    parser.add_argument("--draws", type=int, default=60, help="random orders (%(default)s)")
    parser.add_argument("--nodes", type=int, default=NODES, help="nodes (%(default)s)")
    parser.add_argument("--samples", type=int, help="samples to decide; all 10,000 by default")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies epochs")
    return parser


if __name__ == "__main__":
    main(measure, _parser())
