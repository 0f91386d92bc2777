"""Models by name: ours, or anybody's by ``package.module:attribute``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from types import MappingProxyType
from typing import Any

from rtc_flower.errors import ContractError

__all__ = ["COMPOSITION", "NAMES", "composition", "create"]

_CLASSICAL = "rtc_flower.clients.models.classical"
_NEURAL = "rtc_flower.clients.models.neural"
_PLACES: Mapping[str, str] = MappingProxyType(
    {
        "cnn": f"{_NEURAL}:CNN",
        "forest": f"{_CLASSICAL}:Forest",
        "knn": f"{_CLASSICAL}:KNN",
        "lenet": f"{_NEURAL}:LeNet",
        "logistic": f"{_CLASSICAL}:Logistic",
        "mlp": f"{_NEURAL}:MLP",
        "resnet": f"{_NEURAL}:ResNet",
        "svm": f"{_CLASSICAL}:SVM",
    }
)
_QUICK: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "cnn": {"epochs": 4},
        "forest": {"augment": False},
        "lenet": {"epochs": 5},
        "mlp": {"epochs": 6},
        "resnet": {"epochs": 3},
        "svm": {"augment": False},
    }
)

NAMES = tuple(sorted(_PLACES))
"""Names of our models."""

COMPOSITION: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "digits": ("svm", "cnn", "knn", "mlp", "forest", "logistic"),
        "mnist": (
            *("cnn", "resnet", "lenet", "mlp", "svm"),
            *("cnn", "resnet", "lenet", "mlp", "cnn"),
        ),
    }
)
"""The demo's models per dataset, node by node: strong and different rather than equal."""


def composition(dataset: str, nodes: int) -> tuple[str, ...]:
    """Return the model names of so many nodes: the demo's, from the start again as needed.

    Raises
    ------
    ValueError
        A dataset without a composition, or less than one node.
    """
    if dataset not in COMPOSITION:
        raise ValueError(f"dataset is {dataset!r}: expected one of {', '.join(COMPOSITION)}")
    if nodes < 1:
        raise ValueError(f"nodes is {nodes}: expected at least 1")
    return tuple(islice(cycle(COMPOSITION[dataset]), nodes))


def create(name: str, *, quick: bool = False, **options: Any) -> Any:
    """Return a new, untrained estimator.

    Parameters
    ----------
    name : str
        One of `NAMES`, or ``"package.module:attribute"`` for a class or factory of yours: called
        with the options, it returns any object with ``fit(X, y)`` and ``predict(X)``.
    quick : bool, optional
        Whether ours trains less, about a fifth; options given by name count all the same. A
        model of yours knows nothing of it.
    **options
        Arguments of the constructor. ``seed`` and ``threads`` are left out for a model of yours
        whose signature does not name them.

    Returns
    -------
    object
        An `rtc_flower.clients.models.estimator.Estimator` for ours.

    Raises
    ------
    ContractError
        An unknown name, a module that cannot be imported, an attribute that is not there, options
        that the constructor refuses, or a result without ``fit`` and ``predict``.
    """
    place = _PLACES.get(name, name)
    if ":" not in place:
        raise ContractError(
            f"unknown model {name!r}: expected one of {', '.join(NAMES)}, "
            "or package.module:attribute for one of yours"
        )
    factory = _resolve(place)
    if name in _PLACES:
        options = {**(_QUICK.get(name, {}) if quick else {}), **options}
    else:
        options = _accepted(factory, options)
    try:
        contract = factory(**options)
    except Exception as error:  # a factory of anybody's may raise anything
        raise ContractError(f"model {name!r} could not be created: {error}") from error
    lacking = [method for method in ("fit", "predict") if not callable(_member(contract, method))]
    if lacking or isinstance(contract, type):
        raise ContractError(
            f"model {name!r} gave {contract!r}: expected an object with fit and predict"
        )
    return contract


def _member(contract: object, name: str) -> Any:
    return getattr(contract, name, None)


def _resolve(place: str) -> Callable[..., Any]:
    module_name, _, attribute = place.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs somebody's code
        raise ContractError(
            f"model {place!r}: {module_name!r} cannot be imported: {error}; "
            "is it installed on this node?"
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ContractError(f"model {place!r}: no class or factory {attribute!r} in {module_name}")
    return found  # type: ignore[no-any-return]


def _accepted(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without a seed and threads that a foreign signature does not name."""
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        parameters = {}
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    optional = set() if takes_any else {"seed", "threads"} - set(parameters)
    return {key: value for key, value in options.items() if key not in optional}
