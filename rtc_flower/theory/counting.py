"""Exact probabilities that every rival's vote count stays below a bound.

One question lies under all plurality probabilities: ``n`` independent votes fall on classes with
given weights; with what probability does every class keep to its cap? Conditioned on their sum,
Poisson counts are multinomial, so the answer is a coefficient of a product of truncated Poisson
distributions. It is read off a short discrete Fourier transform, after all rates were scaled so
that the sum has mean ``n`` (the saddle point): there the coefficient is of the order
``1 / sqrt(n)``, and the relative error stays near 1e-13 even where the probability is 1e-300.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.special import bdtrc, gammaln, logsumexp, pdtr

__all__ = ["Rivals", "Tie", "log_binomial", "log_poisson", "sum_unimodal"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tie = Literal["random", "fail", "success"]

_NEGLIGIBLE = 1e-19
_LOG_NEGLIGIBLE = -46.0
_CELLS = 2_000_000


def log_poisson(x: Any, mu: Any) -> Floats:
    """Log of the Poisson pmf by Loader's saddle point form, accurate for large counts.

    Parameters
    ----------
    x : integer array_like
        Counts, 0 or more.
    mu : array_like
        Means, 0 or more; broadcast against `x`.

    Returns
    -------
    float64 array
    """
    x, mu = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(mu, dtype=float))
    safe_x, safe_mu = np.maximum(x, 1.0), np.where(mu > 0, mu, 1.0)
    inner = -_stirling_error(safe_x) - _deviance(safe_x, safe_mu) - 0.5 * np.log(2 * np.pi * safe_x)
    out = np.where(x > 0, inner, -mu)
    return np.where((mu > 0) | (x == 0), out, -np.inf)


def log_binomial(x: Any, n: int, p: float) -> Floats:
    """Log of the binomial pmf by Loader's saddle point form.

    Parameters
    ----------
    x : integer array_like
        Successes, 0 to n.
    n : int
        Trials.
    p : float
        Success probability, 0 to 1.

    Returns
    -------
    float64 array
    """
    x = np.asarray(x, dtype=float)
    if p in (0.0, 1.0):
        return np.where(x == n * p, 0.0, -np.inf)
    y = n - x
    safe_x, safe_y = np.clip(x, 1.0, None), np.clip(y, 1.0, None)
    inner = (
        float(_stirling_error(np.asarray(max(n, 1), dtype=float)))
        - _stirling_error(safe_x)
        - _stirling_error(safe_y)
        - _deviance(safe_x, np.asarray(n * p))
        - _deviance(safe_y, np.asarray(n * (1 - p)))
        + 0.5 * (np.log(max(n, 1)) - np.log(2 * np.pi) - np.log(safe_x) - np.log(safe_y))
    )
    out = np.where(x == 0, n * np.log1p(-p), inner)
    result: Floats = np.where(y == 0, n * np.log(p), out)
    return result


def _stirling_error(x: Floats) -> Floats:
    """``log(x!)`` minus Stirling's formula, for x >= 1."""
    small = np.minimum(x, 15.0)
    direct = gammaln(small + 1) - (small + 0.5) * np.log(small) + small - 0.5 * np.log(2 * np.pi)
    u = 1.0 / (x * x)
    tail = 1 / 12 - u * (1 / 360 - u * (1 / 1260 - u * (1 / 1680 - u * (1 / 1188))))
    return np.where(x <= 15, direct, tail / x)


def _deviance(x: Floats, mean: Floats) -> Floats:
    """``x log(x / mean) + mean - x`` without cancellation near ``x = mean``."""
    v = (x - mean) / (x + mean)
    near = np.abs(v) < 0.1
    w = np.where(near, v, 0.0)
    square = w * w
    # x log((1+v)/(1-v)) + mean - x, with the odd series of the logarithm summed to 1e-18.
    series = np.zeros_like(w)
    for j in range(9, 0, -1):
        series = (series + 1.0 / (2 * j + 1)) * square
    close = (x - mean) * w + 2 * x * w * series
    with np.errstate(divide="ignore"):
        far = x * np.log(x / mean) + mean - x
    return np.where(near, close, far)


@dataclass(frozen=True, slots=True)
class Rivals:
    """Groups of rival classes over which the votes that are left fall.

    Attributes
    ----------
    weights : float64 array, shape (groups,)
        Probability of one class of the group; ``sum(weights * sizes) = 1``.
    sizes : int64 array, shape (groups,)
        Classes in the group.
    """

    weights: Floats
    sizes: Ints

    def log_below(self, n: Ints, caps: Ints, tie: Tie) -> Floats:
        """Log probability that a leader of given height beats every rival.

        Parameters
        ----------
        n : int64 array, shape (rows,)
            Votes that fall on the rivals.
        caps : int64 array, shape (rows, groups)
            Votes with which a class of the group draws level with the leader.
        tie : {"random", "fail", "success"}
            Whether the leader wins a T-fold tie with probability 1/T, never or always.

        Returns
        -------
        float64 array, shape (rows,)
        """
        out = np.full(len(n), -np.inf)
        top = caps - 1 if tie == "fail" else caps
        room = np.minimum(top, np.where(self.weights > 0, n[:, None], 0)) @ self.sizes
        open_ = (top >= 0).all(axis=1) & (room >= n)
        reach = bdtrc(caps - 1.0, np.maximum(n, 0)[:, None], np.minimum(self.weights, 1.0))
        reach = np.where(caps > 0, np.where(caps > n[:, None], 0.0, reach), 1.0)
        sure = open_ & (reach @ self.sizes < _NEGLIGIBLE)
        out[sure] = 0.0
        rows = np.flatnonzero(open_ & ~sure)
        while rows.size:
            part = rows[: self._chunk(n[rows], caps[rows], tie)]
            out[part] = self._coefficients(n[part], caps[part], tie)
            rows = rows[part.size :]
        return out

    def _ties(self, n: Ints, caps: Ints) -> int:
        """Most rivals that can tie in these rows: the degree in the tie weight."""
        least = int(caps.min())
        return int(min(self.sizes.sum(), n.max() // least if least > 0 else self.sizes.sum()))

    def _chunk(self, n: Ints, caps: Ints, tie: Tie) -> int:
        nodes = self._ties(n[:64], caps[:64]) // 2 + 1 if tie == "random" else 1
        width = 12 * float(np.sqrt(n.max())) + 60 + 20 * float(np.sqrt(caps.max()))
        return max(1, min(64, int(_CELLS / (width * nodes))))

    def _saddle(self, n: Ints, top: Ints) -> Floats:
        """Total rate at which the truncated counts add up to n on average, or nearly."""
        # Two votes short where the caps leave no room: full caps would need infinite rates.
        room = np.where(self.weights > 0, top, 0) @ self.sizes
        aim = np.maximum(np.minimum(n, room - 2.0), n / 2.0)
        low = np.log(np.maximum(aim, 0.01))
        high = low + 40.0
        # Being off by a fraction of a standard deviation costs no accuracy.
        for _ in range(24):
            middle = 0.5 * (low + high)
            mu = np.exp(middle)[:, None] * self.weights
            kept = mu * -np.expm1(_log_kept(top, mu)[1])
            above = kept @ self.sizes > aim
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        result: Floats = np.exp(low)
        return result

    def _coefficients(self, n: Ints, caps: Ints, tie: Tie) -> Floats:
        top = caps - 1 if tie == "fail" else caps
        rate = self._saddle(n, top)
        mu = rate[:, None] * self.weights
        log_kept, log_share = _log_kept(top, mu)
        half = np.ceil(10 * np.sqrt(np.minimum(top, mu).max()) + 45)
        width = int(2 * half + 1)
        length = int(next_fast_len(max(int(12 * np.sqrt(n.max()) + 45), width), real=True))
        turns = np.arange(length // 2 + 1)
        if tie == "random":
            points, share = np.polynomial.legendre.leggauss(self._ties(n, caps) // 2 + 1)
            ties = 0.5 * (points + 1)
            share = 0.5 * share
        else:
            ties, share = np.ones(1), np.ones(1)
        product = np.ones((len(ties), len(n), len(turns)), dtype=complex)
        for g, size in enumerate(self.sizes):
            spread = _truncated(top[:, g], mu[:, g], log_kept[:, g], half, length)
            peak = np.exp(log_share[:, g])
            if tie == "random":
                phase = np.exp(-2j * np.pi * ((top[:, g, None] * turns) % length) / length)
                tied = peak[:, None] * phase
                product *= _power(spread - tied + ties[:, None, None] * tied, int(size))
            else:
                product *= _power(spread[None], int(size))
        product *= np.exp(2j * np.pi * ((n[:, None] * turns) % length) / length)
        fold = np.full(len(turns), 2.0)
        fold[0] = 1.0
        if length % 2 == 0:
            fold[-1] = 1.0
        value = share @ (product.real @ fold) / length
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(value, 0.0))
        result: Floats = logs + log_kept @ self.sizes - log_poisson(n, rate)
        return result


def _log_kept(top: Ints, mu: Floats) -> tuple[Floats, Floats]:
    """Logs of P(Poisson(mu) <= top) and of the share of `top` in it, both without underflow."""
    at_top = log_poisson(top, mu)
    direct = pdtr(top, mu)
    tiny = direct < 1e-250
    kept: Floats = np.log(np.where(tiny, 1.0, direct))
    share = np.minimum(at_top - kept, 0.0)
    if tiny.any():
        # Far below the mean: P(top) (1 + top/mu + top (top-1)/mu^2 + ...).
        left, mean = top[tiny].astype(float), mu[tiny]
        term = np.ones_like(mean)
        above = np.zeros_like(mean)
        while (term > 1e-18).any():
            term = term * left / mean
            left, above = np.maximum(left - 1, 0.0), above + term
        share[tiny] = -np.log1p(above)
        kept[tiny] = at_top[tiny] + np.log1p(above)
    return kept, share


def _truncated(
    top: Ints, mu: Floats, log_kept: Floats, half: float, length: int
) -> NDArray[np.complex128]:
    """Transforms of Poisson(mu) kept to 0..top and normalised."""
    centre = np.minimum(top, np.floor(mu))
    first = np.maximum(centre - half, 0).astype(np.int64)
    y = first[:, None] + np.arange(int(2 * half + 1))
    logs = log_poisson(y, mu[:, None]) - log_kept[:, None]
    values = np.where(y <= top[:, None], np.exp(np.minimum(logs, 1.0)), 0.0)
    cells = np.zeros((len(top), length))
    np.put_along_axis(cells, y % length, values, axis=1)
    return np.fft.rfft(cells, axis=1)


def _power(base: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    """Integer power by squaring: much faster than complex `**`, which goes through logarithms."""
    out = np.ones_like(base)
    while exponent:
        if exponent & 1:
            out *= base
        exponent >>= 1
        if exponent:
            base = base * base
    return out


def sum_unimodal(log_term: Callable[[Ints], Floats], low: int, high: int, start: int) -> float:
    """Log of the sum of positive unimodal terms, evaluating only those that matter.

    Parameters
    ----------
    log_term : callable
        Log terms for an int64 array of indices.
    low, high : int
        First and last index, both included.
    start : int
        Index near the largest term.

    Returns
    -------
    float
    """
    step = max(16, int(2 * np.sqrt(high - low + 1)))
    left = right = min(max(start, low), high)
    logs = log_term(np.arange(left, right + 1))
    while True:
        floor = logs.max() + _LOG_NEGLIGIBLE
        grow_left = left > low and (logs[0] > floor or not np.isfinite(floor))
        grow_right = right < high and (logs[-1] > floor or not np.isfinite(floor))
        if not grow_left and not grow_right:
            return float(logsumexp(logs)) if np.isfinite(logs.max()) else -np.inf
        if grow_left:
            far = max(low, left - step)
            logs = np.concatenate([log_term(np.arange(far, left)), logs])
            left = far
        if grow_right:
            far = min(high, right + step)
            logs = np.concatenate([logs, log_term(np.arange(right + 1, far + 1))])
            right = far
