"""The server: after every vote task, a round trip of Flower with the same payload."""

import json
import os
import resource
import time
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from rtc_flower.samples import Samples
from rtc_flower.strategies.events import Event
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteTask

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the pairs and write what they took."""
    config = context.run_config
    pairs, n, nodes = (int(config[key]) for key in ("pairs", "samples", "min-nodes"))
    draw = np.random.default_rng(0)
    # Random bytes do not compress, and no two tasks are alike: nothing is sent only once.
    tasks = [VoteTask(draw.integers(0, 256, (n, 160), dtype=np.uint8), 10) for _ in range(pairs)]
    begun = {"start": time.perf_counter()}
    votes: list[float] = []
    plain: list[float] = []
    audits: list[float] = []

    def on_event(event: Event) -> None:
        now = time.perf_counter()
        if event.what == "posted":
            if "closed" in begun:
                audits.append(now - begun["closed"])
            begun.setdefault("first", now)
            begun["posted"] = now
        if event.what == "closed":
            votes.append(now - begun["posted"])
            if config["audit"] == "off":
                plain.append(round_trip(grid, n, draw))
            begun["closed"] = time.perf_counter()

    strategy = ProofOfPrediction(
        tasks,
        Path(str(config["state-dir"])),
        min_nodes=nodes,
        deadline=300.0,
        rule="all",
        audit=str(config["audit"]),
        on_event=on_event,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = strategy.start(grid)
    ended = time.perf_counter()
    if config["audit"] != "off":
        audits.append(ended - begun["closed"])
    found = {
        "vote_seconds": votes,
        "plain_seconds": plain,
        "audit_seconds": audits if config["audit"] != "off" else [],
        "hello_seconds": begun["first"] - begun["start"],
        "ledger_seconds": result.ledger_seconds,
        "memory_above_start_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        / 1024,
        "ledger_bytes": result.ledger.stat().st_size,
        "load": os.getloadavg()[0],
    }
    Path(str(config["out"])).write_text(json.dumps(found))


def round_trip(grid: Grid, n: int, draw: np.random.Generator) -> float:
    """Seconds of Flower's own exchange: as many bytes out as a task's samples, a ballot back."""
    features = draw.integers(0, 256, (n, 160), dtype=np.uint8)
    record = ConfigRecord({"data": Samples(features).encode(), "reply-bytes": n + 600})
    begin = time.perf_counter()
    messages = [
        Message(RecordDict({"samples": record}), node_id, "query.plain", ttl=300.0)
        for node_id in grid.get_node_ids()
    ]
    replies = list(grid.send_and_receive(messages, timeout=300.0))
    if len(replies) != len(messages) or any(reply.has_error() for reply in replies):
        raise RuntimeError(f"{len(replies)} of {len(messages)} plain replies, or errors")
    return time.perf_counter() - begin
