import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtc_flower.clients import data
from rtc_flower.errors import DataError

NAMES = {
    "train-images-idx3-ubyte": (0x0803, 60_000, 28, 28),
    "train-labels-idx1-ubyte": (0x0801, 60_000),
    "t10k-images-idx3-ubyte": (0x0803, 10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (0x0801, 10_000),
}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture
def blank_mnist(tmp_path: Path) -> Path:
    """Files of MNIST's exact form, all pixels and labels zero (sparse on disk)."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, header in NAMES.items():
        with (raw / name).open("wb") as file:
            file.write(struct.pack(f">{len(header)}I", *header))
            file.truncate(4 * len(header) + int(np.prod(header[1:])))
    return tmp_path


def mnist_directory() -> Path:
    named = os.environ.get(data.DATA_VARIABLE)
    if named and (Path(named) / "MNIST" / "raw").is_dir():
        return Path(named)
    reason = f"{data.DATA_VARIABLE} is {named!r}: no MNIST there"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def rows(samples: data.Samples) -> set[bytes]:
    return {x.tobytes() for x in samples.x}


def test_digits_are_bytes_that_use_the_whole_range(digits: data.Dataset) -> None:
    assert digits.name == "digits"
    assert digits.train.x.shape == (1797, 8, 8)
    assert digits.train.x.dtype == np.uint8
    assert digits.train.y.dtype == np.int64
    assert (digits.train.x.min(), digits.train.x.max()) == (0, 255)
    assert digits.class_names == tuple("0123456789")
    assert len(digits.test.y) == 0


def test_private_parts_and_tasks_cover_the_digits_once(digits: data.Dataset) -> None:
    parts = [data.partition(digits, i, 6) for i in range(6)]
    (asked,) = data.tasks(digits, 6)
    assert [len(part.y) for part in parts] == [100] * 6
    assert len(asked.y) == 1197
    everything = np.concatenate([*(part.x for part in parts), asked.x])
    flat = everything.reshape(len(everything), -1)
    expected = digits.train.x.reshape(len(digits.train.x), -1)
    assert np.array_equal(flat[np.lexsort(flat.T)], expected[np.lexsort(expected.T)])


def test_labels_travel_with_their_images(digits: data.Dataset) -> None:
    truth = {x.tobytes(): int(y) for x, y in zip(digits.train.x, digits.train.y, strict=True)}
    assert len(truth) == len(digits.train.y)
    part = data.partition(digits, 3, 6, seed=4)
    assert [truth[x.tobytes()] for x in part.x] == part.y.tolist()


def test_a_partition_is_the_same_on_every_machine(digits: data.Dataset) -> None:
    # PCG64's permutation is part of numpy's stream compatibility; a change would split nodes.
    pinned = "9aa3505cdaf96e047e699b526e9c0621c60834ad1fa24ff8fbe732b249c63ac0"
    assert data.fingerprint(*data.partition(digits, 2, 6, seed=1)).hex() == pinned


def test_the_seed_changes_who_holds_what(digits: data.Dataset) -> None:
    first = data.partition(digits, 0, 6, seed=0)
    assert rows(first) != rows(data.partition(digits, 0, 6, seed=1))
    assert rows(first) == rows(data.partition(digits, 0, 6, seed=0))


def test_a_part_is_a_copy(digits: data.Dataset) -> None:
    part = data.partition(digits, 0, 6)
    assert not np.shares_memory(part.x, digits.train.x)


def test_many_nodes_get_equal_shares_by_default(digits: data.Dataset) -> None:
    assert len(data.partition(digits, 39, 40).y) == 30
    assert len(data.tasks(digits, 40)[0].y) == 597


def test_several_tasks_are_equal_and_cover_all(digits: data.Dataset) -> None:
    (whole,) = data.tasks(digits, 6)
    several = data.tasks(digits, 6, num_tasks=4)
    assert sorted(len(task.y) for task in several) == [299, 299, 299, 300]
    assert np.array_equal(np.concatenate([task.x for task in several]), whole.x)
    some = data.tasks(digits, 6, num_tasks=3, samples_per_task=10)
    assert [len(task.y) for task in some] == [10, 10, 10]
    assert np.array_equal(np.concatenate([task.y for task in some]), whole.y[:30])


@pytest.mark.parametrize(
    ("partition_id", "num_partitions", "samples", "said"),
    [
        (6, 6, None, "partition 6 does not exist: there are 6"),
        (-1, 6, None, "partition -1 does not exist"),
        (0, 0, None, "num_partitions is 0"),
        (0, 6, 201, "6 partition.s. of 201 sample.s. asked for: digits has 1200"),
        (0, 6, 0, "6 partition.s. of 0"),
        (0, 2000, None, "2000 partition.s. of 0"),
    ],
)
def test_partitions_that_cannot_be(
    digits: data.Dataset, partition_id: int, num_partitions: int, samples: int | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        data.partition(digits, partition_id, num_partitions, samples_per_node=samples)


def test_a_negative_seed_is_refused(digits: data.Dataset) -> None:
    with pytest.raises(DataError, match="seed is -1"):
        data.partition(digits, 0, 6, seed=-1)


@pytest.mark.parametrize(("num_tasks", "each"), [(0, None), (2000, None), (2, 600), (1, 0)])
def test_tasks_that_cannot_be(digits: data.Dataset, num_tasks: int, each: int | None) -> None:
    with pytest.raises(DataError, match=r"num_tasks is 0|asked for: digits has 1197"):
        data.tasks(digits, 6, num_tasks=num_tasks, samples_per_task=each)


def test_a_fingerprint_sees_type_shape_values_and_labels() -> None:
    x, y = np.arange(8, dtype=np.uint8).reshape(2, 4), np.array([0, 1])
    changed = x.copy()
    changed[1, 3] += 1
    seen = {
        data.fingerprint(x, y),
        data.fingerprint(x.astype(np.float32), y),
        data.fingerprint(x.reshape(4, 2), y),
        data.fingerprint(changed, y),
        data.fingerprint(x, y[::-1]),
    }
    assert len(seen) == 5
    assert all(len(value) == 32 for value in seen)


def test_a_fingerprint_ignores_memory_order_and_byte_order() -> None:
    x, y = np.arange(6, dtype="<f4").reshape(2, 3), np.array([0, 1])
    assert data.fingerprint(np.asfortranarray(x), y) == data.fingerprint(x, y)
    assert data.fingerprint(x.astype(">f4"), y) == data.fingerprint(x, y)
    with pytest.raises(DataError, match="object"):
        data.fingerprint(np.array([None, "a"], dtype=object), y)


def test_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="'mnits': expected one of auto, digits, mnist"):
        data.load("mnits")


def test_mnist_without_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)
    with pytest.raises(DataError, match="pass one or set RTC_FLOWER_DATA"):
        data.load("mnist")
    assert data.load("auto").name == "digits"


def test_no_data_where_the_argument_points(tmp_path: Path) -> None:
    for name in ("mnist", "auto"):
        with pytest.raises(DataError, match="looked for train-images-idx3-ubyte") as caught:
            data.load(name, tmp_path)
        assert str(tmp_path) in str(caught.value)


def test_auto_falls_back_when_the_variable_points_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path / "nothing"))
    assert data.load("auto").name == "digits"


def test_a_truncated_file_is_named_with_its_sizes(
    blank_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = blank_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    os.truncate(cut, 7_000_000)
    monkeypatch.setenv(data.DATA_VARIABLE, str(blank_mnist))
    for name in ("mnist", "auto"):
        with pytest.raises(DataError, match="7000000 bytes, its header says 7840016") as caught:
            data.load(name)
        assert str(cut) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08", b"PK\x03\x04" + bytes(40)])
def test_a_file_that_is_not_idx_is_named(blank_mnist: Path, content: bytes) -> None:
    path = blank_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is not the expected IDX file"):
        data.load("mnist", blank_mnist)


def test_a_missing_file_is_named(blank_mnist: Path) -> None:
    (blank_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="looked for t10k-labels-idx1-ubyte in"):
        data.load("mnist", blank_mnist)


def test_digits_and_partitions_need_no_torch() -> None:
    code = (
        "import sys; from rtc_flower.clients import data;"
        "data.partition(data.load('digits'), 0, 6);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mnist_parts_pool_and_tasks() -> None:
    mnist = data.load("auto", mnist_directory())
    assert mnist.name == "mnist"
    parts = [data.partition(mnist, i, 10) for i in range(10)]
    assert [len(part.y) for part in parts] == [5_000] * 10
    public = data.pool(mnist)
    seen = [rows(part) for part in (*parts, public)]
    assert len(public.y) == 10_000
    # MNIST's training images hold no duplicates, so that disjoint rows are disjoint images.
    assert sum(map(len, seen)) == len(set().union(*seen)) == 60_000
    (task,) = data.tasks(mnist, 10, seed=7)
    assert task.x.shape == (10_000, 28, 28)
    assert np.bincount(task.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_papers_parts() -> None:
    mnist = data.load("mnist", mnist_directory())
    parts = data.paper_parts(mnist, seed=3)
    assert [part.x.shape for part in parts] == [(2_500, 28, 28)] * 20
    assert len(set().union(*map(rows, parts))) == 50_000
    with pytest.raises(DataError, match="digits has 1200"):
        data.paper_parts(data.load("digits"))
