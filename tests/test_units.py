"""The whole public API on small data: what comes out as a labelled array has the name, unit and provenance of its quantity.

A function is called in `CALLS`, with the quantities that its result must hold, or stands in `LEFT_OUT` with a reason.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from adapt_fixtures import bumps
from plan_fixtures import POINT_ROOM, simple_plan, synthetic_base, water_box
from rbe_fields import PARAMS, PER_GY
from test_docs import every_function

import ionrt
from ionrt import adapt, beam, biology, compare, evaluate, let, patient, plan, rbe, sobp
from ionrt.adapt.depth import depth_change
from ionrt.adapt.mapping import map_field
from ionrt.adapt.transform import invert
from ionrt.beam.physics.nuclear import cross_section
from ionrt.biology.moments import let_table
from ionrt.biology.specific import single_event_dose
from ionrt.evaluate.gamma_index import pass_rate
from ionrt.evaluate.histograms import mean_value
from ionrt.evaluate.quality import conformity, homogeneity
from ionrt.patient.geometry.margins import with_margin
from ionrt.plan.fields import scenario_field
from ionrt.plan.mixture import course
from ionrt.plan.setup.raytrace import wepl
from ionrt.quantities import QUANTITIES, check, defined, stamp
from ionrt.rbe.isoeffect import bed, eqdx
from ionrt.rbe.model import voxels_outside
from ionrt.rbe.systems import dose_in_system

AXIS = {"direction": (0.0, 1.0, 0.0)}
FIELD = ("dose", "let_x_dose")


@pytest.fixture(scope="module")
def w(tmp_path_factory):
    """A field with every moment, a planned box of water, a phantom's DICOM."""
    rng = np.random.default_rng(1)
    coords = {d: 3.0 * np.arange(n) for d, n in zip("zyx", (5, 7, 6), strict=True)}
    dose = rng.uniform(1.0, 3.0, (5, 7, 6)).astype(np.float32)
    values = {"dose": dose, "high_let_dose": dose / 4, **{k: dose * np.float32(v) for k, v in PER_GY.items()}}
    f = xr.Dataset({k: (("z", "y", "x"), v) for k, v in values.items()}, coords=coords)
    for k in f:  # of no cell: each model takes it for its own
        f[k].attrs = {"let_definition": "charged"} if "let_definition" in QUANTITIES[k].carries else {}
    f["high_let_dose"].attrs["let_threshold"] = 50.0
    box, wanted, base = water_box(), simple_plan(), synthetic_base()
    box = box.assign(spr=stamp(box["spr"], "spr"))
    influence = plan.influence(box, wanted, base={"C": base})
    weights = plan.optimise(box, wanted, influence, iterations=3)
    made = plan.field(influence, weights, models=("constant",))
    folder = tmp_path_factory.mktemp("units")
    ct = ionrt.read_dicom(ionrt.write_phantom(folder / "ct", pixel=10.0, slice_distance=10.0))
    grid = ionrt.regrid(ct, spacing=12.0)
    flat = stamp(xr.ones_like(grid["ct"], dtype=np.float32), "dose")
    ionrt.write_rtdose(flat, ct, folder / "dose.dcm")
    patient.write_image(flat, folder / "dose.mha")
    structures = f.dose * 0 + 1
    structures = structures.expand_dims(structure=["CTV"]).rename("structures")
    on = {d: np.asarray(box[d].values[::4]) for d in "zyx"}
    move, still = bumps(0, on, amplitude=0.5, n=1), patient.registration.matrix_transform(np.eye(4))
    cases = xr.concat([f.dose, f.dose * 1.1], dim="scenario", coords="minimal").assign_coords(scenario=["a", "b"])
    return SimpleNamespace(**locals(), rbe=rbe.nirs_mkm(f), let=let.let_d(f))


CALLS = {
    **{
        f"rbe.{n}" if n in dir(rbe) else n: ("rbe_dose", lambda w, n=n: rbe.MODELS[n](w.f, **PARAMS.get(n, {})))
        for n in rbe.MODELS
    },
    "rbe.apply_model": ("rbe_dose", lambda w: rbe.apply_model(w.f, "nirs_mkm")),
    "voxels_outside": ("voxels_outside", lambda w: voxels_outside(w.f, "nirs_mkm")),
    "rbe.add_fractions": ("bed", lambda w: rbe.add_fractions(w.rbe.expand_dims(fraction=2), alpha_beta=3.0)),
    "bed": ("bed", lambda w: bed(w.rbe, fractions=16, alpha_beta=3.0)),
    "rbe.eqd2": ("eqd", lambda w: rbe.eqd2(w.rbe, fractions=16, alpha_beta=3.0)),
    "eqdx": ("eqd", lambda w: eqdx(w.rbe, fractions=16, alpha_beta=3.0, fraction_size=3.0)),
    "rbe.oxygen_weighted_dose": ("rbe_dose", lambda w: rbe.oxygen_weighted_dose(w.rbe, w.let, po2=4.0)),
    "rbe.convert": ("rbe_dose", lambda w: rbe.convert(w.f, source="LEM-I", target="NIRS-mMKM").rename(target="rbe_dose")),
    "dose_in_system": ("rbe_dose", lambda w: dose_in_system(w.f, "NIRS-mMKM")),
    "rbe.ensemble": ("rbe_dose", lambda w: rbe.ensemble(w.f, "nirs_mkm", samples={"alpha0": [0.1, 0.2]})),
    "rbe.bands": ("rbe_dose", lambda w: rbe.bands(rbe.ensemble(w.f, "nirs_mkm", samples={"alpha0": [0.1, 0.2]}))),
    "let_d": ("let_d", lambda w: let.let_d(w.f)),
    "let.let_t": ("let_t", lambda w: let.let_t(w.f)),
    "let_weighted_dose": ("let_weighted_dose", lambda w: let.let_weighted_dose(w.f, c=0.04)),
    "let.high_let_dose": ("high_let_dose", lambda w: let.high_let_dose(w.f)),
    "beam.stopping_power": ("stopping_power", lambda w: beam.stopping_power("C", [200.0])),
    "beam.csda_range": ("csda_range", lambda w: beam.csda_range("C", [200.0])),
    "beam.energy_for_range": ("kinetic_energy", lambda w: beam.energy_for_range("C", [100.0])),
    "cross_section": ("cross_section", lambda w: cross_section("C", [200.0])),
    "biology.lem1": (("alpha", "beta"), lambda w: biology.lem1(6.0, [50.0], let=[40.0], tissue="lem1_hsg")),
    "biology.coefficients": (("alpha", "beta"), lambda w: biology.coefficients(6.0, [50.0], let=[40.0], tissue="mkm_nirs")),
    "let_table": ("let_d", lambda w: let_table([6.0], [50.0])),
    "biology.oer_antonovic": ("oer", lambda w: biology.oer_antonovic(w.let, po2=4.0)),
    "biology.specific_energy": (("zstar", "zd", "zn"), lambda w: biology.specific_energy(
        6.0, [50.0], let=[40.0], domain_radius=0.3, nucleus_radius=4.0, z0=100.0)),
    "single_event_dose": ("zd", lambda w: single_event_dose(
        6.0, 50.0, let=40.0, radius=0.3, impact_parameter=[0.1])),
    "evaluate.band": ("dose", lambda w: evaluate.band(w.cases)),
    "mean_value": ("dose", lambda w: mean_value(w.f.dose, w.structures)),
    "evaluate.dose_let_histogram": ("volume_fraction", lambda w: evaluate.dose_let_histogram(
        w.f.dose, w.let, w.structures, dose_at=[1.0], let_at=[2.0])),
    "dvh": ("volume_fraction", lambda w: ionrt.dvh(w.f.dose, w.structures)),
    "dose_at_volume": ("dose", lambda w: ionrt.dose_at_volume(w.f.dose, w.structures, percent=95.0)),
    "volume_at_dose": ("volume_fraction", lambda w: ionrt.volume_at_dose(w.f.dose, w.structures, dose=1.0)),
    "gamma": ("gamma_index", lambda w: ionrt.gamma(w.f.dose, w.f.dose, dose_percent=3.0, distance_mm=3.0)),
    "pass_rate": ("volume_fraction", lambda w: pass_rate(
        ionrt.gamma(w.f.dose, w.f.dose, dose_percent=3.0, distance_mm=3.0))),
    "conformity": ("conformity_index", lambda w: conformity(
        w.made.dose, w.box.structures.sel(structure="CTV"), prescription=2.0)),
    "homogeneity": ("homogeneity_index", lambda w: homogeneity(
        w.made.dose, w.box.structures.sel(structure="CTV"))),
    "evaluate.integral_dose": ("integral_dose", lambda w: evaluate.integral_dose(w.made.dose, w.box.structures)),
    "evaluate.depth_profile": ("dose", lambda w: evaluate.depth_profile(
        w.made.dose, through=(0.0, 0.0, 0.0), distance=(-20.0, 0.0, 20.0), **AXIS)),
    "patient.stopping_power_ratio": ("spr", lambda w: patient.stopping_power_ratio(w.ct["ct"])),
    "read_dicom": (("ct", "structures"), lambda w: w.ct),
    "regrid": (("ct", "structures"), lambda w: w.grid),
    "patient.read_dose": ("dose", lambda w: patient.read_dose(w.folder / "dose.dcm")),
    "patient.read_image": ("dose", lambda w: patient.read_image(w.folder / "dose.mha")),
    "with_margin": ("structures", lambda w: with_margin(w.ct, "CTV", margin=10.0, name="PTV")),
    "patient.add_ellipsoid": ("structures", lambda w: patient.add_ellipsoid(w.ct, "ball", centre=(0, 0, 0), radii=20.0)),
    "patient.volumes": ("volume", lambda w: patient.volumes(w.ct)),
    "compare.open_patient": (("ct", "structures"), lambda w: compare.open_patient(w.folder / "ct")),
    "field": (FIELD, lambda w: plan.field(w.influence, w.weights, models=("constant",))),
    "optimise": ("spot_weight", lambda w: w.weights),
    "scenario_field": (FIELD, lambda w: scenario_field(
        w.box, w.influence, w.weights, [plan.Scenario()], models=("constant",))),
    "course": (FIELD, lambda w: course([w.made, w.made], parts=[2, 2])),
    "plan.ion_share": ("ion_share", lambda w: plan.ion_share(
        plan.field(w.influence, w.weights, models=("constant",), by="ion"))),
    "wepl": ("wepl", lambda w: wepl(w.box.spr, gantry=0.0, isocentre=(0.0, 0.0, 0.0))),
    "plan.reach": (("wepl_distal", "ion_reach", "reach_margin"), lambda w: plan.reach(
        w.box, "CTV", ions=["C"], room=POINT_ROOM, gantry=[0.0], couch=[0.0], base={"C": w.base})),
    "adapt.place": ("spr", lambda w: adapt.place(w.box, w.box)),
    "adapt.daily_field": (FIELD, lambda w: adapt.daily_field(w.influence, w.weights, w.box, models=("constant",))),
    "map_field": ("dose", lambda w: map_field(w.made, w.still, like=w.box)),
    "adapt.accumulate": ("dose", lambda w: adapt.accumulate([w.made, w.made], [w.still, w.still], parts=[2, 2], like=w.box)),
    "adapt.total": ("dose", lambda w: adapt.total(
        adapt.accumulate([w.made, w.made], [w.still, w.still], parts=[2, 2], like=w.box))),
    "depth_change": (("wepl_change", "wepl_distal"), lambda w: depth_change(w.influence, w.box, w.box)),
    "adapt.itv": ("structures", lambda w: adapt.itv([w.box, w.box], "CTV")),
    "adapt.propagate": ("structures", lambda w: adapt.propagate(w.box, w.box, w.still)),
    "invert": ("displacement", lambda w: invert(w.move, like=w.box)),
    "sobp.fluence": ("planar_fluence", lambda w: sobp.fluence(w.base, interval=(40.0, 60.0), prescription=2.0)),
    "quantities.check": ("dose", lambda w: check(stamp(w.f.dose, "dose"), "dose")),
    "quantities.defined": ("let_d", lambda w: defined(w.let, "let_d")),
    "quantities.stamp": ("dose", lambda w: stamp(w.f.dose, "dose")),
}  # fmt: skip
LEFT_OUT = {
    "adapt.interplay": "minutes; tests/test_adapt_daily.py looks at its units",
    "adapt.register_rigid": "seconds of image registration; the transform is a matrix, or a displacement as `invert` has it",
    "adapt.register_deformable": "as register_rigid",
    "beam.base_data": "transport of a machine takes minutes; tests/test_beam_basedata.py",
    "beam.check_base_data": "returns what it was given",
    "beam.read_matrad": "needs a machine file; tests/test_beam_interchange.py",
    "beam.transport": "seconds; tests/test_beam_transport.py",
    "closure": "a bare number: what the integral leaves of one",
    "moment_tables": "tables over (charge, energy) that a field's moments are made of; tests/test_biology_moments.py",
    "agreement": "shares of voxels and of probability, no quantity of the vocabulary",
    "ratio_to_target": "needs a beam's path; tests/test_evaluate.py",
    "error_parts": "a course of scenarios; tests/test_plan_scenarios.py",
    "patient.read_registration": "tests/test_adapt_dicom.py; the transform as `invert` has it",
    "plan.sweep": "a minute; tests/test_plan_rooms.py",
    "recompute": "needs an RT Ion Plan; tests/test_plan_recompute.py",
    "sobp.layers": "base data, as beam.base_data",
    "sobp.depth_field": "needs spectra of base data; tests/test_sobp.py",
    "sobp.at_dose": "as depth_field",
    "sobp.rbe_of": "as depth_field",
}


def labelled() -> set[str]:
    """Public functions that say they return one labelled array or Dataset."""
    kinds = ("xr.DataArray", "xr.Dataset")
    return {
        n.removeprefix("ionrt.") for n, f in every_function().items() if str(inspect.signature(f).return_annotation) in kinds
    }


def test_every_function_is_called_or_left_out_with_a_reason():
    """Inner functions that other rooms use stand without their room."""
    said, public = set(CALLS) | set(LEFT_OUT), labelled()
    assert public <= said and {name for name in said if "." in name} <= public and not set(CALLS) & set(LEFT_OUT)


@pytest.mark.parametrize("name", CALLS)
def test_result_has_name_unit_and_provenance(name, w):
    wanted, call = CALLS[name]
    out = call(w)
    names = (wanted,) if isinstance(wanted, str) else wanted
    assert isinstance(out, xr.Dataset) or out.name == names[0]
    for quantity in names:
        one = out[quantity] if isinstance(out, xr.Dataset) else out
        assert one.attrs["units"] == QUANTITIES[quantity].unit
        assert one.attrs["long_name"] and one.attrs["ionrt_version"] == ionrt.__version__
        assert all(one.attrs[key] for key in QUANTITIES[quantity].carries)
