"""The server: posts the samples to decide, and says what the nodes decided."""

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
    dataset = load(str(config["dataset"]), str(config["data-dir"]) or None)
    pool = tasks(
        dataset,
        int(config["num-partitions"]),
        samples_per_node=int(config["samples-per-node"]) or None,
        seed=int(config["seed"]),
        num_tasks=int(config["num-tasks"]),
    )
    strategy = ProofOfPrediction(
        [VoteTask(part.x, dataset.class_names) for part in pool],
        Path(str(config["state-dir"])),
        min_nodes=int(config["min-nodes"]),
        wait_seconds=float(config["wait-seconds"]),
        deadline=float(config["deadline"]),
        rule=str(config["rule"]),
        order=str(config["order"]) or None,
        inv_delta=int(config["inv-delta"]),
        lead=int(config["lead"]),
        min_ballots=int(config["min-ballots"]),
        close_when=float(config["close-when"]),
        wave_size=int(config["wave-size"]) or None,
        invite_ahead=int(config["invite-ahead"]),
        audit=str(config["audit"]),
        on_event=EventFile(str(config["events"])),
    )
    result = strategy.start(grid)
    # A restarted run decides the end of its pool, perhaps behind an older task that was open.
    for decided, part in zip(reversed(result.tasks), reversed(pool), strict=False):
        accuracy = (decided.outcomes.classes == part.y).mean()
        print(
            f"task {decided.number}: {len(part.y)} samples decided by {len(decided.ballots)} "
            f"ballots, {accuracy:.2%} right, cosigned by {decided.cosigned[0]} nodes, "
            f"{len(decided.idle)} nodes stayed idle; ledger {result.ledger}"
        )
