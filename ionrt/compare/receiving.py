"""A folder that came from a partner: what is in it, what the receiver states, and what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ionrt.compare.cases import open_patient
from ionrt.compare.described import described
from ionrt.compare.received import WHOLE, Received
from ionrt.files import atomic, cache_folder
from ionrt.let import let_d
from ionrt.patient import read_dicom, read_dose, read_ion_plan, write_rtdose
from ionrt.patient.folders import inventory
from ionrt.patient.ionplan import IonPlan
from ionrt.plan import Beam, Plan, field, influence, optimise, write_ion_plan
from ionrt.quantities import LET_LABELS, QUANTITIES, IonrtError, one_of, system_in_words
from ionrt.rbe import apply_model

ASKED = {
    "dose_system": "which RBE model and version their effective dose is in",
    "let_definition": "which particles their LETd counts and how it is averaged",
    "calibration": "which CT calibration their stopping powers come from",
    "machine": "which beam model their plan was made for, and which one may stand for it here",
    "dose_scope": "whether their doses are of one fraction or of the course",
    "identity": "why one person has several patient numbers",
}
SCOPES = ("fraction", "course")
SWAPPED = 0.98  # an effective dose this much below the physical one, where both are high, is the physical one


def receive(
    folder: str | Path | None = None,
    *,
    fractions: int | None = None,
    series: str | None = None,
    phantom: Mapping[str, Any] | None = None,
    gantry: Mapping[int, float] | None = None,
    **stated: str,
) -> Received:
    """Read a received folder and say what came, what the user states, and what is missing.

    Parameters
    ----------
    folder : CT, structure set, RT Ion Plan and doses of one patient; None: a SYNTHETIC sample, with what its sender states.
    fractions : planned, where the plan does not say.
    series : UID of the planning CT where several came.
    phantom : what the plan was computed on, where no CT came: {structure that came: stopping-power ratio}, or {name: {"spr",
        "size": mm x, y, z of a box, "at": its middle (the isocentre)}}.
    gantry : {beam number: degrees} their doses were computed with, where the beams were turned afterwards.
    stated : what the files do not say and the sender did: `dose_system`, `let_definition`, `calibration`, `machine`,
        `dose_scope` ("fraction" or "course"), `identity` (of objects with several patient numbers).

    Returns
    -------
    `Received`; `require()` stops where the checklist is not complete, `gamma_table`, `organ_table`, `systems_table`,
    `profiles` and `page_to_sign` are what its page shows.

    Raises
    ------
    IonrtError
        A folder without one RT Ion Plan, a plan without spots, a CT that cannot be read, an unknown statement, a phantom that
        cannot be drawn or beside a CT. Everything else that is wrong stands in the checklist.
    """
    if folder is None:
        folder, said = _sample()
        stated = said | stated
    for key in stated:
        one_of(key, tuple(ASKED), what="receive: statement")
    if "dose_scope" in stated:
        one_of(stated["dose_scope"], SCOPES, what="receive: dose_scope")
    files = inventory(folder)
    plans = files[files["kind"] == "RTPLAN"]
    if len(plans) != 1:
        raise IonrtError(f"expected one RT Ion Plan, found {len(plans)}; choose one and put it in a folder of its own")
    ion_plan, plan = read_ion_plan(plans["path"].iloc[0]), plans.iloc[0]
    number = ion_plan.fractions or fractions or 0
    rows = files[files["kind"] == "RTDOSE"].sort_values("summation", ascending=False)
    doses = tuple(read_dose(path).assign_attrs(beam=beam) for path, beam in zip(rows["path"], rows["beam"], strict=True))
    turned: Rows = {}
    if gantry:
        ion_plan, turned = _turned(ion_plan, gantry)
    patient, place = _phantom(phantom, ion_plan, files) if phantom else _place(folder, files, ion_plan, series)
    listed = (
        {"plan": (f"{ion_plan.label}: {len(ion_plan.beams)} beams, {len(ion_plan.spots)} spots", "ok")}
        | turned
        | _people(files, stated)
        | place
        | {"fractions": (str(number), "ok") if number else ("not in the plan; state fractions=", "missing")}
        | _doses(ion_plan, plan, rows, doses, stated)
    )
    named = ", ".join(sorted(set(ion_plan.beams["machine"]) - {""}))
    unknown = f"the plan names {named or 'none'}, of which there are no beams here: {ASKED['machine']}"
    ratios = "not needed: the phantom is described by stopping-power ratios" if phantom else ""
    listed |= {"calibration": _item("calibration", ratios, stated), "machine": _item("machine", "", stated, unknown)}
    table = pd.DataFrame([(k, *v) for k, v in listed.items()], columns=["item", "found", "status"]).set_index("item")
    table = table[["status", "found"]]
    return Received(patient, ion_plan, number, doses, files, table, stated)


Rows = dict[str, tuple[str, str]]  # item: what was found or stated, and whether that is enough


def _item(key: str, found: str, stated: Mapping[str, str], missing: str = "") -> tuple[str, str]:
    if key in stated:
        return f"{stated[key]} (stated by the receiver)", "stated"
    return (found, "ok") if found else (missing or f"not in the files: {ASKED[key]}", "missing")


def _turned(ion_plan: IonPlan, gantry: Mapping[int, float]) -> tuple[IonPlan, Rows]:
    """The plan with the gantry angles that the receiver states, and the row that says so."""
    beams = ion_plan.beams.copy()
    for number, angle in gantry.items():
        one_of(str(number), tuple(beams["beam"].astype(str)), what="receive: gantry: beam")
        if not isinstance(angle, (int, float)) or not -360.0 <= angle <= 360.0:
            raise IonrtError(f"receive: gantry: expected degrees for beam {number}, got {angle!r}")
    said = {str(k): float(v) for k, v in gantry.items()}
    before = beams["gantry_angle"]
    beams["gantry_angle"] = [said.get(str(n), a) for n, a in zip(beams["beam"], before, strict=True)]
    pairs = zip(beams["beam"], beams["gantry_angle"], before, strict=True)
    words = "; ".join(f"beam {n} from {a:g} degrees, {b:g} in the file" for n, a, b in pairs if str(n) in said)
    return replace(ion_plan, beams=beams), {"gantry": (f"{words} (stated by the receiver)", "stated")}


def _phantom(parts: Mapping[str, Any], ion_plan: IonPlan, files: pd.DataFrame) -> tuple[xr.Dataset | None, Rows]:
    """The phantom in words, drawn, and the rows that say so."""
    if (files["kind"] == "CT").any():
        raise IonrtError("receive: a CT came; a phantom in words is for folders without one")
    patient = described(parts, ion_plan, files)
    made = ", ".join(f"{k} {v['spr'] if isinstance(v, Mapping) else v:g}" for k, v in parts.items()
                     if not isinstance(v, Mapping) or v.get("spr") is not None)  # fmt: skip
    ct = (
        f"none came; computed on a phantom in words, stopping-power ratio {made}, else air (stated by the receiver)",
        "stated",
    )
    return patient, {"CT": ct, "structures": (str(patient.sizes["structure"]), "ok")}


def _people(files: pd.DataFrame, stated: Mapping[str, str]) -> Rows:
    """Objects of several patients, by their kinds: the table stands on a page that shows no patient numbers."""
    people = [" and ".join(sorted(set(part["kind"]))) for _, part in files.groupby("patient")]
    if len(people) == 1:
        return {}
    if "identity" in stated:
        return {"patient": (f"{len(people)} patient numbers: {stated['identity']} (stated by the receiver)", "stated")}
    why = "separate them, or correct the number if it is one person, or state why: identity="
    return {"patient": (f"objects of {len(people)} patients ({'; '.join(people)}): {why}", "contradiction")}


def _place(folder: str | Path, files: pd.DataFrame, ion_plan: IonPlan, series: str | None) -> tuple[xr.Dataset | None, Rows]:
    """CT and structures, if there is one CT and the plan is in its frame of reference."""
    count, sets = int((files["kind"] == "CT").sum()), int((files["kind"] == "RTSTRUCT").sum())
    structures = ("came, without a CT to lie on" if sets else "none came", "missing")
    if count == 0:
        return None, {"CT": ("none came: nothing to compute on", "missing"), "structures": structures}
    if count > 1 and series is None:
        return None, {
            "CT": (f"{count} series came; say which is the planning CT: series=", "missing"),
            "structures": structures,
        }
    if files["patient"].nunique() > 1:
        return None, {"CT": ("not opened: whose it is must be clear first", "missing")}
    patient = read_dicom(folder, series=series)
    own, plans = patient.attrs["frame_of_reference_uid"], ion_plan.frame_of_reference_uid
    ct = (f"{patient.sizes['z']} slices", "ok")
    if own and plans and own != plans:
        ct = (
            f"the plan belongs to frame of reference {plans}, the CT to {own}: another patient, or another scan",
            "contradiction",
        )
    found = patient.sizes.get("structure", 0)
    return patient, {"CT": ct, "structures": (str(found), "ok") if found else ("none came", "missing")}


def _doses(
    ion_plan: IonPlan, plan: pd.Series, rows: pd.DataFrame, doses: tuple[xr.DataArray, ...], stated: Mapping[str, str]
) -> Rows:
    """What doses came, whether they are of this plan and of the kinds they say, what of them has to be asked."""
    if not doses:
        return {"doses": ("none came: there is nothing to compare with", "absent")}
    whole = [str(d.name) for d in doses if d.attrs["dose_summation_type"] in WHOLE]
    beams = [str(d.name) for d in doses if d.attrs["dose_summation_type"] == "BEAM"]
    of_plan, of_beams = (", ".join(QUANTITIES[n].long_name for n in names) or "none" for names in (whole, beams))
    out: Rows = {"doses": (f"of the plan: {of_plan}; of beams: {of_beams}", "ok")}
    if twice := sorted({n for n in whole if whole.count(n) > 1}):
        out["doses"] = (f"several plan doses of {', '.join(twice)}: keep the one that is meant", "contradiction")
    kinds = set(beams) | (set(whole) - {"let_d"})
    if beams and len(kinds) > 1:
        out["dose types"] = (f"plan and beam doses are of different kinds: {', '.join(sorted(kinds))}", "contradiction")
    strange = rows[(rows["plan"] != "") & (rows["plan"] != plan["uid"])]
    if len(strange):
        out["doses of this plan"] = (f"{', '.join(strange['file'])} belong to another plan", "contradiction")
    if "dose" not in whole + beams and set(ion_plan.beams["ion"]) != {"p"} and "rbe_dose" in whole:
        out["physical dose"] = ("only RBE-weighted doses came: ask for the physical one, which needs no model", "missing")
    out |= _swapped(doses)
    for name, key, carried in (("rbe_dose", "dose_system", "rbe_model"), ("let_d", "let_definition", "let_definition")):
        came = next((str(d.attrs[carried]) for d in doses if d.name == name), None)
        if came is not None:
            words = LET_LABELS.get(came, system_in_words(came))
            out[key] = _item(key, "" if came.startswith("as imported") else words, stated)
    out["dose_scope"] = _item("dose_scope", "", stated)
    return out


def _swapped(doses: tuple[xr.DataArray, ...]) -> Rows:
    """A flag where the effective dose lies below the physical one."""
    pair = [
        next((d for d in doses if d.name == n and d.attrs["dose_summation_type"] in WHOLE), None) for n in ("dose", "rbe_dose")
    ]
    if pair[0] is None or pair[1] is None:
        return {}
    physical, effective = pair[0], pair[1].interp({k: pair[0][k] for k in "zyx"})
    high = (physical > 0.5 * float(physical.max())) & effective.notnull()
    ratio = float((effective / physical).where(high).median())
    if ratio < SWAPPED:
        return {
            "physical and effective dose": (f"effective / physical is {ratio:.2f}: they seem to be swapped", "contradiction")
        }
    return {"physical and effective dose": (f"effective / physical is {ratio:.2f} where the dose is high", "ok")}


def _sample() -> tuple[Path, dict[str, str]]:
    """A SYNTHETIC head with a carbon plan of ours and its doses, written as DICOM once; and what its sender, ionrt, states."""
    folder = cache_folder("received-plan-2")
    stated = {"calibration": "generic_ion", "machine": "ionrt, reference room", "dose_scope": "fraction"}
    if (folder / "LETd.dcm").is_file():
        return folder, stated
    patient = open_patient(anatomy="head")
    plan = Plan((Beam("C", 90.0), Beam("C", 270.0)), "CTV", 3.0, fractions=16, spacing=6.0)
    dij = influence(patient, plan)
    weights = optimise(patient, plan, dij)
    made = field(dij, weights)
    with atomic(folder, folder=True) as place:
        for path in Path(patient.attrs["source"]).glob("*.dcm"):
            shutil.copy(path, place)
        write_ion_plan(plan, dij, weights, patient, place / "RN.dcm", label="SYNTHETIC C")
        write_rtdose(made["dose"], patient, place / "physical.dcm")
        write_rtdose(apply_model(made, "nirs_mkm"), patient, place / "effective.dcm")
        write_rtdose(let_d(made), patient, place / "LETd.dcm")
    return folder, stated
