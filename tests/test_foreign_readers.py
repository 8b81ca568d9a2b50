"""What ionrt writes, opened by other packages, and theirs opened here: optional, as each needs an environment of its own.

IONRT_READERS names Python interpreters, joined as PATH is; a reader that none of them has is skipped. Tried: opentps-core 3.0.1
(protons only, Python 3.12; 2.0.0 on 3.11: registrations), FREDtools 0.7.28 with pydicom 2 (spots of any ion), pyRadPlan 0.5.0
(CT, structures, dose).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from plan_fixtures import POINT_ROOM, synthetic_base

import ionrt
from ionrt.patient import read_dicom, read_dose, read_ion_plan, write_phantom, write_rtdose
from ionrt.plan import Beam, Plan

MODULES = {"opentps": "opentps.core", "fredtools": "fredtools", "pyradplan": "pyRadPlan"}
MODULES["opentps_registration"] = MODULES["opentps"]
SIDE = Path(__file__).with_name("foreign_readers.py")


def opened(package: str, path: Path, out: Path) -> dict[str, np.ndarray]:
    """What the package finds; skips where no interpreter has it."""
    alone = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    for python in filter(None, os.environ.get("IONRT_READERS", "").split(os.pathsep)):
        if subprocess.run([python, "-c", f"import {MODULES[package]}"], env=alone, capture_output=True).returncode == 0:
            run = subprocess.run([python, SIDE, package, path, out], env=alone, capture_output=True, text=True, timeout=600)
            assert run.returncode == 0, run.stderr[-2000:]
            return dict(np.load(out))
    pytest.skip(f"no Python of IONRT_READERS has {package} (optional comparison)")


@pytest.fixture(scope="module", params=["p", "C"])
def came(request, tmp_path_factory):
    """A phantom, a plan of two beams, its dose; in one folder."""
    ion = request.param
    folder = write_phantom(tmp_path_factory.mktemp(ion) / "dicom", anatomy="head", pixel=8.0, slice_distance=8.0)
    patient = read_dicom(folder)
    beams = (Beam(ion, 90.0, room=POINT_ROOM), Beam(ion, 200.0, 30.0, room=POINT_ROOM, range_shifter=30.0))
    plan = Plan(beams, "CTV", 3.0, fractions=16, spacing=8.0, model="nirs_mkm" if ion == "C" else "constant", spot_spacing=8.0)
    base = {ion: synthetic_base(ion, energies=np.linspace(80.0, 330.0, 26))}
    dij = ionrt.influence(patient, plan, base=base)
    weights = np.random.default_rng(1).uniform(0.0, 1e6, dij.n_spots)
    weights[::7] = 0.0
    path = ionrt.write_ion_plan(plan, dij, weights, patient, folder / "RN.dcm", label="SYNTHETIC")
    dose = ionrt.field(dij, weights, models=())["dose"].interp({d: patient[d] for d in "zyx"}).fillna(0.0)
    write_rtdose(dose, patient, folder / "RD.dcm", fractions=1)
    return ion, folder, path, patient, dose


@pytest.mark.parametrize("package", ["opentps", "fredtools"])
def test_spots_energies_and_metersets_are_the_same_elsewhere(came, package, tmp_path):
    ion, _, path, _, _ = came
    if package == "opentps" and ion != "p":
        pytest.skip("opentps opens proton plans only")
    found, ours = opened(package, path, tmp_path / "found.npz"), read_ion_plan(path)
    columns = ["beam", "energy", "x", "y", "meterset"]
    theirs, mine = (a[np.lexsort(a.T[::-1])] for a in (found["spots"].astype(float), ours.spots[columns].to_numpy(float)))
    assert theirs.shape == mine.shape
    np.testing.assert_allclose(theirs, mine, rtol=2e-6, atol=1e-6)
    places = ours.beams[["gantry_angle", "couch_angle", "isocentre_x", "isocentre_y", "isocentre_z"]].to_numpy(float)
    np.testing.assert_allclose(found["beams"], places, atol=1e-6)
    assert found["fractions"] in (-1, 16)


def test_dose_and_structures_make_the_round_by_pyradplan(came, tmp_path):
    """Ours opened by pyRadPlan, written again by it, opened here: the same dose in every voxel."""
    _, folder, _, patient, dose = came
    found = opened("pyradplan", folder, tmp_path / "found.npz")
    np.testing.assert_allclose(found["dose"], dose.values, atol=1e-5 * float(dose.max()))
    assert set(found["names"]) == set(patient["structure"].values)
    volumes = patient["structures"].sum(["z", "y", "x"]).compute() * 8.0**3
    for name, volume in zip(found["names"], found["volumes"], strict=True):
        if name == "BODY":  # small structures are whole voxels there
            assert volume == pytest.approx(float(volumes.sel(structure=name)), rel=0.1)
    back = [read_dose(p) for p in sorted(Path(f"{folder}_theirs").rglob("*.dcm")) if b"RTDOSE" in p.read_bytes()[:4000]]
    assert len(back) == 1
    again = back[0].interp({d: dose[d] for d in "zyx"}, method="nearest")
    np.testing.assert_allclose(again.values, dose.values, atol=2e-5 * float(dose.max()))
