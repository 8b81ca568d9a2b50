"""How far sites differ: Cochran's Q and the moment estimate of the variance between them; the one home of DerSimonian-Laird."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ionrt.quantities import IonrtError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Heterogeneity:
    """Cochran's Q, its degrees of freedom, the moment estimate of tau2, and the typical variance within sites (Higgins)."""

    q: float
    df: int
    tau2: float
    typical: float


def heterogeneity(y: Array, v: Array) -> Heterogeneity:
    """Of at least two sites: Q = sum (y - mean)^2 / v; tau2 = max(0, (Q - df) / C), C = sum 1/v - sum 1/v^2 / sum 1/v."""
    w = 1.0 / v
    df = y.size - 1
    q = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    spread = float(w.sum() - np.sum(w**2) / w.sum())
    if not spread > 0 or not np.isfinite(q):
        raise IonrtError("sites: one standard error is so small beside the others that nothing can be told between sites")
    return Heterogeneity(q, df, max(0.0, (q - df) / spread), df / spread)


def pooled(y: Array, v: Array, tau2: float) -> tuple[float, float]:
    """Inverse-variance mean and its standard error."""
    w = 1.0 / (v + tau2)
    return float(np.average(y, weights=w)), float(w.sum() ** -0.5)
