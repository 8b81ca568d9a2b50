"""Known deformations, fields with every moment, and grids with three different spacings for the tests of image guidance."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ionrt.patient.registration import field_transform

PER_GY = {"let_x_dose": 60.0, "zstar_x_dose": 1.3, "alpha_x_dose": 0.764, "sqrt_beta_x_dose": 0.0615**0.5}
CARRIED = {"let_x_dose": {"let_definition": "charged"}, "zstar_x_dose": {"parameter_set": "mkm_nirs"}}


def coords(shape=(9, 11, 13), spacing=(4.0, 2.0, 3.0), origin=(-8.0, 5.0, -20.0)):
    """Anisotropic on purpose: an exchanged axis shows."""
    return {d: o + s * np.arange(n) for d, o, s, n in zip("zyx", origin, spacing, shape, strict=True)}


def field_of(values: np.ndarray, on) -> xr.Dataset:
    """A field per fraction with the moments of carbon-like values per Gy, modulated so that no two are proportional."""
    out = xr.Dataset(attrs={"ion": "C", "dose_per": "fraction"})
    wave = 1.0 + 0.2 * np.sin(np.arange(values.size).reshape(values.shape))
    for name, per in {"dose": 1.0, **PER_GY}.items():
        data = (values * (per * wave if name != "dose" else 1.0)).astype(np.float32)
        out[name] = xr.DataArray(data, dims=("z", "y", "x"), coords=on, attrs=CARRIED.get(name, {"parameter_set": "toy"}))
    out["dose"].attrs = {}
    return out


def bumps(seed: int, on, *, amplitude=6.0, shift=(3.0, -2.0, 2.0), n=8, sigma=(18.0, 30.0)) -> xr.Dataset:
    """A smooth displacement: a translation and Gaussian bumps, as a transform on the grid `on`."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.asarray(on[d]) for d in "zyx"), indexing="ij"))[::-1]
    ends = [(float(np.min(on[d])), float(np.max(on[d]))) for d in "xyz"]
    u = np.zeros(at.shape)
    for _ in range(n):
        centre = [a + (b - a) * rng.uniform(0.25, 0.75) for a, b in ends]
        far = sum((at[k] - centre[k]) ** 2 for k in range(3))
        u += rng.uniform(-amplitude, amplitude, 3)[:, None, None, None] * np.exp(-0.5 * far / rng.uniform(*sigma) ** 2)
    u += np.asarray(shift)[:, None, None, None]
    return field_transform(u, {d: np.asarray(on[d]) for d in "zyx"})
