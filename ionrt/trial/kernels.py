"""Replicates: in batches by dask over independent random streams, so that the result does not depend on the machine; compiled
for phase I trials and event-driven survival trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import numpy as np
from numba import njit

from ionrt.outcome.comparison import logrank_sums
from ionrt.parallel import whole_cluster
from ionrt.trial import limits

BATCHES = 16  # fixed: the same seed gives the same replicates on one core and on many


def in_batches(replicates: Callable[..., Any], n_sim: int, seed: int | Sequence[int], *arguments: Any) -> list[Any]:
    """Run `replicates(rng, size, *arguments)` in batches with spawned streams; a running distributed client is used."""
    n_sim = limits.count(n_sim, "n_sim")
    sizes = np.diff(np.linspace(0, n_sim, min(BATCHES, n_sim) + 1).round().astype(int))
    streams = np.random.SeedSequence(seed).spawn(sizes.size)
    tasks = [dask.delayed(_seeded)(replicates, s, int(m), *arguments) for s, m in zip(streams, sizes, strict=True)]
    with whole_cluster():
        return list(dask.compute(*tasks))


def _seeded(replicates, stream, size, *arguments):
    return replicates(np.random.default_rng(stream), size, *arguments)


@njit(nogil=True, cache=True)
def boin_trials(u, p, cohort, escalate, deescalate, eliminate):
    """Replicates of an interval design: (closed from level, patients, toxicities) per replicate; u (replicate, patient)."""
    n_sim, n_max = u.shape
    k = p.size
    closed = np.full(n_sim, k)
    n = np.zeros((n_sim, k), np.int64)
    x = np.zeros((n_sim, k), np.int64)
    for i in range(n_sim):
        level = 0
        done = 0
        while done + cohort <= n_max:
            for _ in range(cohort):
                x[i, level] += u[i, done] < p[level]
                n[i, level] += 1
                done += 1
            m, y = n[i, level], x[i, level]
            if eliminate[m] >= 0 and y >= eliminate[m]:
                closed[i] = min(closed[i], level)
                if level == 0:
                    break
                level -= 1
            elif y <= escalate[m] and level + 1 < k and level + 1 < closed[i]:
                level += 1
            elif y >= deescalate[m] and level > 0:
                level -= 1
    return closed, n, x


@njit(nogil=True, cache=True)
def _weigh(likelihood, prior, first_over, curve_at_mean, grid, table, target):
    """Posterior of the parameter on the grid: recommended level and P(p_1 > target)."""
    total = 0.0
    mean = 0.0
    over = 0.0
    for g in range(grid.size):
        post = likelihood[g] * prior[g]
        total += post
        mean += grid[g] * post
        if first_over[g]:
            over += post
    mean /= total
    # the curve is smooth in the parameter: interpolate its levels between grid points
    at = (mean - grid[0]) / (grid[1] - grid[0])
    low = min(int(at), grid.size - 2)
    share = at - low
    best = 0
    gap = 2.0
    for j in range(table.shape[1]):
        curve_at_mean[j] = (1.0 - share) * table[low, j] + share * table[low + 1, j]
        if abs(curve_at_mean[j] - target) < gap:
            gap = abs(curve_at_mean[j] - target)
            best = j
    return best, over / total


@njit(nogil=True, cache=True)
def crm_trials(u, times, entry, p, cohort, grid, prior, table, target, cutoff, window):
    """Replicates of (TITE-)CRM; window <= 0 waits for each cohort's outcomes.

    u, times, entry: (replicate, patient); times is the fraction of the window at which a toxicity shows, entry the calendar
    time.
    """
    n_sim, n_max = u.shape
    k = p.size
    selected = np.zeros(n_sim, np.int64)
    n = np.zeros((n_sim, k), np.int64)
    x = np.zeros((n_sim, k), np.int64)
    first_over = table[:, 0] > target
    likelihood = np.empty(grid.size)
    curve = np.empty(k)
    level_of = np.empty(n_max, np.int64)
    toxic = np.empty(n_max, np.bool_)
    for i in range(n_sim):
        level, highest, done = 0, 0, 0
        stopped = False
        while done < n_max:
            last = min(done + cohort, n_max)
            cohort_toxic = 0
            for j in range(done, last):
                level_of[j] = level
                toxic[j] = u[i, j] < p[level]
                n[i, level] += 1
                x[i, level] += toxic[j]
                cohort_toxic += toxic[j]
            size = last - done
            done = last
            now = entry[i, done] if done < n_max else np.inf
            for g in range(grid.size):
                likelihood[g] = 1.0
            seen_in_cohort = 0
            for j in range(done):
                follow = 1.0
                seen = toxic[j]
                if window > 0.0 and now < np.inf:
                    follow = min(max((now - entry[i, j]) / window, 0.0), 1.0)
                    seen = toxic[j] and times[i, j] <= follow
                if seen and j >= done - size:
                    seen_in_cohort += 1
                for g in range(grid.size):
                    q = table[g, level_of[j]]
                    likelihood[g] *= q if seen else 1.0 - follow * q
            best, over = _weigh(likelihood, prior, first_over, curve, grid, table, target)
            if done >= 3 and over > cutoff:
                stopped = True
                break
            if done == n_max:
                selected[i] = min(best, highest) + 1
                break
            if best > level and seen_in_cohort > target * size:
                best = level  # no escalation straight after too many toxicities
            level = min(best, highest + 1)
            highest = max(highest, level)
        if stopped:
            selected[i] = 0
    return selected, n, x


@njit(nogil=True, cache=True)
def survival_trials(entry, arm, lifetime, loss, looks, upper, lower, log_margin, end):
    """Replicates of an event-driven two-arm trial: look at the stop (from 1), decision (1 efficacy, 0), events, patients, time.

    entry, arm, lifetime, loss: (replicate, patient); looks: events at which each analysis happens; end: latest calendar time.
    """
    n_sim, n = entry.shape
    stop = np.zeros(n_sim, np.int64)
    rejected = np.zeros(n_sim, np.int64)
    events = np.zeros(n_sim, np.int64)
    enrolled = np.zeros(n_sim, np.int64)
    when = np.zeros(n_sim)
    time = np.empty(n)
    event = np.empty(n, np.bool_)
    group = np.empty(n, np.int64)
    nobody = np.zeros(0, np.int64)  # enters late
    for i in range(n_sim):
        calendar = np.empty(n)
        for j in range(n):
            calendar[j] = entry[i, j] + lifetime[i, j] if lifetime[i, j] <= loss[i, j] else np.inf
        ordered = np.sort(calendar)
        for k in range(looks.size):
            final = k == looks.size - 1
            now = min(ordered[looks[k] - 1], end) if looks[k] <= n else end
            m = 0
            for j in range(n):
                if entry[i, j] < now:
                    seen = min(lifetime[i, j], loss[i, j])
                    time[m] = min(seen, now - entry[i, j])
                    event[m] = calendar[j] <= now
                    group[m] = arm[i, j]
                    m += 1
            order = np.argsort(time[:m])
            seen_events, expected, covariance = logrank_sums(order, time, event, group, 2, nobody, time, 0, 0.0, 0.0)
            score, variance = seen_events[1] - expected[1], covariance[1, 1]
            d = 0
            for j in range(m):
                d += event[j]
            # log hazard ratio of the null hypothesis moves the score by its information
            z = (log_margin * variance - score) / np.sqrt(variance) if variance > 0 else 0.0
            if z >= upper[k] or z < lower[k] or final or now >= end:
                stop[i] = k + 1
                rejected[i] = z >= (upper[k] if not now >= end else upper[looks.size - 1])
                events[i] = d
                enrolled[i] = m
                when[i] = now
                break
    return stop, rejected, events, enrolled, when
