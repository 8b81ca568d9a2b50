"""Tables of alpha and beta over depth that a machine file carries per tissue class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ionrt.quantities import IonrtError

Array = NDArray[np.float64]


def kernels_of(
    entries: list[dict[str, Any]], tables: list[dict[str, Array]], depth: NDArray[Any], repaired: set[str], file: Path
) -> dict[str, Array]:
    """alpha and beta over depth per tissue class, and alpha_x, beta_x; nothing where the file has none."""
    if not all(np.size(e.get(k, ())) for e in entries for k in ("alpha", "beta", "alphaX", "betaX")):
        return {}
    photon = np.array([[np.ravel(np.asarray(e[k], float)) for k in ("alphaX", "betaX")] for e in entries])
    if not (photon == photon[0]).all():
        raise IonrtError(f"{file.name}: tissue classes (alphaX, betaX) differ between energies; expected the same at all")
    out = {"alpha_x": photon[0, 0], "beta_x": photon[0, 1]}
    for name in ("alpha", "beta"):
        rows = []
        for entry, table in zip(entries, tables, strict=True):
            value = np.asarray(entry[name], float).reshape(table["depth"].size, -1)
            if value.shape[1] != photon.shape[2]:
                raise IonrtError(f"{file.name}: {value.shape[1]} columns of {name} for {photon.shape[2]} tissue classes")
            if not np.isfinite(value[0]).all():
                repaired.add(f"{name} at depth 0")
                value = np.where(np.isfinite(value), value, np.append(value[1:2], value[1:], axis=0))
            if not np.isfinite(value).all() or (value < 0.0).any():
                raise IonrtError(
                    f"{file.name}: {name} at {entry.get('energy')} MeV/u has values that are no numbers or negative"
                )
            rows.append([np.interp(depth, table["depth"], column) for column in value.T])
        out[name] = np.moveaxis(np.array(rows), 0, 1).astype(np.float32)
    return out
