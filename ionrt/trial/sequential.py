"""Group-sequential boundaries by numerical recursion: alpha and beta spending, crossing probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import ndtr

from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits

Array = NDArray[np.float64]
Density = tuple[Array, Array] | None  # score at the nodes, probability mass there
SPENDING = ("lan_demets_obrien_fleming", "lan_demets_pocock", "obrien_fleming", "pocock")
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
MOST_LOOKS, NEAREST = 50, 1e-3  # closer looks are one look, and the quadrature would need a node for every step between
_TAIL = 8.5  # standard deviations beyond which nothing is left
_PANEL = 1.0  # width of a quadrature panel in units of the next step's standard deviation


def spent(fraction: float | Array, total: float, spending: str) -> float | Array:
    """Cumulative error of `total` (one-sided) spent at information fraction t in (0, 1], any shape.

    lan_demets_obrien_fleming: 2 - 2 Phi(z(1 - total / 2) / sqrt(t)); lan_demets_pocock: total ln(1 + (e - 1) t). Lan & DeMets
    1983, doi:10.1093/biomet/70.3.659.
    """
    one_of(spending, SPENDING[:2], what="spending")
    if spending == "lan_demets_pocock":
        return total * np.log1p((math.e - 1.0) * np.asarray(fraction))
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
    at look k; with `beta_spending`, l_k solves P(first Z_k < l_k | theta) = beta spent, where theta makes the two bounds meet
    at the end.

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
        z_futility (-inf without futility bound), power_spent, with attrs drift, inflation (maximum over fixed information),
        expected_information_h1, _h0.

    Raises
    ------
    IonrtError
        Fractions that do not increase to 1, error rates out of range, unknown names.

    References
    ----------
    Jennison & Turnbull 2000, doi:10.1201/9780367805326; Pampallona, Tsiatis & Kim 2001, doi:10.1177/009286150103500408.

    Examples
    --------
    Two looks, O'Brien-Fleming type spending of 0.025: 2 (1 - Phi(2.241 / sqrt(0.5))) = 0.0015 at the first.

    >>> table = ionrt.trial.spending_bounds(2)
    >>> table["z_efficacy"].round(2).tolist(), table["alpha_spent"].round(4).tolist()
    ([2.96, 1.97], [0.0015, 0.025])
    """
    t = _fractions(information)
    alpha, target = limits.error_rates(alpha, 0.8 if power is None else power)
    one_of(spending, SPENDING, what="spending")
    if beta_spending is not None:
        if power is None:
            raise IonrtError("spending_bounds: beta_spending needs power=")
        one_of(beta_spending, SPENDING[:2], what="beta_spending")
        if binding:
            one_of(spending, SPENDING[:2], what="spending with a binding futility bound")
    open_end = np.full(t.size, -np.inf)
    upper = _efficacy(t, alpha, spending)
    lower, drift = open_end, None
    if beta_spending is not None:
        upper, lower, drift = _with_futility(t, alpha, spending, 1.0 - target, beta_spending, None if binding else upper)
    elif power is not None:
        drift = _solve_drift(lambda d: crossing(t, upper, open_end, d)[0].sum() - target)
    return _table(t, upper, lower, drift, alpha, target if power is not None else None)


def interim_bounds(information: Sequence[float], *, planned: Sequence[float] | int = 1, **rules: Any) -> tuple[Array, Array]:
    """Bounds (efficacy, futility) in force at looks before the last one, at the information that each really had.

    A spending function gives the bound of look k from the looks up to k; the constant shapes keep the values that were
    planned for looks 1, 2, ... (`planned`), as they have no rule for other times. `rules`: as of `spending_bounds`.
    """
    upper, lower = np.empty(len(information)), np.full(len(information), -np.inf)
    fixed = rules.get("spending", SPENDING[0]) not in SPENDING[:2]
    table = spending_bounds(planned, **rules) if fixed else pd.DataFrame()
    if fixed and len(information) >= len(table):
        raise IonrtError(
            f"looks: {rules['spending']!r} has values for the {len(table)} planned looks only, the last of them the final one;"
            " use a spending function for looks that were not planned"
        )
    for k in range(len(information)):
        row = (table if fixed else spending_bounds([*information[: k + 1], 1.0], **rules)).iloc[k]
        upper[k], lower[k] = row["z_efficacy"], row.get("z_futility", -np.inf)
    return upper, lower


def final_bound(
    information: Sequence[float], *, alpha: float, planned: Sequence[float] | int = 1, binding: bool = False, **rules: Any
) -> float:
    """Critical value (Z) of the last look, which may have less or more information than was planned.

    Earlier looks keep the bounds that were in force (`interim_bounds`), and c solves P(no crossing before, Z >= c | 0) = alpha
    minus what was spent, with the correlations sqrt(t_j / t_k) of the information really there: all of alpha is used, no more.
    z(1 - alpha) where there was no look before.

    `information` at all looks is over the *planned* maximum, increasing, below 1 before the last; the last is free. `planned`
    (fractions, or a number of looks) is needed by the constant shapes; `alpha`, `binding`, `rules` as in `spending_bounds`. Lan
    & DeMets 1983, doi:10.1093/biomet/70.3.659; over- and underrunning: Wassmer & Brannath 2016, doi:10.1007/978-3-319-32562-0,
    3.3.
    """
    t = limits.increasing(information, "information", least=1)
    if t[0] <= 0 or (t.size > 1 and t[-2] >= 1.0):
        raise IonrtError(
            f"information: expected shares of the planned maximum, below 1 before the last look, got {information!r}"
        )
    upper, lower = interim_bounds(t[:-1].tolist(), planned=planned, alpha=alpha, binding=binding, **rules)
    t, last, density, left = t / t[-1], t.size - 1, None, alpha
    for k in range(last):
        left -= _tail(t, k, 0.0, density, 1)(upper[k])
        density = _propagate(t, k, 0.0, density, lower[k] if binding else -np.inf, upper[k])
    return _solve_bound(_tail(t, last, 0.0, density, 1), left, 0.0, 1)


def _fractions(information: Sequence[float] | int) -> Array:
    """Check the information fractions; an integer gives equal spacing."""
    if isinstance(information, (int, np.integer)) and not isinstance(information, bool):
        looks = limits.count(int(information), "information", most=MOST_LOOKS)
        return np.arange(1, looks + 1) / looks
    t = limits.finite(np.atleast_1d(information).tolist(), "information")
    if t.size == 0 or t[0] <= 0 or np.any(np.diff(t) <= 0) or abs(t[-1] - 1.0) > 1e-12:
        raise IonrtError(f"information: expected fractions above 0 that increase to 1, got {information!r}")
    if t.size > MOST_LOOKS or np.diff(t, prepend=0.0).min() < NEAREST:
        raise IonrtError(f"information: expected at most {MOST_LOOKS} looks, {NEAREST:g} or more apart, got {information!r}")
    return t


def _efficacy(t: Array, alpha: float, spending: str) -> Array:
    """Efficacy bounds at drift 0 without any futility stop."""
    if spending in SPENDING[:2]:
        increments, bound, density = np.diff(np.asarray(spent(t, alpha, spending)), prepend=0.0), np.empty(t.size), None
        for k in range(t.size):
            bound[k] = _solve_bound(_tail(t, k, 0.0, density, 1), increments[k], 0.0, 1)
            density = _propagate(t, k, 0.0, density, -np.inf, bound[k])
        return bound
    shape = 1.0 / np.sqrt(t) if spending == "obrien_fleming" else np.ones_like(t)
    open_end = np.full(t.size, -np.inf)
    c = optimize.brentq(lambda c: crossing(t, c * shape, open_end, 0.0)[0].sum() - alpha, 0.5, 8.0, xtol=1e-10)
    return c * shape


def _solve_bound(tail: Callable[[float], float], share: float, centre: float, side: int) -> float:
    """Bound beyond which `tail` leaves `share`; open where nothing is to be spent."""
    ends = centre - 12.0 * side, centre + 12.0 * side
    if share <= 1e-14:
        return side * np.inf
    if tail(ends[0]) <= share:
        return ends[0]  # less is left than may be spent: the trial always ends here
    return float(optimize.brentq(lambda z: tail(z) - share, *ends, xtol=1e-11))


def _step(t: Array, k: int) -> tuple[float, float]:
    """Standard deviation of the increment to look k and the square root of its information."""
    return float(np.sqrt(t[k] - (t[k - 1] if k else 0.0))), float(np.sqrt(t[k]))


def _tail(t: Array, k: int, drift: float, density: Density, side: int) -> Callable[[float], float]:
    """P(no crossing before k, Z_k beyond z) as a function of z."""
    sd, root = _step(t, k)
    if density is None:
        return lambda z: float(ndtr(side * (drift * root - z)))
    score, mass = density
    step_mean = drift * (t[k] - t[k - 1])
    return lambda z: float(mass @ ndtr(side * (score + step_mean - z * root) / sd))


def _propagate(t: Array, k: int, drift: float, density: Density, low: float, high: float):
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
    """Probability (efficacy, futility) of crossing each bound first at each look, `drift` the expectation of Z at fraction 1.

    Bounds on the Z scale, -inf where there is none for futility. Armitage, McPherson & Rowe 1969, doi:10.2307/2343787.
    """
    t = np.asarray(information, float)
    up, down = np.zeros(t.size), np.zeros(t.size)
    density: Density = None
    for k in range(t.size):
        if upper[k] < np.inf:
            up[k] = _tail(t, k, drift, density, 1)(upper[k])
        if lower[k] > -np.inf:
            down[k] = _tail(t, k, drift, density, -1)(lower[k])
        density = _propagate(t, k, drift, density, lower[k], upper[k])
    return up, down


def _solve_drift(f: Callable[[float], float]) -> float:
    return float(optimize.brentq(f, 0.05, 12.0, xtol=1e-10))


def _with_futility(
    t: Array, alpha: float, spending: str, beta: float, beta_spending: str, upper: Array | None
) -> tuple[Array, Array, float]:
    """Both bounds and the drift at which they meet; without `upper` the efficacy bounds count on the futility stop."""
    gain = np.diff(np.asarray(spent(t, beta, beta_spending)), prepend=0.0)
    loss = None if upper is not None else np.diff(np.asarray(spent(t, alpha, spending)), prepend=0.0)

    def excess(drift: float) -> float:
        u, lower = _both(t, drift, gain, upper, loss)
        return float(crossing(t, u, lower, drift)[1].sum() - beta)

    drift = _solve_drift(excess)
    return *_both(t, drift, gain, upper, loss), drift


def _both(t: Array, drift: float, gain: Array, upper: Array | None, loss: Array | None) -> tuple[Array, Array]:
    """One pass over the looks: efficacy from the density at drift 0, futility from the one at `drift`."""
    u = np.full(t.size, np.inf) if upper is None else upper
    lower = np.full(t.size, -np.inf)
    null: Density = None
    alternative: Density = None
    for k in range(t.size):
        if loss is not None:
            u[k] = _solve_bound(_tail(t, k, 0.0, null, 1), loss[k], 0.0, 1)
        if k == t.size - 1:
            lower[k] = u[k]
            break
        lower[k] = min(_solve_bound(_tail(t, k, drift, alternative, -1), gain[k], drift * np.sqrt(t[k]), -1), u[k])
        if loss is not None:
            null = _propagate(t, k, 0.0, null, lower[k], u[k])
        alternative = _propagate(t, k, drift, alternative, lower[k], u[k])
    return u, lower


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
