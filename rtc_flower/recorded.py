"""Votes and truths in files: CSV with a row per vote, or NumPy arrays.

Everything that cannot be read as one vote per node and sample is refused with the place where it
stands, before anything is made of it.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtc_flower.errors import DataError

__all__ = ["RecordedVotes", "labels_of", "read_truth", "read_votes"]

_COLUMNS = ("node", "sample", "class")
_LONGEST_NAME = 64  # bytes of UTF-8, as the roster has it

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class RecordedVotes:
    """Votes read from a file.

    Attributes
    ----------
    nodes, samples, classes : tuple of str
        Names, in the order of the matrix.
    votes : ndarray of int64 (nodes, samples)
        Class indices; negative = abstained.
    """

    nodes: tuple[str, ...]
    samples: tuple[str, ...]
    classes: tuple[str, ...]
    votes: Ints


# -- reading votes ------------------------------------------------------------------------


def read_votes(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    truth: Mapping[str, str] | Ints | None = None,
) -> RecordedVotes:
    """Read a vote per node and sample.

    Parameters
    ----------
    path : Path
        CSV with the columns ``node``, ``sample`` and ``class`` in any order (others are ignored;
        a row that is not there is an abstention), or ``.npz`` with an integer array ``votes`` of
        nodes x samples (negative = abstained).
    classes : sequence of str, optional
        Names of all classes; by default those of the file and of ``truth``, sorted.
    truth : mapping or array, optional
        What `read_truth` gave: a class that nobody voted for counts as one all the same.

    Raises
    ------
    DataError
        If the file is empty or of another form, a class is unknown, a node votes twice on a
        sample, or nobody voted on a sample.
    """
    if path.suffix == ".npz":
        recorded = _votes_of_array(_array(path, "votes"), path, classes, truth)
    else:
        recorded = _votes_of_rows(path, classes, truth)
    for name in recorded.nodes:
        if not 0 < len(name.encode()) <= _LONGEST_NAME:
            raise DataError(f"{path}: node names take 1 to {_LONGEST_NAME} bytes, got {name!r}")
    unvoted = np.flatnonzero((recorded.votes < 0).all(axis=0))
    if len(unvoted):
        raise DataError(
            f"{path}: nobody voted on {len(unvoted)} of {len(recorded.samples)} samples, "
            f"first {recorded.samples[unvoted[0]]!r}; leave them out"
        )
    return recorded


def _votes_of_array(
    votes: Ints, path: Path, classes: Sequence[str] | None, truth: Mapping[str, str] | Ints | None
) -> RecordedVotes:
    if votes.ndim != 2 or not votes.size:
        raise DataError(f"{path}: votes must be nodes x samples, got an array of {votes.shape}")
    if classes is None:
        most = int(votes.max())
        if truth is not None:
            labels = list(truth.values()) if isinstance(truth, Mapping) else truth.tolist()
            most = max(most, *(int(label) for label in labels if str(label).isdigit()), 1)
        classes = [str(index) for index in range(max(most, 1) + 1)]
    unknown = np.argwhere(votes >= len(classes))
    if len(unknown):
        node, sample = (int(index) for index in unknown[0])
        raise DataError(
            f"{path}: expected classes below {len(classes)}, got {votes[node, sample]} of node "
            f"{node} for sample {sample}"
        )
    width = len(str(len(votes) - 1))
    nodes = tuple(f"node-{index:0{width}}" for index in range(len(votes)))
    samples = tuple(str(index) for index in range(votes.shape[1]))
    return RecordedVotes(nodes, samples, tuple(classes), votes)


def _votes_of_rows(
    path: Path, classes: Sequence[str] | None, truth: Mapping[str, str] | Ints | None
) -> RecordedVotes:
    nodes: dict[str, int] = {}
    samples: dict[str, int] = {}
    cast: dict[tuple[int, int], tuple[str, int]] = {}
    for line, (node, sample, label) in _rows(path, _COLUMNS):
        if classes is not None and label not in classes:
            raise DataError(
                f"{path}, line {line}: unknown class {label!r}; known: {', '.join(classes)}"
            )
        place = nodes.setdefault(node, len(nodes)), samples.setdefault(sample, len(samples))
        if place in cast:
            raise DataError(
                f"{path}, line {line}: node {node!r} votes twice on sample {sample!r}, "
                f"first in line {cast[place][1]}"
            )
        cast[place] = label, line
    if classes is None:
        named = {label for label, _ in cast.values()}
        if truth is not None:
            named |= set(truth.values() if isinstance(truth, Mapping) else map(str, truth.tolist()))
        classes = sorted(named, key=_numbers_first)
    index = {label: number for number, label in enumerate(classes)}
    votes = np.full((len(nodes), len(samples)), -1, np.int64)
    for (row, column), (label, _) in cast.items():
        votes[row, column] = index[label]
    return RecordedVotes(tuple(nodes), tuple(samples), tuple(classes), votes)


def _numbers_first(label: str) -> tuple[bool, int, str]:
    is_number = label.isascii() and label.isdigit()
    return not is_number, int(label) if is_number else 0, label


# -- reading the truth --------------------------------------------------------------------


def read_truth(path: Path) -> Mapping[str, str] | Ints:
    """Read the true class of every sample.

    Parameters
    ----------
    path : Path
        CSV with the columns ``sample`` and ``class``; or ``.npz`` with an integer array ``truth``,
        or ``.npy``, for samples that are numbered from 0.

    Returns
    -------
    dict of str to str, or ndarray of int64 (samples,)

    Raises
    ------
    DataError
        If the file is empty or of another form, or names a sample twice.
    """
    if path.suffix in (".npz", ".npy"):
        labels = _array(path, "truth")
        if labels.ndim != 1 or not labels.size or labels.min() < 0:
            raise DataError(f"{path}: truth must be one class from 0 per sample")
        return labels
    truth: dict[str, str] = {}
    for line, (sample, label) in _rows(path, _COLUMNS[1:]):
        if sample in truth:
            raise DataError(f"{path}, line {line}: sample {sample!r} stands there twice")
        truth[sample] = label
    return truth


def labels_of(truth: Mapping[str, str] | Ints, recorded: RecordedVotes) -> Ints:
    """Class index of every sample's truth (samples,).

    Raises
    ------
    DataError
        If the truth is of another length, or names other samples or classes than the votes.
    """
    n = len(recorded.samples)
    if len(truth) != n:
        raise DataError(f"the truth has {len(truth)} samples, the votes have {n}")
    if not isinstance(truth, Mapping):
        numbered = recorded.samples == tuple(map(str, range(n)))
        named = recorded.classes if numbered else ()
        by_index = [named[i] if i < len(named) else str(i) for i in truth.tolist()]
        truth = {str(sample): label for sample, label in enumerate(by_index)}
    index = {label: number for number, label in enumerate(recorded.classes)}
    try:
        return np.array([index[truth[sample]] for sample in recorded.samples], np.int64)
    except KeyError as error:
        raise DataError(
            f"the truth and the votes do not fit: no sample or class {error} in one of them"
        ) from error


# -- files --------------------------------------------------------------------------------


def _array(path: Path, name: str) -> Ints:
    """Integer array ``name`` of an .npz file, or the array of an .npy file."""
    try:
        found: Any = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                found = found[name]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected a NumPy file with the array {name!r} ({error})"
        ) from error
    if found.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} must be integers, got {found.dtype}")
    return np.asarray(found, np.int64)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and the wanted columns of every row of a CSV file with a header."""
    wanted = ", ".join(columns)
    try:
        if path.is_char_device():  # /dev/zero has no end
            raise DataError(f"{path}: expected a CSV file, found a device")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            if not header:
                raise DataError(f"{path} is empty: expected a header with the columns {wanted}")
            if not set(columns) <= set(header):
                raise DataError(
                    f"{path}: expected a header with the columns {wanted}, got {', '.join(header)}"
                )
            places = [header.index(name) for name in columns]
            found = False
            for row in reader:
                if row:
                    found = True
                    yield reader.line_num, _fields(path, reader.line_num, row, places, columns)
            if not found:
                raise DataError(f"{path} has a header and no rows")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file ({error})") from error


def _fields(
    path: Path, line: int, row: list[str], places: list[int], columns: Sequence[str]
) -> tuple[str, ...]:
    fields = tuple(row[place].strip() if place < len(row) else "" for place in places)
    for name, value in zip(columns, fields, strict=True):
        if not value:
            raise DataError(f"{path}, line {line}: {name} is empty; leave the row out to abstain")
    return fields
