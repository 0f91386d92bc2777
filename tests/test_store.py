import errno
import gc
import logging
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from rtc_flower.clients import data
from rtc_flower.clients.models import create
from rtc_flower.clients.store import ModelStore, describe, model_key
from rtc_flower.errors import ContractError

ROOT = Path(__file__).parent.parent
HERE = b"\x01" * 32
THERE = b"\x02" * 32


class Centroid:
    """A contract of somebody else's that knows nothing of stores."""

    def __init__(self) -> None:
        self.centres: NDArray[np.float64] | None = None

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        self.centres = np.stack([X[y == label].mean(axis=0) for label in np.unique(y)])


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "node" / "models")


@pytest.fixture(scope="module")
def private() -> data.Samples:
    return data.partition(data.load("digits"), 0, 6)


def only_file(store: ModelStore) -> Path:
    (path,) = store.directory.iterdir()
    return path


@pytest.mark.parametrize("name", ["svm", "mlp"])
def test_a_second_task_needs_no_training(
    name: str, store: ModelStore, private: data.Samples
) -> None:
    trained = create(name, seed=5).fit(*private)
    seen = data.fingerprint(*private)
    assert store.get(create(name, seed=5), seen) is None
    store.put(trained, seen)
    again = create(name, seed=5)
    found = ModelStore(store.directory).get(again, seen)
    assert found is not None
    assert found is again
    assert np.array_equal(found.predict(private.x), trained.predict(private.x))


def test_another_seed_setting_or_data_is_a_miss(store: ModelStore, private: data.Samples) -> None:
    store.put(create("knn", seed=5).fit(*private), HERE)
    assert store.get(create("knn", seed=5), HERE) is not None
    assert store.get(create("knn", seed=6), HERE) is None
    assert store.get(create("knn", seed=5, neighbours=5), HERE) is None
    assert store.get(create("knn", seed=5), THERE) is None
    assert store.get(create("logistic", seed=5), HERE) is None


def test_keys_are_stable_and_see_get_params() -> None:
    class Described:
        description = "a"
        seed = 1

    one, two = Described(), Described()
    assert model_key(one, HERE) == model_key(two, HERE)
    two.description = "b"
    assert model_key(one, HERE) != model_key(two, HERE)
    three, five = KNeighborsClassifier(3), KNeighborsClassifier(5)
    assert describe(three) == describe(five)
    assert model_key(three, HERE) != model_key(five, HERE)


def test_a_key_does_not_change_by_training(private: data.Samples) -> None:
    model = create("cnn", min_steps=1, epochs=1)
    before = model_key(model, HERE)
    assert model_key(model.fit(*private), HERE) == before


MODEL = """
from scaling import FACTOR

class Model:
    def fit(self, X, y):
        self.value = 1

class Derived(Model):
    pass
"""
KEY = """
from rtc_flower.clients.store import model_key
from model import Derived
print(model_key(Derived(), bytes(32)))
"""


def key_in_a_new_process(folder: Path) -> str:
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", KEY]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_edited_code_is_another_key_and_a_restart_is_not(tmp_path: Path) -> None:
    model, scaling = tmp_path / "model.py", tmp_path / "scaling.py"
    model.write_text(MODEL)
    scaling.write_text("FACTOR = {'a', 'b'}\n")
    first = key_in_a_new_process(tmp_path)
    assert key_in_a_new_process(tmp_path) == first
    model.write_text(MODEL.replace("value = 1", "value = 2"))  # in the class inherited from
    second = key_in_a_new_process(tmp_path)
    scaling.write_text("FACTOR = {'a', 'c'}\n")  # in what the module imports
    assert len({first, second, key_in_a_new_process(tmp_path)}) == 3


def made_from(source: str) -> Any:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return names["Model"]()


def test_nodes_that_are_threads_read_their_code_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "".join(f"    def f{i}(self):\n        return [({i}, self.f{i})]\n" for i in range(2000))
    monkeypatch.syspath_prepend(tmp_path)
    models = list[object]()
    for number in range(4):
        (tmp_path / f"model_of_{number}.py").write_text(f"class Model:\n{body}")
        models.append(import_module(f"model_of_{number}").Model())
    # Python runs other threads while it collects what one of them leaves as it parses.
    gc.callbacks.append(lambda *_: time.sleep(0.001))
    try:
        with ThreadPoolExecutor(4) as pool:
            keys = set(pool.map(lambda model: model_key(model, HERE), models))
    finally:
        gc.callbacks.pop()
    assert len(keys) == 4


def test_code_without_a_source_counts_all_the_same() -> None:
    """As in a notebook that was run again, or a module that was loaded again."""
    source = MODEL.replace("from scaling import FACTOR", "")
    asks = source.replace("1", "y in {'k', 'l', 'm'}")
    assert model_key(made_from(source), HERE) == model_key(made_from(source), HERE)
    assert model_key(made_from(asks), HERE) != model_key(made_from(source), HERE)
    assert model_key(made_from(asks), HERE) != model_key(made_from(asks.replace("k", "n")), HERE)


def test_a_function_among_the_hyperparameters_counts_by_its_code() -> None:
    def transformer(factor: str) -> Any:
        function = eval(f"lambda X: X * {factor}", {"__name__": "__main__"})
        return make_pipeline(FunctionTransformer(function), KNeighborsClassifier())

    twice = transformer("2")  # kept, so that another lambda has another address
    assert model_key(twice, HERE) == model_key(transformer("2"), HERE)
    assert model_key(twice, HERE) != model_key(transformer("3"), HERE)


def test_another_version_of_the_library_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_key(KNeighborsClassifier(), HERE)
    monkeypatch.setattr("sklearn.__version__", "99.9")
    assert model_key(KNeighborsClassifier(), HERE) != before


def test_anybodys_contract_is_pickled(store: ModelStore) -> None:
    contract = Centroid()
    contract.fit(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]))
    store.put(contract, HERE)
    found = store.get(Centroid(), HERE)
    assert found is not None
    assert found.centres.tolist() == [[1.0], [5.0]]


def test_a_contract_that_cannot_be_kept_is_named(store: ModelStore) -> None:
    contract = Centroid()
    contract.fit = lambda X, y: None  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="Centroid cannot be kept"):
        store.put(contract, HERE)
    assert list(store.directory.iterdir()) == []


def test_files_are_the_nodes_own(store: ModelStore, private: data.Samples) -> None:
    store.put(create("knn").fit(*private), HERE)
    assert stat.S_IMODE(only_file(store).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_a_miss_and_is_said(
    damage: str, store: ModelStore, private: data.Samples, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(create("knn").fit(*private), HERE)
    path = only_file(store)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-7], "flip": content, "empty": bytearray()}
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        assert store.get(create("knn"), HERE) is None
    assert str(path) in caplog.text
    assert "damaged" in caplog.text
    store.put(create("knn").fit(*private), HERE)
    assert store.get(create("knn"), HERE) is not None


def test_a_whole_file_that_does_not_fit_is_a_miss(
    store: ModelStore, private: data.Samples, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(create("knn").fit(*private), HERE)
    written = only_file(store)
    store.put(create("mlp", epochs=1, min_steps=1).fit(*private), HERE)
    (other,) = set(store.directory.iterdir()) - {written}
    written.write_bytes(other.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert store.get(create("knn"), HERE) is None
    assert "of no use" in caplog.text


def test_a_full_disk_leaves_the_earlier_model(
    store: ModelStore, private: data.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create("knn").fit(*private)
    store.put(model, HERE)
    before = only_file(store).read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(model, HERE)
    assert only_file(store).read_bytes() == before


def test_descriptions_never_exceed_what_a_ballot_holds() -> None:
    class Talkative:
        description = "é" * 150

    said = describe(Talkative())
    assert said == "é" * 100
    assert describe(Centroid()) == f"{__name__}:Centroid"
