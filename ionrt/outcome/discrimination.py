"""Harrell's concordance of a risk score with survival, for (start, stop] rows, weights and strata."""

from __future__ import annotations

import numpy as np
from numba import njit

from ionrt.outcome.hazards import RiskSets


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
