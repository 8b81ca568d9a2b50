"""A plan with its phase space and the patient as materials, for a Monte Carlo code: plain text and raw voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import ions
from ionrt.files import atomic
from ionrt.plan.engine.influence import BeamInfluence, Influence
from ionrt.plan.fields import check_weights
from ionrt.plan.setup.geometry import Grid
from ionrt.plan.setup.scene import spr_of
from ionrt.quantities import IonrtError

# mass fractions, mean excitation energy (eV) and the highest stopping-power ratio it stands for: air and cortical bone of ICRU
# Report 46, water between them (lung and soft tissue have nearly its composition)
MATERIALS = pd.DataFrame(
    [
        {"name": "air", "excitation": 85.7, "up_to": 0.05, "elements": {"N": 0.755, "O": 0.232, "Ar": 0.013}},
        {"name": "water", "excitation": 78.0, "up_to": 1.15, "elements": {"H": 0.111894, "O": 0.888106}},
        {"name": "bone", "excitation": 112.0, "up_to": np.inf, "elements": {
            "H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225}},
    ]
)  # fmt: skip
ATOMS = {  # charge, atomic weight (IUPAC)
    "H": (1, 1.008), "C": (6, 12.011), "N": (7, 14.007), "O": (8, 15.999), "Na": (11, 22.990), "Mg": (12, 24.305),
    "P": (15, 30.974), "S": (16, 32.06), "Ar": (18, 39.95), "Ca": (20, 40.078),
}  # fmt: skip
STEP = 0.01  # of the stopping-power ratio: voxels that differ by less share a material
START = 500.0  # mm before the isocentre: where particles start
SPREAD = 0.001  # relative standard deviation of the energy, where the base data do not say


def write_monte_carlo(
    influence: Influence,
    weights: xr.DataArray | np.ndarray,
    patient: xr.Dataset,
    folder: str | Path,
    *,
    histories: int = 100_000,
    batches: int = 10,
    seed: int = 1,
    planes: tuple[float, ...] = (),
) -> Path:
    """Write a plan so that a Monte Carlo code can run it: one folder per beam.

    ``case.txt`` holds a line per fact: `grid` (voxels, mm, centre of the first voxel; x y z), `material` (name, density g/cm3,
    I eV, stopping-power ratio, elements by mass), `ion` (charge, mass number), `beam` (isocentre, axes u v w row by row, source
    distances, start; mm, LPS), `plane` (w of planes to count particles at), `spot` (u, v mm in the isocentre plane, energy and
    its standard deviation MeV/u, variance in air as coefficients of 1, w, w2 in mm2, particles), `run` (histories, batches,
    seed). ``voxels.raw`` is the material of each voxel, 16-bit little-endian, x fastest.

    The density of a material is what gives the voxel's stopping-power ratio with that composition (Bethe, 100 MeV/u), so that
    the two codes agree on the range in it and differ in how they transport.

    Parameters
    ----------
    influence, weights : spots and their particles per fraction.
    patient : Dataset with ct or spr on the grid that shall be scored (`ionrt.regrid` it first).
    folder : to write; new or empty.
    histories, batches, seed : per beam.
    planes : mm from the isocentre towards the source.

    Returns
    -------
    The folder.

    Raises
    ------
    IonrtError for weights that do not fit, numbers that are not positive, a folder with other files.

        Valid for beams whose variance in air is quadratic in the distance (Fermi-Eyges); no air outside the grid.
    """
    w = check_weights(influence, weights)
    if not w.any() or min(histories, batches, seed) < 1:
        raise IonrtError("write_monte_carlo: expected some weights above 0, and positive histories, batches and seed")
    spr = spr_of(patient).transpose("z", "y", "x")
    lines, index = _materials(np.asarray(spr.values, dtype=np.float64))
    grid = Grid.of(spr)
    lines.insert(0, "grid " + _numbers(*reversed(grid.shape), *reversed(grid.spacing), *reversed(grid.origin)))
    with atomic(folder, folder=True) as place:
        for k, (beam, part) in enumerate(zip(influence.beams, influence.slices(), strict=True), 1):
            if w[part].any():
                here = place / f"beam_{k}"
                here.mkdir()
                index.astype("<u2").tofile(here / "voxels.raw")
                spots = _beam(beam, w[part], float(influence.base[beam.beam.ion].attrs.get("energy_spread", SPREAD)))
                run = [f"plane {p:g}" for p in planes] + [f"run {histories} {batches} {seed + k - 1}"]
                (here / "case.txt").write_text("\n".join([*lines, *spots, *run]) + "\n")
    return Path(folder)


def density(ratio: float, elements: dict[str, float], excitation: float) -> float:
    """Density (g/cm3) that gives a stopping-power ratio with a composition, at 100 MeV/u."""
    gamma = 1.0 + 100.0 / ions.ATOMIC_MASS_UNIT
    beta2 = 1.0 - gamma**-2

    def per_mass(parts: dict[str, float], mean: float) -> float:
        electrons = sum(share * ATOMS[e][0] / ATOMS[e][1] for e, share in parts.items())
        return electrons * float(np.log(2.0 * 510_998.95 * beta2 * gamma**2 / mean) - beta2)

    water = MATERIALS.loc[MATERIALS["name"] == "water"].iloc[0]
    return ratio * per_mass(water["elements"], water["excitation"]) / per_mass(elements, excitation)


def _materials(ratio: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Lines of the materials in use, water first, and the index of each voxel."""
    least = 1e-3
    rounded = np.maximum(np.rint(ratio / STEP) * STEP, least)
    values, index = np.unique(np.append(rounded.ravel(), 1.0), return_inverse=True)
    order = np.argsort(values != 1.0, kind="stable")  # water itself comes first
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    lines = []
    for value in values[order]:
        row = MATERIALS.iloc[int(np.searchsorted(MATERIALS["up_to"].to_numpy(float), value))]
        parts = " ".join(f"{e} {share:g}" for e, share in row["elements"].items())
        name = f"{row['name']}_{value:.3f}"
        made = density(float(value), row["elements"], float(row["excitation"]))
        lines.append(f"material {name} {made:.8g} {row['excitation']:g} {value:g} {len(row['elements'])} {parts}")
    return lines, place[index[:-1]]


def _beam(one: BeamInfluence, weights: np.ndarray, spread: float) -> list[str]:
    """Lines of ion, axes and spots of a beam."""
    isotope, beam, machine = ions.get(one.beam.ion), one.beam, one.machine
    if beam.range_shifter:
        raise IonrtError(f"write_monte_carlo: beam {beam.name} has a range shifter; add it to the patient as material")
    u, v, e = one.spots.per_spot()
    axes = _numbers(*one.isocentre, *beam.axes.ravel(), *beam.room.source_distance, START)
    lines = [f"ion {isotope.charge} {isotope.mass_number}", "beam " + axes]
    for k in np.flatnonzero(weights > 0.0):
        energy = machine.energy[e[k]]
        lines.append("spot " + _numbers(u[k], v[k], energy, spread * energy, *machine.air[e[k]], weights[k]))
    return lines


def _numbers(*values: float) -> str:
    return " ".join(f"{float(v):.10g}" for v in values)
