"""Alpha and beta tables of a machine file: tissue classes matched exactly, mixing against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from plan_fixtures import POINT_ROOM, synthetic_base, water_box
from scipy.io import savemat

import ionrt
from ionrt.beam import read_matrad
from ionrt.biology.moments import kernel_tissues
from ionrt.biology.tissues import Kernel
from ionrt.plan import Beam, Plan
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
