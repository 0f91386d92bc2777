"""What a contract answers is checked before it is signed, and it is trained once."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtc_flower.clients.contract import (
    ABSTAIN,
    Contract,
    DeclinedError,
    TaskInfo,
    checked_votes,
)
from rtc_flower.clients.store import ModelStore
from rtc_flower.errors import ContractError
from rtc_flower.samples import Samples

FITTED: list[int] = []


class Counting:
    """Votes for the most frequent class it was trained on."""

    description = "counting"

    def fit(self, X: Any, y: Any) -> None:
        FITTED.append(len(y))
        self.answer = int(np.bincount(y).argmax())

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.answer)


def data(label: int = 2) -> Any:
    return np.zeros((4, 1)), np.full(4, label)


def votes(contract: Contract, tmp_path: Path, samples: Samples | None = None) -> list[int]:
    chosen = samples or Samples(np.arange(6).reshape(3, 2))
    asked = np.ones(len(chosen), bool)
    got = contract.votes(chosen, asked, classes=3, store=ModelStore(tmp_path))
    return [int(vote) for vote in got]


def test_it_is_trained_once_per_data(tmp_path: Path) -> None:
    FITTED.clear()
    assert votes(Contract(Counting(), data), tmp_path) == [2, 2, 2]
    assert votes(Contract(Counting(), data), tmp_path) == [2, 2, 2]
    assert FITTED == [4]
    assert votes(Contract(Counting(), lambda: data(1)), tmp_path) == [1, 1, 1]
    assert FITTED == [4, 4]


def test_a_model_that_is_used_again_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flwr.rtc_flower")
    votes(Contract(Counting(), data), tmp_path)
    assert "trained earlier" not in caplog.text
    votes(Contract(Counting(), data), tmp_path)
    (path,) = tmp_path.iterdir()
    said = f"using the model trained earlier, {path} (delete it to train again)"
    assert ("flwr.rtc_flower", logging.INFO, said) in caplog.record_tuples


def test_a_model_that_cannot_be_kept_votes_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Local(Counting):
        pass

    FITTED.clear()
    for _ in range(2):
        assert votes(Contract(Local(), data), tmp_path) == [2, 2, 2]
    assert FITTED == [4, 4]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].startswith("this model is not kept, the next task trains it again: counting")
    assert "Can't pickle local object" in warnings[0]


def test_a_model_that_cannot_tell_its_settings_votes_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute(Counting):
        def get_params(self) -> dict[str, object]:
            raise AttributeError("no such setting: 4711")

    FITTED.clear()
    for _ in range(2):
        assert votes(Contract(Mute(), data), tmp_path) == [2, 2, 2]
    assert FITTED == [4, 4]
    assert caplog.text.count("trains it again: Mute cannot be kept: AttributeError('no such") == 2


def test_a_disk_too_full_for_the_model_does_not_cost_the_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert votes(Contract(Counting(), data), tmp_path) == [2, 2, 2]
    assert "not kept, the next task trains it again: [Errno 28] No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_only_the_samples_asked_are_predicted(tmp_path: Path) -> None:
    class First:
        def fit(self, X: Any, y: Any) -> None:
            return None

        def predict(self, X: Any) -> Any:
            return X[:, 0] // 2

        def dumps(self) -> bytes:
            return b""

        def loads(self, payload: bytes) -> None:
            return None

    asked = np.array([True, False, True])
    samples = Samples(np.arange(6).reshape(3, 2))
    contract = Contract(First(), data)
    got = contract.votes(samples, asked, classes=3, store=ModelStore(tmp_path))
    assert got.tolist() == [0, 2]
    by_id = Contract(First(), data, features=lambda ids: np.array([[2 * len(i)] for i in ids]))
    named = Samples(ids=("a", "bb", ""))
    got = by_id.votes(named, asked, classes=3, store=ModelStore(tmp_path))
    assert got.tolist() == [1, 0]


def test_features_and_ids_must_fit_the_task(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"only ids: pass Contract\(features=...\)"):
        votes(Contract(Counting(), data), tmp_path, Samples(ids=("a",)))
    with pytest.raises(ContractError, match="looks features up by id, the task has no ids"):
        votes(Contract(Counting(), data, features=lambda ids: np.zeros((1, 1))), tmp_path)


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ([0, 1], r"must answer 3 classes, got an array of \(2,\)"),
        ([[0, 1, 2]], r"got an array of \(1, 3\)"),
        ([0.0, 1.0, 2.0], "got float64 .* take the argmax of scores first"),
        ([0, 1, float("nan")], "got float64"),
        ([True, False, True], "got bool"),
        (["0", "1", "2"], "got <U1"),
        ([0, 1, 3], "got 3 for sample 2"),
        ([0, -2, 1], "got -2 for sample 1"),
        (None, r"got an array of \(\)"),
    ],
)
def test_what_is_no_vote_is_named(answer: Any, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        checked_votes(answer, n=3, classes=3)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
def test_every_integer_type_is_a_vote(kind: Any) -> None:
    got = checked_votes(np.array([0, 2, 1], kind), n=3, classes=3)
    assert got.dtype == np.int64
    assert got.tolist() == [0, 2, 1]


def test_abstaining_is_a_vote() -> None:
    assert checked_votes([ABSTAIN, 0], n=2, classes=2).tolist() == [-1, 0]
    assert checked_votes(np.zeros(0, int), n=0, classes=2).tolist() == []


def test_an_error_of_the_contract_names_its_type_and_not_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Any:
        raise OSError("/data/patient-4711")

    with pytest.raises(
        ContractError, match=r"^the contract raised OSError; its node's log"
    ) as found:
        votes(Contract(Counting(), load), tmp_path)
    assert "4711" not in str(found.value)
    assert "4711" in caplog.text


def test_max_seconds_declines(tmp_path: Path) -> None:
    def load() -> Any:
        time.sleep(0.3)
        return data()

    with pytest.raises(DeclinedError, match=r"not done after 0\.05 s"):
        votes(Contract(Counting(), load, max_seconds=0.05), tmp_path)
    time.sleep(0.4)
    assert votes(Contract(Counting(), data, max_seconds=60.0), tmp_path) == [2, 2, 2]


def test_it_accepts_every_task_and_describes_itself_unless_told_otherwise() -> None:
    info = TaskInfo("default", 3, ("a", "b"), 60.0)
    assert Contract(Counting(), data).accept(info)
    assert Contract(Counting(), data).said == "counting"
    assert Contract(Counting(), data, description="mine").said == "mine"
    assert Contract(Counting(), data, description="é" * 101).said == "é" * 100  # 200 bytes
