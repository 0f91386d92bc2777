"""A node's contract: its own learning code, asked for one vote per sample.

The paper's off-chain smart contract (section 3). A contract never leaves its node; what it
answers is checked before it is signed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rtc_flower.clients.data import fingerprint
from rtc_flower.clients.store import ModelStore, describe
from rtc_flower.errors import ContractError
from rtc_flower.samples import Samples

__all__ = ["ABSTAIN", "Contract", "DeclinedError", "Estimator", "TaskInfo", "checked_votes"]

_LOG = logging.getLogger("flwr.rtc_flower")

ABSTAIN = -1
"""What ``predict`` answers for a sample on which it does not want to vote."""


class Estimator(Protocol):
    """Anything with scikit-learn's two methods."""

    def fit(self, X: Any, y: Any) -> Any:
        """Train on the node's private data."""

    def predict(self, X: Any) -> Any:
        """Return a class index (int) per sample, or `ABSTAIN`."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a node knows of a task before it decides to work on it.

    Attributes
    ----------
    kind : str
    n : int
        Samples asked.
    class_names : tuple of str
    seconds : float
        Until the server stops waiting.
    """

    kind: str
    n: int
    class_names: tuple[str, ...]
    seconds: float


class DeclinedError(Exception):
    """Raised by a contract that will not vote on this task; the text is sent to the server."""


def _always(task: TaskInfo) -> bool:
    return True


@dataclass(frozen=True)
class Contract:
    """An estimator, its private data, and when the node takes part.

    Parameters
    ----------
    estimator : Estimator
        Trained when the first task comes, unless the node's model store has it trained.
    load : callable
        Returns the private ``(X, y)``.
    features : callable, optional
        Returns the node's own features of the samples with the given ids, for tasks whose samples
        are only ids (or for nodes that know more than was sent).
    accept : callable, optional
        ``accept(task) -> bool``: whether the node is free for this task.
    max_seconds : float, optional
        DeclinedError when fitting and predicting take longer.
    description : str, optional
        Goes into the ballot, at most 200 bytes; by default the estimator's own.
    """

    estimator: Estimator
    load: Callable[[], tuple[Any, Any]]
    features: Callable[[tuple[str, ...]], Any] | None = None
    accept: Callable[[TaskInfo], bool] = field(default=_always)
    max_seconds: float | None = None
    description: str = ""

    @property
    def said(self) -> str:
        """Description that goes into the ballot."""
        return describe(self if self.description else self.estimator)

    def votes(
        self, samples: Samples, asked: npt.NDArray[np.bool_], *, classes: int, store: ModelStore
    ) -> npt.NDArray[np.int64]:
        """Train if need be, and predict the samples asked.

        Parameters
        ----------
        asked : ndarray of bool (n,)
        classes : int
            Number of classes.
        store : ModelStore
            The node's trained models.

        Returns
        -------
        ndarray of int64 (asked.sum(),)
            Class indices and `ABSTAIN`.

        Raises
        ------
        DeclinedError
            If it takes longer than ``max_seconds``.
        ContractError
            If the contract raises, or answers something that is no vote per sample.
        """
        work = _Work(lambda: self._run(samples, asked, store))
        answer = work.result(self.max_seconds)
        return checked_votes(answer, n=int(np.count_nonzero(asked)), classes=classes)

    def _run(self, samples: Samples, asked: npt.NDArray[np.bool_], store: ModelStore) -> Any:
        X = self._features(samples, asked)
        return self._trained(store).predict(X)

    def _features(self, samples: Samples, asked: npt.NDArray[np.bool_]) -> Any:
        if self.features is not None:
            if not samples.ids:
                raise ContractError("this contract looks features up by id, the task has no ids")
            ids = tuple(name for name, wanted in zip(samples.ids, asked, strict=True) if wanted)
            return self.features(ids)
        if samples.features is None:
            raise ContractError("this task's samples are only ids: pass Contract(features=...)")
        return samples.features[asked]

    def _trained(self, store: ModelStore) -> Any:
        X, y = self.load()
        key = fingerprint(np.asarray(X), np.asarray(y))
        kept = store.get(self.estimator, key)
        if kept is not None:
            return kept
        begin = time.monotonic()
        self.estimator.fit(X, y)
        _LOG.info("trained on %d private samples in %.1f s", len(y), time.monotonic() - begin)
        try:
            store.put(self.estimator, key)
        except (ContractError, OSError) as error:  # the vote does not hang on it
            _LOG.warning("this model is not kept, the next task trains it again: %s", error)
        return self.estimator


class _Work:
    """A call in a thread of its own, so that a node can stop waiting for it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._answer: Any = None
        self._error: BaseException | None = None

    def _target(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as error:
            self._error = error

    def result(self, seconds: float | None) -> Any:
        if seconds is None:
            self._target()
        else:
            thread = threading.Thread(target=self._target, daemon=True)
            thread.start()
            thread.join(seconds)
            if thread.is_alive():
                raise DeclinedError(f"not done after {seconds:g} s")
        if isinstance(self._error, Exception) and not isinstance(
            self._error, (ContractError, DeclinedError)
        ):
            # The text of a foreign error may quote private data: only its type is sent.
            _LOG.error("the contract raised", exc_info=self._error)
            kind = type(self._error).__name__
            raise ContractError(f"the contract raised {kind}; its node's log has the text")
        if self._error is not None:
            raise self._error
        return self._answer


def checked_votes(answer: Any, *, n: int, classes: int) -> npt.NDArray[np.int64]:
    """Check that ``answer`` is one class index or `ABSTAIN` per sample.

    Raises
    ------
    ContractError
        Naming the first value that is not.
    """
    votes = np.asarray(answer)
    if votes.shape != (n,):
        raise ContractError(f"predict must answer {n} classes, got an array of {votes.shape}")
    if votes.dtype.kind not in "iu":
        first = votes[0] if n else "nothing"
        raise ContractError(
            f"predict must answer integers from 0 to {classes - 1} (or {ABSTAIN} to abstain), "
            f"got {votes.dtype} ({first!r}); take the argmax of scores first"
        )
    votes = votes.astype(np.int64)
    wrong = (votes < ABSTAIN) | (votes >= classes)
    if wrong.any():
        sample = int(wrong.argmax())
        raise ContractError(
            f"predict must answer classes from 0 to {classes - 1} (or {ABSTAIN} to abstain), "
            f"got {votes[sample]} for sample {sample}"
        )
    return votes
