"""SYNTHETIC base data (power-law range, Gaussian straggling, fragments as halo) and water boxes for the planning tests."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ionrt import ions
from ionrt.plan import Beam, Plan, Room
from ionrt.quantities import LET_DEFINITIONS

STEP = 0.1
POINT_ROOM = Room("test gantry", source_distance=(7000.0, 6500.0))


def synthetic_base(ion: str = "C", *, energies=None, depth_end: float = 260.0, halo: bool = True) -> xr.Dataset:
    """SYNTHETIC base data after Bortfeld's power law, not physics to rely on."""
    isotope = ions.get(ion)
    energies = np.linspace(80.0, 320.0, 49) if energies is None else np.asarray(energies, float)
    depth = STEP * np.arange(round(depth_end / STEP) + 1)
    reach = 0.022 * energies**1.77 * isotope.mass_number / isotope.charge**2
    dose, weight = np.empty((energies.size, depth.size)), np.empty((energies.size, depth.size))
    let = np.empty((3, energies.size, depth.size))
    for i, r in enumerate(reach):
        width = 0.8 + 0.004 * r
        x = np.linspace(-4.0, 4.0, 81)
        kernel = np.exp(-0.5 * x * x)
        kernel /= kernel.sum()
        residual = np.maximum(r + width * x[None, :] - depth[:, None], 0.0)
        stopping = isotope.charge**2 * 0.55 * np.maximum(residual, 0.3) ** -0.435 * (residual > 0.0)
        fragments = 0.04 * isotope.charge**2 * np.minimum(depth / r, 1.0) * np.exp(-np.maximum(depth - r, 0.0) / 120.0)
        dose[i] = stopping @ kernel + fragments
        weight[i] = 0.6 * fragments / np.maximum(dose[i], 1e-9)
        let[:, i] = 2.0 * isotope.charge**2 * 0.55 * np.maximum(r - depth, 1.0) ** -0.435
    let *= np.array([1.0, 0.9, 1.1])[:, None, None]
    share = depth[None, :] / reach[:, None]
    sigma = 0.02 * np.minimum(share, 3.0) ** 1.5 * reach[:, None] / np.sqrt(isotope.mass_number)
    weight *= halo
    names = ("energy", "depth")
    return xr.Dataset(
        {
            "dose": (names, dose.astype(np.float32)),
            "sigma": (names, sigma.astype(np.float32)),
            "halo_weight": (names, weight.astype(np.float32)),
            "halo_sigma": (names, (4.0 + 0.05 * depth[None, :] * np.ones_like(dose)).astype(np.float32)),
            "let_d": (("let_definition", *names), let.astype(np.float32)),
            "csda_range": (("energy",), reach.astype(np.float32)),
        },
        coords={"energy": energies, "depth": depth, "let_definition": list(LET_DEFINITIONS)},
        attrs={"ion": ion, "source": "SYNTHETIC", "content_hash": f"synthetic-{ion}-{energies.size}-{halo}"},
    )


def water_box(
    shape=(41, 81, 41), spacing=(2.0, 2.0, 2.0), *, origin=None, target_radius: float = 15.0, target_at=(0.0, 0.0, 0.0)
) -> xr.Dataset:
    """A box of water, centred on the isocentre unless `origin` says otherwise, with a sphere and an outline."""
    origin = [-0.5 * s * (n - 1) for s, n in zip(spacing, shape, strict=True)] if origin is None else origin
    coords = {d: o + s * np.arange(n) for d, o, s, n in zip("zyx", origin, spacing, shape, strict=True)}
    z, y, x = np.meshgrid(coords["z"], coords["y"], coords["x"], indexing="ij")
    distance = np.sqrt((x - target_at[0]) ** 2 + (y - target_at[1]) ** 2 + (z - target_at[2]) ** 2)
    sphere = (distance <= target_radius).astype(np.float32)
    organ = (np.sqrt((x - target_at[0] - 1.9 * target_radius) ** 2 + (y - target_at[1]) ** 2 + z**2) < 10.0).astype(np.float32)
    body = np.ones(shape, np.float32)
    return xr.Dataset(
        {
            "spr": (("z", "y", "x"), np.ones(shape, np.float32)),
            "structures": (("structure", "z", "y", "x"), np.stack([sphere, organ, body])),
        },
        coords={**coords, "structure": ["CTV", "ORGAN", "BODY"]},
    )


def simple_plan(ion: str = "C", *, gantry=(0.0,), spacing=2.0, **more) -> Plan:
    """Beams of one ion on the sphere of `water_box`."""
    beams = tuple(Beam(ion, g, room=POINT_ROOM) for g in gantry)
    settings = {"target": "CTV", "prescription": 2.0, "spacing": spacing, "model": "constant", "parameters": {"rbe": 1.0}}
    return Plan(beams, **{**settings, **more})
