"""Can a fork still be caught? Equations (4) to (6) and what they do not say (section 4.3).

Everywhere ``rho`` is the ratio of the rival's probability to the target's. With ``rho >= 1`` the
target has no advantage and every risk is 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy.special import betainc, gammainc, gammaincc

from rtc_flower.theory.counting import Floats, log_poisson
from rtc_flower.theory.domains import check_classes, check_open

__all__ = ["catch_up", "lead_error", "nakamoto_risk", "race_exact", "z_for_risk"]

Kind = Literal["nakamoto", "catch-up", "race", "lead"]


def _arguments(z: Any, rho: Any) -> tuple[Floats, Floats]:
    blocks, ratio = np.broadcast_arrays(np.asarray(z, dtype=float), np.asarray(rho, dtype=float))
    if not (blocks >= 0).all() or (blocks != np.floor(blocks)).any():
        raise ValueError(f"z must be an integer of 0 or more, got {z!r}")
    if not (ratio >= 0).all():
        raise ValueError(f"rho must be 0 or more, got {rho!r}")
    return blocks, ratio


def _answer(values: Any, certain: Any, sure: float) -> Any:
    out = np.where(certain, sure, values)
    return float(out) if out.ndim == 0 else out


def catch_up(z: Any, rho: Any) -> Any:
    """Eq. (4): probability that the rival ever draws level from z votes behind, ``rho ** z``.

    Votes are independent and never end; overtaking has probability ``rho ** (z + 1)``.

    Parameters
    ----------
    z : int or integer array
        Votes behind, 0 or more.
    rho : float or array
        Ratio of the rival's probability to the target's, 0 or more.

    Returns
    -------
    float or float64 array

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    blocks, ratio = _arguments(z, rho)
    return _answer(np.minimum(ratio, 1.0) ** blocks, ratio >= 1, 1.0)


def nakamoto_risk(z: Any, rho: Any, log: bool = False) -> Any:
    """Equations (5) and (6): the rival catches up when the target has z blocks.

    The rival's progress is taken as Poisson with mean ``z rho``. `z` counts the target's blocks,
    not its lead as section 4.3 has it: for a lead use `catch_up` or `lead_error`. Written as
    ``P(z+1, z rho) + rho^z e^(z(1-rho)) Q(z+1, z)`` with the regularised incomplete gamma
    functions, it has no cancellation.

    Parameters
    ----------
    z : int or integer array
        Blocks of the target, 0 or more.
    rho : float or array
        Ratio of the rival's probability to the target's, 0 or more.
    log : bool
        Return the natural logarithm, which does not underflow.

    Returns
    -------
    float or float64 array

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    blocks, ratio = _arguments(z, rho)
    certain = (ratio >= 1) | (blocks == 0)
    safe_z, safe_rho = np.where(certain, 1.0, blocks), np.where(certain, 0.5, ratio)
    with np.errstate(divide="ignore"):
        behind = safe_z * (np.log(safe_rho) + 1 - safe_rho) + np.log(gammaincc(safe_z + 1, safe_z))
        ahead = _log_above(safe_z, safe_z * safe_rho)
    logs = np.minimum(np.logaddexp(ahead, behind), 0.0)
    return _answer(logs, certain, 0.0) if log else _answer(np.exp(logs), certain, 1.0)


def _log_above(z: Floats, mean: Floats) -> Floats:
    """Log of P(Poisson(mean) > z), also below the smallest double; for ``mean < z``."""
    direct = gammainc(z + 1, mean)
    fine = direct > 1e-250
    # Far in the tail: the first term times 1 + mean/(z+2) + mean^2/((z+2)(z+3)) + ...
    term = np.where(fine, 0.0, 1.0)
    total, j = np.ones_like(z), 2
    while (term > 1e-18).any():
        term = term * mean / (z + j)
        total, j = total + term, j + 1
    return np.where(
        fine, np.log(np.where(fine, direct, 1.0)), log_poisson(z + 1, mean) + np.log(total)
    )


def race_exact(z: Any, rho: Any) -> Any:
    """The race of eq. (6) without its Poisson approximation: ``I_x(z, 1/2)``.

    The rival's blocks at the target's z-th are negative binomial; ``x = 4 rho / (1 + rho)^2``.
    At z = 21, rho = 0.5 it is 0.027, where eq. (6) says 0.011.

    Parameters
    ----------
    z, rho
        As for `nakamoto_risk`.

    Returns
    -------
    float or float64 array

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    blocks, ratio = _arguments(z, rho)
    certain = (ratio >= 1) | (blocks == 0)
    safe_z, safe_rho = np.where(certain, 1.0, blocks), np.where(certain, 0.5, ratio)
    values = betainc(safe_z, 0.5, 4 * safe_rho / (1 + safe_rho) ** 2)
    return _answer(values, certain, 1.0)


def lead_error(z: Any, rho: Any, k: int) -> Any:
    """Bound on a wrong outcome when counting stops at a lead of z (what "21 longer" means).

    ``(k-1) rho^z / (1 + (k-1) rho^z)``, for independent votes in random order and k - 1 rivals
    of ratio `rho` each. Exact for k = 2 and unending votes.

    Parameters
    ----------
    z, rho
        Lead in votes, and ratio, as for `catch_up`.
    k : int
        Classes, 2 or more.

    Returns
    -------
    float or float64 array

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_classes(k)
    blocks, ratio = _arguments(z, rho)
    odds = (k - 1) * np.minimum(ratio, 1.0) ** blocks
    return _answer(odds / (1 + odds), ratio >= 1, 1.0)


def z_for_risk(rho: float, risk: float, kind: Kind = "nakamoto", k: int = 2) -> int:
    """Smallest z that keeps a risk.

    Parameters
    ----------
    rho : float
        Ratio of the rival's probability to the target's, 0 or more and below 1.
    risk : float
        Bound, in (0, 1); strict for "nakamoto" and "race", as in Nakamoto's table.
    kind : {"nakamoto", "catch-up", "race", "lead"}
        Risk to bound: `nakamoto_risk` and `race_exact` count the target's blocks, `catch_up` and
        `lead_error` the lead.
    k : int
        Classes, for "lead".

    Returns
    -------
    int
        1 or more.

    Raises
    ------
    ValueError
        If an argument is out of range; with ``rho >= 1`` no z keeps a risk below 1.
    """
    check_open("risk", risk)
    check_classes(k)
    if not 0.0 <= rho < 1.0:
        raise ValueError(f"rho must be in [0, 1) to keep a risk below 1, got {rho!r}")

    def keeps(z: int) -> bool:
        # 0.1 ** 4 exceeds 1e-4 by one rounding: equality must count for the two that allow it.
        if kind == "nakamoto":
            return bool(nakamoto_risk(z, rho) < risk)
        if kind == "race":
            return bool(race_exact(z, rho) < risk)
        value = catch_up(z, rho) if kind == "catch-up" else lead_error(z, rho, k)
        return bool(value <= risk * (1 + 1e-12))

    if kind not in ("nakamoto", "catch-up", "race", "lead"):
        raise ValueError(f"kind must be nakamoto, catch-up, race or lead, got {kind!r}")
    low, high = 0, 1
    while not keeps(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
