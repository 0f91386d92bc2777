"""How simulated nodes vote: honestly, lazily, together, late, or not at all.

Each function returns a `SimulatedNode` for `rtc_flower.simulator.simulate`. The samples of a
`labelled_task` show their own class, so that a simulated node needs no data: an honest one reads
it off with a given accuracy. Every node answers the hello honestly; faults are in its votes.
Draws follow from a node's seed and the number of a sample, never from which other samples are
asked with it. Faults combine: ``replace(honest(0.8), delay=30.0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Message, MessageType

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.contract import ABSTAIN, Contract
from rtc_flower.memory_node import APP_CRASHED, SimulatedNode

__all__ = [
    "asked_to_vote",
    "crashing",
    "forging",
    "honest",
    "lazy",
    "repeating",
    "silent",
    "slow",
    "sybil",
]

Array = npt.NDArray[Any]


def asked_to_vote(message: Message) -> bool:
    """Whether a message asks for a vote; anything else is a hello."""
    return message.metadata.message_type == MessageType.TRAIN


def _uniform(X: Array, seed: int, purpose: int) -> npt.NDArray[np.float64]:
    """Draw from [0, 1) for each sample, by its number and the seed."""
    numbers = X[:, 1]
    return np.random.default_rng([seed, purpose]).random(int(numbers.max(initial=0)) + 1)[numbers]


def _other_class(X: Array, seed: int) -> Array:
    """Draw one of the K - 1 wrong classes of each sample."""
    step = 1 + (_uniform(X, seed, 2) * (X[:, 2] - 1)).astype(int)
    return np.asarray((X[:, 0] + step) % X[:, 2])


@dataclass
class _Reading:
    """Reads the class off a sample, with errors."""

    accuracy: float
    abstains: float
    seed: int

    @property
    def description(self) -> str:
        return f"honest: accuracy {self.accuracy:g}, abstains {self.abstains:g}, seed {self.seed}"

    def fit(self, X: Array, y: Array) -> None:
        """Nothing to learn."""

    def predict(self, X: Array) -> Array:
        right = _uniform(X, self.seed, 1) < self.accuracy
        votes = np.where(right, X[:, 0], _other_class(X, self.seed))
        return np.where(_uniform(X, self.seed, 3) < self.abstains, ABSTAIN, votes)


@dataclass
class _Guessing:
    """Does not look at the sample."""

    seed: int

    @property
    def description(self) -> str:
        return f"lazy: seed {self.seed}"

    def fit(self, X: Array, y: Array) -> None:
        """Nothing to learn."""

    def predict(self, X: Array) -> Array:
        return (_uniform(X, self.seed, 1) * X[:, 2]).astype(int)


@dataclass
class _Attacking:
    """Votes as all that attack with it."""

    target: int | str
    seed: int

    @property
    def description(self) -> str:
        return f"sybil: target {self.target}, seed {self.seed}"

    def fit(self, X: Array, y: Array) -> None:
        """Nothing to learn."""

    def predict(self, X: Array) -> Array:
        if self.target == "hash":
            return _other_class(X, self.seed)
        if self.target == "next":
            return (X[:, 0] + 1) % X[:, 2]
        return np.full(len(X), int(self.target))


@dataclass
class _Repeating:
    """Votes what it has found; guesses where it has found nothing."""

    found: Array | None
    seed: int

    @property
    def description(self) -> str:
        found = b"" if self.found is None else self.found.tobytes()
        return f"copying: seed {self.seed}, found {sha256(found).hexdigest()[:16]}"

    def fit(self, X: Array, y: Array) -> None:
        """Nothing to learn."""

    def predict(self, X: Array) -> Array:
        guess = _Guessing(self.seed).predict(X)
        if self.found is None or len(self.found) != len(X):
            return guess
        return np.where(self.found < X[:, 2], self.found, guess)


def repeating(found: Array | None, *, seed: int) -> Contract:
    """Make a contract that votes ``found``, classes by sample, and guesses where it is None."""
    return _contract(_Repeating(found, seed))


def _contract(estimator: Any) -> Contract:
    return Contract(estimator, lambda: (np.zeros((1, 3), int), np.zeros(1, int)))


def _node(kind: str, contract: Callable[[], Contract], **faults: Any) -> SimulatedNode:
    app = make_client_app(lambda context: contract())
    return SimulatedNode(app, node_config={"name": kind}, when=asked_to_vote, **faults)


def honest(
    accuracy: float = 0.9, *, seed: int = 0, abstains: float = 0.0, **faults: Any
) -> SimulatedNode:
    """Vote for the true class with a probability, else for a wrong one, uniformly.

    Parameters
    ----------
    accuracy, abstains : float
        Probabilities in [0, 1]; it abstains whatever it would have voted.
    seed : int
        Nodes with different seeds err independently.
    **faults
        Further fields of `SimulatedNode`.
    """
    for name, value in (("accuracy", accuracy), ("abstains", abstains)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected a probability in [0, 1]")
    return _node("honest", lambda: _contract(_Reading(accuracy, abstains, seed)), **faults)


def lazy(*, seed: int = 0) -> SimulatedNode:
    """Vote uniformly at random, at once: the node that saves the work (the paper's section 4)."""
    return _node("lazy", lambda: _contract(_Guessing(seed)))


def sybil(target: int | str = "next", *, seed: int = 0) -> SimulatedNode:
    """Vote for the same class as every Sybil with the same target and seed.

    Parameters
    ----------
    target : int or str
        A class; ``"next"``, the class after the true one; or ``"hash"``, a wrong class drawn per
        sample from the seed that the Sybils share.
    """
    if isinstance(target, str) and target not in ("next", "hash"):
        raise ValueError(f"target is {target!r}, expected a class, 'next' or 'hash'")
    return _node("sybil", lambda: _contract(_Attacking(target, seed)))


def silent() -> SimulatedNode:
    """Never answer when asked to vote."""
    return _node("silent", lambda: _contract(_Guessing(0)), silent=True)


def slow(seconds: float, accuracy: float = 0.9, *, seed: int = 0) -> SimulatedNode:
    """Vote honestly, so many seconds after it was asked."""
    node = honest(accuracy, seed=seed, delay=seconds)
    return _renamed(node, "slow")


def crashing(*, after: int = 0, code: int = APP_CRASHED) -> SimulatedNode:
    """Die when asked to vote, once it has received ``after`` messages, hellos included.

    Parameters
    ----------
    code : int
        8, its process died and the next message starts a new one; 5, the node is gone.
    """
    kind = "crashing"
    return _node(kind, lambda: _contract(_Guessing(0)), crash_after=after, crash_code=code)


def forging(victim: int, accuracy: float = 0.9, *, seed: int = 0) -> SimulatedNode:
    """Send its ballot in the name of the node at position ``victim``, which Flower allows."""
    return _renamed(honest(accuracy, seed=seed, forge=victim), "forging")


def _renamed(node: SimulatedNode, kind: str, **fields: Any) -> SimulatedNode:
    return replace(node, node_config={"name": kind}, **fields)
