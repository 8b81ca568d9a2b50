"""Moments on planning points: exact where they must be, additive, conserving, and never swapped between axes."""

from __future__ import annotations

import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from adapt_fixtures import bumps, coords, field_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ionrt import let_d, rbe
from ionrt.adapt import accumulate, total
from ionrt.adapt.mapping import map_field
from ionrt.adapt.transform import compose, invert, jacobian, move_points
from ionrt.patient.registration import field_transform, matrix_transform
from ionrt.quantities import IonrtError

ON = coords()
SHAPE = tuple(len(ON[d]) for d in "zyx")
seeds = st.integers(0, 10_000)


def shift(x=0.0, y=0.0, z=0.0, **attrs) -> xr.Dataset:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix_transform(matrix, **attrs)


def random_field(seed: int, on=ON) -> xr.Dataset:
    return field_of(np.random.default_rng(seed).uniform(0.2, 4.0, tuple(len(on[d]) for d in "zyx")), on)


def scaled(field, factor):
    return xr.Dataset(
        {k: (a * np.float32(factor)).assign_attrs(a.attrs) for k, a in field.data_vars.items()}, attrs=field.attrs
    )


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_identity_is_bit_equal(seed):
    f = random_field(seed)
    for way in (shift(), field_transform(np.zeros((3, *SHAPE)), ON)):
        mapped = map_field(f, way, like=f)
        assert mapped.attrs["outside"] == 0.0
        for name in f.data_vars:
            np.testing.assert_array_equal(mapped[name].values, f[name].values)


@given(seeds, st.tuples(*[st.integers(-3, 3)] * 3))
@settings(max_examples=15, deadline=None)
def test_whole_voxels_are_bit_equal_and_outside_is_nan_and_counted(seed, steps):
    f = random_field(seed)
    size = [float(ON[d][1] - ON[d][0]) for d in "zyx"]
    way = [n * s for n, s in zip(steps, size, strict=True)]
    mapped = map_field(f, shift(*way[::-1]), like=f)
    expected = np.full(SHAPE, np.nan, np.float32)
    here = tuple(slice(max(0, -n), min(m, m - n)) for n, m in zip(steps, SHAPE, strict=True))
    there = tuple(slice(max(0, n), min(m, m + n)) for n, m in zip(steps, SHAPE, strict=True))
    expected[here] = f["dose"].values[there]
    np.testing.assert_array_equal(mapped["dose"].values, expected)
    assert mapped.attrs["outside"] == pytest.approx(np.isnan(expected).mean())
    assert mapped["dose"].attrs["outside"] == mapped.attrs["outside"]


@pytest.mark.parametrize("axis", range(3))
def test_each_axis_is_its_own_on_an_anisotropic_grid(axis):
    """matRad swapped x and y twice (its issues 296 and 685): a field that depends on one axis, moved along each."""
    along = np.broadcast_to(np.arange(1.0, SHAPE[axis] + 1).reshape([-1 if k == axis else 1 for k in range(3)]), SHAPE)
    f = field_of(along, ON)
    for moved in range(3):
        step = float(ON["zyx"[moved]][1] - ON["zyx"[moved]][0])
        way = [0.0, 0.0, 0.0]
        way[2 - moved] = step
        got = map_field(f, shift(*way), like=f)["dose"]
        inner = got.isel(z=slice(0, -1), y=slice(0, -1), x=slice(0, -1)).values
        plain = along[:-1, :-1, :-1]
        np.testing.assert_array_equal(inner, plain + (1.0 if moved == axis else 0.0))


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_constant_stays_constant_and_mapping_is_linear(seed):
    way, f, g = bumps(seed, ON, amplitude=3.0), random_field(seed), random_field(seed + 1)
    flat = map_field(field_of(np.full(SHAPE, 2.5), ON), way, like=f)["dose"].values
    assert np.nanmax(np.abs(flat - 2.5)) < 1e-6 * 2.5
    both = xr.Dataset({k: (f[k] + 3 * g[k]).assign_attrs(f[k].attrs) for k in f.data_vars})
    left = map_field(both, way, like=f)["dose"].values
    right = map_field(f, way, like=f)["dose"].values + 3 * map_field(g, way, like=f)["dose"].values
    np.testing.assert_allclose(left, right, rtol=2e-6)


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_energy_and_mass_are_conserved(seed):
    """To 1e-6, where no mass leaves the planning grid; matRad's duplicate indices lose some."""
    wide = coords((19, 31, 27), origin=(-28.0, -15.0, -41.0))
    f, way = random_field(seed), bumps(seed, wide, amplitude=4.0, shift=(1.0, -1.5, 2.0), n=3)
    rng = np.random.default_rng(seed)
    mass = xr.DataArray(rng.uniform(0.5, 1.5, SHAPE), dims=("z", "y", "x"), coords=ON)
    like = field_of(np.zeros((19, 31, 27)), wide)
    moved = map_field(f, way, like=like, method="energy_mass", mass=mass)
    arrived = map_field(_mass_of(f), way, like=like, method="energy_mass", mass=mass)
    weight = _weight(f, way, like, mass)
    assert weight.sum() == pytest.approx(float(mass.sum()), rel=1e-6)
    for name in f.data_vars:
        energy = np.nansum(moved[name].values.astype(float) * weight)
        assert energy == pytest.approx(float((f[name] * mass).sum()), rel=1e-6)
    np.testing.assert_allclose(arrived["dose"].values[weight > 0], 1.0, rtol=1e-6)


def _mass_of(f):
    return field_of(np.ones(f["dose"].shape), {d: f[d].values for d in "zyx"})


def _weight(f, way, like, mass):
    from ionrt.adapt.mapping import _pieces, _transfer
    from ionrt.plan.setup.geometry import Grid

    points, masses = _pieces(f, way, mass)
    return _transfer(np.zeros((1, *f["dose"].shape), np.float32), points, masses, Grid.of(like))[1]


def test_two_voxels_that_merge_share_by_mass():
    """2 Gy in mass 1 and 1 Gy in mass 3 become (2 + 3) / 4 = 1.25 Gy, not 1.5."""
    on = {"z": np.arange(4.0), "y": np.arange(4.0), "x": np.arange(6.0)}
    dose, mass = np.zeros((4, 4, 6)), np.full((4, 4, 6), 1e-12)
    dose[1, 1, 2], dose[1, 1, 3], mass[1, 1, 2], mass[1, 1, 3] = 2.0, 1.0, 1.0, 3.0
    matrix = np.diag([100.0, 1.0, 1.0, 1.0])  # planning is a hundredth as long along x: both fall to x = 2.5 / 100
    matrix[0, 3] = 2.5
    f = field_of(dose, on)
    moved = map_field(
        f, matrix_transform(matrix), like=f, method="energy_mass", mass=xr.DataArray(mass, dims=("z", "y", "x"), coords=on)
    )
    assert float(moved["dose"][1, 1, 0]) == pytest.approx(1.25, abs=0.02)


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_equal_days_are_that_many_fractions(seed):
    f, way = random_field(seed), bumps(seed, ON, amplitude=1.5, shift=(0.5, 0.2, -0.3), n=2)
    one = map_field(f, way, like=f)
    days = accumulate([f] * 4, [way] * 4, parts=(1, 2, 3, 4), like=f)
    whole = total(days)
    for name in f.data_vars:
        np.testing.assert_allclose(whole[name].values, 10.0 * one[name].values, rtol=1e-6)
    known = one.where(one["dose"].notnull(), drop=True)
    inner = days.isel(z=slice(2, -2), y=slice(2, -2), x=slice(2, -2))
    assert not inner["dose"].isnull().any() and known.sizes["z"] > 2
    course = rbe.add_fractions(rbe.constant(inner, rbe=2.0), alpha_beta=3.0)
    d = 2.0 * one["dose"].isel(z=slice(2, -2), y=slice(2, -2), x=slice(2, -2))
    np.testing.assert_allclose(course.values, (10.0 * d * (1.0 + d / 3.0)).values, rtol=1e-6)


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_course_lies_between_its_days_in_any_order(seed):
    fields = [random_field(seed + k) for k in range(3)]
    ways = [bumps(seed + k, ON, amplitude=2.0, shift=(0.5, 0.0, 0.0)) for k in range(3)]
    mapped = [map_field(f, w, like=f) for f, w in zip(fields, ways, strict=True)]
    lets = np.stack([let_d(m).where(m["dose"].notnull()).values for m in mapped])
    whole = total(accumulate(fields, ways, parts=(2, 1, 3), like=fields[0]))
    other = total(accumulate(fields[::-1], ways[::-1], parts=(3, 1, 2), like=fields[0]))
    let, good = let_d(whole).values, whole["dose"].notnull().values
    assert (let[good] <= lets.max(0)[good] * (1 + 1e-5)).all() and (let[good] >= lets.min(0)[good] * (1 - 1e-5)).all()
    np.testing.assert_allclose(other["dose"].values, whole["dose"].values, rtol=1e-6)
    most = sum(n * np.nanmax(m["dose"].values) for n, m in zip((2, 1, 3), mapped, strict=True))
    assert np.nanmax(whole["dose"].values) <= most


@pytest.mark.parametrize("n", [1, 2, 3])
def test_number_of_days_changes_no_orientation(n):
    """matRad permutes the accumulated dose inside the loop over phases: its orientation depends on their number."""
    f = random_field(1)
    days = accumulate([f] * n, [shift()] * n, parts=[1] * n, like=f)
    assert total(days)["dose"].dims == ("z", "y", "x")
    np.testing.assert_allclose(total(days)["dose"].values, n * f["dose"].values, rtol=1e-6)


def test_a_day_without_dose_adds_nothing_and_spoils_no_let():
    """matRad: "does not work if dose in a phase = 0"."""
    f, none = random_field(1), scaled(random_field(1), 0.0)
    days = accumulate([f, none], [shift(), shift()], parts=(1, 1), like=f)
    whole = total(days)
    np.testing.assert_array_equal(whole["dose"].values, f["dose"].values)
    np.testing.assert_allclose(let_d(whole).values, let_d(f).values, rtol=1e-6)


def test_let_of_a_course_is_the_ratio_of_sums():
    """2 Gy at 40 keV/um and 0.2 Gy at 80 keV/um: 96 / 2.2 = 43.6, where the plain mean says 60."""
    days = []
    for dose, let in ((2.0, 40.0), (0.2, 80.0)):
        f = field_of(np.full(SHAPE, dose), ON)
        f["let_x_dose"] = (f["dose"] * let).astype(np.float32).assign_attrs(let_definition="charged")
        days.append(f)
    whole = total(accumulate(days, [shift()] * 2, parts=(1, 1), like=days[0]))
    assert float(let_d(whole)[1, 1, 1]) == pytest.approx((2.0 * 40.0 + 0.2 * 80.0) / 2.2, rel=1e-6)


def test_effects_add_over_fractions():
    """alpha 0.764, beta 0.0615, 1.5 + 0.5 Gy: E = 1.682 right; on the mean dose -1.8 %, as one fraction +5.5 %."""
    alpha, beta = 0.764, 0.0615
    fields = [field_of(np.full(SHAPE, d), ON) for d in (1.5, 0.5)]
    for f in fields:
        for name, per in (("alpha_x_dose", alpha), ("sqrt_beta_x_dose", beta**0.5)):
            f[name] = (per * f["dose"]).assign_attrs(parameter_set="toy")
    days = accumulate(fields, [shift()] * 2, parts=(1, 1), like=fields[0])
    a, b = days["alpha_x_dose"].astype(float), days["sqrt_beta_x_dose"].astype(float)
    right = float((a + b**2).sum("fraction")[1, 1, 1])
    closed = alpha * 2.0 + beta * (1.5**2 + 0.5**2)
    assert right == pytest.approx(closed, rel=1e-6) and closed == pytest.approx(1.68175)
    mean, once = (2.0 * (alpha + beta), alpha * 2.0 + beta * 4.0)
    assert mean / closed - 1.0 == pytest.approx(-0.018, abs=5e-4) and once / closed - 1.0 == pytest.approx(0.055, abs=5e-4)
    bed = rbe.add_fractions(rbe.constant(days, rbe=1.0), alpha_beta=alpha / beta)
    assert float(bed[1, 1, 1]) * alpha == pytest.approx(closed, rel=1e-6)


def test_model_after_mapping_and_mapping_after_the_model_agree_away_from_edges():
    z, y, x = np.meshgrid(*(ON[d] for d in "zyx"), indexing="ij")
    f = field_of(2.0 + 0.02 * x + 0.01 * y - 0.01 * z, ON)
    for name, per in (("zstar_x_dose", 1.3), ("let_x_dose", 60.0)):
        f[name] = (f["dose"] * per).assign_attrs(f[name].attrs)
    way = bumps(3, ON, amplitude=2.0, shift=(0.7, 0.3, -0.4))
    mapped = map_field(f, way, like=f).isel(z=slice(2, -2), y=slice(2, -2), x=slice(2, -2))
    after = rbe.nirs_mkm(mapped)
    model = rbe.nirs_mkm(f)
    first = map_field(xr.Dataset({"dose": model.rename("dose").assign_attrs({})}), way, like=f)["dose"]
    first = first.isel(z=slice(2, -2), y=slice(2, -2), x=slice(2, -2))
    assert float(abs(after / first - 1.0).max()) < 0.01


@pytest.mark.parametrize("name", ["let_d", "rbe_dose", "rbe"])
def test_what_does_not_add_up_is_refused(name):
    f = random_field(0).assign({name: random_field(0)["dose"]})
    with pytest.raises(IonrtError, match=f"{name}.*does not add up"):
        map_field(f, shift(), like=f)


def test_swapped_images_are_refused():
    f = random_field(0).assign_attrs(day="tuesday")
    map_field(f, shift(fixed_hash="plan", moving_hash="tuesday"), like=f)
    with pytest.raises(IonrtError, match="exchanged"):
        map_field(f, shift(fixed_hash="tuesday", moving_hash="plan"), like=f)
    with pytest.raises(IonrtError, match="another image"):
        map_field(f, shift(fixed_hash="plan", moving_hash="monday"), like=f)
    with pytest.raises(IonrtError, match="daily to planning"):
        map_field(f, invert(shift(1.0)), like=f)


def test_mass_is_needed_and_checked():
    f = random_field(0)
    with pytest.raises(IonrtError, match="needs the mass"):
        map_field(f, shift(), like=f, method="energy_mass")
    with pytest.raises(IonrtError, match="another grid"):
        map_field(f, shift(), like=f, method="energy_mass", mass=f["dose"].isel(z=slice(1, None)))
    with pytest.raises(IonrtError, match="not negative"):
        map_field(f, shift(), like=f, method="energy_mass", mass=-f["dose"])


def test_lazy_stays_lazy_and_equal():
    f, way = random_field(0), bumps(0, ON, amplitude=2.0)

    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    with dask.config.set(scheduler=refuse):
        days = accumulate([f.chunk({"z": 4})] * 2, [way] * 2, parts=(1, 2), like=f)
        lazy = total(days)
    assert days["dose"].chunks[0] == (1, 1)
    eager = total(accumulate([f] * 2, [way] * 2, parts=(1, 2), like=f))
    np.testing.assert_array_equal(lazy["dose"].compute(scheduler="synchronous").values, eager["dose"].values)
    assert lazy["let_x_dose"].attrs == eager["let_x_dose"].attrs


def test_unequal_days_are_refused():
    f = random_field(0)
    with pytest.raises(IonrtError, match="one each per day"):
        accumulate([f], [shift(), shift()], parts=(1,), like=f)


@given(seeds)
@settings(max_examples=5, deadline=None)
def test_inverse_takes_back(seed):
    wide = coords((25, 45, 30), spacing=(3.0, 2.0, 3.0))
    way = bumps(seed, wide, amplitude=4.0, n=3)
    back = invert(way)
    assert back.attrs["maps"] == "daily to planning" and back.attrs["inverse_residual"] < 0.01
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(np.min(wide[d]) + 14, np.max(wide[d]) - 14, 50) for d in "xyz"], axis=1)
    assert np.nanmax(np.linalg.norm(move_points(back, move_points(way, points)) - points, axis=1)) < 0.1
    rigid = shift(3.0, -2.0, 1.0)
    np.testing.assert_allclose(move_points(invert(rigid), move_points(rigid, points)), points, atol=1e-12)
    there = compose(rigid, way)
    np.testing.assert_allclose(move_points(there, points), move_points(way, move_points(rigid, points)), atol=0.05)


def test_folding_has_a_negative_jacobian_and_no_inverse():
    on = coords((9, 9, 31), spacing=(3.0, 3.0, 2.0), origin=(0.0, 0.0, -30.0))
    u = np.zeros((3, 9, 9, 31))
    u[0] = -12.0 * np.tanh(on["x"] / 3.0)
    way = field_transform(u, on)
    assert float(jacobian(way).min()) < 0.0
    with pytest.raises(IonrtError, match="folds"):
        invert(way)


def test_jacobian_of_a_stretch():
    on = coords()
    u = np.zeros((3, *SHAPE))
    u[0], u[1] = 0.1 * on["x"], -0.2 * on["y"][:, None]
    np.testing.assert_allclose(jacobian(field_transform(u, on)).values, 1.1 * 0.8, rtol=1e-12)
    assert float(jacobian(matrix_transform(np.diag([2.0, 1.0, 1.0, 1.0])))) == pytest.approx(2.0)


def test_bad_transforms_are_refused():
    with pytest.raises(IonrtError, match="last row"):
        matrix_transform(np.ones((4, 4)))
    with pytest.raises(IonrtError, match="mirrors"):
        matrix_transform(np.diag([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(IonrtError, match="voxels taken for mm"):
        field_transform(np.full((3, *SHAPE), 500.0), ON)
    with pytest.raises(IonrtError, match="either matrix"):
        move_points(xr.Dataset(), np.zeros((1, 3)))
    with pytest.raises(IonrtError, match=r"\(n, 3\)"):
        move_points(shift(), np.zeros(3))


def test_many_days_lie_in_the_memory_of_few():
    """Lazy days are made, mapped and added one after the other: none is kept that the sums do not need."""
    on = {d: 3.0 * np.arange(n) for d, n in (("z", 40), ("y", 60), ("x", 60))}
    like, still = field_of(np.ones((40, 60, 60)), on), matrix_transform(np.eye(4))

    def peak(n: int) -> float:
        def made(k: int, name: str) -> np.ndarray:
            return np.full(like[name].shape, k + 1.0, np.float32)

        fields = []
        for k in range(n):
            lazy = {
                name: a.copy(data=da.from_delayed(dask.delayed(made)(k, name), a.shape, np.float32))
                for name, a in like.data_vars.items()
            }
            fields.append(like.assign(lazy))
        course = total(accumulate(fields, [still] * n, parts=[1] * n, like=like))
        tracemalloc.start()
        try:
            with dask.config.set(scheduler="synchronous"):
                course = course.compute()
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        np.testing.assert_array_equal(course["dose"].values, n * (n + 1) / 2)
        return held

    few = peak(3)
    assert peak(12) < 1.15 * few
