"""A partner's plan received: what came and what is missing, recomputed, and translated into other dose systems."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.beam import base_data
from ionrt.compare.cases import open_patient
from ionrt.compare.described import described
from ionrt.evaluate import depth_profile
from ionrt.evaluate.profile import centroid
from ionrt.files import atomic, cache_folder
from ionrt.let import let_d
from ionrt.patient import read_dicom, read_dose, read_ion_plan, regrid, write_rtdose
from ionrt.patient.folders import inventory
from ionrt.patient.ionplan import IonPlan
from ionrt.plan import Beam, Plan, field, influence, optimise, recompute, write_ion_plan
from ionrt.plan.recomputation import PROTON_RBE
from ionrt.plan.setup.geometry import bev_axes
from ionrt.quantities import IonrtError, one_of, stamp
from ionrt.rbe import DOSE_SYSTEMS, apply_model

WHOLE = ("PLAN", "FRACTION_SESSION")  # of the whole plan: its course, or one session of it
ASKED = {
    "dose_system": "which RBE model and version their effective dose is in",
    "let_definition": "which particles their LETd counts and how it is averaged",
    "calibration": "which CT calibration their stopping powers come from",
    "machine": "which beam model their plan was made for, and which one may stand for it here",
    "dose_scope": "whether their doses are of one fraction or of the course",
    "identity": "why one person has several patient numbers",
}
SCOPES = ("fraction", "course")
STOPS = ("missing", "contradiction")
SWAPPED = 0.98  # an effective dose this much below the physical one, where both are high, is the physical one
MODELS = ("nirs_mkm", "lem1", "constant")


@dataclass(frozen=True)
class Received:
    """A folder that came: `patient` (None without one CT or a phantom in words), `ion_plan`, its `fractions` (0: not known),
    `doses` as they came, `files`, `checklist`, what the receiver `stated`."""

    patient: xr.Dataset | None
    ion_plan: IonPlan
    fractions: int
    doses: tuple[xr.DataArray, ...]
    files: pd.DataFrame
    checklist: pd.DataFrame
    stated: Mapping[str, str]

    def require(self) -> pd.DataFrame:
        """The checklist, if nothing on it is missing or contradictory; else an error that names what to ask for."""
        open_items = self.checklist[self.checklist["status"].isin(STOPS)]
        if len(open_items):
            asked = "; ".join(f"{item}: {row['found']}" for item, row in open_items.iterrows())
            raise IonrtError(
                f"the plan cannot be judged yet. {asked}. State what is known as a parameter, ask the sender for the rest"
            )
        return self.checklist

    def beams_table(self) -> pd.DataFrame:
        """Beams as the plan states them."""
        names = {
            "name": "beam", "machine": "machine", "ion": "ion", "gantry_angle": "gantry [deg]", "couch_angle": "table [deg]",
            "patient_position": "position", "layers": "layers", "spots": "spots", "meterset": "meterset",
            "meterset_unit": "unit",
        }  # fmt: skip
        return self.ion_plan.beams[list(names)].rename(columns=names).set_index("beam")

    @property
    def image(self) -> xr.DataArray:
        """What lies behind a dose: the CT, or the described phantom in HU of water-like matter."""
        if self.patient is None:
            raise IonrtError("no CT came, and no phantom was described")
        return self.patient["ct"] if "ct" in self.patient else stamp(1000.0 * (self.patient["spr"] - 1.0), "ct")

    @property
    def synthetic(self) -> str | None:
        """Which phantom it is, where every patient number says SYNTHETIC; else None."""
        kinds = {str(p).lower().partition("synthetic-")[2] for p in self.files["patient"] if str(p).startswith("SYNTHETIC")}
        return (", ".join(kinds - {""}) or "some") if self.files["patient"].str.startswith("SYNTHETIC").all() else None

    @property
    def protons(self) -> bool:
        """Whether the plan has protons only."""
        return set(self.ion_plan.beams["ion"]) == {"p"}

    def theirs(self, name: str) -> dict[str, xr.DataArray]:
        """Their `dose`, `rbe_dose` (per fraction) or `let_d`, of the "plan" and of beams by name, as far as they came."""
        beams, found = dict(zip(self.ion_plan.beams["beam"].astype(str), self.beam_names, strict=True)), {}
        share = self.fractions if self.stated.get("dose_scope") == "course" and name != "let_d" else 1
        for one in self.doses:
            part = "plan" if one.attrs["dose_summation_type"] in WHOLE else beams.get(one.attrs["beam"], "")
            if one.name == name and part:
                found[part] = (one / share).assign_attrs(one.attrs)
        return found

    @property
    def beam_names(self) -> list[str]:
        """Names of the beams, with their numbers where two have one name."""
        beams = self.ion_plan.beams
        twice = beams["name"].duplicated().any() or "plan" in set(beams["name"])
        return [f"{number} {name}" if twice else name for number, name in zip(beams["beam"], beams["name"], strict=True)]

    def physical(self) -> dict[str, xr.DataArray]:
        """Their physical doses per fraction; of protons whose physical dose did not come, the effective one over 1.1."""
        came = self.theirs("dose")
        if came or not self.protons:
            return came
        return {k: stamp(d / np.float32(PROTON_RBE), "dose", **_of_file(d)) for k, d in self.theirs("rbe_dose").items()}

    def recomputed(
        self, *, spacing: float = 4.0, models: Sequence[str] = MODELS, base: Mapping[str, xr.Dataset] | None = None
    ) -> xr.Dataset:
        """The plan's field (beam, z, y, x) with our beams, per fraction; in monitor units normalised to their physical dose.

        `base` {ion: base data} where the sender's, or better ones, are at hand. Raises where the checklist is not complete.
        """
        self.require()
        base = _machine(self.ion_plan) if base is None else base
        given = {"spacing": spacing, "models": models, "reference": self.physical().get("plan")}
        made = recompute(self.patient, self.ion_plan, base=base, by="beam", **given)  # type: ignore[arg-type]
        for da in made.data_vars.values() if self.synthetic else ():
            da.attrs["synthetic"] = self.synthetic
        return made.assign_coords(beam=self.beam_names)

    def structures(self, target: str, *, spacing: float = 4.0) -> xr.DataArray:
        """Structures on a coarser grid; raises where the target is none of them."""
        self.require()
        found = regrid(self.patient.drop_vars(["ct", "spr"], errors="ignore"), spacing=spacing)["structures"]  # type: ignore[union-attr]
        one_of(target, tuple(str(s) for s in found["structure"].values), what="target")
        return found

    @property
    def system(self) -> str:
        """The dose system of their effective dose, where ionrt knows it; else empty."""
        models = [str(d.attrs["rbe_model"]) for d in self.doses if d.name == "rbe_dose"]
        said = self.stated.get("dose_system", models[0] if models else "")
        return next((name for name, system in DOSE_SYSTEMS.items() if said in (name, system.model)), "")

    def profiles(self, field: xr.Dataset, structures: xr.DataArray, target: str) -> dict[str, dict[str, xr.DataArray]]:
        """Physical dose along each beam's axis through the centre of the target, 80 mm to both sides: ours, theirs."""
        middle = centroid(structures.sel(structure=target, drop=True))
        theirs, along = self.physical(), np.arange(-80.0, 80.5, 1.0)
        out: dict[str, dict[str, xr.DataArray]] = {}
        for name, (_, row) in zip(self.beam_names, self.ion_plan.beams.iterrows(), strict=True):
            angles = (row["gantry_angle"], row["couch_angle"], row["patient_position"] or "HFS", row["table_pitch"])
            line = {"through": middle, "direction": -bev_axes(*angles, row["table_roll"])[2], "distance": along}
            both = {
                "ours": field["dose"].sum("beam", keep_attrs=True),
                "ours, of this beam": field["dose"].sel(beam=name, drop=True),
            }
            both |= {"theirs": theirs["plan"]} if "plan" in theirs else {}
            out[f"along {name}"] = {k: depth_profile(d, **line) for k, d in both.items()}
        return out


def _of_file(da: xr.DataArray) -> dict[str, str]:
    return {k: da.attrs[k] for k in ("frame_of_reference_uid", "dose_summation_type", "beam") if k in da.attrs}


def _machine(ion_plan: IonPlan) -> dict[str, xr.Dataset] | None:
    """The base data of our machine where the plan uses its energies; None: made at those of the plan."""
    found = {ion: base_data(ion) for ion in set(ion_plan.beams["ion"]) if ion}
    apart = [
        np.abs(base["energy"].values[:, None] - ion_plan.layers["energy"].to_numpy(float)).min(axis=0).max()
        for base in found.values()
    ]
    return found if len(found) == 1 and max(apart) < 0.01 else None


def receive(
    folder: str | Path,
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
    folder : CT, structure set, RT Ion Plan and doses of one patient.
    fractions : planned, where the plan does not say.
    series : UID of the planning CT where several came.
    phantom : what the plan was computed on, where no CT came: {structure that came: stopping-power ratio}, or {name: {"spr",
        "size": mm x, y, z of a box, "at": its middle (the isocentre)}}.
    gantry : {beam number: degrees} their doses were computed with, where the beams were turned afterwards.
    stated : what the files do not say and the sender did: `dose_system`, `let_definition`, `calibration`, `machine`,
        `dose_scope` ("fraction" or "course"), `identity` (of objects with several patient numbers).

    Returns
    -------
    `Received`; `require()` stops where the checklist is not complete.

    Raises
    ------
    IonrtError
        A folder without one RT Ion Plan, a plan without spots, a CT that cannot be read, an unknown statement, a phantom that
        cannot be drawn or beside a CT. Everything else that is wrong stands in the checklist.
    """
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
    out: Rows = {"doses": (f"of the plan: {', '.join(whole) or 'none'}; of beams: {', '.join(beams) or 'none'}", "ok")}
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
            out[key] = _item(key, "" if came.startswith("as imported") else came, stated)
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


def sample_folder() -> tuple[Path, dict[str, str]]:
    """A SYNTHETIC head with a carbon plan of ours and its doses, written as DICOM once; and what its sender, ionrt, states.

    Returns
    -------
    tuple[Path, dict[str, str]]

    Raises
    ------
    IonrtError
        As of `ionrt.write_ion_plan` and `ionrt.write_rtdose`.
    """
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
