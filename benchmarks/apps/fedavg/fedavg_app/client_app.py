"""A node of FedAvg: `fedavg.Client` of the benchmarks, which are on this node's import path."""

from pathlib import Path

import numpy as np
import torch
from common import mnist
from fedavg import Client
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from rtc_flower.clients.data import Samples, partition

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one local epoch on this node's part."""
    config = context.node_config
    part, size, seed = (int(config[key]) for key in ("partition-id", "samples-per-node", "seed"))
    torch.set_num_threads(1)  # ten nodes share this machine
    kept = Path(str(config["state-dir"])) / "part.npz"
    if not kept.exists():  # later messages need no torchvision, whose import takes 1 s
        given = config.get("data-dir")
        data = mnist(Path(str(given)) if given else None)
        own = partition(data, part, 50_000 // size, samples_per_node=size, seed=seed)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **own._asdict())
    with np.load(kept) as found:
        private = Samples(found["x"], found["y"])
    return Client(private, 1000 * seed + part).train(message)
