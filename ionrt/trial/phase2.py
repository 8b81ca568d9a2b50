"""Single-arm designs: Simon's two stages, A'Hern's one stage, exact limits of a rate, survival at a fixed time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ionrt.quantities import IonrtError, one_of
from ionrt.trial import limits

MOST_SIMON = 200
TRANSFORMS = ("identity", "log", "loglog", "logit", "arcsine")


def simon(p0: float, p1: float, alpha: float = 0.05, beta: float = 0.20, *, n_max: int = 100) -> pd.DataFrame:
    """Optimal and minimax two-stage designs with a stop for futility.

    Stop after `n1` patients with `r1` or fewer responses; after `n` patients reject p <= p0 with more than `r`.
    P(reject | p) = sum_{x > r1} b(x; n1, p) P(Bin(n - n1, p) > r - x); among all designs with P(reject | p0) <= alpha and
    P(reject | p1) >= 1 - beta, "optimal" has the smallest expected n at p0 and "minimax" the smallest n (then expected n).

    Parameters
    ----------
    p0, p1 : uninteresting and interesting response rate, p1 > p0.
    alpha, beta : one-sided type I error and type II error.
    n_max : largest n searched, at most 200 (the search grows with its fourth power).

    Returns
    -------
    DataFrame indexed by design (optimal, minimax): r1, n1, r, n, en_p0, pet_p0, type1, power.

    Raises
    ------
    IonrtError
        Impossible rates and where no design exists up to `n_max`.

    References
    ----------
    Simon 1989, doi:10.1016/0197-2456(89)90015-9.

    Examples
    --------
    Response rate 10 % against 30 % with errors of 5 % and 20 %, as the paper has it:

    >>> table = ionrt.trial.simon(0.1, 0.3, n_max=30)
    >>> table[["r1", "n1", "r", "n"]].T.to_dict("list")
    {'optimal': [1, 10, 5, 29], 'minimax': [1, 15, 5, 25]}
    """
    p0, p1 = limits.rates(p0, p1)
    alpha, power = limits.error_rates(alpha, 1.0 - limits.probability(beta, "beta"))
    found: dict[str, tuple] = {}
    n_max = limits.count(n_max, "n_max", least=2, most=MOST_SIMON)
    tables = reject_tables(n_max, p0), reject_tables(n_max, p1)
    for n in range(2, n_max + 1):
        _search_n(n, tables, alpha, power, found)
    if not found:
        raise IonrtError(
            f"simon: no design with p0={p0:g}, p1={p1:g}, alpha={alpha:g}, beta={beta:g} up to n_max={n_max};"
            " raise n_max or ask for less"
        )
    table = pd.DataFrame([found["optimal"], found["minimax"]], columns=_SIMON, index=["optimal", "minimax"])
    return table.rename_axis("design").astype(dict.fromkeys(("r1", "n1", "r", "n"), int))


_SIMON = ["r1", "n1", "r", "n", "en_p0", "pet_p0", "type1", "power"]


def reject_tables(n_max: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """pmf[n, x] and tail[n, x + n_max + 1] = P(Bin(n, p) > x) for x from -n_max - 1 up, all n at once."""
    n, x = np.arange(n_max + 1)[:, None], np.arange(n_max + 1)[None, :]
    tail = np.hstack([np.ones((n_max + 1, n_max + 1)), stats.binom.sf(x, n, p)])
    return stats.binom.pmf(x, n, p), tail


def _search_n(n: int, tables: tuple, alpha: float, power: float, found: dict[str, tuple]) -> None:
    """Compare all designs of total size n with the best so far (an expected n is never below n1)."""
    for n1 in range(1, n):
        bound = found["optimal"][4] if "optimal" in found else np.inf
        if n1 >= bound and found["minimax"][3] < n:
            break
        reject0, reject1 = rejection(n1, n, *tables[0]), rejection(n1, n, *tables[1])
        r = np.argmax(reject0 <= alpha, axis=1)  # smallest r that holds alpha, for every r1; r = n always holds it
        r1 = np.arange(n1 + 1)
        good = (reject1[r1, r] >= power) & (r1 <= r)
        if not good.any():
            continue
        pet = np.cumsum(tables[0][0][n1, : n1 + 1])
        en = np.where(good, n1 + (1.0 - pet) * (n - n1), np.inf)
        i = int(en.argmin())
        row = (i, n1, int(r[i]), n, float(en[i]), float(pet[i]), float(reject0[i, r[i]]), float(reject1[i, r[i]]))
        if en[i] < bound:
            found["optimal"] = row
        if "minimax" not in found or (n, en[i]) < (found["minimax"][3], found["minimax"][4]):
            found["minimax"] = row


def rejection(n1: int, n: int, pmf: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """P(reject) for every (r1, r): shape (n1 + 1, n + 1)."""
    x, r = np.arange(n1 + 1), np.arange(n + 1)
    joint = pmf[n1, : n1 + 1, None] * tail[n - n1, r[None, :] - x[:, None] + tail.shape[0]]
    above = np.cumsum(joint[::-1], axis=0)[::-1]  # sum over x >= row
    return np.vstack([above[1:], np.zeros(n + 1)])


def ahern(p0: float, p1: float, alpha: float = 0.05, beta: float = 0.20, *, n_max: int = 500) -> pd.Series:
    """Exact one-stage design: the smallest n for which some r holds both error rates.

    Reject p <= p0 with more than `r` responses: P(Bin(n, p0) > r) <= alpha and P(Bin(n, p1) > r) >= 1 - beta.

    Parameters
    ----------
    p0, p1 : uninteresting and interesting response rate, p1 > p0.
    alpha, beta : one-sided type I error and type II error.
    n_max : largest n searched.

    Returns
    -------
    a Series: n, r, type1, power (attained).

    Raises
    ------
    IonrtError
        Where no design exists up to `n_max`.

    References
    ----------
    A'Hern 2001, doi:10.1002/sim.721.

    Examples
    --------
    >>> ionrt.trial.ahern(0.1, 0.3)[["n", "r"]].astype(int).tolist()  # 25 patients, more than 5 responses
    [25, 5]
    """
    p0, p1 = limits.rates(p0, p1)
    alpha, power = limits.error_rates(alpha, 1.0 - limits.probability(beta, "beta"))
    n = np.arange(1, limits.count(n_max, "n_max", most=100_000) + 1)
    r = stats.binom.isf(alpha, n, p0)
    attained = stats.binom.sf(r, n, p1)
    good = np.flatnonzero(attained >= power)
    if not good.size:
        raise IonrtError(
            f"ahern: no design with p0={p0:g}, p1={p1:g}, alpha={alpha:g}, beta={beta:g} up to n_max={n_max};"
            f" the power at n_max is {attained[-1]:.3f}"
        )
    i = int(good[0])
    return pd.Series(
        {"n": int(n[i]), "r": int(r[i]), "type1": float(stats.binom.sf(r[i], n[i], p0)), "power": float(attained[i])},
        name="ahern",
        dtype=object,
    )


def two_stage_ci(x: int, *, r1: int, n1: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of the response rate after a two-stage trial with `x` responses; x <= r1: it stopped after the first stage.

    Outcomes are ordered by stage, then by responses; P(this outcome or a higher one | p) is inverted at both tails.
    The plain binomial interval ignores that a promising first stage was the condition for the second. Jennison & Turnbull 1983,
    doi:10.1080/00401706.1983.10487806.
    """
    tail = (1.0 - limits.probability(level, "level")) / 2.0
    if not 0 <= x <= n:
        raise IonrtError(f"two_stage_ci: {x} responses in at most {n} patients")

    def at_least(p: float, k: int) -> float:
        if k <= r1:
            return float(stats.binom.sf(k - 1, n1, p))
        first = np.arange(r1 + 1, n1 + 1)
        return float(np.sum(stats.binom.pmf(first, n1, p) * stats.binom.sf(k - 1 - first, n - n1, p)))

    lower = 0.0 if x == 0 else optimize.brentq(lambda p: at_least(p, x) - tail, 0.0, 1.0)
    top = x >= n
    upper = 1.0 if top else optimize.brentq(lambda p: 1.0 - at_least(p, x + 1) - tail, 0.0, 1.0)
    return float(lower), float(upper)


def transform(s, name: str):
    """(h(s), h'(s)) of a survival probability; every transform increases with s."""
    s = np.asarray(s, float)
    if name == "identity":
        return s, np.ones_like(s)
    if name == "log":
        return np.log(s), 1.0 / s
    if name == "loglog":
        return -np.log(-np.log(s)), -1.0 / (s * np.log(s))
    if name == "logit":
        return np.log(s / (1.0 - s)), 1.0 / (s * (1.0 - s))
    return np.arcsin(np.sqrt(s)), 0.5 / np.sqrt(s * (1.0 - s))


def survival_rate(
    s0: float,
    s1: float,
    *,
    time: float,
    accrual: float,
    follow_up: float,
    method: str = "exact",
    alpha: float = 0.05,
    power: float = 0.80,
    n_max: int = 500,
    dropout: float = 0.0,
) -> pd.Series:
    """Patients to show that survival at `time` exceeds s0.

    exact: with follow-up of at least `time` for everybody and no loss, survival at `time` is a binomial proportion (see
    `ahern`). Otherwise a Kaplan-Meier estimate tested on a transformed scale h: n = ((z_alpha v0 + z_power v1) / (h(s1) -
    h(s0)))^2, v = h'(s) s sqrt(int_0^time hazard / (S(u) G(u)) du), exponential survival S, uniform entry and exponential
    loss G.

    Parameters
    ----------
    s0, s1 : uninteresting and interesting survival at `time`.
    time, accrual, follow_up : same unit; follow_up counts from the last entry.
    alpha, power : one-sided type I error; power.
    n_max : largest n searched by "exact".
    dropout : rate of loss to follow-up per unit time (0 for method "exact").
    method : "exact" or the transform "identity", "log", "loglog", "logit", "arcsine" (best size in small samples).

    Returns
    -------
    a Series: n (not rounded), n_planned; for "exact" also r (reject s <= s0 with more than r survivors), type1, power.

    Raises
    ------
    IonrtError
        Where nobody is observed up to `time`, or "exact" meets censoring.

    References
    ----------
    doi:10.1002/sim.721; Nagashima et al. 2021, doi:10.1002/pst.2090.
    """
    s0, s1 = limits.rates(s0, s1, ("s0", "s1"))
    alpha, power = limits.error_rates(alpha, power)
    time, accrual = limits.positive(time, "time"), limits.positive(accrual, "accrual")
    if accrual + limits.non_negative(follow_up, "follow_up") <= time:
        raise IonrtError(f"follow_up: nobody is observed up to {time:g}; accrual + follow_up must exceed it")
    if one_of(method, ("exact", *TRANSFORMS), what="method") == "exact":
        if follow_up < time or dropout > 0:
            raise IonrtError(
                f"method 'exact' needs follow_up >= {time:g} for everybody and no dropout, got {follow_up:g} and {dropout:g};"
                " use method='arcsine'"
            )
        found = ahern(s0, s1, alpha, 1.0 - power, n_max=n_max)
        return pd.Series({**found.to_dict(), "n_planned": found["n"]}, name="exact", dtype=object)
    h0, h1 = (transform(s, method)[0] for s in (s0, s1))
    v0, v1 = (_standard_deviation(s, time, accrual, follow_up, dropout, method) for s in (s0, s1))
    n = ((stats.norm.isf(alpha) * v0 + stats.norm.ppf(power) * v1) / (h1 - h0)) ** 2
    return pd.Series({"n": float(n), "n_planned": int(np.ceil(n - 1e-9))}, name=method, dtype=object)


def _standard_deviation(s: float, time: float, accrual: float, follow_up: float, dropout: float, method: str) -> float:
    """sqrt(n Var h(KM(time))) by Greenwood's integral; split where the censoring by entry begins."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    rate, total = -np.log(s) / time, 0.0
    edges = np.unique([0.0, min(follow_up, time), time])
    for a, b in pairwise(edges):
        u = (b - a) / 2.0 * nodes + (a + b) / 2.0
        entered = np.clip((accrual + follow_up - u) / accrual, 0.0, 1.0)
        total += float((b - a) / 2.0 * weights @ (rate * np.exp((rate + dropout) * u) / entered))
    return float(transform(s, method)[1] * s * np.sqrt(total))
