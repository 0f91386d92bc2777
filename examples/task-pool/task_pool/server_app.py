"""The server: posts one task after another; each closes before the next is posted."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from rtc_flower.clients.data import load, tasks
from rtc_flower.strategies.events import EventFile
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteTask

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    digits = load("digits")
    classes = {"digit": digits.class_names, "parity": ("even", "odd")}
    kinds = str(config["kinds"]).split(",")
    parts = tasks(
        digits, int(config["num-partitions"]), seed=int(config["seed"]), num_tasks=len(kinds)
    )
    pool = [VoteTask(part.x, classes[kind], kind) for kind, part in zip(kinds, parts, strict=True)]
    strategy = ProofOfPrediction(
        pool,
        Path(str(config["state-dir"])),
        min_nodes=int(config["min-nodes"]),
        wait_seconds=float(config["wait-seconds"]),
        deadline=float(config["deadline"]),
        on_event=EventFile(str(config["events"])),
    )
    result = strategy.start(grid)
    # Without what an earlier run left open, and without what it had already closed.
    own = result.tasks[-len(pool) :]
    for decided, kind, part in zip(own, kinds[-len(own) :], parts[-len(own) :], strict=True):
        truth = part.y if kind == "digit" else part.y % 2
        absent = ", ".join(f"{name} {why}" for name, why in sorted(decided.absent.items()))
        print(
            f"task {decided.number} ({kind}): {', '.join(sorted(decided.ballots))} voted; "
            f"absent: {absent or 'nobody'}; {(decided.outcomes.classes == truth).mean():.2%} right"
        )
    print(f"ledger {result.ledger}")
