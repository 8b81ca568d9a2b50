"""The vocabulary agrees with itself by dimension, and the door checks what it says it checks."""

from __future__ import annotations

import re

import numpy as np
import pint
import pytest
import xarray as xr

from ionrt import quantities
from ionrt.quantities import FIELD, GY_RBE, QUANTITIES, IonrtError

units = pint.UnitRegistry()
# RBE-weighted dose has the dimension of dose; a nucleon and a CT number have none.
units.define("HU = []")
units.define("u = []")


def dimension(name: str) -> pint.Unit:
    text = re.sub(r"(?<=[a-zA-Z])([23])", r"**\1", QUANTITIES[name].unit.replace(GY_RBE, "Gy"))
    text = text.replace(" ", "*")
    return units.Quantity(1, text).units if text != "1" else units.dimensionless


@pytest.mark.parametrize(
    ("product", "left", "right"),
    [
        ("let_x_dose", "let_d", "dose"),
        ("zstar_x_dose", "zstar", "dose"),
        ("zd_x_dose", "zd", "dose"),
        ("zn_x_dose", "zn", "dose"),
        ("alpha_x_dose", "alpha", "dose"),
        ("rbe_dose", "rbe", "dose"),
        ("effect", "alpha", "dose"),
    ],
)
def test_units_of_products_are_products_of_units(product, left, right):
    assert (dimension(left) * dimension(right)).is_compatible_with(dimension(product))
    factor = (1 * dimension(left) * dimension(right)).to(dimension(product)).magnitude
    assert factor == pytest.approx(1), "the same scale, not only the same dimension"


def test_sqrt_beta_times_dose_is_a_pure_number():
    assert (dimension("beta") ** 0.5 * dimension("dose")).dimensionless
    assert dimension("sqrt_beta_x_dose").dimensionless


def test_stopping_power_and_let_differ_by_a_density():
    assert (dimension("stopping_power") * units("g/cm**3")).check("[energy]/[length]")
    assert (1 * dimension("let_d")).check("[energy]/[length]")


def test_every_unit_is_one_that_a_units_library_reads():
    for name in QUANTITIES:
        dimension(name)


def test_field_variables_are_exactly_the_additive_voxel_quantities():
    not_per_voxel = {"depth_dose", "fluence", "integral_dose"}
    assert set(FIELD) == {name for name, q in QUANTITIES.items() if q.additive} - not_per_voxel


def test_check_refuses_other_units_and_lets_missing_ones_pass():
    bare = xr.DataArray([1.0], dims="x", name="dose")
    assert quantities.check(bare, "dose") is bare
    with pytest.raises(IonrtError, match=r"expected physical dose in Gy, got units='cGy'"):
        quantities.check(bare.assign_attrs(units="cGy"), "dose")
    with pytest.raises(IonrtError, match=r"expected an xarray\.DataArray"):
        quantities.check(np.ones(3), "dose")
    with pytest.raises(IonrtError, match="'z' is missing"):
        quantities.check(bare, "dose", dims=("z",))


def test_stamp_forgets_the_attributes_of_the_input_and_demands_definitions():
    squared = xr.DataArray([2.0], attrs={"units": "Gy", "note": "old"}) ** 2
    before = dict(squared.attrs)
    stamped = quantities.stamp(squared, "effect", source="test")
    assert (
        stamped.attrs["units"] == QUANTITIES["effect"].unit
        and "note" not in stamped.attrs
        and stamped.attrs["source"] == "test"
        and squared.attrs == before
    )
    with pytest.raises(IonrtError, match="let_definition"):
        quantities.stamp(squared, "let_d")


def test_two_definitions_are_not_combined():
    primary = xr.DataArray([1.0], name="a", attrs={"let_definition": "primary"})
    charged = xr.DataArray([1.0], name="b", attrs={"let_definition": "charged"})
    silent = xr.DataArray([1.0], name="c")
    assert quantities.shared_attr([primary, silent], "let_definition") == "primary"
    assert quantities.shared_attr([silent], "let_definition") is None
    with pytest.raises(IonrtError, match=r"let_definition differs.*primary.*charged"):
        quantities.shared_attr([primary, charged], "let_definition")


def test_grids_that_differ_raise_and_tell_where():
    a = xr.DataArray(np.zeros((2, 3)), dims=("y", "x"), coords={"y": [0.0, 1.0], "x": [0.0, 1.0, 2.0]})
    quantities.check_same_grid(a, a.copy())
    with pytest.raises(IonrtError, match=r"x\[2\] is 2 mm in one and 2.5 mm in the other"):
        quantities.check_same_grid(a, a.assign_coords(x=[0.0, 1.0, 2.5]))
    with pytest.raises(IonrtError, match="3 against 2 voxels along x"):
        quantities.check_same_grid(a, a.isel(x=slice(2)))
    with pytest.raises(IonrtError, match="dimension 'y'"):
        quantities.check_same_grid(a, a.isel(y=0))


def test_one_of_lists_the_nearest_first():
    with pytest.raises(IonrtError, match=r"target: 'CTVV' does not exist; there are 'CTV', 'GTV', 'Bladder'"):
        quantities.one_of("CTVV", ["Bladder", "GTV", "CTV"], what="target")
