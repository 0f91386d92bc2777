"""Models of nodes that misbehave, told and telling through files of the folder ODD_MODELS."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from rtc_flower.clients.models import create


class Waiting:
    """Tells that it trains, and goes on once there is a file ``release``."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._model = create("knn")

    @property
    def description(self) -> str:
        return "a model that waits"

    def fit(self, X: Any, y: Any) -> None:
        folder = Path(os.environ["ODD_MODELS"])
        (folder / f"training-{self.seed}").touch()
        while not (folder / "release").exists():
            time.sleep(0.1)
        self._model.fit(X, y)

    def predict(self, X: Any) -> Any:
        return self._model.predict(X)


class Silent(Waiting):
    """Never answers."""

    def predict(self, X: Any) -> Any:
        time.sleep(3600)


class Scores:
    """Answers scores in place of classes."""

    def fit(self, X: Any, y: Any) -> None:
        """Learn nothing."""

    def predict(self, X: Any) -> Any:
        return np.full((len(X), 10), 0.1)


class Raising:
    """Raises, with something private in the text."""

    def fit(self, X: Any, y: Any) -> None:
        """Learn nothing."""

    def predict(self, X: Any) -> Any:
        raise RuntimeError("patient Jane Doe")


class Rubbish:
    """Makes its node reply with bytes that are no ballot, under any model."""

    def __init__(self, seed: int = 0) -> None:
        from rtc_flower.clients.voter import Voter
        from rtc_flower.wire import BallotReply

        Voter.vote = lambda *_: BallotReply(os.urandom(5000))  # type: ignore[method-assign]

    def fit(self, X: Any, y: Any) -> None:
        """Learn nothing."""

    def predict(self, X: Any) -> Any:
        raise AssertionError("the reply was made before")
