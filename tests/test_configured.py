"""A contract from configuration alone: what a node's owner writes wrongly is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from rtc_flower.clients.configured import configured_contract
from rtc_flower.errors import ContractError, DataError

NODE = {"model": "knn", "dataset": "digits", "partition-id": 1, "num-partitions": 10}


def context(node: dict[str, Any], run: dict[str, Any] | None = None) -> Context:
    return Context(1, 77, node, RecordDict(), run or {})


def load(**changed: Any) -> Any:
    """The private data of a node whose configuration differs in some keys."""
    config = NODE | {key.replace("_", "-"): value for key, value in changed.items()}
    return configured_contract(context(config)).load()


def test_a_node_gets_its_model_and_its_own_part() -> None:
    contract = configured_contract(context(NODE | {"max-seconds": 5}))
    assert contract.said.startswith("knn")
    assert contract.max_seconds == 5
    X, y = contract.load()
    assert X.shape == (100, 8, 8)
    assert not np.array_equal(X, load(partition_id=2)[0])
    assert len(y) == 100


def test_in_simulation_the_partition_picks_from_the_run_configs_models() -> None:
    run = {"models": "svm, knn", "dataset": "digits"}
    for partition, name in enumerate(("svm", "knn", "svm")):
        node = {"partition-id": partition, "num-partitions": 3}
        assert configured_contract(context(node, run)).said.startswith(name)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"partition_id": 10}, "partition 10 does not exist: there are 10, numbered 0 to 9"),
        ({"partition_id": "x"}, "partition-id must be a whole number, got 'x'"),
        ({"num_partitions": "ten"}, "num-partitions must be a whole number, got 'ten'"),
        ({"samples_per_node": "all"}, "samples-per-node must be a whole number, got 'all'"),
        ({"seed": "?"}, "seed must be a whole number"),
        ({"max_seconds": "-1"}, "max-seconds must be a number of seconds, .* got '-1'"),
        ({"max_seconds": "long"}, "max-seconds must be a number of seconds, .* got 'long'"),
        ({"dataset": "cifar"}, "unknown dataset 'cifar'"),
        ({"data_path": "/none.npz"}, r"data-path /none.npz: expected an .npz file"),
        ({"data_path": "own.npz"}, "data-path must be an absolute path, got 'own.npz'"),
    ],
)
def test_what_cannot_be_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(**changed)


def test_a_file_without_the_arrays_and_a_node_without_data_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", X=np.zeros((2, 8, 8)))
    with pytest.raises(DataError, match=r"own.npz: expected .* the arrays X and y"):
        load(data_path=str(tmp_path / "own.npz"))
    with pytest.raises(DataError, match="no private data: start the SuperNode with"):
        configured_contract(context({"model": "knn", "dataset": "digits"})).load()


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ContractError, match="unknown model 'nope': expected one of cnn, forest"):
        load(model="nope")


def test_own_data_without_a_model_is_refused_and_the_keys_are_named() -> None:
    node = {"modle": "svm", "data-path": "/own.npz", "state-dir": "/state"}
    got = (
        r'expected model="..." .* got the keys data-path, modle, state-dir \(known: model, models,'
    )
    with pytest.raises(DataError, match=got):
        configured_contract(context(node))
    contract = configured_contract(context(node, {"models": "knn"}))
    assert contract.said.startswith("knn")


def test_a_key_with_a_letter_wrong_is_named_and_an_apps_own_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    configured_contract(context(NODE | {"max-secnods": 5, "kinds": "digit", "table": "/t.npz"}))
    (record,) = caplog.records
    assert record.getMessage() == (
        "node config: 'max-secnods' is no key of ours; is 'max-seconds' meant?"
    )
