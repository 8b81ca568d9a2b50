"""A partner's plan received: what came and what is missing, recomputed, and translated into other dose systems."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.beam import base_data
from ionrt.compare.cases import open_patient
from ionrt.evaluate import gamma
from ionrt.evaluate.gamma_index import pass_rate
from ionrt.evaluate.histograms import mean_value
from ionrt.files import atomic, cache_folder
from ionrt.let import let_d
from ionrt.patient import read_dicom, read_dose, read_ion_plan, write_rtdose
from ionrt.patient.folders import inventory
from ionrt.patient.ionplan import IonPlan
from ionrt.plan import Beam, Plan, field, influence, optimise, recompute, write_ion_plan
from ionrt.quantities import IonrtError
from ionrt.rbe import DOSE_SYSTEMS, apply_model, convert_prescription, dose_in_system

WHOLE = ("PLAN", "FRACTION_SESSION")  # of the whole plan: its course, or one session of it
ASKED = {
    "dose_system": "which RBE model and version their effective dose is in",
    "let_definition": "which particles their LETd counts and how it is averaged",
    "calibration": "which CT calibration their stopping powers come from",
    "machine": "which beam model their plan was made for",
    "dose_scope": "whether their doses are of one fraction or of the course",
}
CRITERIA = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))  # percent of the maximum, mm
SWAPPED = 0.98  # an effective dose this much below the physical one, where both are high, is the physical one
NEAR = 0.1  # relative: a ratio of doses this close to 1, or to the number of fractions, says which dose is which


@dataclass(frozen=True)
class Received:
    """A folder that came: `patient`, `ion_plan`, their `doses` (of the whole plan, then of beams), `files`, `checklist`."""

    patient: xr.Dataset
    ion_plan: IonPlan
    doses: tuple[xr.DataArray, ...]
    files: pd.DataFrame
    checklist: pd.DataFrame

    def require(self) -> pd.DataFrame:
        """The checklist, if nothing on it is missing or contradictory; else an error that names what to ask for."""
        open_items = self.checklist[self.checklist["status"].isin(["missing", "contradiction"])]
        if len(open_items):
            asked = "; ".join(f"{item}: {row['found']}" for item, row in open_items.iterrows())
            raise IonrtError(
                f"the plan cannot be judged yet. {asked}. State what is known as a parameter, ask the sender for the rest"
            )
        return self.checklist

    def beams_table(self) -> pd.DataFrame:
        """Beams as the plan states them."""
        names = {
            "name": "beam", "ion": "ion", "gantry_angle": "gantry [deg]", "couch_angle": "table [deg]",
            "patient_position": "position",
            "layers": "layers", "spots": "spots", "meterset": "meterset", "meterset_unit": "unit",
        }  # fmt: skip
        return self.ion_plan.beams[list(names)].rename(columns=names).set_index("beam")

    def theirs(self, name: str) -> xr.DataArray | None:
        """Their dose, RBE-weighted dose or LETd of the whole plan; None where it did not come."""
        return next((d for d in self.doses if d.name == name and d.attrs["dose_summation_type"] in WHOLE), None)

    def recomputed(self, *, spacing: float = 4.0, models: Sequence[str] = ("nirs_mkm", "lem1", "constant")) -> xr.Dataset:
        """The plan's field with our beams, per fraction; in monitor units normalised to their physical or RBE 1.1 dose."""
        asked = {"spacing": spacing, "models": models, "reference": self.theirs("dose")}
        return recompute(self.patient, self.ion_plan, base=_machine(self.ion_plan), **asked)  # type: ignore[arg-type]


def _machine(ion_plan: IonPlan) -> dict[str, xr.Dataset] | None:
    """The base data of our machine where the plan uses its energies; None: made at those of the plan."""
    found = {ion: base_data(ion) for ion in set(ion_plan.beams["ion"]) if ion}
    apart = [
        np.abs(base["energy"].values[:, None] - ion_plan.layers["energy"].to_numpy(float)).min(axis=0).max()
        for base in found.values()
    ]
    return found if len(found) == 1 and max(apart) < 0.01 else None


def receive(folder: str | Path, *, fractions: int | None = None, **stated: str) -> Received:
    """Read a received folder and say what came, what the user states, and what is missing.

    Parameters
    ----------
    folder : CT, structure set, RT Ion Plan and doses of one patient.
    fractions : planned, where the plan does not say.
    stated : what the files do not say and the sender did: `dose_system`, `let_definition`, `calibration`, `machine`,
        `dose_scope` ("fraction" or "course").

    Returns
    -------
    `Received`; `require()` stops where the checklist is not complete.

    Raises
    ------
    IonrtError for objects of several patients, a plan of another frame of reference, a plan without spots, no plan, an unknown
    statement.
    """
    if unknown := set(stated) - set(ASKED):
        raise IonrtError(f"receive: {sorted(unknown)[0]!r} is nothing that is asked for; expected {', '.join(ASKED)}")
    files = inventory(folder)
    if len(people := sorted(set(files["patient"]))) > 1:
        raise IonrtError(
            f"the folder holds objects of {len(people)} patients ({', '.join(people)}); expected one: sort them first"
        )
    plans = files[files["kind"] == "RTPLAN"]
    if len(plans) != 1:
        raise IonrtError(f"expected one RT Ion Plan, found {len(plans)}; choose one and put it in a folder of its own")
    patient, ion_plan = read_dicom(folder), read_ion_plan(plans["path"].iloc[0])
    frame = patient.attrs["frame_of_reference_uid"]
    if ion_plan.frame_of_reference_uid and frame and ion_plan.frame_of_reference_uid != frame:
        raise IonrtError(f"the plan belongs to frame of reference {ion_plan.frame_of_reference_uid}, the CT to {frame}")
    rows = files[files["kind"] == "RTDOSE"].sort_values("summation", ascending=False)
    doses = tuple(read_dose(p) for p in rows["path"])
    listing = _checklist(ion_plan, plans.iloc[0], rows, doses, patient, fractions, stated)
    return Received(patient, ion_plan, doses, files, listing)


def _checklist(
    ion_plan: IonPlan,
    plan: pd.Series,
    rows: pd.DataFrame,
    doses: tuple[xr.DataArray, ...],
    patient: xr.Dataset,
    fractions: int | None,
    stated: Mapping[str, str],
) -> pd.DataFrame:
    """One row per item: what was found or stated, and whether that is enough."""
    out: dict[str, tuple[str, str]] = {}
    names = [str(d.name) for d in doses]
    out["plan"] = (f"{ion_plan.label}: {len(ion_plan.beams)} beams, {len(ion_plan.spots)} spots", "ok")
    out["structures"] = (f"{patient.sizes.get('structure', 0)}", "ok" if "structures" in patient else "missing")
    out["doses"] = (", ".join(names) or "none came", "ok" if names else "missing")
    number = ion_plan.fractions or fractions
    out["fractions"] = (str(number) if number else "not in the plan; state fractions=", "ok" if number else "missing")
    kinds = {str(d.name) for d, s in zip(doses, rows["summation"], strict=True) if s == "BEAM"} | {
        str(d.name) for d in doses if d.attrs["dose_summation_type"] in WHOLE and d.name != "let_d"
    }
    if any(rows["summation"] == "BEAM") and len(kinds) > 1:
        out["dose types"] = (f"plan and beam doses are of different kinds: {', '.join(sorted(kinds))}", "contradiction")
    strange = rows[(rows["plan"] != "") & (rows["plan"] != plan["uid"])]
    if len(strange):
        out["doses of this plan"] = (f"{', '.join(strange['file'])} belong to another plan", "contradiction")
    out |= _swapped(doses)
    effective = next((d for d in doses if d.name == "rbe_dose"), None)
    if effective is not None:
        model = str(effective.attrs.get("rbe_model", ""))
        out["dose_system"] = _item("dose_system", "" if model.startswith("as imported") else model, stated)
    lets = next((d for d in doses if d.name == "let_d"), None)
    if lets is not None:
        definition = str(lets.attrs.get("let_definition", ""))
        out["let_definition"] = _item("let_definition", "" if definition.startswith("as imported") else definition, stated)
    for key in ("calibration", "machine", "dose_scope"):
        out[key] = _item(key, "", stated)
    table = pd.DataFrame([(k, *v) for k, v in out.items()], columns=["item", "found", "status"])
    return table.set_index("item")


def _item(key: str, found: str, stated: Mapping[str, str]) -> tuple[str, str]:
    if key in stated:
        return f"{stated[key]} (stated by the user)", "stated"
    return (found, "ok") if found else (f"not in the files: {ASKED[key]}", "missing")


def _swapped(doses: tuple[xr.DataArray, ...]) -> dict[str, tuple[str, str]]:
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


def dose_scope(theirs: xr.DataArray, ours: xr.DataArray, fractions: int) -> str:
    """Whether a dose is of one fraction or of the course, from its ratio to ours per fraction; raises where it is neither."""
    mine = ours.interp({d: theirs[d] for d in "zyx"})
    high = (theirs > 0.5 * float(theirs.max())) & (mine > 0.0)
    ratio = float((theirs / mine).where(high).median())
    for scope, expected in (("fraction", 1.0), ("course", float(fractions))):
        if abs(ratio / expected - 1.0) < NEAR:
            return scope
    raise IonrtError(f"their dose is {ratio:.2f} of ours per fraction: neither one fraction nor {fractions}; ask what it is of")


def gamma_table(theirs: xr.DataArray, ours: xr.DataArray, normalisation: str) -> pd.DataFrame:
    """Gamma pass rates (percent) of our dose against theirs at several criteria (global, above 10 % of the maximum)."""
    reference = theirs.astype(np.float32)
    mine = ours.interp({d: theirs[d] for d in "zyx"}).fillna(0.0).astype(np.float32).assign_attrs(ours.attrs)
    rates = {
        f"{p:g} %/{d:g} mm": 100.0 * float(pass_rate(gamma(reference, mine, dose_percent=p, distance_mm=d)))
        for p, d in CRITERIA
    }
    return pd.DataFrame({"passing [%]": rates, "normalisation": normalisation}).rename_axis("criterion")


def page_to_sign(received: Received, gammas: pd.DataFrame) -> pd.DataFrame:
    """What was checked, with room for the names of those who judge it; research, no release of a plan."""
    rows = {
        "plan": received.ion_plan.label,
        "checklist": f"{int((received.checklist['status'] == 'ok').sum())} found, "
        f"{int((received.checklist['status'] == 'stated').sum())} stated by the receiver",
        "recomputed against theirs": "; ".join(f"{k}: {v:.1f} %" for k, v in gammas["passing [%]"].items()),
        "dose rests on": str(gammas["normalisation"].iloc[0]),
        "may be used for": "research; not a release for treatment",
        "checked by (physicist), date": "",
        "seen by (physician), date": "",
    }
    return pd.DataFrame({"entry": rows}).rename_axis("item")


def systems_table(fields: Sequence[xr.Dataset], structures: xr.DataArray, target: str, prescription: float) -> pd.DataFrame:
    """Mean RBE-weighted dose of the target per fraction in every dose system that one of the fields has the moments of (a field
    holds one parameter set per moment), beside what a published factor makes of the prescription.
    """
    part, rows = structures.sel(structure=[target]), {}
    for name, system in DOSE_SYSTEMS.items():
        mean, note = np.nan, system.note
        for one in fields if system.model else ():
            try:
                mean = float(mean_value(dose_in_system(one, name), part)[0])
                break
            except IonrtError as error:
                note = str(error)
        try:
            guess = convert_prescription(prescription, source="NIRS-mMKM", target=name).dose_per_fraction
        except IonrtError:
            guess = np.nan
        rows[name] = {"mean [Gy (RBE)]": mean, "by the literature [Gy (RBE)]": guess, "note": system.note if mean > 0 else note}
    return pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="dose system"))


def sample_folder() -> Path:
    """A SYNTHETIC head with a carbon plan of ours and its doses, written as DICOM once."""
    folder = cache_folder("received-plan-1")
    if (folder / "LETd.dcm").is_file():
        return folder
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
    return folder
