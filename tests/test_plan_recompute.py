"""RT Ion Plans computed again: particles in closed form, another system's dose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ionrt.beam import base_data
from ionrt.evaluate import gamma
from ionrt.patient import read_dicom, read_dose, read_ion_plan
from ionrt.plan import recompute
from ionrt.quantities import IonrtError


@pytest.fixture(scope="module")
def carbon(shared):
    ion_plan = read_ion_plan(shared("data/dicom/synthetic_carbon_study/RN_C12.dcm"))
    base = {"C": base_data("C", energy=[float(e) for e in ion_plan.layers["energy"]])}
    return ion_plan, base, recompute(None, ion_plan, base=base, spacing=4.0)


def test_particles_of_a_carbon_plan_are_absolute(carbon):
    """Energy deposited per slab = sum of particles times the depth dose, wherever the spots lie."""
    ion_plan, base, found = carbon
    assert found.attrs["normalisation"] == "metersets are numbers of particles"
    number = ion_plan.layers.set_index("energy")["weight"]  # meterset equals weight in this plan
    assert ion_plan.spots["meterset"].sum() == pytest.approx(float(number.sum()))
    depth = float(found["x"][-1]) - found["x"].values[::-1] + 2.0  # gantry 90: the beam enters at the largest x
    deposited = found["dose"].sum(("z", "y")).values[::-1] * 64.0 * 1e-6 / 1.602176634e-13 / 4.0  # MeV per mm
    slab = np.mean([base["C"]["dose"].interp(depth=depth + s).values for s in (-1.5, -0.5, 0.5, 1.5)], axis=0)
    expected = (slab * number.to_numpy()[:, None]).sum(axis=0)
    before = depth < 50.0
    np.testing.assert_allclose(deposited[before] / expected[before], 1.0, atol=0.01)


def test_dose_follows_the_metersets(carbon):
    ion_plan, base, found = carbon
    doubled = replace(ion_plan, spots=ion_plan.spots.assign(meterset=2.0 * ion_plan.spots["meterset"]))
    twice = recompute(None, doubled, base=base, spacing=4.0)
    np.testing.assert_allclose(twice["dose"], 2.0 * found["dose"], rtol=1e-5)


def test_proton_plan_of_another_system(shared):
    """Two opposed beams on a 20 cm phantom: RayStation's Monte Carlo dose (RBE 1.1) against ours, one factor for all."""
    folder = shared("data/dicom/rt_ion_plans/plan03_ramp_full")
    doses = [read_dose(p) for p in sorted(folder.glob("RD*"))]
    theirs = next(d for d in doses if d.attrs["dose_summation_type"] == "PLAN")
    theirs = (theirs / 1.1).rename("dose").assign_attrs(units="Gy")
    # the dose was computed before the beams were turned from 0 and 180 to 90 and 270 degrees; 205 mm with 5 mm of PMMA inside
    ion_plan = read_ion_plan(folder)
    ion_plan = replace(ion_plan, beams=ion_plan.beams.assign(gantry_angle=[0.0, 180.0]))
    coords = {d: -1.25 * (n - 1) + 2.5 * np.arange(n) for d, n in (("z", 80), ("y", 82), ("x", 82))}
    box = xr.Dataset({"spr": (("z", "y", "x"), np.ones((80, 82, 82), np.float32))}, coords=coords)
    box["spr"][:, 40:42] = 1.16
    box.attrs["frame_of_reference_uid"] = ion_plan.frame_of_reference_uid
    found = recompute(box, ion_plan, reference=theirs, spacing=4.0)
    assert "reference dose" in found.attrs["normalisation"] and found.attrs["particles_per_mu"] > 0.0
    inside = theirs.isel({d: slice(3, -3) for d in "zyx"}).astype(np.float32)
    ours = found["dose"].interp({d: inside[d] for d in "zyx"}).fillna(0.0).astype(np.float32).assign_attrs(units="Gy")
    reference = inside.isel({d: slice(None, None, 3) for d in "zyx"})  # every third point; the search needs all of ours
    index = gamma(reference, ours, dose_percent=3, distance_mm=3)
    assert float((index <= 1.0).where(index.notnull()).mean()) >= 0.97  # measured: 0.982 over all points
    high = reference > 0.8 * float(reference.max())
    assert float(np.abs(ours / reference - 1.0).where(high).median()) < 0.03


def test_base_data_beyond_the_plan_change_nothing(carbon):
    """A monitor unit is that of the plan's highest energy, whatever further energies the base data have."""
    ion_plan, base, _ = carbon
    in_units = replace(ion_plan, beams=ion_plan.beams.assign(meterset_unit="MU"))
    energy = sorted(float(e) for e in ion_plan.layers["energy"])
    keep = {energy[0], energy[2]}  # the base data hold all energies of the file, the plan two of them
    chosen = {k: t[t["energy"].isin(keep)] for k, t in (("layers", in_units.layers), ("spots", in_units.spots))}
    few, settings = replace(in_units, **chosen), {"particles_per_mu": 1e6, "water_depth": 40.0, "spacing": 6.0}
    own = recompute(None, few, base={"C": base["C"].isel(energy=[0, 2])}, **settings)
    more = recompute(None, few, base=base, **settings)
    np.testing.assert_array_equal(more["dose"], own["dose"])


def test_beams_of_one_direction_and_of_several_sources(carbon):
    """Two identical beams give twice the dose of one; a plan may state another source distance per beam."""
    ion_plan, base, _ = carbon
    one = recompute(None, ion_plan, base=base, spacing=6.0)
    second = {
        name: pd.concat([t, t.assign(beam=2)], ignore_index=True)
        for name, t in (("beams", ion_plan.beams), ("layers", ion_plan.layers), ("spots", ion_plan.spots))
    }
    twice = replace(ion_plan, **second)
    np.testing.assert_allclose(recompute(None, twice, base=base, spacing=6.0)["dose"], 2.0 * one["dose"], rtol=1e-5)
    apart = replace(twice, beams=twice.beams.assign(source_x=[2000.0, 6000.0], source_y=[2000.0, 6000.0]))
    both = recompute(None, apart, base=base, spacing=6.0)["dose"]
    assert float(both.sum()) == pytest.approx(2.0 * float(one["dose"].sum()), rel=0.02)


def test_beam_doses_of_protons_are_rbe_weighted_unless_they_say(shared):
    """Monitor units without a dose to go by: the mean around the stated point is the beam dose, or that over 1.1."""
    ion_plan = read_ion_plan(shared("data/dicom/rt_ion_plans/plan01_sobp"))
    assert ion_plan.beams[["beam_dose", "beam_dose_type"]].iloc[0].tolist() == [2.2, ""]
    keep = sorted(ion_plan.layers["energy"])[-2:]
    few = {k: t[t["energy"].isin(keep)] for k, t in (("layers", ion_plan.layers), ("spots", ion_plan.spots))}
    small = replace(ion_plan, **few)
    base, settings = {"p": base_data("p", energy=keep)}, {"spacing": 6.0, "models": ()}
    point = {"dose_point_x": 6.0, "dose_point_y": -20.0, "dose_point_z": 0.0}
    kinds = (("PHYSICAL", 2.2, "physical"), ("EFFECTIVE", 2.0, "stated as RBE-weighted"), ("", 2.0, "leaves open"))
    for kind, physical, said in kinds:
        plan = replace(small, beams=small.beams.assign(beam_dose_type=kind, **point))
        found = recompute(None, plan, base=base, **settings)
        d = found["dose"]
        near = (d["x"] - 6.0) ** 2 + (d["y"] + 20.0) ** 2 + d["z"] ** 2 <= 36.0
        assert float(d.where(near).mean()) == pytest.approx(physical, rel=1e-5) and said in found.attrs["normalisation"]
    outside = replace(small, beams=small.beams.assign(dose_point_x=900.0, dose_point_y=0.0, dose_point_z=0.0))
    with pytest.raises(IonrtError, match=r"at \(900, 0, 0\) mm, where no dose of it is"):
        recompute(None, outside, base=base, **settings)


def test_beam_doses_of_other_ions_are_not_guessed(carbon):
    ion_plan, base, _ = carbon
    units = ion_plan.beams.assign(meterset_unit="MU", beam_dose=1.0)
    for kind in ("", "EFFECTIVE"):
        with pytest.raises(IonrtError, match="beam doses are RBE-weighted, or do not say"):
            recompute(None, replace(ion_plan, beams=units.assign(beam_dose_type=kind)), base=base, spacing=6.0)
    physical = recompute(None, replace(ion_plan, beams=units.assign(beam_dose_type="PHYSICAL")), base=base, spacing=6.0)
    assert physical.attrs["normalisation"] == "to the beam doses that the plan states, physical"
    several = pd.concat([units, units.assign(beam=2, dose_point_x=9.0, dose_point_y=0.0, dose_point_z=0.0)], ignore_index=True)
    tables = {
        k: pd.concat([t, t.assign(beam=2)], ignore_index=True)
        for k, t in (("layers", ion_plan.layers), ("spots", ion_plan.spots))
    }
    with pytest.raises(IonrtError, match="beam doses at several points"):
        recompute(None, replace(ion_plan, beams=several.assign(beam_dose_type="PHYSICAL"), **tables), base=base, spacing=6.0)


def test_plans_that_cannot_be_recomputed(carbon, shared):
    ion_plan, base, _ = carbon
    beams = ion_plan.beams
    for change, message in (
        ({"beams": beams.assign(ion="", z=5, a=11)}, "Z 5, A 11 is no ion"),
        ({"beams": beams.assign(isocentre_x=np.nan)}, "isocentre, gantry or couch angle is missing"),
        (
            {"beams": beams.assign(meterset_unit="MU", beam_dose=np.nan)},
            "states no beam dose: give reference= .* or particles_per_mu=",
        ),
        ({"spots": ion_plan.spots.assign(meterset=np.nan)}, "no meterset in the plan"),
        ({"spots": ion_plan.spots.assign(energy=ion_plan.spots["energy"] + 1.0)}, "no base data of C at"),
    ):
        with pytest.raises(IonrtError, match=message):
            recompute(None, replace(ion_plan, **change), base=base, spacing=6.0)
    with pytest.warns(UserWarning, match="states no patient position; taken as HFS"):
        recompute(None, replace(ion_plan, beams=beams.assign(patient_position="")), base=base, spacing=6.0)
    with pytest.raises(IonrtError, match="expected base data of 'C'"):
        recompute(None, ion_plan, base={"p": base["C"]})
    far = replace(ion_plan, beams=beams.assign(isocentre_z=900.0))
    with pytest.raises(IonrtError, match="misses the patient"):
        recompute(read_dicom(shared("data/dicom/synthetic_carbon_study/CT_plan")), far, base=base, spacing=6.0)
