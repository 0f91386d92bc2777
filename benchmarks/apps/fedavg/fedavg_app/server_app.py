"""Flower's own strategy, and nothing else."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from rtc_flower.clients.models.networks import convolutional

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    rounds, nodes, seed = (int(context.run_config[k]) for k in ("rounds", "min-nodes", "seed"))
    torch.manual_seed(1000 * seed)
    start = ArrayRecord(convolutional((28, 28), 10, width=8).state_dict())
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    result = strategy.start(grid, start, num_rounds=rounds, timeout=600.0)
    trained = len(result.train_metrics_clientapp)
    if trained != rounds:
        raise RuntimeError(f"{trained} of {rounds} rounds were trained")
