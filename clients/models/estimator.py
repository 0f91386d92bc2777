"""What every estimator of ours is: fit, predict, a description, a seed, and bytes to keep it by."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rtc_flower.errors import ContractError

__all__ = ["WARP", "Estimator", "Warp", "checked", "scaled", "warps_images"]


@dataclass(frozen=True)
class Warp:
    """Largest random change of a training image, in both directions.

    Attributes
    ----------
    degrees : float
        Rotation about the middle.
    pixels : float
        Shift along each axis.
    scale : float
        Relative change of size.
    """

    degrees: float = 12.0
    pixels: float = 2.5
    scale: float = 0.1


WARP = Warp()
WARPED_SIDE = 20


class Estimator(ABC):
    """A classifier that a node trains on its private data.

    Constructor arguments are kept under their own names, as in scikit-learn; nothing is learned
    before `fit`. Equal arguments and equal data give equal predictions on one machine's CPU.

    Parameters
    ----------
    seed : int, optional
        Seed of everything drawn at random.
    threads : int, optional
        CPU threads that training and predicting may use.
    """

    kind: str
    """Name under which `rtc_flower.clients.models.create` makes it."""

    def __init__(self, *, seed: int = 0, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}: expected at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}: expected at least 0")
        self.seed = seed
        self.threads = threads

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """What decides the trained model besides data and seed, by name."""

    @property
    def description(self) -> str:
        """Kind and hyperparameters in less than 200 bytes of ASCII."""
        values = " ".join(f"{name}={value}" for name, value in self.hyperparameters.items())
        return f"{self.kind} {values}".rstrip()

    def __repr__(self) -> str:
        return f"<{self.description} seed={self.seed}>"

    @abstractmethod
    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        """Train on labelled samples, forgetting earlier ones.

        Parameters
        ----------
        X : ndarray, shape (n, height, width) or (n, features)
            ``uint8`` from 0 to 255, or numbers of any scale.
        y : ndarray of int, shape (n,)
            Classes; not every class need occur.

        Returns
        -------
        Self

        Raises
        ------
        ContractError
            Arrays that are not one label per sample, or not what this kind can take.
        """

    @abstractmethod
    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """Return one class per sample.

        Parameters
        ----------
        X : ndarray, shape (n, ...)
            Samples of the same shape and scale as in `fit`.

        Returns
        -------
        ndarray of int64, shape (n,)

        Raises
        ------
        RuntimeError
            Called before `fit`.
        ContractError
            Samples of another shape.
        """

    @abstractmethod
    def dumps(self) -> bytes:
        """Return the trained model as bytes for `loads`."""

    @abstractmethod
    def loads(self, payload: bytes) -> Self:
        """Take over a model that `dumps` gave, in place of `fit`."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `dumps` to a file; `rtc_flower.clients.store` keeps one with its checksum."""
        Path(path).write_bytes(self.dumps())

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote. See `loads` for whose files may be read."""
        return self.loads(Path(path).read_bytes())


def checked(X: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return both arrays when they are one whole-number label per sample, and at least one."""
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim < 2 or y.shape != X.shape[:1] or not len(y):
        raise ContractError(
            f"cannot fit X of shape {X.shape} with y of shape {y.shape}: "
            "expected at least one sample and one label per sample"
        )
    if y.dtype.kind not in "iu":
        raise ContractError(f"labels have dtype {y.dtype}: expected integers")
    return X, y.astype(np.int64)


def warps_images(augment: bool | None, shape: tuple[int, ...]) -> bool:
    """Say whether images of this shape (height, width) are warped in training.

    Undecided (``None``) means images of at least 20 pixels a side: a shift that MNIST's margin
    absorbs would push an 8 x 8 digit out of its frame.

    Raises
    ------
    ContractError
        Warping was asked for samples that are not images.
    """
    is_image = len(shape) == 2
    if augment and not is_image:
        raise ContractError(f"augment needs images (height, width): samples have shape {shape}")
    if augment is None:
        return is_image and min(shape) >= WARPED_SIDE
    return augment


def scaled(X: NDArray[Any], shape: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    """Return samples as ``float32``, ``uint8`` brought to 0 to 1, all of them finite.

    Raises
    ------
    ContractError
        Samples of another shape than ``shape``, or with NaN or infinity among them.
    """
    X = np.asarray(X)
    if shape is not None and X.shape[1:] != shape:
        raise ContractError(f"samples have shape {X.shape[1:]}: fitted on {shape}")
    values = X.astype(np.float32)
    if X.dtype == np.uint8:
        values /= 255
    elif not np.isfinite(values).all():
        raise ContractError("samples hold NaN or infinity: expected finite numbers")
    return values
