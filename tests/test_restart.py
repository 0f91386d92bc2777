"""A server that is killed in the middle of a task, and one that must not start."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from real_votes import MNIST_VOTE, PATIENCE, Running, Vote, leaves, signed_bytes
from test_deployment import assert_nothing_left

from rtc_flower.ballot import Ballot
from rtc_flower.deployment import Deployment
from rtc_flower.entries import decode_leaf
from rtc_flower.errors import DeploymentError
from rtc_flower.reading import list_tasks, votes_of
from rtc_flower.verify import verify

pytestmark = [pytest.mark.processes, pytest.mark.slow]

WAITING = "odd_models:Waiting"


def ballots(log: list[bytes]) -> set[bytes]:
    """Every ballot of a log, as its voter signed it."""
    entries = [decode_leaf(leaf)[0] for leaf in log]
    return {entry.encode() for entry in entries if isinstance(entry, Ballot)}


def test_a_killed_server_finishes_its_task_from_the_file(tmp_path: Path) -> None:
    vote = Vote(tmp_path, ["knn", "svm", "logistic", WAITING])
    with vote.deployment() as deployment:
        running = Running(deployment)
        running.until(lambda: len(vote.told("ballot")) == 3 and vote.trains(3))
        deployment.kill_server_app()
        with pytest.raises(DeploymentError, match="the ServerApp of run-1 was killed"):
            running.finish()
        acknowledged, log = vote.told("ballot"), leaves(vote.ledger)
        assert list_tasks(vote.ledger)[0].reason is None
        assert len(ballots(log)) == len(acknowledged) == 3

        again = Running(deployment)
        again.until(lambda: again.says("Proof of Prediction"))
        vote.release()
        again.finish()
    assert leaves(vote.ledger)[: len(log)] == log
    assert [row.reason for row in list_tasks(vote.ledger)] == ["exhausted"]
    assert sorted(votes_of(vote.ledger, 1).names) == sorted(vote.names())
    assert votes_of(vote.ledger, 1).absent == {}
    # Every node signed once, and what is in the ledger is what it signed.
    signed = [signed_bytes(vote.state(index)) for index in range(4)]
    assert [len(each) for each in signed] == [1, 1, 1, 1]
    assert ballots(leaves(vote.ledger)) == set().union(*signed)
    assert not set(vote.told("asked")[4:]) & set(acknowledged)
    assert verify(vote.ledger).summary == "ok"
    assert_nothing_left(tmp_path, patience=30)


def test_a_ballot_that_the_dead_server_never_saw_is_returned_as_it_was_signed(
    tmp_path: Path,
) -> None:
    """It was signed between the two runs; nothing is trained or signed again."""
    vote = Vote(tmp_path, ["knn", WAITING])
    with vote.deployment() as deployment:
        running = Running(deployment)
        running.until(lambda: vote.trains(1))
        deployment.kill_server_app()
        with pytest.raises(DeploymentError, match="killed"):
            running.finish()
        vote.release()
        give_up = time.monotonic() + PATIENCE
        while not (signed := signed_bytes(vote.state(1))):
            assert time.monotonic() < give_up
            time.sleep(0.1)
        assert not signed & ballots(leaves(vote.ledger))
        (tmp_path / "release").unlink()  # a node that trained again would wait for ever
        list(deployment.run(timeout=180))
    assert signed <= ballots(leaves(vote.ledger))
    assert signed_bytes(vote.state(1)) == signed
    assert verify(vote.ledger).summary == "ok"


def test_a_second_server_on_the_same_ledger_fails_at_once(tmp_path: Path) -> None:
    """From another SuperLink: one SuperExec runs one ServerApp after the other."""
    vote = Vote(tmp_path, ["knn", WAITING])
    second = Deployment(
        MNIST_VOTE, 0, work_dir=tmp_path / "second", run_config=vote.run_config() | {"events": ""}
    )
    with vote.deployment() as deployment:
        running = Running(deployment)
        running.until(lambda: len(vote.told("ballot")) == 1)
        before = leaves(vote.ledger)
        with second, pytest.raises(DeploymentError, match=r"finished:failed") as failed:
            list(second.run(timeout=PATIENCE))
        assert "is writing this ledger; stop it, or name another ledger" in str(failed.value)
        assert leaves(vote.ledger) == before
        vote.release()
        running.finish()
    assert sorted(votes_of(vote.ledger, 1).names) == sorted(vote.names())
    assert verify(vote.ledger).summary == "ok"
    assert_nothing_left(tmp_path, patience=30)


def test_a_supernode_killed_and_started_again_has_its_key_and_votes(tmp_path: Path) -> None:
    """Flower gives it a new id; its state directory makes it the same voter."""
    vote = Vote(tmp_path, ["knn", WAITING], {"deadline": 240})
    with vote.deployment() as deployment:
        running = Running(deployment)
        running.until(lambda: vote.trains(1))
        deployment.kill_node(1)
        vote.release()
        deployment.start_node(1)
        running.finish()
    assert sorted(votes_of(vote.ledger, 1).names) == sorted(vote.names())
    assert len(votes_of(vote.ledger, 1).names) == 2
    assert verify(vote.ledger).summary == "ok"
    assert_nothing_left(tmp_path, patience=30)
