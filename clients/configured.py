"""A contract from Flower's configuration alone: which model, which data, no code.

In deployment a node is configured by ``--node-config``; in Flower's simulation, where a node has
only its partition, the run config lists the models and the partition picks one.
"""

from __future__ import annotations

import difflib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context

from rtc_flower.clients.contract import Contract
from rtc_flower.clients.data import load, partition
from rtc_flower.clients.models import composition, create
from rtc_flower.errors import DataError

__all__ = ["configured_contract"]

_KEYS = (
    *("model", "models", "data-path", "dataset", "data-dir", "partition-id", "num-partitions"),
    *("samples-per-node", "seed", "quick", "max-seconds", "state-dir", "name", "server-key"),
)
_LOG = logging.getLogger("flwr.rtc_flower")


def configured_contract(context: Context) -> Contract:
    """Build the contract that a node's configuration describes.

    Keys, looked up in the node config first and the run config second:

    ``model``
        A name of `rtc_flower.clients.models`, or ``package.module:attribute``. Without one,
        ``models`` of the run config (comma-separated) is indexed by the partition; without
        either, a part of a dataset gets the demo's model.
    ``data-path``
        An ``.npz`` file with ``X`` and ``y``, absolute: the node's own data. Or else a part of a
        dataset:
    ``dataset``, ``data-dir``, ``partition-id``, ``num-partitions``, ``samples-per-node``, ``seed``
        See `rtc_flower.clients.data`.
    ``quick``
        Train less.
    ``max-seconds``
        Decline when fitting and predicting take longer; 0 for no limit.

    An app may have keys of its own beside these and those of `make_client_app`; one of the node
    config that looks like one of ours with a letter wrong is named in a warning.

    Raises
    ------
    DataError, ContractError
        Naming the key and what it should be.
    """
    settings = _Settings(context)
    settings.check()
    seed = settings.whole("seed", 0)
    estimator = create(
        settings.model(), seed=1000 * seed + settings.partition(), quick=settings.flag("quick")
    )
    limit = settings.seconds("max-seconds")
    return Contract(estimator, settings.private_data, max_seconds=limit or None)


class _Settings:
    """Node config over run config."""

    def __init__(self, context: Context) -> None:
        self._node, self._run = dict(context.node_config), dict(context.run_config)

    def get(self, key: str, default: Any) -> Any:
        value = self._node.get(key, self._run.get(key))
        return default if value in (None, "") else value

    def flag(self, key: str) -> bool:
        return str(self.get(key, False)).lower() in ("true", "1")

    def whole(self, key: str, default: int) -> int:
        value = self.get(key, default)
        try:
            return int(value)
        except ValueError as error:
            raise DataError(f"{key} must be a whole number, got {value!r}") from error

    def seconds(self, key: str) -> float:
        value = self.get(key, 0)
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < math.inf:
            raise DataError(f"{key} must be a number of seconds, 0 for no limit, got {value!r}")
        return seconds

    def check(self) -> None:
        """Name a key that is written wrongly, which would pass as one that is not set."""
        for key in sorted(set(self._node) - set(_KEYS)):
            for near in difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8):
                _LOG.warning("node config: %r is no key of ours; is %r meant?", key, near)
        if self.own_file() and not (self.get("model", "") or self.get("models", "")):
            raise DataError(
                'data-path is set without a model: expected model="..." in the node config, got '
                f"the keys {', '.join(sorted(self._node))} (known: {', '.join(_KEYS)})"
            )

    def partition(self) -> int:
        return self.whole("partition-id", 0)

    def model(self) -> str:
        named = self.get("model", "")
        if named:
            return str(named)
        listed = [name.strip() for name in str(self.get("models", "")).split(",") if name.strip()]
        if not listed:
            dataset = load(str(self.get("dataset", "auto")), self._data_dir()).name
            listed = list(composition(dataset, self.whole("num-partitions", 1)))
        return listed[self.partition() % len(listed)]

    def _data_dir(self) -> str | None:
        named = self.get("data-dir", None)
        return None if named is None else str(named)

    def own_file(self) -> Path | None:
        named = str(self.get("data-path", ""))
        if named and not Path(named).is_absolute():
            raise DataError(f"data-path must be an absolute path, got {named!r}")
        return Path(named) if named else None

    def private_data(self) -> tuple[Any, Any]:
        path = self.own_file()
        if path is not None:
            return _read_arrays(path)
        dataset = load(str(self.get("dataset", "auto")), self._data_dir())
        size = self.whole("samples-per-node", 0)
        if "partition-id" not in self._node:
            raise DataError(
                "no private data: start the SuperNode with --node-config "
                "'data-path=\"/abs/own.npz\"' or 'partition-id=0 num-partitions=10'"
            )
        part = partition(
            dataset,
            self.partition(),
            self.whole("num-partitions", 1),
            samples_per_node=size or None,
            seed=self.whole("seed", 0),
        )
        return part.x, part.y


def _read_arrays(path: Path) -> tuple[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["X"], arrays["y"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"data-path {path}: expected an .npz file with the arrays X and y ({error})"
        ) from error
