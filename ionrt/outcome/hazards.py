"""The engine under Cox and Fine-Gray: partial likelihood of (start, stop] rows, weights, strata, ties, and concordance.

Kernel layer: plain arrays, no labels. One backward sweep over the event times keeps the sums of the risk set, so the
cost of an iteration is linear in the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from ionrt.quantities import IonrtError


@dataclass(frozen=True)
class RiskSets:
    """Which rows enter, leave and fail at each distinct (stratum, event time), as compressed lists."""

    first: np.ndarray  # per row: first event time in its interval
    last: np.ndarray  # per row: last one
    enter: tuple[np.ndarray, np.ndarray]
    leave: tuple[np.ndarray, np.ndarray]
    fail: tuple[np.ndarray, np.ndarray]
    stratum: np.ndarray  # per event time
    time: np.ndarray  # per event time
    event_row: np.ndarray  # per row: index of its own event time, -1 without event
    carried: np.ndarray  # per row, 0 or 1: does its weight follow `factor`? (failed otherwise, kept at risk by Fine-Gray)
    factor: np.ndarray  # per event time


@dataclass(frozen=True)
class Sweep:
    """Log partial likelihood, score, information, and the increments per event time that residuals need."""

    loglik: float
    score: np.ndarray
    information: np.ndarray
    hazard: np.ndarray  # (time,)
    hazard_mean: np.ndarray  # (time, term)
    shared: np.ndarray  # (time,) part of the hazard that tied failures do not bear (Efron)
    shared_mean: np.ndarray
    mean: np.ndarray  # (time, term) mean covariate over the risk set


@dataclass(frozen=True)
class Fit:
    """Estimate on the scale of the covariates given."""

    beta: np.ndarray
    covariance: np.ndarray
    loglik: float
    loglik_null: float
    score_test: float
    iterations: int
    swept: Sweep  # at the estimate, of the covariates less their weighted mean


def risk_sets(
    start: np.ndarray, stop: np.ndarray, event: np.ndarray, stratum: np.ndarray, carried: np.ndarray | None = None
) -> RiskSets:
    """Index the rows by event time; rows that see no event time never enter."""
    times = np.unique(np.concatenate([start, stop]))
    width = len(times) + 1
    key_stop = stratum * width + np.searchsorted(times, stop)
    key_start = stratum * width + np.searchsorted(times, start)
    keys = np.unique(key_stop[event])
    last = np.searchsorted(keys, key_stop, side="right") - 1
    first = np.searchsorted(keys, key_start, side="right")
    active = np.flatnonzero(first <= last)
    failing = np.flatnonzero(event)
    own = np.where(event, last, -1)
    return RiskSets(
        first,
        last,
        _lists(last, active, len(keys)),
        _lists(first, active, len(keys)),
        _lists(own, failing, len(keys)),
        keys // width,
        times[keys % width],
        own,
        np.zeros(len(stop), dtype=np.int64) if carried is None else carried.astype(np.int64),
        np.ones(len(keys)),
    )


def _lists(bucket: np.ndarray, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by bucket: offsets and row numbers."""
    order = rows[np.argsort(bucket[rows], kind="stable")]
    counts = np.bincount(bucket[rows], minlength=size) if len(rows) else np.zeros(size, dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), order.astype(np.int64)


@njit(nogil=True, cache=True)
def _add(rows, sign, x, r, kind, s0, s1, s2):
    """Add the rows to the sums of their kind, or take them away."""
    for i in rows:
        c, ri = kind[i], sign * r[i]
        s0[c] += ri
        for a in range(x.shape[1]):
            va = ri * x[i, a]
            s1[c, a] += va
            for b in range(a + 1):
                s2[c, a, b] += va * x[i, b]


@njit(nogil=True, cache=True)
def _clear(s0, s1, s2):
    s0[:] = 0.0
    s1[:] = 0.0
    s2[:] = 0.0


@njit(nogil=True, cache=True)
def _sweep(x, eta, w, e_ptr, e_idx, l_ptr, l_idx, f_ptr, f_idx, stratum, kind, factor, efron, scale):
    """One pass over the event times, latest first; `scale` multiplies each time's score and information."""
    n_times, p = len(stratum), x.shape[1]
    r = w * np.exp(eta)
    s0, s1, s2 = np.zeros(2), np.zeros((2, p)), np.zeros((2, p, p))  # risk set: plain rows, carried rows
    d0, d1, d2 = np.zeros(2), np.zeros((2, p)), np.zeros((2, p, p))  # those who fail
    loglik, score, info = 0.0, np.zeros(p), np.zeros((p, p))
    hazard, hazard_mean = np.zeros(n_times), np.zeros((n_times, p))
    shared, shared_mean, means = np.zeros(n_times), np.zeros((n_times, p)), np.zeros((n_times, p))
    mean = np.zeros(p)
    for k in range(n_times - 1, -1, -1):
        if k < n_times - 1:
            if stratum[k] != stratum[k + 1]:
                _clear(s0, s1, s2)
            else:
                _add(l_idx[l_ptr[k + 1] : l_ptr[k + 2]], -1.0, x, r, kind, s0, s1, s2)
        _add(e_idx[e_ptr[k] : e_ptr[k + 1]], 1.0, x, r, kind, s0, s1, s2)
        failed = f_idx[f_ptr[k] : f_ptr[k + 1]]
        _clear(d0, d1, d2)
        _add(failed, 1.0, x, r, kind, d0, d1, d2)
        total = 0.0
        for i in failed:
            total += w[i]
            loglik += w[i] * eta[i]
            for a in range(p):
                score[a] += scale[k] * w[i] * x[i, a]
        if total == 0.0:
            continue
        steps = len(failed) if efron else 1
        each = total / steps
        for j in range(steps):
            part = j / steps
            below = s0[0] + factor[k] * s0[1] - part * d0[0]
            if not below > 0:  # the step was so long that all risks in the set have underflowed
                return -np.inf, score, info, hazard, hazard_mean, shared, shared_mean, means
            loglik -= each * np.log(below)
            h = each / below
            hazard[k] += h
            shared[k] += part * h
            for a in range(p):
                mean[a] = (s1[0, a] + factor[k] * s1[1, a] - part * d1[0, a]) / below
                score[a] -= scale[k] * each * mean[a]
                hazard_mean[k, a] += h * mean[a]
                shared_mean[k, a] += part * h * mean[a]
                means[k, a] += mean[a] / steps
                for b in range(a + 1):
                    square = (s2[0, a, b] + factor[k] * s2[1, a, b] - part * d2[0, a, b]) / below
                    info[a, b] += scale[k] * each * (square - mean[a] * mean[b])
    for a in range(p):
        for b in range(a):
            info[b, a] = info[a, b]
    return loglik, score, info, hazard, hazard_mean, shared, shared_mean, means


def sweep(x: np.ndarray, beta: np.ndarray, w: np.ndarray, sets: RiskSets, ties: str, scale: np.ndarray | None = None) -> Sweep:
    """Likelihood and its derivatives at `beta`; x (row, term), w (row,)."""
    eta = x @ beta
    eta = eta - eta.max(initial=-np.inf) if len(eta) else eta  # a common factor of all risks cancels
    scale = np.ones(len(sets.time)) if scale is None else scale
    out = _sweep(
        x, eta, w, *sets.enter, *sets.leave, *sets.fail, sets.stratum, sets.carried, sets.factor, ties == "efron", scale
    )
    return Sweep(*out)


def standardise(x: np.ndarray, w: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Columns with mean 0 and standard deviation 1, and the deviations; a constant or redundant column raises."""
    centred = x - np.average(x, axis=0, weights=w)
    spread = np.sqrt(np.average(centred**2, axis=0, weights=w))
    flat = spread <= 1e-12 * (1 + np.abs(x).max(axis=0))
    if flat.any():
        raise IonrtError(f"term {names[int(flat.argmax())]!r} has the same value in every row; leave it out of the formula")
    z = np.ascontiguousarray(centred / spread)
    values, vectors = np.linalg.eigh((z * w[:, None]).T @ z / w.sum())
    if values[0] < 1e-10:
        guilty = [n for n, v in zip(names, vectors[:, 0], strict=True) if abs(v) > 0.05]
        raise IonrtError(f"terms {', '.join(guilty)} are linearly dependent; leave one of them out of the formula")
    return z, spread


def newton(x: np.ndarray, w: np.ndarray, sets: RiskSets, names: list[str], ties: str) -> Fit:
    """Maximum of the partial likelihood by Newton steps, halved where the likelihood would fall."""
    z, spread = standardise(x, w, names)
    beta = np.zeros(z.shape[1])
    here = sweep(z, beta, w, sets, ties)
    null, score_test = here.loglik, np.nan
    for iteration in range(1, 51):
        step = _solve(here.information, here.score, names)
        if iteration == 1:
            score_test = float(here.score @ step)
        there = sweep(z, beta + step, w, sets, ties)
        while not there.loglik >= here.loglik - 1e-10 * abs(here.loglik) and np.abs(step).max() > 1e-12:
            step = step / 2
            there = sweep(z, beta + step, w, sets, ties)
        beta, gain, here = beta + step, there.loglik - here.loglik, there
        if np.abs(step).max() < 1e-9:
            break
        if abs(gain) < 1e-9 * (1 + abs(here.loglik)) and np.abs(step).max() > 0.1:
            _infinite(step, beta, names)
    else:
        _infinite(step, beta, names)
    values = np.linalg.eigvalsh(here.information)
    if not values[0] > 1e-9 * values[-1]:
        raise IonrtError(f"terms {', '.join(names)}: the information matrix is singular; use fewer terms or merge levels")
    covariance = np.linalg.inv(here.information) / np.outer(spread, spread)
    means = {name: getattr(here, name) * spread for name in ("hazard_mean", "shared_mean", "mean")}
    return Fit(beta / spread, covariance, here.loglik, null, score_test, iteration, replace(here, **means))


def _solve(information: np.ndarray, score: np.ndarray, names: list[str]) -> np.ndarray:
    """Newton step; a term that does not vary in any risk set with an event has no information."""
    bare = np.diag(information) <= 1e-10
    if bare.any():
        raise IonrtError(
            f"term {names[int(bare.argmax())]!r} does not vary among the patients at risk when events happen; leave it out"
        )
    try:
        return np.linalg.solve(information, score)
    except np.linalg.LinAlgError:
        raise IonrtError(f"terms {', '.join(names)}: the information matrix is singular; use fewer terms") from None


def _infinite(step: np.ndarray, beta: np.ndarray, names: list[str]) -> None:
    """The likelihood is flat while an estimate still runs away: complete separation."""
    worst = int(np.abs(step).argmax())
    limit = "infinity" if beta[worst] > 0 else "zero"
    raise IonrtError(
        f"term {names[worst]!r}: the hazard ratio goes to {limit} (complete separation: all events on one side of it);"
        " merge its levels or leave it out, and report the counts"
    )


Estimated = Callable[[np.ndarray, np.ndarray, Sweep], np.ndarray]


def score_residuals(
    x: np.ndarray, beta: np.ndarray, w: np.ndarray, sets: RiskSets, s: Sweep, estimated: Estimated | None = None
) -> np.ndarray:
    """Each row's share of the score, (row, term); they add up to zero at the maximum.

    `s` is the sweep at `beta` of the covariates less their weighted mean; `estimated` gives what the estimation of the weights
    adds, from the centred covariates, the weighted risks and the sweep.
    """
    centre = np.average(x, axis=0, weights=w)
    x = np.ascontiguousarray(x - centre)
    eta = x @ beta
    risk = np.exp(eta - eta.max())
    active = (sets.first <= sets.last).astype(float)
    first, last = np.minimum(sets.first, len(sets.time)), np.maximum(sets.last, -1) + 1
    out = np.zeros_like(x)
    for kind, factor in ((0, np.ones(len(sets.time))), (1, sets.factor)):
        mine = sets.carried == kind
        total = np.append(0.0, np.cumsum(factor * s.hazard))
        total_mean = np.vstack([np.zeros(x.shape[1]), np.cumsum(factor[:, None] * s.hazard_mean, axis=0)])
        a, b = first[mine], last[mine]
        borne = (total[b] - total[a])[:, None] * x[mine] - (total_mean[b] - total_mean[a])
        out[mine] = -(risk * active)[mine, None] * borne
    failed = np.flatnonzero(sets.event_row >= 0)
    k = sets.event_row[failed]
    out[failed] += x[failed] - s.mean[k] + risk[failed, None] * (s.shared[k, None] * x[failed] - s.shared_mean[k])
    out *= w[:, None]
    return out if estimated is None else out + estimated(x, w * risk, s)


def cluster_covariance(residuals: np.ndarray, covariance: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Sandwich covariance with the score residuals added up within clusters."""
    influence = residuals @ covariance
    size = int(cluster.max()) + 1
    sums = np.stack([np.bincount(cluster, weights=column, minlength=size) for column in influence.T], axis=1)
    return sums.T @ sums


@njit(nogil=True, cache=True)
def _concordance(rank, top, w, e_ptr, e_idx, l_ptr, l_idx, f_ptr, f_idx, stratum):
    """Weights of concordant, discordant and tied pairs of a failing row with the rows that outlive it."""
    tree = np.zeros(top + 1)
    counts = np.zeros(3)
    total = 0.0
    for k in range(len(stratum) - 1, -1, -1):
        if k < len(stratum) - 1:
            if stratum[k] != stratum[k + 1]:
                tree[:] = 0.0
                total = 0.0
            else:
                for i in l_idx[l_ptr[k + 1] : l_ptr[k + 2]]:
                    total = _put(tree, rank[i], -w[i], total)
        for i in e_idx[e_ptr[k] : e_ptr[k + 1]]:
            total = _put(tree, rank[i], w[i], total)
        failed = f_idx[f_ptr[k] : f_ptr[k + 1]]
        for i in failed:  # tied failures are not comparable with each other
            total = _put(tree, rank[i], -w[i], total)
        for i in failed:
            below, upto = _prefix(tree, rank[i] - 1), _prefix(tree, rank[i])
            counts[0] += w[i] * below
            counts[1] += w[i] * (total - upto)
            counts[2] += w[i] * (upto - below)
        for i in failed:
            total = _put(tree, rank[i], w[i], total)
    return counts


@njit(nogil=True, cache=True)
def _put(tree, i, value, total):
    while i < len(tree):
        tree[i] += value
        i += i & -i
    return total + value


@njit(nogil=True, cache=True)
def _prefix(tree, i):
    out = 0.0
    while i > 0:
        out += tree[i]
        i -= i & -i
    return out


def concordance(risk: np.ndarray, w: np.ndarray, sets: RiskSets) -> float:
    """Harrell's C: how often the row with the higher risk fails first; ties in risk count one half."""
    levels, rank = np.unique(risk, return_inverse=True)
    counts = _concordance(rank + 1, len(levels), w, *sets.enter, *sets.leave, *sets.fail, sets.stratum)
    return float((counts[0] + counts[2] / 2) / counts.sum()) if counts.sum() > 0 else float("nan")
