"""Estimators that scikit-learn trains: support vectors, trees, neighbours and a linear one.

scikit-learn is imported by `fit`, so that naming a model costs nothing.
"""

from __future__ import annotations

import pickle
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rtc_flower.clients.models.estimator import WARP, Estimator, checked, scaled, warps_images
from rtc_flower.errors import ContractError

__all__ = ["KNN", "SVM", "Forest", "Logistic", "warped_copies"]


class Classical(Estimator):
    """A scikit-learn pipeline on flattened samples.

    Parameters
    ----------
    augment : bool, optional
        Whether to train on ``copies`` warped copies of every image besides the image itself;
        unless given, when images are large enough (see `warps_images`).
    copies : int, optional
        Number of warped copies.
    seed, threads : int, optional
        See `Estimator`.
    """

    def __init__(
        self, *, augment: bool | None = None, copies: int = 4, seed: int = 0, threads: int = 1
    ) -> None:
        super().__init__(seed=seed, threads=threads)
        self.augment = augment
        self.copies = copies
        self._shape: tuple[int, ...] | None = None
        self._model: Any = None

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """See `Estimator.hyperparameters`."""
        return {"augment": self.augment, "copies": self.copies}

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        """See `Estimator.fit`."""
        X, y = checked(X, y)
        values = scaled(X)
        if warps_images(self.augment, X.shape[1:]):
            copies = warped_copies(values, self.copies, seed=self.seed)
            values, y = np.concatenate([values, copies]), np.tile(y, 1 + self.copies)
        flat = values.reshape(len(values), -1)
        with _thread_limit(self.threads):
            self._model = self._pipeline(flat, y).fit(flat, y)
        self._shape = X.shape[1:]
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """See `Estimator.predict`."""
        if self._model is None:
            raise RuntimeError(f"{self.kind}: predict was called before fit")
        values = scaled(X, self._shape)
        if not len(values):
            return np.empty(0, np.int64)
        with _thread_limit(self.threads):
            found = self._model.predict(values.reshape(len(values), -1))
        return np.asarray(found, dtype=np.int64)

    def dumps(self) -> bytes:
        """Return the fitted pipeline, pickled: scikit-learn has no other complete form."""
        if self._model is None:
            raise RuntimeError(f"{self.kind}: dumps was called before fit")
        return pickle.dumps((self.kind, self._shape, self._model), protocol=5)

    def loads(self, payload: bytes) -> Self:
        """Take over a pickled pipeline.

        Unpickling runs code that the bytes name: read only what this node wrote into a directory
        that nobody else may write to.
        """
        try:
            kind, shape, model = pickle.loads(payload)
        except Exception as error:  # whatever damaged bytes happen to name
            raise ContractError(f"{self.kind}: not a model: {error}") from error
        if kind != self.kind:
            raise ContractError(f"not a model of this kind: expected {self.kind!r}, got {kind!r}")
        self._shape, self._model = shape, model
        return self

    def _pipeline(self, flat: NDArray[np.float32], y: NDArray[np.int64]) -> Any:
        """Return the unfitted pipeline; a single class leaves nothing to learn."""
        if len(np.unique(y)) == 1:
            from sklearn.dummy import DummyClassifier

            return DummyClassifier(strategy="most_frequent")
        return self._classifier(flat)

    @abstractmethod
    def _classifier(self, flat: NDArray[np.float32]) -> Any:
        """Return the unfitted classifier for samples of this shape."""

    def _principal(self, flat: NDArray[np.float32], components: int) -> Any:
        from sklearn.decomposition import PCA

        return PCA(min(components, *flat.shape), random_state=self.seed)


class SVM(Classical):
    """Support vectors with an RBF kernel on principal components.

    Parameters
    ----------
    C : float, optional
        Penalty of errors.
    components : int, optional
        Number of principal components, at most.
    **options
        See `Classical`.
    """

    kind = "svm"

    def __init__(self, *, C: float = 10.0, components: int = 50, **options: Any) -> None:
        super().__init__(**options)
        self.C = C
        self.components = components

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """See `Estimator.hyperparameters`."""
        return {
            "kernel": "rbf",
            "C": self.C,
            "components": self.components,
        } | super().hyperparameters

    def _classifier(self, flat: NDArray[np.float32]) -> Any:
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC

        # A cache of 500 MB holds the kernel rows that 25,000 samples come back to.
        return make_pipeline(self._principal(flat, self.components), SVC(C=self.C, cache_size=500))


class KNN(Classical):
    """Nearest neighbours on principal components.

    Parameters
    ----------
    neighbours : int, optional
        How many vote, weighted by inverse distance.
    components : int, optional
        Number of principal components, at most.
    **options
        See `Classical`.
    """

    kind = "knn"

    def __init__(self, *, neighbours: int = 3, components: int = 50, **options: Any) -> None:
        super().__init__(**options)
        self.neighbours = neighbours
        self.components = components

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """See `Estimator.hyperparameters`."""
        own = {"neighbours": self.neighbours, "components": self.components}
        return own | super().hyperparameters

    def _classifier(self, flat: NDArray[np.float32]) -> Any:
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline

        return make_pipeline(
            self._principal(flat, self.components),
            KNeighborsClassifier(min(self.neighbours, len(flat)), weights="distance"),
        )


class Forest(Classical):
    """A random forest on pixels.

    Parameters
    ----------
    trees : int, optional
        Number of trees.
    **options
        See `Classical`.
    """

    kind = "forest"

    def __init__(self, *, trees: int = 150, **options: Any) -> None:
        super().__init__(**options)
        self.trees = trees

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """See `Estimator.hyperparameters`."""
        return {"trees": self.trees} | super().hyperparameters

    def _classifier(self, flat: NDArray[np.float32]) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(self.trees, random_state=self.seed, n_jobs=self.threads)


class Logistic(Classical):
    """Multinomial logistic regression on pixels; warped copies make it worse, so it has none.

    Parameters
    ----------
    C : float, optional
        Inverse strength of the L2 penalty.
    augment : bool, optional
        As in `Classical`, but off unless asked for.
    **options
        See `Classical`.
    """

    kind = "logistic"

    def __init__(self, *, C: float = 1.0, augment: bool | None = False, **options: Any) -> None:
        super().__init__(augment=augment, **options)
        self.C = C

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """See `Estimator.hyperparameters`."""
        return {"C": self.C} | super().hyperparameters

    def _classifier(self, flat: NDArray[np.float32]) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.C, max_iter=1_000, random_state=self.seed)


def warped_copies(images: NDArray[np.float32], copies: int, *, seed: int) -> NDArray[np.float32]:
    """Return every image ``copies`` times, each randomly rotated, scaled and shifted.

    Parameters
    ----------
    images : ndarray of float32, shape (n, height, width)
    copies : int
    seed : int

    Returns
    -------
    ndarray of float32, shape (copies * n, height, width)
        All images once, then all of them again, and so on; outside an image is zero.
    """
    from scipy.ndimage import affine_transform

    rng = np.random.Generator(np.random.PCG64(seed))
    middle = (np.array(images.shape[1:]) - 1) / 2
    result = np.empty((copies * len(images), *images.shape[1:]), np.float32)
    draws = rng.uniform(-1.0, 1.0, (len(result), 4))
    for row, (turn, scale, *shift) in enumerate(draws):
        angle, factor = np.deg2rad(WARP.degrees) * turn, 1 + WARP.scale * scale
        cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
        matrix = np.array([[cos, -sin], [sin, cos]])
        offset = middle - matrix @ middle + WARP.pixels * np.array(shift)
        affine_transform(images[row % len(images)], matrix, offset, output=result[row], order=1)
    return result


def _thread_limit(count: int) -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(count)
