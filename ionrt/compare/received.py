"""A partner's plan that came: what it says, recomputed, translated into other dose systems, and a page to sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ionrt.beam import base_data
from ionrt.compare.cases import LET_ABOVE, mean_let
from ionrt.evaluate import depth_profile, dose_at_volume, gamma, statistics
from ionrt.evaluate.gamma_index import pass_rate
from ionrt.evaluate.histograms import mean_value
from ionrt.evaluate.profile import centroid
from ionrt.let import let_d
from ionrt.patient import regrid
from ionrt.patient.ionplan import IonPlan
from ionrt.patient.names import kinds_of, organs_of
from ionrt.plan import recompute
from ionrt.plan.recomputation import PROTON_RBE
from ionrt.plan.setup.geometry import bev_axes
from ionrt.quantities import IonrtError, one_of, stamp
from ionrt.rbe import DOSE_SYSTEMS, convert_prescription
from ionrt.rbe.systems import dose_in_system, first_in_system

WHOLE = ("PLAN", "FRACTION_SESSION")  # of the whole plan: its course, or one session of it
STOPS = ("missing", "contradiction")
MODELS = ("nirs_mkm", "lem1", "constant")
CRITERIA = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))  # percent of the maximum, mm
NEAR = 0.1  # relative: a ratio of doses this close to 1, or to the number of fractions, says which dose is which
SYSTEMS = {True: ("RBE-1.1",), False: ("NIRS-mMKM", "LEM-I")}  # of protons alone, of others


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

    def gamma_table(self, field: xr.Dataset) -> pd.DataFrame:
        """Our physical dose (`field` of `recomputed`) against theirs, of the plan and of each beam whose dose came.

        Gamma pass rates [%] (global, above 10 % of the maximum), the median of ours / theirs where theirs is above half of its
        maximum, and what that says of what their dose is of.
        """
        rows: dict[str, list[float | str]] = {}
        scaled = field.attrs["normalisation"].startswith("to the reference")
        for part, theirs in self.physical().items():
            on_grid, theirs = _on_grid(field, part, theirs)
            rates = [100.0 * float(pass_rate(gamma(theirs, on_grid, dose_percent=p, distance_mm=d))) for p, d in CRITERIA]
            ratio = float((on_grid / theirs).where(theirs > 0.5 * float(theirs.max())).median())
            scope = "ours is scaled to it" if scaled else _scope(ratio, self.fractions, self.stated["dose_scope"])
            rows[part] = [*rates, ratio, scope]
        columns = [*(f"gamma {p:g} %/{d:g} mm [%]" for p, d in CRITERIA), "ours / theirs", "their dose"]
        none = {"plan": [np.nan] * (len(CRITERIA) + 1) + ["did not come"]}
        return pd.DataFrame.from_dict(rows or none, orient="index", columns=columns).rename_axis("of")

    def gamma_map(self, field: xr.Dataset, *, dose_percent: float = 3.0, distance_mm: float = 3.0) -> xr.DataArray:
        """Gamma index (z, y, x) of our physical dose on the grid of theirs: of the plan, or of the first beam whose dose came.

        Tolerances in % of their maximum and mm; NaN below 10 % of it.
        """
        physical = self.physical()
        if not physical:
            raise IonrtError("gamma_map: no dose came that ours could be held against")
        part = "plan" if "plan" in physical else next(iter(physical))
        ours, theirs = _on_grid(field, part, physical[part])
        return gamma(theirs, ours, dose_percent=dose_percent, distance_mm=distance_mm)

    def page_to_sign(self, gammas: pd.DataFrame, normalisation: str) -> pd.DataFrame:
        """What was checked (`gamma_table`, ``normalisation`` of `recomputed`), with room for the names of those who judge it;
        research, no release of a plan."""
        status = self.checklist["status"]
        first, said = gammas.iloc[0], "; ".join(f"of {part}: {text}" for part, text in gammas["their dose"].items())
        agreed = "; ".join(f"{k} {v:.1f}" for k, v in first.items() if str(k).startswith("gamma") and np.isfinite(v))
        rows = {
            "plan": self.ion_plan.label,
            "checklist": f"{int((status == 'ok').sum())} found, {int((status == 'stated').sum())} stated by the receiver",
            "recomputed against theirs": agreed or "no dose came",
            "their dose": said,
            "dose rests on": normalisation,
            "may be used for": "research; not a release for treatment",
            "checked by (physicist), date": "",
            "seen by (physician), date": "",
        }
        return pd.DataFrame({"entry": rows}).rename_axis("item")

    def organ_table(self, field: xr.Dataset, structures: xr.DataArray, target: str, prescription: float) -> pd.DataFrame:
        """Target and organs: D1 % and D20 % [Gy (RBE)] per fraction in the systems of the plan's ions, and LETd [keV/um].

        Mean LETd is weighted with dose; LETd counts where the physical dose is at least 2 % of the `prescription` [Gy (RBE) per
        fraction]. `field` of `recomputed` without ``beam``, `structures` as fractions on its grid.
        """
        organs = structures.sel(structure=[target, *organs_of(kinds_of(structures), target)])
        let, dosed = let_d(field), field["dose"] >= LET_ABOVE * prescription
        parts: dict[str, pd.Series] = {}
        for system in SYSTEMS[self.protons]:
            found = statistics(dose_in_system(field, system), organs, percent=(1, 20))
            parts |= {f"{system} D{p} % [Gy (RBE)]": found[f"D{p}%"] for p in (1, 20)}
        parts["mean LETd [keV/µm]"] = mean_let(field.assign(let_d=let), organs, dosed).to_pandas()
        parts["LETd in the hottest 2 % [keV/µm]"] = dose_at_volume(let.where(dosed), organs, percent=2.0).to_pandas()
        return pd.DataFrame(parts).rename_axis("structure")

    def systems_table(
        self, fields: Sequence[xr.Dataset], structures: xr.DataArray, target: str, prescription: float
    ) -> pd.DataFrame:
        """Mean RBE-weighted dose of the target per fraction in every dose system that one of the fields has the moments of.

        A field of `recomputed` holds one parameter set per moment. Beside it what a published factor makes of the prescription
        [Gy (RBE) per fraction] in the sender's system, and a note.
        """
        part, rows = structures.sel(structure=[target]), {}
        for name, system in DOSE_SYSTEMS.items():
            mean, note = np.nan, system.note
            if system.model:
                try:
                    mean = float(mean_value(first_in_system(fields, name), part)[0])
                except IonrtError as error:
                    note = str(error)
            try:
                guess = convert_prescription(prescription, source=self.system, target=name).dose_per_fraction
            except IonrtError:
                guess = np.nan
            rows[name] = {
                "mean [Gy (RBE)]": mean,
                "by the literature [Gy (RBE)]": guess,
                "note": system.note if mean > 0 else note,
            }
        return pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="dose system"))


def _on_grid(field: xr.Dataset, part: str, theirs: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Our physical dose of the plan or of a beam on the grid of theirs, and theirs."""
    dose = field["dose"].sum("beam", keep_attrs=True) if part == "plan" else field["dose"].sel(beam=part, drop=True)
    ours = dose.interp({d: theirs[d] for d in "zyx"}).fillna(0.0).astype(np.float32).assign_attrs(dose.attrs)
    return ours, theirs.astype(np.float32)


def _scope(ratio: float, fractions: int, stated: str) -> str:
    """What a dose is of, from our dose per fraction over theirs, taken as stated."""
    if abs(ratio - 1.0) < NEAR:
        return f"is of one {stated}, as stated"
    other, factor = ("course", 1.0 / fractions) if stated == "fraction" else ("fraction", float(fractions))
    if abs(ratio / factor - 1.0) < NEAR:
        return f"is of one {other}, and not of one {stated} as stated"
    return f"fits neither one fraction nor the course of {fractions}: ask what it is of"


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
