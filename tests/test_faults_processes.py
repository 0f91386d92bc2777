"""Nodes that misbehave, in Flower's own processes: the others' votes are counted in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_votes import Running, Vote
from test_deployment import assert_nothing_left

from rtc_flower.reading import list_roster, list_tasks, votes_of
from rtc_flower.verify import verify

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def test_silence_rubbish_and_a_crash_do_not_keep_a_task_from_closing_in_time(
    tmp_path: Path,
) -> None:
    odd = [f"odd_models:{name}" for name in ("Silent", "Rubbish", "Waiting")]
    vote = Vote(tmp_path, ["knn", "svm", "logistic", *odd], {"deadline": 120})
    with vote.deployment() as deployment:
        running = Running(deployment)
        running.until(lambda: vote.trains(5))
        deployment.kill_node(5)
        lines = running.finish()
    assert any("samples decided by 3 ballots" in line for line in lines)
    votes = votes_of(vote.ledger, 1)
    assert sorted(votes.names) == ["knn-0", "logistic-2", "svm-1"]
    assert votes.absent.keys() == {"silent-3", "rubbish-4", "waiting-5"}
    assert votes.absent["silent-3"] == votes.absent["rubbish-4"] == "deadline"
    assert list_tasks(vote.ledger)[0].reason == "exhausted"
    refused = vote.why("refused", "rubbish-4")
    assert 1 <= len(refused) <= 4
    assert all("expected at most" in why for why in refused)
    assert verify(vote.ledger).summary == "ok"
    assert_nothing_left(tmp_path, patience=5)


def test_contracts_that_answer_no_votes_are_absent_with_an_error(tmp_path: Path) -> None:
    models = ["knn", "odd_models:Scores", "odd_models:Raising", "no_such_model"]
    vote = Vote(tmp_path, models)
    with vote.deployment() as deployment:
        lines = Running(deployment).finish()
    assert votes_of(vote.ledger, 1).names == ["knn-0"]
    assert set(votes_of(vote.ledger, 1).absent.values()) == {"error"}
    assert len(votes_of(vote.ledger, 1).absent) == 3
    assert "predict must answer" in vote.why("absent", "scores-1")[0]
    assert "the contract raised RuntimeError" in vote.why("absent", "raising-2")[0]
    assert "unknown model 'no_such_model'" in vote.why("absent", "no_such_model-3")[0]
    # What a contract says when it raises may be private: it stays in the node's log.
    assert not [line for line in lines if "Jane Doe" in line]
    assert "Jane Doe" in (tmp_path / "logs" / "node-2.log").read_text()
    assert verify(vote.ledger).summary == "ok"


def test_two_nodes_with_one_state_dir_are_one_voter(tmp_path: Path) -> None:
    vote = Vote(tmp_path, ["odd_models:Waiting", "knn", "svm"], {"min-nodes": 2})
    nodes = [vote.node(0), vote.node(1), vote.node(2, {"state-dir": str(vote.state(1))})]
    with vote.deployment(nodes) as deployment:
        running = Running(deployment)
        running.until(lambda: running.says("two nodes share one state-dir"))
        vote.release()
        running.finish()
    assert len(list_roster(vote.ledger)) == 2
    assert len(votes_of(vote.ledger, 1).names) == 2
    assert verify(vote.ledger).summary == "ok"
