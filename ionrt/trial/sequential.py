"""Group-sequential boundaries by numerical recursion: alpha and beta spending, crossing probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import ndtr

from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits

Array = NDArray[np.float64]
SPENDING = ("lan_demets_obrien_fleming", "lan_demets_pocock", "obrien_fleming", "pocock")
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_TAIL = 8.5  # standard deviations beyond which nothing is left
_PANEL = 1.0  # width of a quadrature panel in units of the next step's standard deviation


def spent(fraction: float | Array, total: float, spending: str) -> float | Array:
    """Error spent at information fraction t.

    lan_demets_obrien_fleming: 2 - 2 Phi(z(1 - total / 2) / sqrt(t)); lan_demets_pocock: total ln(1 + (e - 1) t).

    Parameters
    ----------
    fraction : information fraction in (0, 1], any shape.
    total : error to be spent, one-sided.
    spending : name of the function.

    Returns the cumulative error, same shape. Reference: Lan & DeMets 1983, doi:10.1093/biomet/70.3.659.
    """
    one_of(spending, SPENDING[:2], what="spending")
    if spending == "lan_demets_pocock":
        return total * np.log1p((np.e - 1.0) * np.asarray(fraction))
    return 2.0 * stats.norm.sf(stats.norm.isf(total / 2.0) / np.sqrt(fraction))


def spending_bounds(
    information: Sequence[float] | int,
    *,
    alpha: float = 0.025,
    spending: str = "lan_demets_obrien_fleming",
    power: float | None = None,
    beta_spending: str | None = None,
    binding: bool = False,
) -> pd.DataFrame:
    """Boundaries of a one-sided group-sequential test with optional futility bounds.

    Z_k has drift theta sqrt(t_k) and independent increments. Efficacy bounds u_k solve P(first Z_k >= u_k | 0) = alpha spent
    at look
    k; with `beta_spending`, l_k solves P(first Z_k < l_k | theta) = beta spent, where theta makes the two bounds meet at the
    end.

    Parameters
    ----------
    information : information fractions, increasing, the last one 1; or the number of equally spaced looks.
    alpha : one-sided type I error.
    spending : "lan_demets_obrien_fleming", "lan_demets_pocock" (spending functions), "obrien_fleming", "pocock" (constant
        shape).
    power : needed for the drift and for `beta_spending`.
    beta_spending : spending function of the type II error; None for no futility bound.
    binding : whether the efficacy bounds count on the futility stop (False keeps alpha when it is ignored).

    Returns
    -------
    DataFrame indexed by look: information, z_efficacy, p_efficacy (one-sided nominal), alpha_spent, and, with `power`,
    z_futility
    (-inf without futility bound), power_spent, with attrs drift, inflation (maximum over fixed information),
    expected_information_h1, _h0.

    Raises IonrtError for fractions that do not increase to 1, error rates out of range, unknown names.
    References: Jennison & Turnbull 2000, doi:10.1201/9780367805326; Pampallona, Tsiatis & Kim 2001,
    doi:10.1177/009286150103500408.
    """
    t = _fractions(information)
    alpha, target = limits.error_rates(alpha, 0.8 if power is None else power)
    one_of(spending, SPENDING, what="spending")
    if beta_spending is not None:
        if power is None:
            raise IonrtError("spending_bounds: beta_spending needs power=")
        one_of(beta_spending, SPENDING[:2], what="beta_spending")
    open_end = np.full(t.size, -np.inf)
    upper = _efficacy(t, alpha, spending, open_end)
    lower, drift = open_end, None
    if beta_spending is not None:
        upper, lower, drift = _with_futility(t, alpha, spending, 1.0 - target, beta_spending, binding, upper)
    elif power is not None:
        drift = _solve_drift(lambda d: crossing(t, upper, open_end, d)[0].sum() - target)
    return _table(t, upper, lower, drift, alpha, target if power is not None else None)


def _fractions(information: Sequence[float] | int) -> Array:
    """Check the information fractions; an integer gives equal spacing."""
    if isinstance(information, (int, np.integer)) and not isinstance(information, bool):
        looks = limits.count(int(information), "information")
        return np.arange(1, looks + 1) / looks
    t = np.asarray(information, float)
    if t.ndim != 1 or t.size == 0 or t[0] <= 0 or np.any(np.diff(t) <= 0) or abs(t[-1] - 1.0) > 1e-12:
        raise IonrtError(f"information: expected fractions above 0 that increase to 1, got {information!r}")
    return t


def _efficacy(t: Array, alpha: float, spending: str, lower: Array) -> Array:
    """Efficacy bounds at drift 0, given the futility bounds that may be counted on."""
    if spending in SPENDING[:2]:
        increments = np.diff(np.asarray(spent(t, alpha, spending)), prepend=0.0)
        return _spend(t, increments, 0.0, lower, side=1)
    shape = 1.0 / np.sqrt(t) if spending == "obrien_fleming" else np.ones_like(t)
    c = optimize.brentq(lambda c: crossing(t, c * shape, lower, 0.0)[0].sum() - alpha, 0.5, 8.0, xtol=1e-10)
    return c * shape


def _spend(t: Array, increments: Array, drift: float, other: Array, *, side: int) -> Array:
    """Bounds on one side that spend `increments`, look by look, while `other` closes the opposite side.

    side = 1: upper bounds, crossed upwards; side = -1: lower bounds, crossed downwards.
    """
    bound = np.full(t.size, side * np.inf)
    density: tuple[Array, Array] | None = None
    for k in range(t.size):
        tail = _tail(t, k, drift, density, side)
        centre = drift * np.sqrt(t[k])
        ends = centre - 12.0 * side, centre + 12.0 * side
        if tail(ends[0]) <= increments[k]:
            bound[k] = ends[0]  # less is left than may be spent: the trial always ends here
        elif increments[k] > 1e-14:
            bound[k] = optimize.brentq(lambda z, f=tail, p=increments[k]: f(z) - p, *ends, xtol=1e-11)
        low, high = (other[k], bound[k]) if side == 1 else (bound[k], other[k])
        density = _propagate(t, k, drift, density, low, high)
    return bound


def _step(t: Array, k: int) -> tuple[float, float]:
    """Standard deviation of the increment to look k and the square root of its information."""
    return float(np.sqrt(t[k] - (t[k - 1] if k else 0.0))), float(np.sqrt(t[k]))


def _tail(t: Array, k: int, drift: float, density: tuple[Array, Array] | None, side: int) -> Callable[[float], float]:
    """P(no crossing before k, Z_k beyond z) as a function of z."""
    sd, root = _step(t, k)
    if density is None:
        return lambda z: float(ndtr(side * (drift * root - z)))
    score, mass = density
    step_mean = drift * (t[k] - t[k - 1])
    return lambda z: float(mass @ ndtr(side * (score + step_mean - z * root) / sd))


def _propagate(t: Array, k: int, drift: float, density: tuple[Array, Array] | None, low: float, high: float):
    """Nodes of the score Z_k sqrt(t_k) inside the continuation region, and the probability mass at each."""
    if k == t.size - 1:
        return None
    sd, root = _step(t, k)
    mean = drift * t[k]
    a, b = max(low * root, mean - _TAIL * root), min(high * root, mean + _TAIL * root)
    if b <= a:
        return np.zeros(1), np.zeros(1)
    width = _PANEL * min(sd, _step(t, k + 1)[0]) * 4.0
    edges = np.linspace(a, b, max(2, int(np.ceil((b - a) / width)) + 1))
    half = np.diff(edges)[:, None] / 2.0
    score = (edges[:-1, None] + half + half * _NODES).ravel()
    weight = (half * _WEIGHTS).ravel()
    if density is None:
        return score, weight * np.exp(-0.5 * ((score - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
    before, mass = density
    apart = (score[:, None] - before[None, :] - drift * (t[k] - t[k - 1])) / sd
    return score, weight * (np.exp(-0.5 * apart**2) @ mass) / (sd * np.sqrt(2 * np.pi))


def crossing(information: Array, upper: Array, lower: Array, drift: float) -> tuple[Array, Array]:
    """Probability of crossing each bound first at each look.

    Parameters
    ----------
    information : information fractions (look,).
    upper, lower : bounds on the Z scale (look,); -inf where there is no futility bound.
    drift : expectation of Z at information fraction 1.

    Returns (efficacy, futility), each (look,). Reference: Armitage, McPherson & Rowe 1969, doi:10.2307/2343787.
    """
    t = np.asarray(information, float)
    up, down = np.zeros(t.size), np.zeros(t.size)
    density: tuple[Array, Array] | None = None
    for k in range(t.size):
        if upper[k] < np.inf:
            up[k] = _tail(t, k, drift, density, 1)(upper[k])
        if lower[k] > -np.inf:
            down[k] = _tail(t, k, drift, density, -1)(lower[k])
        density = _propagate(t, k, drift, density, lower[k], upper[k])
    return up, down


def _solve_drift(f: Callable[[float], float]) -> float:
    return float(optimize.brentq(f, 0.05, 12.0, xtol=1e-10))


def _with_futility(t, alpha, spending, beta, beta_spending, binding, upper):
    """Futility bounds and the drift at which the last one meets the efficacy bound."""
    increments = np.diff(np.asarray(spent(t, beta, beta_spending)), prepend=0.0)

    def futility(drift: float, u: Array) -> Array:
        early = np.append(increments[:-1], 0.0)
        return np.append(np.minimum(_spend(t, early, drift, u, side=-1), u)[:-1], u[-1])

    def excess(drift: float, u: Array) -> float:
        return float(crossing(t, u, futility(drift, u), drift)[1].sum() - beta)

    for _ in range(50 if binding else 1):
        drift = _solve_drift(lambda d, u=upper: excess(d, u))
        lower = futility(drift, upper)
        if not binding:
            break
        closing = np.append(lower[:-1], -np.inf)
        new = _efficacy(t, alpha, spending, closing)
        if np.max(np.abs(new - upper)) < 1e-9:
            break
        upper = new
    return upper, lower, drift


def _table(t: Array, upper: Array, lower: Array, drift: float | None, alpha: float, power: float | None) -> pd.DataFrame:
    """Assemble the result; expected information counts the look at which the trial stops."""
    efficacy0, futility0 = crossing(t, upper, lower, 0.0)
    ignoring = crossing(t, upper, np.full(t.size, -np.inf), 0.0)[0]
    table = pd.DataFrame(
        {"information": t, "z_efficacy": upper, "p_efficacy": stats.norm.sf(upper), "alpha_spent": np.cumsum(ignoring)},
        index=pd.RangeIndex(1, t.size + 1, name="look"),
    )
    if drift is None or power is None:
        return table
    efficacy1, futility1 = crossing(t, upper, lower, drift)
    table["z_futility"] = lower
    table["power_spent"] = np.cumsum(efficacy1)
    table["stop_futility_h0"] = np.cumsum(futility0)
    fixed = (stats.norm.isf(alpha) + stats.norm.ppf(power)) ** 2
    inflation = drift**2 / fixed
    table.attrs = {
        "drift": drift,
        "inflation": inflation,
        "expected_information_h0": inflation * _expected(t, efficacy0 + futility0),
        "expected_information_h1": inflation * _expected(t, efficacy1 + futility1),
    }
    return table


def _expected(t: Array, stop: Array) -> float:
    """Mean information fraction at the stop; the last look ends every trial."""
    stop = np.append(stop[:-1], 1.0 - stop[:-1].sum())
    return float(stop @ t)
