"""What influences and fields depend on, as short hashes of values: no attribute that arithmetic may have carried along."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ionrt.files import content_hash
from ionrt.plan.setup.machine import NEEDED
from ionrt.plan.setup.scene import Scene
from ionrt.quantities import OWN_DOSE

FOR_MOMENTS = ("let_d", "let_t", "spectrum_depth", "dose_spectrum", "kinetic_energy", "charge", "let_definition",
               "alpha", "beta", "alpha_x", "beta_x")  # fmt: skip


def of_base(data: Mapping[str, xr.Dataset]) -> str:
    """Of the base data that dose and moments come from, whatever their attributes say."""
    parts: list[object] = []
    for ion, base in data.items():
        parts.append(ion)
        for name in ("energy", "depth", *NEEDED, *FOR_MOMENTS):
            if name in base:
                values = np.asarray(base[name].values)
                parts += [name, base[name].dims, values if values.dtype.kind in "fiu" else values.tolist()]
        if "dose_by_origin" in base and OWN_DOSE[0] in base["origin"].values:  # weighs LET of the primaries
            parts.append(np.asarray(base["dose_by_origin"].sel(origin=OWN_DOSE[0]).values))
    return content_hash(*parts)


def of_patient(scene: Scene) -> str:
    """Of material, outline and target, with their places."""
    return content_hash(scene.spr, scene.spr_grid, scene.grid, scene.body, scene.target)
