"""Volume histograms against closed forms, a study with known truth, and another planning system."""

from __future__ import annotations

import warnings

import dask
import numpy as np
import pytest
import xarray as xr

from ionrt import evaluate
from ionrt.evaluate.histograms import mean_value
from ionrt.quantities import IonrtError

GRID = ("z", "y", "x")


def box(values, name="dose", spacing=2.0, **attrs):
    values = np.asarray(values, dtype=np.float32)
    coords = {d: spacing * np.arange(n, dtype=float) for d, n in zip(GRID, values.shape[-3:], strict=True)}
    return xr.DataArray(values, dims=GRID[-values.ndim :], coords=coords, name=name, attrs=attrs)


def four(fractions=(1, 1, 1, 1)):
    """Doses 1, 2, 3, 4 Gy in four voxels of a 2 x 2 x 2 grid; the other half is outside the structure."""
    dose = box([[[1, 2], [3, 4]], [[9, 9], [9, 9]]])
    inside = np.array([[[fractions[0], fractions[1]], [fractions[2], fractions[3]]], [[0, 0], [0, 0]]])
    return dose, box(inside, "structures").expand_dims(structure=["A"])


def ball(grid_step, radius, centre=(0.0, 0.0, 0.0), half=30.0):
    """Volume fractions of a sphere, from 4 x 4 x 4 points per voxel."""
    at = np.arange(-half, half + 1e-6, grid_step)
    fine = (np.arange(4) - 1.5) * grid_step / 4
    z, y, x = ((at[:, None] + fine - c).ravel() for c in centre)
    inside = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius**2).reshape(at.size, 4, at.size, 4, at.size, 4)
    fractions = inside.mean(axis=(1, 3, 5), dtype=np.float32)
    return xr.DataArray(fractions[None], dims=("structure", *GRID), coords={"structure": ["ball"], "z": at, "y": at, "x": at})


def test_every_step_of_the_histogram_is_exact():
    dose, structure = four()
    curve = evaluate.dvh(dose, structure, at=[0, 1, 1.001, 2.5, 4, 4.001])
    np.testing.assert_allclose(curve.sel(structure="A"), [1, 1, 0.75, 0.5, 0.25, 0], atol=1e-12)
    assert curve.dims == ("structure", "dose") and curve.attrs["units"] == "1"
    assert curve["volume"].item() == pytest.approx(4 * 0.008)


def test_occupancy_weighs():
    dose, structure = four((1, 0.5, 0, 0.5))
    assert evaluate.volume_at_dose(dose, structure, dose=2).item() == pytest.approx(0.5)
    assert mean_value(dose, structure).item() == pytest.approx((1 + 0.5 * 2 + 0.5 * 4) / 2)


def test_extremes_and_volumes():
    dose, structure = four()
    ends = evaluate.dose_at_volume(dose, structure, percent=[0, 50, 100])
    np.testing.assert_allclose(ends.squeeze(), [4, 2.5, 1])
    assert evaluate.dose_at_volume(dose, structure, cc=0.016).item() == pytest.approx(2.5)
    assert np.isnan(evaluate.dose_at_volume(dose, structure, cc=1.0).item()), "more than the structure has"
    assert ends.attrs["units"] == "Gy"


def test_empty_structure_is_nan():
    dose, structure = four((0, 0, 0, 0))
    assert np.isnan(evaluate.dvh(dose, structure)).all()
    table = evaluate.statistics(dose, structure, cc=(0.1,), dose=(1,))
    assert table.loc["A", "volume_cc"] == 0 and np.isnan(table.loc["A", "D95%"])


@pytest.mark.parametrize(("volume", "s"), [(98, 0.8320), (95, 0.7293), (50, 0.0), (5, -0.7293), (2, -0.8320)])
def test_sphere_in_a_linear_field(volume, s):
    """v = (1 + s)^2 (2 - s) / 4 is the volume of a spherical cap; the quantile follows from the gradient."""
    assert (1 + s) ** 2 * (2 - s) / 4 == pytest.approx(volume / 100, abs=2e-4)
    at = np.arange(-40, 41, 4.0)
    values = np.broadcast_to(60 + 0.6 * at, (at.size,) * 3)
    dose = xr.DataArray(values, dims=GRID, coords=dict.fromkeys(GRID, at), name="rbe_dose", attrs={"rbe_model": "test"})
    found = evaluate.dose_at_volume(dose, ball(1.0, 22.0), percent=volume).item()
    assert found == pytest.approx(60 - s * 0.6 * 22, abs=0.03)


def test_part_outside_the_dose_grid_is_reported():
    structure = ball(1.0, 20.0)
    at = np.arange(0, 41, 2.0)
    dose = xr.DataArray(np.ones((at.size,) * 3), dims=GRID, coords=dict.fromkeys(GRID, at), name="dose")
    curve = evaluate.dvh(dose, structure, at=[0.5])
    assert curve["outside"].item() == pytest.approx(7 / 8, abs=0.003)
    assert curve.item() == 1.0 and curve["volume"].item() == pytest.approx(4 / 3 * np.pi * 8, rel=2e-3)


def test_let_without_dose_is_not_a_value_but_a_nan_dose_is_an_error():
    dose, structure = four()
    let = dose.where(dose < 4).rename("let_d").assign_attrs(let_definition="charged")
    assert evaluate.dvh(let, structure, at=[1])["outside"].item() == pytest.approx(0.25)
    with pytest.raises(IonrtError, match="NaN at voxel z=0, y=1, x=1"):
        evaluate.dvh(dose.where(dose != 4), structure)


def test_joint_histogram_agrees_with_its_margins():
    dose = box(np.random.default_rng(1).random((4, 5, 6)))
    let = box(np.random.default_rng(2).random((4, 5, 6)) * 50, "let_d", let_definition="charged")
    structure = box(np.random.default_rng(3).random((4, 5, 6)), "structures").expand_dims(structure=["A"])
    levels, lets = [0, 0.3, 0.7], [0, 20.0, 40.0]
    joint = evaluate.dose_let_histogram(dose, let, structure, dose_at=levels, let_at=lets)
    np.testing.assert_allclose(joint.sel(let_d=0), evaluate.dvh(dose, structure, at=levels), rtol=1e-6)
    np.testing.assert_allclose(joint.sel(dose=0), evaluate.dvh(let, structure, at=lets), rtol=1e-6)
    both = (structure * ((dose >= 0.3) & (let >= 20.0))).sum() / structure.sum()
    assert joint.sel(dose=0.3, let_d=20.0).item() == pytest.approx(both.item(), rel=1e-6)


def test_chunked_input_stays_lazy_and_gives_the_same():
    dose = box(np.random.default_rng(1).random((6, 5, 4))).expand_dims(ion=["C", "O"])
    structure = box(np.random.default_rng(3).random((6, 5, 4)), "structures").expand_dims(structure=["A"])

    def refuse(*_, **__):
        raise AssertionError("computed early")

    with dask.config.set(scheduler=refuse):
        lazy = [
            evaluate.dvh(dose.chunk(z=2), structure.chunk(z=3), at=[0.2, 0.5]),
            evaluate.dose_at_volume(dose.chunk(z=2), structure, percent=[95, 2]),
            evaluate.volume_at_dose(dose, structure.chunk(y=2), dose=0.5),
            mean_value(dose.chunk(z=2), structure),
        ]
        with pytest.raises(IonrtError, match="give the axis"):
            evaluate.dvh(dose.chunk(z=2), structure)
    eager = [
        evaluate.dvh(dose, structure, at=[0.2, 0.5]),
        evaluate.dose_at_volume(dose, structure, percent=[95, 2]),
        evaluate.volume_at_dose(dose, structure, dose=0.5),
        mean_value(dose, structure),
    ]
    for a, b in zip(lazy, eager, strict=True):
        np.testing.assert_allclose(a.compute(), b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, s: evaluate.dose_at_volume(d, s), "either percent=95 or cc"),
        (lambda d, s: evaluate.dose_at_volume(d, s, percent=101), "between 0 and 100"),
        (lambda d, s: evaluate.dvh(d.assign_attrs(units="cGy"), s), "expected physical dose in Gy"),
        (lambda d, s: evaluate.dvh(d.rename("nonsense"), s), "not a known quantity"),
        (lambda d, s: evaluate.dvh(d.isel(z=0), s), "expected dimensions"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(IonrtError, match=message):
        call(*four())


@pytest.fixture(scope="module")
def study(shared, tmp_path_factory):
    """The SYNTHETIC carbon study: CT, structures with holes, RBE-weighted dose and LETd in linear fields."""
    from ionrt.patient import read_dicom, read_dose

    source, folder = shared("data/dicom/synthetic_carbon_study"), tmp_path_factory.mktemp("study")
    for path in [*(source / "CT_plan").iterdir(), source / "RS.dcm"]:
        (folder / path.name).symlink_to(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # references that lead nowhere
        return read_dicom(folder), read_dose(source / "RD_rbe.dcm"), read_dose(source / "RD_letd.dcm")


def test_study_with_known_truth(study):
    patient, dose, let = study
    table = evaluate.statistics(dose, patient)
    gtv = table.loc["GTV"]
    assert gtv["volume_cc"] == pytest.approx(44.53, abs=0.01)
    expected = {"mean": 60.000, "D98%": 49.019, "D95%": 50.373, "D50%": 60.000, "D5%": 69.627, "D2%": 70.981}
    for name, value in expected.items():
        assert gtv[name] == pytest.approx(value, abs=0.02), name
    for ring in ("RING_XOR", "RING_KEYHOLE"):
        assert 28.20 < table.loc[ring, "volume_cc"] < 28.27
    assert table.loc["BODY", "outside_%"] == pytest.approx(21.39, abs=0.05)
    assert table.loc["RING_XOR", "outside_%"] == pytest.approx(9.63, abs=0.05)
    assert np.isnan(table.loc["EMPTY", "mean"])
    lets = evaluate.statistics(let, patient, percent=(98, 2)).loc["GTV"]
    for name, value in {"mean": 50.000, "L98%": 31.698, "L2%": 68.302}.items():
        assert lets[name] == pytest.approx(value, abs=0.03), name


def test_contours_and_voxels_agree(study):
    patient, dose, _ = study
    fine, coarse = evaluate.statistics(dose, patient), evaluate.statistics(dose, patient["structures"])
    assert abs(fine.loc["GTV", "D95%"] - coarse.loc["GTV", "D95%"]) < 0.1
    np.testing.assert_allclose(fine["volume_cc"], coarse["volume_cc"], rtol=1e-5)


def test_another_planning_system(shared):
    """RayStation's ramp plan: volumes and doses of two boxes; doses within 0.01 Gy."""
    from ionrt.patient import read_dose
    from ionrt.patient.dicom_struct import read_contours
    from ionrt.patient.geometry.structures import add_structures
    from ionrt.patient.reading.dicom_files import read_header
    from ionrt.patient.reading.notes import Notes

    folder = shared("data/dicom/rt_ion_plans/plan03_ramp_full")
    dose = read_dose(folder / "RD1.2.752.243.1.1.20250523160113556.3000.73252.dcm")
    header = read_header(next(folder.glob("RS*.dcm")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found, types = read_contours(header, dose.attrs["frame_of_reference_uid"], set(), Notes())
    patient = add_structures(xr.Dataset(coords={d: dose[d] for d in GRID}), found, types)
    table = evaluate.statistics(dose, patient, percent=(95, 2))
    cube = table.loc["Cube101010"]
    assert cube["volume_cc"] == pytest.approx(1050.0, rel=1e-4)
    assert table.loc["PMMA", "volume_cc"] == pytest.approx(205.0, rel=1e-4)
    for name, value in {"mean": 2.0509, "D95%": 1.9671, "D2%": 2.1056}.items():
        assert cube[name] == pytest.approx(value, abs=0.01), name
