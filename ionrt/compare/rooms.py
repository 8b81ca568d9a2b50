"""Rooms side by side in tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.compare.cases import ION_NAMES
from ionrt.quantities import IonrtError


def reach_table(maps: Iterable[xr.Dataset]) -> pd.DataFrame:
    """How many directions of each room reach the whole target with each ion, and by how much.

    Parameters: `maps` of `ionrt.plan.reach`, one per room. Returns a DataFrame, one row per (room, ion): directions looked at,
    those where the depth is known, those that reach, smallest and largest margin of the known ones [mm].
    """
    rows = {}
    for found in maps:
        if "reach_margin" not in found:
            raise IonrtError("reach_table: expected Datasets of ionrt.plan.reach")
        for ion in found["ion"].values:
            margin = found["reach_margin"].sel(ion=ion)
            known = margin.values[np.isfinite(margin.values)]
            rows[(found.attrs["room"], ION_NAMES[str(ion)])] = {
                "directions": margin.size,
                "depth known": known.size,
                "reach": int(found["reaches"].sel(ion=ion).sum()),
                "smallest margin [mm]": known.min() if known.size else np.nan,
                "largest margin [mm]": known.max() if known.size else np.nan,
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["room", "ion"])
    return table
