"""Invitations in waves, through Flower's own programs and in its simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_votes import MNIST_VOTE, Value, Vote

from rtc_flower.deployment import Deployment
from rtc_flower.reading import list_tasks, votes_of
from rtc_flower.verify import verify

MODELS = ["svm", "knn", "forest", "logistic", "svm", "knn"]
WAVES: dict[str, Value] = {
    "rule": "certified",
    "wave-size": 2,
    "close-when": 0.6,
    "inv-delta": 2,
    "audit": "off",
}


def assert_idle(ledger: Path) -> None:
    """The last wave was never invited, and nobody says what it would have said."""
    assert verify(ledger).summary == "ok"
    (task,) = list_tasks(ledger)
    assert (task.reason, task.counting) == ("enough", "invitation")
    assert task.uninvited is not None
    assert task.uninvited >= 2
    votes = votes_of(ledger, 1)
    assert len(votes.names) == len(MODELS) - task.uninvited
    assert float(np.mean(votes.classes >= 0)) == 1.0


@pytest.mark.processes
@pytest.mark.slow
def test_nodes_that_are_not_invited_never_train_in_processes(tmp_path: Path) -> None:
    vote = Vote(tmp_path, MODELS, dict(WAVES))
    with vote.deployment() as deployment:
        lines = list(deployment.run())
    assert_idle(vote.ledger)
    idle = [i for i, name in enumerate(vote.names()) if name not in vote.told("asked")]
    assert len(idle) >= 2
    assert all(not any((vote.state(i) / "models").glob("*.model")) for i in idle)
    assert any("nodes stayed idle" in line for line in lines)


@pytest.mark.processes
@pytest.mark.slow
def test_waves_in_flowers_simulation(tmp_path: Path) -> None:
    vote = Vote(tmp_path, MODELS, {**WAVES, "models": ",".join(MODELS)})
    with Deployment(
        MNIST_VOTE,
        len(MODELS),
        work_dir=tmp_path,
        run_config=vote.run_config() | {"num-partitions": len(MODELS)},
        simulation=True,
    ) as deployment:
        list(deployment.run())
    assert_idle(vote.ledger)
