"""A node of FedAvg: `fedavg.Client` of the benchmarks, which are on this node's import path."""

import torch
from common import mnist
from fedavg import Client
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from rtc_flower.clients.data import partition

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one local epoch on this node's part."""
    config = context.node_config
    part, size, seed = (int(config[key]) for key in ("partition-id", "samples-per-node", "seed"))
    torch.set_num_threads(1)  # ten nodes share this machine
    private = partition(mnist(), part, 50_000 // size, samples_per_node=size, seed=seed)
    return Client(private, 1000 * seed + part).train(message)
