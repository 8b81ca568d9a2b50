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
from ionrt.compare.cases import LET_ABOVE, mean_let, open_patient
from ionrt.evaluate import depth_profile, dose_at_volume, gamma, mean_value, pass_rate, statistics
from ionrt.evaluate.profile import centroid
from ionrt.files import atomic, cache_folder
from ionrt.let import let_d
from ionrt.patient import read_dicom, read_dose, read_ion_plan, regrid, write_rtdose
from ionrt.patient.folders import inventory
from ionrt.patient.ionplan import IonPlan
from ionrt.patient.names import is_external, is_target
from ionrt.plan import Beam, Plan, field, influence, optimise, recompute, write_ion_plan
from ionrt.plan.setup.geometry import bev_axes
from ionrt.quantities import IonrtError, one_of, stamp
from ionrt.rbe import DOSE_SYSTEMS, apply_model, convert_prescription, dose_in_system

WHOLE = ("PLAN", "FRACTION_SESSION")  # of the whole plan: its course, or one session of it
ASKED = {
    "dose_system": "which RBE model and version their effective dose is in",
    "let_definition": "which particles their LETd counts and how it is averaged",
    "calibration": "which CT calibration their stopping powers come from",
    "machine": "which beam model their plan was made for, and which one may stand for it here",
    "dose_scope": "whether their doses are of one fraction or of the course",
}
SCOPES = ("fraction", "course")
STOPS = ("missing", "contradiction")
CRITERIA = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))  # percent of the maximum, mm
SWAPPED = 0.98  # an effective dose this much below the physical one, where both are high, is the physical one
NEAR = 0.1  # relative: a ratio of doses this close to 1, or to the number of fractions, says which dose is which
PROTON_RBE = 1.1
SYSTEMS = {True: ("RBE-1.1",), False: ("NIRS-mMKM", "LEM-I")}  # of protons alone, of others
MODELS = ("nirs_mkm", "lem1", "constant")


@dataclass(frozen=True)
class Received:
    """A folder that came: `patient` (None without one CT), `ion_plan`, its `fractions` (0: not known), `doses` as they came,
    `files`, `checklist`, what the receiver `stated`."""

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
        found = regrid(self.patient.drop_vars("ct"), spacing=spacing)["structures"]  # type: ignore[union-attr]
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


def receive(folder: str | Path, *, fractions: int | None = None, series: str | None = None, **stated: str) -> Received:
    """Read a received folder and say what came, what the user states, and what is missing.

    Parameters
    ----------
    folder : CT, structure set, RT Ion Plan and doses of one patient.
    fractions : planned, where the plan does not say; series : UID of the planning CT where several came.
    stated : what the files do not say and the sender did: `dose_system`, `let_definition`, `calibration`, `machine`,
        `dose_scope` ("fraction" or "course").

    Returns
    -------
    `Received`; `require()` stops where the checklist is not complete.

    Raises
    ------
    IonrtError for a folder without one RT Ion Plan, a plan without spots, a CT that cannot be read, an unknown statement.
    Everything else that is wrong stands in the checklist.
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
    patient, place = _place(folder, files, ion_plan, series)
    listed = (
        {"plan": (f"{ion_plan.label}: {len(ion_plan.beams)} beams, {len(ion_plan.spots)} spots", "ok")}
        | _people(files)
        | place
        | {"fractions": (str(number), "ok") if number else ("not in the plan; state fractions=", "missing")}
        | _doses(ion_plan, plan, rows, doses, stated)
    )
    named = ", ".join(sorted(set(ion_plan.beams["machine"]) - {""}))
    unknown = f"the plan names {named or 'none'}, of which there are no beams here: {ASKED['machine']}"
    listed |= {"calibration": _item("calibration", "", stated), "machine": _item("machine", "", stated, unknown)}
    table = pd.DataFrame([(k, *v) for k, v in listed.items()], columns=["item", "found", "status"]).set_index("item")
    table = table[["status", "found"]]
    return Received(patient, ion_plan, number, doses, files, table, stated)


Rows = dict[str, tuple[str, str]]  # item: what was found or stated, and whether that is enough


def _item(key: str, found: str, stated: Mapping[str, str], missing: str = "") -> tuple[str, str]:
    if key in stated:
        return f"{stated[key]} (stated by the receiver)", "stated"
    return (found, "ok") if found else (missing or f"not in the files: {ASKED[key]}", "missing")


def _people(files: pd.DataFrame) -> Rows:
    """Objects of several patients, by their kinds: the table stands on a page that shows no patient numbers."""
    people = [" and ".join(sorted(set(part["kind"]))) for _, part in files.groupby("patient")]
    if len(people) == 1:
        return {}
    why = "separate them, or correct the number if it is one person"
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


def gamma_table(received: Received, field: xr.Dataset) -> pd.DataFrame:
    """Our physical dose against theirs, of the plan and of each beam whose dose came.

    Parameters
    ----------
    received : with the doses that came; field : of `Received.recomputed`.

    Returns
    -------
    DataFrame: gamma pass rates [%] (global, above 10 % of the maximum), the median of ours / theirs where theirs is above half
    of its maximum, and what that says of what their dose is of.
    """
    rows: dict[str, list[float | str]] = {}
    scaled = field.attrs["normalisation"].startswith("to the reference")
    for part, theirs in received.physical().items():
        dose = field["dose"].sum("beam", keep_attrs=True) if part == "plan" else field["dose"].sel(beam=part, drop=True)
        on_grid = dose.interp({d: theirs[d] for d in "zyx"}).fillna(0.0).astype(np.float32).assign_attrs(dose.attrs)
        theirs = theirs.astype(np.float32)
        rates = [100.0 * float(pass_rate(gamma(theirs, on_grid, dose_percent=p, distance_mm=d))) for p, d in CRITERIA]
        ratio = float((on_grid / theirs).where(theirs > 0.5 * float(theirs.max())).median())
        scope = "ours is scaled to it" if scaled else _scope(ratio, received.fractions, received.stated["dose_scope"])
        rows[part] = [*rates, ratio, scope]
    columns = [*(f"gamma {p:g} %/{d:g} mm [%]" for p, d in CRITERIA), "ours / theirs", "their dose"]
    none = {"plan": [np.nan] * (len(CRITERIA) + 1) + ["did not come"]}
    return pd.DataFrame.from_dict(rows or none, orient="index", columns=columns).rename_axis("of")


def _scope(ratio: float, fractions: int, stated: str) -> str:
    """What a dose is of, from our dose per fraction over theirs, taken as stated."""
    if abs(ratio - 1.0) < NEAR:
        return f"is of one {stated}, as stated"
    other, factor = ("course", 1.0 / fractions) if stated == "fraction" else ("fraction", float(fractions))
    if abs(ratio / factor - 1.0) < NEAR:
        return f"is of one {other}, and not of one {stated} as stated"
    return f"fits neither one fraction nor the course of {fractions}: ask what it is of"


def page_to_sign(received: Received, gammas: pd.DataFrame, normalisation: str) -> pd.DataFrame:
    """What was checked, with room for the names of those who judge it; research, no release of a plan."""
    status = received.checklist["status"]
    first, said = gammas.iloc[0], "; ".join(f"of {part}: {text}" for part, text in gammas["their dose"].items())
    agreed = "; ".join(f"{k} {v:.1f}" for k, v in first.items() if str(k).startswith("gamma") and np.isfinite(v))
    rows = {
        "plan": received.ion_plan.label,
        "checklist": f"{int((status == 'ok').sum())} found, {int((status == 'stated').sum())} stated by the receiver",
        "recomputed against theirs": agreed or "no dose came",
        "their dose": said,
        "dose rests on": normalisation,
        "may be used for": "research; not a release for treatment",
        "checked by (physicist), date": "",
        "seen by (physician), date": "",
    }
    return pd.DataFrame({"entry": rows}).rename_axis("item")


def organ_table(
    received: Received, field: xr.Dataset, structures: xr.DataArray, target: str, prescription: float
) -> pd.DataFrame:
    """Target and organs: D1 % and D20 % [Gy (RBE)] per fraction in the systems of the plan's ions, and LETd [keV/um].

    `field` without `beam`. Mean LETd is weighted with dose; LETd counts where the physical dose is at least 2 % of the
    `prescription`.
    """
    names = [str(s) for s in structures["structure"].values]
    organs = structures.sel(structure=[target, *(n for n in names if not (is_target(n) or is_external(n)) and n != target)])
    let, dosed = let_d(field), field["dose"] >= LET_ABOVE * prescription
    parts: dict[str, pd.Series] = {}
    for system in SYSTEMS[received.protons]:
        found = statistics(dose_in_system(field, system), organs, percent=(1, 20))
        parts |= {f"{system} D{p} % [Gy (RBE)]": found[f"D{p}%"] for p in (1, 20)}
    parts["mean LETd [keV/µm]"] = mean_let(xr.Dataset({"dose": field["dose"], "let_d": let}), organs, dosed).to_pandas()
    parts["LETd in the hottest 2 % [keV/µm]"] = dose_at_volume(let.where(dosed), organs, percent=2.0).to_pandas()
    return pd.DataFrame(parts).rename_axis("structure")


def systems_table(
    received: Received, fields: Sequence[xr.Dataset], structures: xr.DataArray, target: str, prescription: float
) -> pd.DataFrame:
    """Mean RBE-weighted dose of the target per fraction in every dose system that one of the fields has the moments of (a field
    holds one parameter set per moment), beside what a published factor makes of the prescription in the sender's system.
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
            guess = convert_prescription(prescription, source=received.system, target=name).dose_per_fraction
        except IonrtError:
            guess = np.nan
        rows[name] = {"mean [Gy (RBE)]": mean, "by the literature [Gy (RBE)]": guess, "note": system.note if mean > 0 else note}
    return pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="dose system"))


def sample_folder() -> tuple[Path, dict[str, str]]:
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
