"""The other half of `against_pyradplan.py`: runs with the interpreter that has pyRadPlan and leaves its inputs and results.

Called as: python pyradplan_side.py <ion> <grid mm> <gantry angles, comma-separated> <output.npz>
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from importlib.resources import files

import numpy as np
import SimpleITK as sitk
from pyRadPlan import IonPlan, generate_stf, load_tg119
from pyRadPlan.dose.engines import ParticleHongPencilBeamEngine

MODES = {"p": "protons", "He": "helium", "C": "carbon", "O": "oxygen"}


class Recorded(ParticleHongPencilBeamEngine):
    """Keeps what it made of the machine and of the patient."""

    kept: list[dict]

    def _init_beam(self, *arguments, **named):
        info = super()._init_beam(*arguments, **named)
        kernels = {}
        for ray in info["beam"]["rays"]:
            for spot in ray["beamlets"]:
                energy = float(spot["energy"])
                if energy not in kernels:
                    cut = self._machine.get_kernel_by_energy(energy).lateral_cut_off
                    kernels[energy] = (np.array(cut.depths), np.array(cut.cut_off), float(cut.comp_fac))
        self.kept.append({"info": info, "cut": kernels})
        return info


def main(ion: str, spacing: float, angles: list[float], out: str) -> None:
    """One plan on TG119: spots, cut-offs, stopping power, matrix, seconds of CPU."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    ct, cst = load_tg119()
    plan = IonPlan(radiation_mode=MODES[ion], machine="Generic")
    plan.prop_stf = {"gantry_angles": angles, "couch_angles": [0.0] * len(angles), "bixel_width": 5.0}
    grid = {"resolution": {"x": spacing, "y": spacing, "z": spacing}}
    plan.prop_dose_calc = {"dose_grid": grid}
    stf = generate_stf(ct, cst, plan)
    times: dict[str, float] = {}
    for let in (True, False):  # LET is its default; without it as well, since entries of ours carry any moment
        engine = Recorded(plan)
        engine.kept = []
        engine.air_offset_correction = False
        engine.calc_let = let
        engine.geometric_lateral_cutoff = 100.0  # mm; at its 50 mm the wide halo of helium has voxels without a depth
        engine.lateral_model = "double" if ion == "He" else "single"
        cpu, wall = time.process_time(), time.perf_counter()
        dij = engine.calc_dose_influence(ct, cst, stf)
        what = "with_let" if let else "dose"
        times |= {f"cpu_{what}": time.process_time() - cpu, f"wall_{what}": time.perf_counter() - wall}
    matrix = dij.physical_dose.flat[0].tocsc()
    saved = inputs(engine, stf, dij) | times | {
        "indptr": matrix.indptr, "indices": matrix.indices.astype(np.int32), "data": matrix.data.astype(np.float32),
        "machine": str(files("pyRadPlan.data.machines").joinpath(f"{MODES[ion]}_Generic.mat")),
    }  # fmt: skip
    np.savez(out, **saved)
    print(f"{ion} {spacing} mm: {matrix.shape[1]} spots, {matrix.nnz} entries, {times}", flush=True)


def inputs(engine, stf, dij) -> dict:
    """Stopping power on the dose grid, voxels, and per beam the spots with their initial width, and the cut-offs."""
    grid = dij.dose_grid
    traced = sitk.GetArrayFromImage(engine._raytracer.cubes[0])
    saved = {"spr": traced, "origin": np.array(grid.origin), "spacing": np.array([grid.resolution[k] for k in "xyz"]),
             "voxels": np.array(engine._vdose_grid), "beams": len(stf.beams)}  # fmt: skip
    for b, (beam, kept) in enumerate(zip(stf.beams, engine.kept, strict=True)):
        rows = []
        for ray_input, ray in zip(beam.rays, kept["info"]["beam"]["rays"], strict=True):
            ray = dict(ray)
            sigma = engine._calc_sigma_ini_on_ray(ray)
            for spot, s in zip(ray_input.beamlets, sigma, strict=True):
                rows.append((*np.array(ray_input.ray_pos).ravel(), float(spot.energy), float(s)))
        saved[f"spots{b}"] = np.array(rows)
        saved[f"isocentre{b}"], saved[f"sad{b}"] = np.array(beam.iso_center).ravel(), float(beam.sad)
        saved[f"source{b}"] = np.array(beam.source_point).ravel()
        saved[f"gantry{b}"], saved[f"couch{b}"] = float(beam.gantry_angle), float(beam.couch_angle)
        for k, (energy, (depths, cut, factor)) in enumerate(sorted(kept["cut"].items())):
            saved[f"cut{b}_{k}"] = np.concatenate([[energy, factor], depths, cut])
    return saved


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), [float(a) for a in sys.argv[3].split(",")], sys.argv[4])
