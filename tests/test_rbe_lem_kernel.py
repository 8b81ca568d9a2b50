"""Alpha and beta tables of a machine file: tissue classes matched exactly, mixing against the formula."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from plan_fixtures import POINT_ROOM, synthetic_base, water_box
from scipy.io import savemat

import ionrt
from ionrt.beam import read_matrad
from ionrt.biology.moments import kernel_tissues
from ionrt.biology.tissues import Kernel
from ionrt.plan import Beam, Plan, Room
from ionrt.quantities import IonrtError
from ionrt.rbe.functions import lem_kernel

PHOTON = ((0.1, 0.05), (0.5, 0.05))  # two classes
CITED = "SYNTHETIC.mat"


def machine(path, *, change=None):
    """A SYNTHETIC machine file with alpha and beta that depend on depth and class, and no numbers at depth 0."""
    base = synthetic_base("C", energies=[200.0, 218.0])
    entries = []
    for i in range(2):
        one = base.isel(energy=i)
        depth = one["depth"].values
        alpha = np.stack([a * (2.0 + depth / 50.0) for a, _ in PHOTON], axis=1)
        beta = np.stack([b * np.exp(-depth / 100.0) for _, b in PHOTON], axis=1)
        alpha[0], beta[0] = np.nan, np.nan
        peak = float(depth[one["dose"].values.argmax()])
        entry = {
            "energy": float(one["energy"]), "range": peak, "peakPos": peak,
            "offset": 0.0, "depths": depth[:, None], "Z": 10.0 * one["dose"].values[:, None],
            "LET": one["let_d"].values[1][:, None],
            "sigma": one["sigma"].values[:, None], "alpha": alpha, "beta": beta,
            "alphaX": np.array([a for a, _ in PHOTON]), "betaX": np.array([b for _, b in PHOTON]),
        }  # fmt: skip
        entries.append(entry | (change(i, entry) if change else {}))
    data = np.zeros(2, dtype=[(k, object) for k in entries[0]])
    for i, entry in enumerate(entries):
        data[i] = tuple(entry.values())
    savemat(path, {"machine": {"meta": {"radiationMode": "carbon", "SAD": 1e4}, "data": data}}, do_compression=True)
    return path


def test_tables_come_with_their_classes(tmp_path):
    base = read_matrad(machine(tmp_path / CITED))
    assert [(t.alpha_x, t.beta_x) for t in kernel_tissues(base)] == list(PHOTON)
    assert "alpha at depth 0" in base.attrs["repaired"]
    np.testing.assert_allclose(base["alpha"].sel(depth=50.0, method="nearest"), [[0.3, 0.3], [1.5, 1.5]], rtol=1e-5)
    np.testing.assert_allclose(base["beta"].sel(depth=100.0, method="nearest"), 0.05 / np.e, rtol=1e-5)
    assert np.isfinite(base["alpha"].values).all()


@pytest.mark.parametrize("which", [0, 1])
def test_dose_of_a_plan_is_that_of_the_formula(tmp_path, which):
    """Mixing written out: alpha and sqrt(beta) weighted by the dose of every spot, then the photon curve solved."""
    base = read_matrad(machine(tmp_path / CITED))
    tissue = kernel_tissues(base)[which]
    plan = Plan(
        (Beam("C", 0.0, room=POINT_ROOM),),
        "CTV",
        2.0,
        spacing=2.0,
        spot_spacing=8.0,
        model="lem_kernel",
        parameters={"tissue": tissue},
    )
    dij = ionrt.influence(water_box(), plan, base={"C": base})
    weights = np.random.default_rng(2).uniform(0.0, 5e6, dij.n_spots)
    field = ionrt.field(dij, weights, models=("lem_kernel",), parameters={"lem_kernel": {"tissue": tissue}})
    got = lem_kernel(field, tissue=tissue)
    a, b = PHOTON[which]
    dose = field["dose"].values
    inside = dose > 0.1 * dose.max()
    depth = (field["y"].values + 80.0 + 1.0)[None, :, None] * np.ones(dose.shape)  # entered from the smallest y, 2 mm voxels
    alpha, beta = a * (2.0 + depth / 50.0), b * np.exp(-depth / 100.0)  # do not depend on energy
    expected = (np.sqrt(a**2 + 4.0 * b * (alpha * dose + beta * dose**2)) - a) / (2.0 * b)
    np.testing.assert_allclose(got.values[inside], expected[inside], rtol=2e-3)
    assert got.attrs["parameter_set"] == tissue.name and CITED in got.attrs["parameter_set"]


def test_another_class_is_refused(tmp_path):
    base = read_matrad(machine(tmp_path / CITED))
    source = kernel_tissues(base)[0].source
    plan = Plan((Beam("C", 0.0, room=POINT_ROOM),), "CTV", 2.0, spacing=4.0)
    dij = ionrt.influence(water_box((11, 41, 11), (4.0, 4.0, 4.0)), plan, base={"C": base})
    near = Kernel(0.1000001, 0.05, source)
    with pytest.raises(IonrtError, match=r"is no tissue class of the base data; they hold kernel alpha_x 0.1 beta_x 0.05"):
        ionrt.field(dij, np.ones(dij.n_spots), models=("lem_kernel",), parameters={"lem_kernel": {"tissue": near}})
    with pytest.raises(IonrtError, match="parameter 'tissue' must be given"):
        ionrt.field(dij, np.ones(dij.n_spots), models=("lem_kernel",))
    one, two = kernel_tissues(base)
    field = ionrt.field(dij, np.ones(dij.n_spots), models=("lem_kernel",), parameters={"lem_kernel": {"tissue": one}})
    with pytest.raises(IonrtError, match="parameter_set"):
        lem_kernel(field, tissue=two)
    with pytest.raises(IonrtError, match="no table 'alpha'"):
        kernel_tissues(synthetic_base("C"))


def test_files_that_cannot_be_used(tmp_path):
    for change, message in (
        (lambda i, e: {"alphaX": e["alphaX"] * (1.0 + i)}, "tissue classes .* differ between energies"),
        (lambda i, e: {"alpha": e["alpha"][:, :1]}, "1 columns of alpha for 2 tissue classes"),
        (lambda i, e: {"beta": np.where(np.arange(len(e["beta"]))[:, None] == 7, np.nan, e["beta"])}, "no numbers or negative"),
    ):
        with pytest.raises(IonrtError, match=message):
            read_matrad(machine(tmp_path / "bad.mat", change=change))
    without = read_matrad(machine(tmp_path / "none.mat", change=lambda i, e: {"alpha": np.empty(0)}))
    assert "alpha" not in without


def test_pyradplan_gives_our_rbe_weighted_dose(tmp_path):
    """The open carbon machine file in a water box: two spots of different energy at equal fluence, tissue class and sigma."""
    python = os.environ.get("IONRT_PYRADPLAN")
    if not python:
        pytest.skip("IONRT_PYRADPLAN names no Python that has pyRadPlan 0.5.0 (optional comparison)")
    side, out = Path(__file__).parents[1] / "benchmarks" / "pyradplan_water.py", tmp_path / "found.npz"
    alone, energies, millions = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, (279.97, 301.44), (20.0, 30.0)
    asked = [",".join(map(str, energies)), out, ",".join(map(str, millions))]
    subprocess.run([python, side, "carbon", *asked], check=True, env=alone, capture_output=True, timeout=600)
    theirs = np.load(out)
    base = read_matrad(str(theirs["machine"]), missing_let="primary").sel(energy=list(energies), method="nearest")
    tissue = next(t for t in kernel_tissues(base) if (t.alpha_x, t.beta_x) == (theirs["alpha_x"], theirs["beta_x"]))
    wide, depth = theirs["dose"].shape[::2][0], theirs["dose"].shape[1]
    grid = {"z": np.arange(wide) - wide // 2.0, "y": np.arange(depth) + 0.5, "x": np.arange(wide) - wide // 2.0}
    whole = np.ones((wide, depth, wide), np.float32)
    patient = xr.Dataset(
        {"spr": (("z", "y", "x"), whole), "structures": (("structure", "z", "y", "x"), np.stack([whole, whole]))},
        coords={**grid, "structure": ["CTV", "BODY"]},
    )
    room = Room("parallel spots", optics_sigma=4.0, window_thickness=0.0, window_distance=0.01, source_distance=(1e4, 1e4))
    beam = Beam("C", 0.0, isocentre=(0.0, depth / 2 + 0.5, 0.0), room=room)
    plan = Plan((beam,), "CTV", 1.0, spacing=1.0, model="lem_kernel", parameters={"tissue": tissue}, lateral_loss=1e-4)
    spots = {"beam_index": [0, 0], "energy": base["energy"].values, "u": [0.0, 0.0], "v": [0.0, 0.0]}
    dij = ionrt.influence(patient, plan, base={"C": base}, spots=xr.Dataset(coords={k: ("spot", c) for k, c in spots.items()}))
    weights = 1e6 * np.array(millions)
    named = {"parameters": {"lem_kernel": {"tissue": tissue}}, "let_definition": "primary"}
    field = ionrt.field(dij, weights, models=("lem_kernel",), **named)
    ours = lem_kernel(field, tissue=tissue)
    high = theirs["rbe_dose"] > 0.1 * theirs["rbe_dose"].max()
    assert high.sum() > 20_000
    relative = np.abs(ours.values[high] / theirs["rbe_dose"][high] - 1.0)
    print(f"largest difference of a voxel {100 * relative.max():.3f} %, median {100 * np.median(relative):.3f} %")
    assert relative.max() < 5e-3
