"""Fields with known radiation quality, for the tests of RBE and LET."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ionrt.biology.tissues import Kernel
from ionrt.rbe import MODELS

# Per Gy, of the order met in a spread-out peak of carbon (or of protons, for LET).
PER_GY = {
    "let_x_dose": 5.0,
    "dose_per_let": 0.3,
    "zstar_x_dose": 9.0,
    "zd_x_dose": 10.0,
    "zn_x_dose": 0.02,
    "alpha_x_dose": 0.7,
    "sqrt_beta_x_dose": 0.2,
}
PARAMS: dict[str, dict] = {
    "osmk": {"po2": 7.0},
    "lem_kernel": {"tissue": Kernel(0.1, 0.05, "SYNTHETIC")},
    "osmk23": {"po2": 7.0, "z0_exponent": 2.0},
    "wedenberg": {"alpha_beta": 3.0},
    "carabe": {"alpha_beta": 3.0},
    "mcnamara": {"alpha_beta": 3.0},
    "rorvik": {"alpha_beta": 3.0},
    "wilkens": {"alpha_beta": 3.0},
    "chen": {"alpha_beta": 3.0},
    "linear": {"slope": 0.055},
    "mairani_helium": {"alpha_beta": 3.0},
}


def arrays(name, size=200, seed=0, dtype=np.float64, high=8.0):
    """Dose and the model's moments, with quality varying by a factor of two."""
    rng = np.random.default_rng(seed)
    dose = rng.uniform(0.05, high, size)
    moments = [dose * PER_GY[m] * rng.uniform(0.7, 1.4, size) for m in MODELS[name].moments]
    return [a.astype(dtype) for a in (dose, *moments)]


def field(name, shape=(4, 3, 5), seed=0, dtype=np.float32, high=8.0, **attrs):
    """A field with the variables of a model."""
    values = arrays(name, int(np.prod(shape)), seed, dtype, high)
    coords = {d: 2.0 * np.arange(n) for d, n in zip("zyx", shape, strict=True)}
    names = ("dose", *MODELS[name].moments)
    data = {n: (("z", "y", "x"), v.reshape(shape)) for n, v in zip(names, values, strict=True)}
    return xr.Dataset(data, coords=coords, attrs=attrs)
