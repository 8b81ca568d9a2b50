"""Maximum likelihood for the dose-response models: links, optimiser, profile-likelihood limits, separation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import numpy as np
from scipy import optimize, special, stats

from ionrt.quantities import IonrtError

LINKS = ("logit", "probit", "cloglog")

# negative log-likelihood and its gradient at the parameters
Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def log_probabilities(u: np.ndarray, link: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """log p, log(1 - p) and their derivatives in the linear predictor, without loss of digits in the tails."""
    if link == "logit":
        p = special.expit(u)
        return special.log_expit(u), special.log_expit(-u), 1 - p, -p
    if link == "probit":
        up, down, density = special.log_ndtr(u), special.log_ndtr(-u), stats.norm.logpdf(u)
        return up, down, np.exp(density - up), -np.exp(density - down)
    e = np.exp(np.clip(u, -700, 700))
    up = np.log(-np.expm1(-np.maximum(e, 1e-300)))
    return up, -e, np.where(e < 700, e / np.expm1(np.clip(e, 1e-300, 700)), 0.0), -e


def binomial_objective(x: np.ndarray, events: np.ndarray, total: np.ndarray, link: str) -> Objective:
    """Bernoulli or binomial likelihood of events among total at linear predictor x beta."""

    def objective(beta: np.ndarray) -> tuple[float, np.ndarray]:
        up, down, dup, ddown = log_probabilities(x @ beta, link)
        value = -(events @ up + (total - events) @ down)
        return float(value), -(x.T @ (events * dup + (total - events) * ddown))

    return objective


def maximise(objective: Objective, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Parameters and log-likelihood at the maximum; raises where the optimiser finds none."""
    with np.errstate(all="ignore"):  # a line search may try absurd values; what it ends with is checked
        best = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 1000})
    if not np.isfinite(best.fun) or np.abs(best.jac).max(initial=0.0) > 1e-3 * (1 + abs(best.fun)):
        raise IonrtError(
            "the likelihood has no maximum that can be found; simplify the model or look at the data (few events?)"
        )
    with np.errstate(all="ignore"):
        polished = _polish(objective, best.x)
        return polished, -objective(polished)[0]


def _polish(objective: Objective, at: np.ndarray) -> np.ndarray:
    """A few Newton steps on the analytic gradient: quasi-Newton stops at about half the digits."""
    for _ in range(4):
        value, gradient = objective(at)
        try:
            trial = at - np.linalg.solve(hessian(objective, at), gradient)
        except np.linalg.LinAlgError:
            break
        if not objective(trial)[0] <= value + 1e-9:
            break
        at = trial
    return at


def hessian(objective: Objective, at: np.ndarray) -> np.ndarray:
    """Second derivatives of the objective, central differences of its gradient."""
    size = len(at)
    out = np.empty((size, size))
    for j in range(size):
        step = np.zeros(size)
        step[j] = 1e-5 * max(1.0, abs(at[j]))
        with np.errstate(all="ignore"):
            out[j] = (objective(at + step)[1] - objective(at - step)[1]) / (2 * step[j])
    return (out + out.T) / 2


def best_of(objective: Objective, starts: Iterable[np.ndarray], otherwise: str) -> np.ndarray:
    """The highest of the maxima found from several starts; `otherwise`: the message where none is found."""
    found = []
    for start in starts:
        with suppress(IonrtError):
            found.append(maximise(objective, start))
    if not found:
        raise IonrtError(otherwise)
    return max(found, key=lambda one: one[1])[0]


def covariance(objective: Objective, at: np.ndarray) -> np.ndarray:
    """Inverse of the observed information; NaN where the likelihood is flat."""
    try:
        return np.linalg.inv(hessian(objective, at))
    except np.linalg.LinAlgError:
        return np.full((len(at), len(at)), np.nan)


def profile_limits(objective: Objective, at: np.ndarray, which: int, *, level: float, scale: float) -> tuple[float, float]:
    """Limits at which the profile log-likelihood has fallen by half the chi-squared quantile; infinite where it never does."""
    goal = np.sqrt(stats.chi2.ppf(level, 1))
    floor = objective(at)[0]
    profile = _Profile(objective, at, which)
    width = scale if np.isfinite(scale) and scale > 0 else max(1.0, abs(at[which])) * 0.1

    def side(direction: float) -> float:
        near, below, start = 0.0, -goal, profile.maximum
        far = 1.1 * goal * width
        for _ in range(12):
            value, state = profile(at[which] + direction * far, start)
            above = _depth(value - floor) - goal
            if above > 0:
                break
            near, below, start, far = far, above, state, 1.8 * far
        else:
            return direction * np.inf
        for _ in range(60):  # regula falsi (Illinois) on a nearly straight curve, each search from the inner side
            middle = (near * above - far * below) / (above - below) if np.isfinite(above) else (near + far) / 2
            value, state = profile(at[which] + direction * middle, start)
            here = _depth(value - floor) - goal
            if abs(here) < 1e-5 or far - near < 1e-7 * width:
                break
            if here < 0:
                near, below, start, above = middle, here, state, above / 2
            else:
                far, above, below = middle, here, below / 2
        return float(at[which] + direction * middle)

    return side(-1.0), side(1.0)


def _depth(rise: float) -> float:
    """Square root of twice the loss of log-likelihood: a straight line for a parabola."""
    return float(np.sqrt(2 * max(0.0, rise))) if np.isfinite(rise) else np.inf


class _Profile:
    """Objective with one parameter fixed and the others at their best, each search starting where a parabola puts it."""

    def __init__(self, objective: Objective, at: np.ndarray, which: int) -> None:
        self.objective, self.at, self.which = objective, at, which
        self.rest = np.arange(len(at)) != which
        h = hessian(objective, at)
        inner = h[np.ix_(self.rest, self.rest)]
        self.shift = np.zeros(len(inner))
        self.options: dict[str, object] = {"gtol": 1e-4}
        if len(inner) and np.isfinite(h).all() and np.linalg.eigvalsh(inner)[0] > 1e-8 * np.abs(inner).max():
            inverse = np.linalg.inv(inner)
            self.shift = -inverse @ h[self.rest, which]
            self.options["hess_inv0"] = (inverse + inverse.T) / 2
        self.maximum = (float(at[which]), at[self.rest])

    def __call__(self, value: float, start: tuple[float, np.ndarray]) -> tuple[float, tuple[float, np.ndarray]]:
        """Objective at `value`, and the state (value, others) from which a neighbour can be searched."""
        full = self.at.copy()
        full[self.which] = value

        def reduced(free: np.ndarray) -> tuple[float, np.ndarray]:
            full[self.rest] = free
            result, gradient = self.objective(full.copy())
            return result, gradient[self.rest]

        others = start[1] + self.shift * (value - start[0])
        if not self.rest.any():
            return reduced(others)[0], (value, others)
        with np.errstate(all="ignore"):
            best = optimize.minimize(reduced, others, jac=True, method="BFGS", options=self.options)
        return float(best.fun), (value, best.x)


def likelihood_ratio_p(objective: Objective, at: np.ndarray, which: int) -> float:
    """p value of the parameter being zero, by the likelihood ratio."""
    profile = _Profile(objective, at, which)
    rise = profile(0.0, profile.maximum)[0] - objective(at)[0]
    return float(stats.chi2.sf(max(0.0, 2 * rise), 1))


def check_separation(x: np.ndarray, events: np.ndarray, total: np.ndarray, names: Sequence[str]) -> None:
    """Raise where some combination of the terms divides events from non-events, so that no finite estimate exists."""
    if events.sum() == 0 or (events == total).all():
        raise IonrtError(
            f"expected patients with and without event, got {int(events.sum())} events in {int(total.sum())} patients"
        )
    scaled = x / np.maximum(np.abs(x).max(axis=0), 1e-300)
    if np.linalg.matrix_rank(scaled) < x.shape[1]:
        raise IonrtError(f"terms {', '.join(names)} are linearly dependent or constant; leave one of them out")
    sure = (events == 0) | (events == total)
    signed = np.where(events == total, 1.0, -1.0)[:, None] * scaled
    lp = optimize.linprog(
        -signed[sure].sum(axis=0),
        A_ub=-signed[sure],
        b_ub=np.zeros(sure.sum()),
        A_eq=scaled[~sure] if (~sure).any() else None,
        b_eq=np.zeros((~sure).sum()) if (~sure).any() else None,
        bounds=(-1, 1),
    )
    if lp.success and -lp.fun > 1e-7:
        guilty = [n for n, b in zip(names, lp.x, strict=True) if abs(b) > 1e-7 and n != "Intercept"]
        raise IonrtError(
            f"complete separation: {', '.join(guilty) or 'the terms'} divide patients with and without event, so no"
            " finite estimate exists; use fewer terms, and report the counts"
        )
