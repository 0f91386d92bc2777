"""Private data of the nodes, and the samples that tasks ask about.

Images are ``uint8`` from 0 to 255 with shape ``(n, height, width)``, labels ``int64``; estimators
scale what they need, so that a node holds its part in the smallest form. MNIST comes from files
that ``torchvision.datasets.MNIST`` reads; the handwritten digits of scikit-learn are embedded in
that package. torch and scikit-learn are imported only where one of them is needed.

Every split is a prefix of one permutation, ``Generator(PCG64(seed)).permutation``, which is the
same on every machine: nodes that know ``(seed, partition, number of partitions)`` take disjoint
parts without talking to each other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtc_flower.errors import DataError

__all__ = [
    "DATASETS",
    "DATA_VARIABLE",
    "Dataset",
    "Samples",
    "fingerprint",
    "load",
    "paper_parts",
    "partition",
    "pool",
    "tasks",
]

DATASETS = ("auto", "digits", "mnist")
DATA_VARIABLE = "RTC_FLOWER_DATA"

PAPER_PARTS = 20
PAPER_PART_SIZE = 2_500

_IMAGES_MAGIC = 0x0803
_LABELS_MAGIC = 0x0801
_MNIST_FILES = (
    ("train-images-idx3-ubyte", _IMAGES_MAGIC, 60_000),
    ("train-labels-idx1-ubyte", _LABELS_MAGIC, 60_000),
    ("t10k-images-idx3-ubyte", _IMAGES_MAGIC, 10_000),
    ("t10k-labels-idx1-ubyte", _LABELS_MAGIC, 10_000),
)


class Samples(NamedTuple):
    """Images with their labels: the private part of a node, or a task with its truth.

    Attributes
    ----------
    x : ndarray of uint8, shape (n, height, width)
    y : ndarray of int64, shape (n,)
    """

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, with the number that may become private.

    Attributes
    ----------
    name : str
        ``"mnist"`` or ``"digits"``.
    train, test : Samples
        The official split. Without one (digits) ``test`` is empty, and tasks ask about the
        training samples that are nobody's.
    class_names : tuple of str
    private : int
        At most this many training samples are handed to nodes; the rest is `pool`.
    samples_per_node : int
        What `partition` gives a node unless told otherwise.
    """

    name: str
    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    private: int
    samples_per_node: int


def load(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, download: bool = False
) -> Dataset:
    """Load a dataset by name.

    Parameters
    ----------
    name : {"auto", "digits", "mnist"}
        ``"auto"`` takes MNIST where it is found and digits otherwise; the result's ``name`` says
        which. A directory that was named as an argument must hold MNIST all the same.
    data_dir : path, optional
        Directory that holds ``MNIST/raw``; the variable ``RTC_FLOWER_DATA`` unless given.
    download : bool, optional
        Whether torchvision may download MNIST into that directory. Nothing is downloaded
        otherwise.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        Unknown name, no data where they were looked for, or a file that is cut or not IDX.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}")
    if name == "digits":
        return _digits()
    directory = _directory(data_dir)
    if name == "auto" and data_dir is None and not download and not _found(directory):
        return _digits()
    return _mnist(directory, download)


def partition(
    dataset: Dataset,
    partition_id: int,
    num_partitions: int,
    *,
    samples_per_node: int | None = None,
    seed: int = 0,
) -> Samples:
    """Return the private samples of one node: an iid part, disjoint from every other one.

    Parameters
    ----------
    dataset : Dataset
    partition_id : int
        From 0 to ``num_partitions - 1``.
    num_partitions : int
        Number of nodes that share the private samples.
    samples_per_node : int, optional
        The dataset's default (5,000 for MNIST, 100 for digits), or an equal share of
        ``dataset.private`` where that is less.
    seed : int, optional
        Seed of the permutation; the same for all nodes and for `tasks`.

    Returns
    -------
    Samples
        Copies of this node's rows alone, so that the dataset can be released.

    Raises
    ------
    DataError
        A partition that does not exist, or more samples than there are.
    """
    size = _part_size(dataset, num_partitions, samples_per_node)
    if not 0 <= partition_id < num_partitions:
        raise DataError(
            f"partition {partition_id} does not exist: there are {num_partitions}, "
            f"numbered 0 to {num_partitions - 1}"
        )
    start = partition_id * size
    return _rows(dataset.train, _order(dataset, seed)[start : start + size])


def tasks(
    dataset: Dataset,
    num_partitions: int,
    *,
    samples_per_node: int | None = None,
    seed: int = 0,
    num_tasks: int = 1,
    samples_per_task: int | None = None,
) -> list[Samples]:
    """Return the samples to be decided, with their truth, as one or several equal tasks.

    They are the test samples in their official order or, for a dataset without any, the
    training samples that `partition` gives to no node with the same arguments. Several tasks in
    a row are the paper's task pool (section 3).

    Parameters
    ----------
    dataset, num_partitions, samples_per_node, seed
        As for `partition`.
    num_tasks : int, optional
        Number of tasks; without ``samples_per_task`` their sizes differ by at most one.
    samples_per_task : int, optional
        Take only the first ``num_tasks * samples_per_task`` samples.

    Returns
    -------
    list of Samples, length num_tasks

    Raises
    ------
    DataError
        No samples left to decide, or more asked for than there are.
    """
    if len(dataset.test.y):
        rest = dataset.test
    else:
        used = num_partitions * _part_size(dataset, num_partitions, samples_per_node)
        rest = _rows(dataset.train, _order(dataset, seed)[used:])
    if num_tasks < 1:
        raise DataError(f"num_tasks is {num_tasks}: expected at least 1")
    wanted = num_tasks * (1 if samples_per_task is None else samples_per_task)
    if not 1 <= wanted <= len(rest.y):
        each = "at least 1" if samples_per_task is None else f"{samples_per_task}"
        raise DataError(
            f"{num_tasks} task(s) of {each} sample(s) asked for: "
            f"{dataset.name} has {len(rest.y)} samples to decide"
        )
    count = len(rest.y) if samples_per_task is None else wanted
    rows = np.array_split(np.arange(count), num_tasks)
    return [_rows(rest, part) for part in rows]


def pool(dataset: Dataset, *, seed: int = 0) -> Samples:
    """Return the training samples beyond ``dataset.private``, which are never any node's.

    They serve choices that must not be made on the tasks, and as an unlabelled public pool.
    """
    return _rows(dataset.train, _order(dataset, seed)[dataset.private :])


def paper_parts(dataset: Dataset, *, seed: int = 0) -> list[Samples]:
    """Return the paper's 20 parts of 2,500 samples (section 5); node ``i`` trains on ``i % 20``.

    Raises
    ------
    DataError
        The dataset has fewer than 50,000 private samples.
    """
    return [
        partition(dataset, part, PAPER_PARTS, samples_per_node=PAPER_PART_SIZE, seed=seed)
        for part in range(PAPER_PARTS)
    ]


def fingerprint(x: NDArray[Any], y: NDArray[Any]) -> bytes:
    """Return the SHA-256 of both arrays' dtypes, shapes and bytes (32 bytes).

    The byte order of the machine does not matter: values are hashed little-endian.

    Raises
    ------
    DataError
        An array of Python objects, whose bytes say nothing.
    """
    digest = hashlib.sha256()
    for array in (np.asarray(x), np.asarray(y)):
        if array.dtype.hasobject:
            raise DataError(f"dtype {array.dtype} has no bytes to hash: expected numbers or text")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{little.dtype.str} {array.shape}\n".encode())
        digest.update(little.tobytes())
    return digest.digest()


def _part_size(dataset: Dataset, num_partitions: int, samples_per_node: int | None) -> int:
    if num_partitions < 1:
        raise DataError(f"num_partitions is {num_partitions}: expected at least 1")
    if samples_per_node is None:
        size = min(dataset.samples_per_node, dataset.private // num_partitions)
    else:
        size = samples_per_node
    if size < 1 or size * num_partitions > dataset.private:
        raise DataError(
            f"{num_partitions} partition(s) of {size} sample(s) asked for: {dataset.name} has "
            f"{dataset.private} private samples; take fewer nodes or fewer samples per node"
        )
    return size


def _order(dataset: Dataset, seed: int) -> NDArray[np.int64]:
    if seed < 0:
        raise DataError(f"seed is {seed}: expected at least 0")
    return np.random.Generator(np.random.PCG64(seed)).permutation(len(dataset.train.y))


def _rows(samples: Samples, rows: NDArray[np.int64]) -> Samples:
    return Samples(samples.x[rows], samples.y[rows])


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    found = load_digits()
    # Grey values 0 to 16 become 0 to 255 in integers, the same on every machine.
    x = ((found.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    train = Samples(x, found.target.astype(np.int64))
    test = Samples(x[:0], train.y[:0])
    names = tuple(str(name) for name in found.target_names)
    return Dataset("digits", train, test, names, private=1_200, samples_per_node=100)


def _mnist(directory: Path | None, download: bool) -> Dataset:
    if directory is None:
        raise DataError(
            f"no data directory: pass one or set {DATA_VARIABLE}; it is the one that holds "
            "MNIST/raw, or where MNIST may be downloaded to"
        )
    if not download or _found(directory):
        _check_files(directory)
    from torchvision.datasets import MNIST

    try:
        parts = [MNIST(directory, train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(f"MNIST could not be loaded from {directory}: {error}") from error
    train, test = (Samples(part.data.numpy(), part.targets.numpy()) for part in parts)
    names = tuple(str(digit) for digit in range(10))
    return Dataset("mnist", train, test, names, private=50_000, samples_per_node=5_000)


def _directory(data_dir: str | os.PathLike[str] | None) -> Path | None:
    named = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else None


def _raw_files(directory: Path) -> Iterable[tuple[Path, int, int]]:
    for name, magic, count in _MNIST_FILES:
        yield directory / "MNIST" / "raw" / name, magic, count


def _found(directory: Path | None) -> bool:
    return directory is not None and any(path.exists() for path, *_ in _raw_files(directory))


def _check_files(directory: Path) -> None:
    missing = [path.name for path, *_ in _raw_files(directory) if not path.is_file()]
    if missing:
        raise DataError(
            f"no MNIST in {directory}: looked for {', '.join(missing)} in "
            f"{directory / 'MNIST' / 'raw'}; name the directory that holds MNIST/raw, "
            "or ask for a download"
        )
    for path, magic, count in _raw_files(directory):
        _check_idx(path, magic, count)


def _check_idx(path: Path, magic: int, count: int) -> None:
    """Compare an IDX file with its own header: torchvision's errors name neither file nor size."""
    shape = (count, 28, 28) if magic == _IMAGES_MAGIC else (count,)
    with path.open("rb") as file:
        header = file.read(4 + 4 * len(shape))
    found = tuple(int(word) for word in np.frombuffer(header[: len(header) // 4 * 4], dtype=">u4"))
    if found != (magic, *shape):
        raise DataError(
            f"{path} is not the expected IDX file: header {found}, expected {(magic, *shape)}; "
            "delete it and download MNIST again"
        )
    expected = len(header) + int(np.prod(shape))
    size = path.stat().st_size
    if size != expected:
        raise DataError(
            f"{path} is cut or damaged: {size} bytes, its header says {expected}; "
            "delete it and download MNIST again"
        )
