"""One spot of an exported machine file in a water box, computed by pyRadPlan 0.5.0; runs with the interpreter that has it.

Called as: python pyradplan_water.py <machine.mat> <MeV/u> <output.npz>. Leaves dose(z, depth, x), Gy of 1e6 primaries on voxels
of 1 mm, the axis in the middle of z and x, the first voxel's middle at 0.5 mm of water; no lateral cut-off.
"""

from __future__ import annotations

import logging
import sys
import warnings

import numpy as np
import SimpleITK as sitk
from pyRadPlan import IonPlan
from pyRadPlan.cst import ExternalVOI, StructureSet, Target
from pyRadPlan.ct import create_ct
from pyRadPlan.dose.engines import ParticleHongPencilBeamEngine
from pyRadPlan.machines import load_machine
from pyRadPlan.stf import validate_stf
from pyRadPlan.stf.generators import StfGeneratorIonSingleSpot

WIDTH, DEPTH = 81, 240  # voxels of 1 mm across and along the beam


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


def main(path: str, energy: float, out: str) -> None:
    """Dose of one spot along the axis of the box."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    machine = load_machine(path)
    ct, cst = box()
    plan = IonPlan(radiation_mode=machine.radiation_mode, machine="Generic")
    plan.prop_stf = {"gantry_angles": [0.0], "couch_angles": [0.0]}
    plan.prop_dose_calc = {"dose_grid": {"resolution": {"x": 1.0, "y": 1.0, "z": 1.0}}}
    generator = StfGeneratorIonSingleSpot(plan)
    generator.machine, generator.fix_energy = machine, energy
    stf = validate_stf({"beams": generator.generate(ct, cst)})

    class Engine(ParticleHongPencilBeamEngine):
        @staticmethod
        def load_machine(mode: str, name: str) -> object:
            return machine

    engine = Engine(plan)
    engine.air_offset_correction, engine.calc_let, engine.lateral_model = False, True, "double"
    engine.dosimetric_lateral_cutoff, engine.geometric_lateral_cutoff = 1.0, 150.0
    dij = engine.calc_dose_influence(ct, cst, stf)
    matrix = dij.physical_dose.flat[0].tocsc()
    dose = np.zeros(matrix.shape[0], np.float32)
    dose[matrix.indices] = matrix.data
    np.savez(out, dose=dose.reshape(WIDTH, DEPTH, WIDTH))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
