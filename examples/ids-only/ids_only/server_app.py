"""The server: posts names, and not one measurement."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from rtc_flower.samples import Samples
from rtc_flower.strategies.events import EventFile
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteTask

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    patients = tuple(Path(str(config["patients"])).read_text().split())
    strategy = ProofOfPrediction(
        [VoteTask(Samples(ids=patients), ["malignant", "benign"])],
        Path(str(config["state-dir"])),
        min_nodes=int(config["min-nodes"]),
        wait_seconds=float(config["wait-seconds"]),
        deadline=float(config["deadline"]),
        on_event=EventFile(str(config["events"])),
    )
    result = strategy.start(grid)
    for decided in result.tasks:
        print(
            f"{len(patients)} patients decided by {len(decided.ballots)} ballots; "
            f"ledger {result.ledger}"
        )
