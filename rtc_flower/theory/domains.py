"""Domains of the arguments: every function names the argument, its value and its range."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtc_flower.theory.counting import Floats

__all__ = [
    "check_at_least",
    "check_classes",
    "check_distribution",
    "check_nodes",
    "check_open",
    "check_probability",
    "check_rival",
    "check_tie",
]


def check_nodes(n: int, name: str = "n") -> None:
    """Raise ValueError unless n is an integer of 1 or more."""
    check_at_least(name, n, 1)


def check_classes(k: int) -> None:
    """Raise ValueError unless k is an integer of 2 or more."""
    check_at_least("k", k, 2)


def check_at_least(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is an integer of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of {least} or more, got {value!r}")


def check_probability(name: str, value: float) -> float:
    """Raise ValueError unless the value is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return value


def check_open(name: str, value: float) -> None:
    """Raise ValueError unless the value is in (0, 1)."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must be in (0, 1), got {value!r}")


def check_distribution(name: str, weights: Floats) -> None:
    """Raise ValueError unless the weights are probabilities that sum to 1."""
    if not (weights >= 0).all() or not (weights <= 1).all():
        raise ValueError(f"{name} must be in [0, 1], got {weights.min()!r} to {weights.max()!r}")
    if abs(float(weights.sum()) - 1) > 1e-9:
        raise ValueError(f"{name} must sum to 1, got {float(weights.sum())!r}")


def check_tie(tie: str) -> None:
    """Raise ValueError unless tie is a known tie rule."""
    if tie not in ("random", "fail", "success"):
        raise ValueError(f"tie must be random, fail or success, got {tie!r}")


def check_rival(p: float, p_w: float) -> float:
    """Raise ValueError unless p_w is a probability that p leaves room for."""
    check_probability("p_w", p_w)
    if p + p_w > 1 + 1e-12:
        raise ValueError(f"p_w must be at most 1 - p = {1 - p:.6g}, got {p_w!r}")
    return p_w
