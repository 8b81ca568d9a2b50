"""Spots of a machine file on one axis of a water box, computed by pyRadPlan 0.5.0; runs with the interpreter that has it.

Called as: python pyradplan_water.py <machine.mat> <MeV/u,...> <output.npz> [<million primaries,...>]. Leaves dose(z, depth, x),
Gy on voxels of 1 mm, the axis in the middle of z and x, the first voxel's middle at 0.5 mm of water; no lateral cut-off. With
numbers of primaries all spots begin with a sigma of SIGMA mm, and the RBE-weighted dose is left too, where the machine has
tables of alpha and beta (the first tissue class, as pyRadPlan takes it). `carbon` names the machine file that it ships.
"""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.resources import files

import numpy as np
import SimpleITK as sitk
from pyRadPlan import IonPlan
from pyRadPlan.cst import ExternalVOI, StructureSet, Target
from pyRadPlan.ct import create_ct
from pyRadPlan.dose.engines import ParticleHongPencilBeamEngine
from pyRadPlan.machines import load_machine
from pyRadPlan.quantities import RBExDose
from pyRadPlan.stf import validate_stf
from pyRadPlan.stf.generators import StfGeneratorIonSingleSpot

WIDTH, DEPTH = 81, 240  # voxels of 1 mm across and along the beam
SIGMA = 4.0  # mm


def box() -> tuple:
    """Water with a target in the middle; the beam of gantry 0 enters at y = 0."""
    hounsfield = np.zeros((WIDTH, DEPTH, WIDTH), np.float32)  # z, y, x
    image = sitk.GetImageFromArray(hounsfield)
    image.SetSpacing((1.0, 1.0, 1.0))
    image.SetOrigin((-(WIDTH // 2), 0.5, -(WIDTH // 2)))
    ct = create_ct(cube_hu=image)
    inside = np.zeros(hounsfield.shape, np.uint8)
    inside[WIDTH // 2, DEPTH // 2, WIDTH // 2] = 1
    vois = [
        Target(name="PTV", ct_image=ct, mask=inside),
        ExternalVOI(name="BODY", ct_image=ct, mask=np.ones(hounsfield.shape, np.uint8)),
    ]
    return ct, StructureSet(vois=vois, ct_image=ct)


def main(path: str, energies: str, out: str, millions: str = "") -> None:
    """Dose of the spots along the axis of the box."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if path == "carbon":
        path = str(files("pyRadPlan.data.machines").joinpath("carbon_Generic.mat"))
    machine, (ct, cst) = load_machine(path), box()
    plan = IonPlan(radiation_mode=machine.radiation_mode, machine="Generic")
    plan.prop_stf = {"gantry_angles": [0.0], "couch_angles": [0.0]}
    plan.prop_dose_calc = {"dose_grid": {"resolution": {"x": 1.0, "y": 1.0, "z": 1.0}}}
    generator = StfGeneratorIonSingleSpot(plan)
    wanted = [float(e) for e in energies.split(",")]
    generator.machine, generator.fix_energy = machine, wanted[0]
    beams = generator.generate(ct, cst)
    ray = beams[0]["rays"][0]
    ray.beamlets = [ray.beamlets[0].model_copy(update={"energy": e}) for e in wanted]
    stf = validate_stf({"beams": beams})

    class Engine(ParticleHongPencilBeamEngine):
        @staticmethod
        def load_machine(mode: str, name: str) -> object:
            return machine

        def _calc_sigma_ini_on_ray(self, ray: object) -> object:
            found = super()._calc_sigma_ini_on_ray(ray)
            return np.full_like(found, SIGMA) if millions else found

    engine = Engine(plan)
    engine.air_offset_correction, engine.calc_let = False, True
    kernel = machine.pb_kernels[min(machine.energies, key=lambda e: abs(e - wanted[0]))]
    engine.lateral_model = "single" if kernel.sigma is not None else "double"
    engine.calc_bio_dose = bool(millions) and machine.has_alpha_beta_kernels
    engine.dosimetric_lateral_cutoff, engine.geometric_lateral_cutoff = 1.0, 150.0
    dij = engine.calc_dose_influence(ct, cst, stf)
    weights = np.array([float(m) for m in millions.split(",")] if millions else [1.0] * len(wanted))
    shape = (WIDTH, DEPTH, WIDTH)
    found = {"dose": (dij.physical_dose.flat[0] @ weights).reshape(shape)}
    if engine.calc_bio_dose:
        found["rbe_dose"] = np.asarray(RBExDose(dij).compute(weights).flat[0]).reshape(shape)
        found |= {"alpha_x": kernel.alpha_x[0], "beta_x": kernel.beta_x[0]}
    np.savez(out, machine=path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
