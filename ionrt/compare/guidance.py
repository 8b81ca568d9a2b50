"""What daily CTs change: one plan delivered on every day under several set-up corrections, planned again, and added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import adapt, evaluate, plan, rbe
from ionrt.adapt.changes import anatomy_change, depth_table, gamma_passed
from ionrt.adapt.course import shortcuts, weighted
from ionrt.adapt.depth import depth_change
from ionrt.adapt.quality import registration_quality
from ionrt.adapt.transform import compose
from ionrt.compare.cases import asked_of, nearest_organs, planned_maps, two_levels, whose, widened
from ionrt.files import cache_folder, content_hash
from ionrt.ions import in_words
from ionrt.let import let_d
from ionrt.patient import read_days, regrid, write_phantom
from ionrt.patient.phantom import recipe
from ionrt.patient.registration import matrix_transform
from ionrt.plan.engine.influence import Influence
from ionrt.plan.setup.objectives import default_objectives
from ionrt.quantities import LET_LABELS, system_in_words

CORRECTIONS = ("no match", "bone match", "tumour match")
MARGIN = 3.0  # mm of the planned volume around the target
SMOOTHINGS = (20.0, 12.0)  # mm, of the two registrations whose difference is the band
PUBLISHED = {"bone match": "-8.8 ± 8.8", "tumour match": "-5.1 ± 6.2", "replan": "+1.2 ± 3.4 and -0.5 ± 2.1"}

ANATOMY = {  # headings of the page
    "planned [cm3]": "volume planned [cm3]",
    "that day [cm3]": "volume that day [cm3]",
    "volume [%]": "change of volume [%]",
    "centroid [mm]": "shift of centroid [mm]",
    "surface 95 % [mm]": "surfaces apart, 95 % [mm]",
    "other HU [%]": "other HU [%]",
    "contour": "contour",
}
DEPTH = {
    "median [mm]": "change, median [mm]",
    "median size [mm]": "size of change, median [mm]",
    "95 % [mm]": "size, 95 % [mm]",
    "largest [mm]": "size, largest [mm]",
}
MEASURES = {  # of `ionrt.adapt.measure`, as they are read
    "centroid": "shift of centroid [mm]",
    "volume": "size of volume change [%]",
    "depth_median": "change of depth, median [mm]",
    "depth_95": "change of depth, 95 % [mm]",
    "V95": "V95 [%]",
    "D98_loss": "D98 lost [% of prescription]",
    "gamma": "gamma passed [%]",
    "L98_loss": "LETd98 lost [% of plan]",
}


def open_days(folder: str | Path | Sequence[str | Path] = "", *, anatomy: str = "pelvis") -> dict[str, xr.Dataset]:
    """Planning CT and days of a patient; without a folder, the SYNTHETIC phantom and its days, written as DICOM once and
    read back.

    Parameters
    ----------
    folder : as in `ionrt.patient.read_days`.
    anatomy : of the phantom, "pelvis" or "head".

    Returns
    -------
    Mapping: "planning", "day 1", ...

    Raises
    ------
    IonrtError
        As of `ionrt.patient.read_days`; no such anatomy.
    """
    if folder:
        return read_days(folder)
    whole = content_hash(*(recipe(anatomy, day=d).to_csv() for d in range(4)))
    root = cache_folder(f"phantom-days-{anatomy}-{whole}")
    made = read_days([write_phantom(root / f"day{d}", anatomy=anatomy, day=d) for d in range(4)])
    return {name: day.assign_attrs(synthetic=anatomy) for name, day in made.items()}


@dataclass(frozen=True)
class Guidance:
    """One plan on every day; `maps` ``rbe_dose`` and ``let_d`` per (day, correction) beside the `measures` of the trigger;
    `courses` per correction and registration; `quality` of the registrations per day."""

    planning: xr.Dataset
    plan: plan.Plan
    organs: tuple[str, ...]
    parts: tuple[int, ...]
    alpha_beta: float
    planned: xr.Dataset
    placed: Mapping[tuple[str, str], xr.Dataset]
    maps: Mapping[tuple[str, str], xr.Dataset]
    measures: Mapping[tuple[str, str], Mapping[str, float]]
    depths: Mapping[str, xr.Dataset]
    courses: Mapping[tuple[str, float], xr.Dataset]
    quality: Mapping[str, pd.DataFrame]

    @property
    def days(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(day for day, _ in self.maps))

    def coverage_table(self) -> pd.DataFrame:
        """V95, D98 and LETd98 of the target on each day's own contour, V95 lost against the plan, and how much of the planned
        dose the day's dose finds again (gamma); no deformable registration in it."""
        return self._coverage.copy()

    @cached_property
    def _coverage(self) -> pd.DataFrame:
        """Asked for by most of the others."""
        before = self._numbers(self.planned, self.planning)
        rows = {("plan", ""): before}
        for key, maps in self.maps.items():
            now = self._numbers(maps, self.placed[key])
            passed = gamma_passed(self.planned["rbe_dose"], maps["rbe_dose"])
            rows[key] = {**now, "V95 lost [%]": before["V95 [%]"] - now["V95 [%]"], "gamma 3 %/3 mm [%]": passed}
        return two_levels(rows, ["on", "set-up"])

    @property
    def worst_day(self) -> str:
        """The day that loses most coverage after the match on the bones."""
        lost = self._coverage["V95 lost [%]"].xs("bone match", level="set-up")
        return str(lost.idxmax())

    def picture(self, quantity: str) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
        """Planned and delivered maps of the worst day side by side, the day's CT, and its outlines, for `ionrt.plot.slices`."""
        day = self.daily
        shown = {"planned": self.planned[quantity]}
        shown |= {c: self.maps[self.worst_day, c][quantity].interp_like(self.planned[quantity]) for c in CORRECTIONS[1:]}
        joined = xr.concat(list(shown.values()), pd.Index(list(shown), name="case"), join="exact", combine_attrs="override")
        return joined, day["ct"], day["structures"].sel(structure=[self.plan.target, *self.organs])

    def picture_dosed(self) -> xr.DataArray:
        """Where there is enough dose for an LETd to mean something."""
        return self.picture("rbe_dose")[0] > 0.05 * self.plan.prescription

    @property
    def daily(self) -> xr.Dataset:
        """The worst day's CT after the match on the bones."""
        return self.placed[self.worst_day, "bone match"]

    def published_table(self) -> pd.DataFrame:
        """Change of V95 against the plan, mean over the days, beside carbon ions for pancreas tumours (8 patients, 95 CTs)."""
        change = -self._coverage["V95 lost [%]"].dropna()
        ours = change.groupby("set-up", sort=False).mean()
        rows = {k: {"this course, V95 [%]": float(ours[k]), "published [%]": v} for k, v in PUBLISHED.items() if k in ours}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set-up")

    def anatomy_table(self) -> pd.DataFrame:
        """Target after the bone match, on the contour that the day has."""
        parts = []
        for day in self.days:
            daily = self.placed[day, "bone match"]
            one = anatomy_change(self.planning, daily, structures=[self.plan.target])
            one.index = pd.Index([day], name="day")
            parts.append(one[list(ANATOMY)].rename(columns=ANATOMY))
        return pd.concat(parts)

    def depth_table(self) -> pd.DataFrame:
        """Change of depth of the target's far edge after the bone match, per day and beam."""
        table = pd.concat({day: depth_table(self.depths[day]) for day in self.days}, names=["day", "beam"])
        return table.rename(columns=DEPTH)

    def decisions(self, correction: str = "bone match") -> pd.DataFrame:
        """What the trigger says on each day, knowing the days before, with its reasons."""
        rows = {}
        for k, day in enumerate(self.days):
            found = adapt.decide([self.measures[d, correction] for d in self.days[: k + 1]])
            reasons = "; ".join(map(_in_words, found.attrs["reasons"])) or "none"
            rows[day] = {"decision": found.attrs["decision"], "reasons": reasons}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("day")

    def rule_table(self, day: str, correction: str = "bone match") -> pd.DataFrame:
        """Every rule on one day: value, limit, source."""
        return adapt.decide(self.measures[day, correction]).rename(index=_in_words)

    def quality_table(self) -> pd.DataFrame:
        """How far the registrations can be trusted, per day and region."""
        return pd.concat(self.quality, names=["day", "region"]).dropna(axis=1, how="all")  # no truth, no landmarks here

    def course_table(self) -> pd.DataFrame:
        """The whole course in the target: equieffective dose and LETd, from moments of every day at planning points; the
        band is
        that of two registrations, the last column the mean of the days on their own contours, without any registration."""
        inside = self.planning["structures"].sel(structure=[self.plan.target])
        whole = sum(self.parts) * self.plan.prescription
        rows: dict[str, dict[str, float]] = {}
        for (correction, _), days in self.courses.items():
            dose = rbe.add_fractions(
                weighted(days, self.plan.model, self.plan.parameters),
                alpha_beta=self.alpha_beta,
                fraction_size=self.plan.prescription,
            )
            together = adapt.total(days)
            let = let_d(together).where(together["dose"].notnull())
            let.attrs = let_d(together).attrs
            found = {
                "D98 [%]": 100.0 / whole * float(evaluate.dose_at_volume(dose, inside, percent=98.0)[0]),
                "LETd98 [keV/µm]": float(evaluate.dose_at_volume(let, inside, percent=98.0)[0]),
            }
            row = rows.setdefault(correction, {})
            for name, value in found.items():
                low, high = row.get(f"{name}, from", value), row.get(f"{name}, to", value)
                row |= {f"{name}, from": min(low, value), f"{name}, to": max(high, value)}
            row["planning voxels without a value [%]"] = 100.0 * float(days.attrs["outside"])
        share = np.array(self.parts) / sum(self.parts)
        for correction, row in rows.items():
            own = [self._coverage.loc[(d, correction), "D98 [%]"] for d in self.days]
            row["D98 day by day, own contours [%]"] = float(np.dot(own, share))
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set-up")

    def shortcut_table(self, correction: str = "bone match") -> pd.DataFrame:
        """How far three shortcuts are off in the target, on this course."""
        days = self.courses[correction, SMOOTHINGS[0]]
        grid = regrid(self.planning[["structures"]], spacing=self.plan.grid_spacing)
        inside = grid["structures"].sel(structure=self.plan.target)
        off = shortcuts(days, self.plan.model, self.plan.parameters, alpha_beta=self.alpha_beta, within=inside)
        return off.add_prefix("off in the target, ")

    def key_numbers(self) -> str:
        """Rounded figures, the same on every machine: V95 in steps of 5 %."""
        table, said = self._coverage["V95 [%]"], []
        for day in self.days:
            shift = ", ".join(f"{round(v):+d}" for v in _shift(self.placed[day, "bone match"]))
            found = ", ".join(
                f"{c} {5 * round(float(table[day, c]) / 5.0)} %" for c in ("bone match", "tumour match", "replan")
            )
            said.append(f"{day}: bones at ({shift}) mm; V95 about: {found}; {self.decisions().loc[day, 'decision']}")
        return "\n".join(said)

    def caption(self, what: str, ions: Sequence[str] = ()) -> str:
        """A caption with the definitions of a table; one plan each of `ions`: a list, and the table says the dose system."""
        used = (", " if ions else " + ").join(dict.fromkeys(in_words(ion) for ion in ions or [b.ion for b in self.plan.beams]))
        system = "" if ions else f"Dose system: {system_in_words(self.plan.model)}. "
        let = LET_LABELS[self.plan.let_definition]
        return f"{what} {whose(self.planning)} Ions: {used}. {system}LETd: dose average over {let}, unrestricted, in water."

    def _numbers(self, maps: xr.Dataset, patient: xr.Dataset) -> dict[str, float]:
        """V95, D98 in % of the prescription and LETd98 of the target as it is that day."""
        level, target = self.plan.prescription, patient["structures"].sel(structure=[self.plan.target])
        dose = evaluate.statistics(maps["rbe_dose"], target, percent=(98,), dose=(0.95 * level,)).iloc[0]
        let = evaluate.statistics(maps["let_d"], target, percent=(98,)).iloc[0]
        return {
            "V95 [%]": float(dose[f"V{0.95 * level:g}"]),
            "D98 [%]": 100.0 * float(dose["D98%"]) / level,
            "LETd98 [keV/µm]": float(let["L98%"]),
        }


def compare_days(
    days: Mapping[str, xr.Dataset],
    *,
    target: str = "CTV",
    organs: Sequence[str] = (),
    ion: str = "C",
    gantry_angles: Sequence[float] = (90.0, 180.0),
    room: plan.Room = plan.GANTRY_1,
    prescription: float = 3.6,
    parts: Sequence[int] = (),
    model: str = "nirs_mkm",
    parameters: Mapping[str, Any] | None = None,
    let_definition: str = "charged",
    alpha_beta: float = 5.0,
    spacing: float = 4.0,
    iterations: int = 60,
    fill_gas: bool = True,
) -> Guidance:
    """Plan on the planning CT, deliver on every day without correction, after a bone match and after a tumour match, and
    plan again.

    Parameters
    ----------
    days : of `open_days`; the days have the target contoured.
    target, prescription, model, parameters, let_definition, spacing, iterations : as in `compare_ions`.
    organs : default the two nearest.
    ion, gantry_angles, room : of the beams.
    parts : fractions that each day stands for, default 4 each.
    alpha_beta : Gy, of photons, for the course.
    fill_gas : in the registrations.

    Returns
    -------
    Guidance.

    Raises
    ------
    IonrtError
        As of `ionrt.adapt.place`, `register_rigid`, `register_deformable`, `ionrt.influence`.
    """
    planning = days["planning"]
    daily = {k: v for k, v in days.items() if k != "planning"}
    chosen = tuple(organs) or nearest_organs(regrid(planning, spacing=spacing), target, 2)
    first = plan.Plan(
        tuple(plan.Beam(ion, float(a), room=room) for a in gantry_angles),
        target,
        prescription,
        model=model,
        parameters=parameters or {},
        let_definition=let_definition,
        spacing=spacing,
        margin=5.0 + MARGIN,
        objectives=default_objectives(target, prescription, planning, organs=chosen),
    )
    influence, weights = planned(planning, first, iterations)
    wanted, asked = influence.plan, asked_of(influence.plan)
    nominal = plan.field(influence, weights, **asked)
    base = planned_maps(wanted, nominal)
    placed, maps, measures, depths, quality, fields = {}, {}, {}, {}, {}, {}
    ways: dict[tuple[str, str, float], xr.Dataset] = {}
    for day, image in daily.items():
        bone = adapt.register_rigid(planning, image, on="bone", degrees=3)
        tumour = adapt.register_rigid(planning, image, on=target, by="contours", start=bone)
        for name, way in zip(CORRECTIONS, (None, bone, tumour), strict=True):
            key, here = (day, name), adapt.place(image, planning, correction=(0.0, 0.0, 0.0) if way is None else way)
            placed[key] = here
            fields[key] = adapt.daily_field(influence, weights, here, **asked).load()
            maps[key] = planned_maps(wanted, fields[key])
            measures[key] = adapt.measure(influence, planning, here, organs=chosen, planned=base, field=maps[key])
        there = placed[day, "replan"] = placed[day, "bone match"]
        again, particles = planned(there, _fixed(influence), iterations)
        maps[day, "replan"] = planned_maps(wanted, plan.field(again, particles, **asked))
        depths[day] = depth_change(influence, planning, there)
        still = matrix_transform(np.eye(4), method="the bone match")
        for s in SMOOTHINGS:
            ways[day, "bone match", s] = adapt.register_deformable(
                planning, there, start=still, smoothing=s, fill_gas=fill_gas, guide=(target,)
            )
            moved = np.eye(4)
            moved[:3, 3] = np.subtract(_shift(there), _shift(placed[day, "tumour match"]))
            other = compose(ways[day, "bone match", s], matrix_transform(moved))
            ways[day, "tumour match", s] = other.assign_attrs(moving_hash=placed[day, "tumour match"].attrs["content_hash"])
        quality[day] = registration_quality(
            ways[day, "bone match", SMOOTHINGS[0]],
            planning,
            there,
            structures=[target],
            others=[ways[day, "bone match", s] for s in SMOOTHINGS[1:]],
        )
    counts = tuple(parts) or (4,) * len(daily)
    courses = {
        (c, s): adapt.accumulate([fields[d, c] for d in daily], [ways[d, c, s] for d in daily], parts=counts, like=nominal)
        for c in CORRECTIONS[1:]
        for s in SMOOTHINGS
    }
    return Guidance(planning, wanted, chosen, counts, alpha_beta, base, placed, maps, measures, depths, courses, quality)


def planned(patient: xr.Dataset, wanted: plan.Plan, iterations: int) -> tuple[Influence, xr.DataArray]:
    """A plan for the target and 3 mm around it: influence and weights."""
    wider, one = widened(patient, wanted, MARGIN, f"{wanted.target} + {MARGIN:g} mm")
    influence = plan.influence(wider, one)
    return replace(influence, plan=replace(influence.plan, objectives=wanted.objectives)), plan.optimise(
        wider, one, influence, iterations=iterations
    )


def _shift(placed: xr.Dataset) -> tuple[float, ...]:
    """How far [mm] a day was moved."""
    return placed.attrs["placed"][3:12:4]


def _fixed(influence: Influence) -> plan.Plan:
    """The plan with its isocentre as planned."""
    return replace(influence.plan, beams=tuple(replace(b.beam, isocentre=b.isocentre) for b in influence.beams))


def _in_words(said: str) -> str:
    """A measure of the trigger, or what begins with one, in words and with its unit."""
    name, mark, rest = said.partition(" ")
    return f"{MEASURES.get(name, name)}{mark}{rest}".replace("D0.03cc rise", "rise of D0.03cc [% of prescription],")
