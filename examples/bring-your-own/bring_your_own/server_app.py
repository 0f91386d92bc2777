"""The server: posts the records to decide; it knows no labels and no models."""

from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from rtc_flower.strategies.events import EventFile
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteTask

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    with np.load(str(config["samples"])) as arrays:
        task = VoteTask(arrays["X"], ["malignant", "benign"])
    strategy = ProofOfPrediction(
        [task],
        Path(str(config["state-dir"])),
        min_nodes=int(config["min-nodes"]),
        wait_seconds=float(config["wait-seconds"]),
        deadline=float(config["deadline"]),
        on_event=EventFile(str(config["events"])),
    )
    result = strategy.start(grid)
    for decided in result.tasks:
        print(
            f"{len(decided.outcomes.classes)} records decided by {len(decided.ballots)} ballots; "
            f"ledger {result.ledger}"
        )
