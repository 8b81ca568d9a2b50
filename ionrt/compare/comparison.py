"""Plans of one target side by side, and every table and curve that they are judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ionrt import evaluate, plan, rbe
from ionrt.compare import cases
from ionrt.compare.cases import GY, KEV, LET_ABOVE, Planned
from ionrt.evaluate.bands import error_parts
from ionrt.evaluate.histograms import mean_value
from ionrt.evaluate.profile import centroid, ratio_to_target
from ionrt.ions import in_words
from ionrt.let import let_d
from ionrt.plan.fields import scenario_field
from ionrt.plan.mixture import spot_table
from ionrt.plan.setup.scenarios import scenarios_random
from ionrt.quantities import LET_LABELS, IonrtError, system_in_words


@dataclass(frozen=True)
class Comparison:
    """Plans of one target with one aim, one per case: an ion, a mix, a room, a way of planning; all on one grid.

    `kind` what a case is; `patient` with contours on the CT grid, `grid` the same on the dose grid; `gtv` where LETd is judged;
    `plans` and `unreachable` {case: reason}; `maps` Dataset (case, [scenario,] z, y, x) of ``dose``, ``let_d``, ``rbe_dose``,
    ``rbe`` per fraction (with scenarios in target and organs only); `structures` in which they are measured: with contours, or
    as fractions; `level` [Gy] of which the threshold of LETd is a share, `above` in words; `metrics` of `scenario_metrics`, or
    None; `asked` and `made` what else a reader must know; `rounded` {case: key numbers}.
    """

    kind: str
    patient: xr.Dataset
    grid: xr.Dataset
    target: str
    gtv: str
    organs: tuple[str, ...]
    prescription: float
    fractions: int
    model: str
    plans: Mapping[str, Planned]
    unreachable: Mapping[str, str]
    maps: xr.Dataset
    structures: xr.Dataset | xr.DataArray
    level: float | xr.DataArray
    above: str
    made: Mapping[str, str]
    rounded: Callable[[Comparison], Mapping[str, str]]
    metrics: xr.Dataset | None = None
    asked: Mapping[str, str] = field(default_factory=dict)

    @property
    def systems(self) -> dict[str, str]:
        """The dose system of each plan."""
        return {case: one.plan.model for case, one in self.plans.items()}

    @property
    def cases(self) -> dict[str, tuple[xr.Dataset, plan.Plan]]:
        """Field (z, y, x) and plan of each case, in each of its scenarios, for `ionrt.plot.explore`."""
        found = {}
        for case, one in self.plans.items():
            for k, label in enumerate(map(str, one.field["scenario"].values) if "scenario" in one.field.dims else ()):
                found[f"{case}, {label}"] = (one.field.isel(scenario=k, drop=True), one.plan)
            if "scenario" not in one.field.dims:
                found[self._word(case)] = (self._total(case), one.plan)
        return found

    @cached_property
    def body(self) -> xr.DataArray:
        """The outline of the patient as fractions (z, y, x)."""
        return cases.body_of(self.grid)

    @property
    def outlines(self) -> xr.DataArray:
        """Fractions of target, GTV and organs on the dose grid, for drawing."""
        return self.grid["structures"].sel(structure=list(dict.fromkeys([self.target, self.gtv, *self.organs])))

    def dosed(self, share: float = LET_ABOVE) -> xr.DataArray:
        """Mask (case, .., z, y, x) of the voxels with at least `share` of `level`; by default those in which LETd counts."""
        return self.maps["dose"] >= share * self.level

    def histogram(self, quantity: str) -> xr.DataArray:
        """Volume histogram of ``dose``, ``rbe_dose``, ``let_d`` or ``rbe`` per case and structure; of scenarios their band.

        LETd and RBE: of the part of each structure that has dose (`dosed`), where that is as much as a mean needs.
        """
        masked = quantity in ("let_d", "rbe")
        curves = evaluate.dvh(self.maps[quantity].where(self.dosed()) if masked else self.maps[quantity], self.structures)
        curves = curves.where(cases.has_dose(self.dosed(), self.structures)) if masked else curves
        curves = evaluate.band(curves.compute()) if "scenario" in curves.dims else curves.compute()
        return curves.assign_attrs(above=self.above) if masked else curves

    def profiles(self, beam: int = 0) -> list[xr.DataArray]:
        """Dose, LETd and RBE-weighted dose of one beam alone along its axis, from the skin (0 mm) on, per case."""
        through, direction = self._axis(beam)
        skin, _, far = self._crossings(beam)
        along = np.arange(skin, far + 80.0, 1.0)
        parts: dict[str, list[xr.DataArray]] = {"dose": [], "let_d": [], "rbe_dose": []}
        for case, one in self.plans.items():
            alone = self._alone(case, beam)
            for da in (alone["dose"], let_d(alone), rbe.apply_model(alone, one.plan.model, **one.plan.parameters)):
                line = evaluate.depth_profile(da, through=through, direction=direction, distance=along, radius=4.0)
                parts[str(da.name)].append(line.expand_dims(case=[case]))
        inside = parts["dose"][0].isel(case=0, drop=True).notnull()
        joined = [xr.concat(p, "case", combine_attrs="drop_conflicts").where(inside, drop=True) for p in parts.values()]
        about = {k: v for k, v in self.maps["rbe_dose"].attrs.items() if k in ("rbe_model", "synthetic", "per")}
        depth = ("distance", joined[0]["distance"].values - skin, {"units": "mm"})
        return [da.assign_coords(distance=depth).assign_attrs(about) for da in joined]

    def target_depth(self, beam: int = 0) -> tuple[float, float]:
        """Where the beam's axis enters and leaves the target, mm from the skin."""
        skin, near, far = self._crossings(beam)
        return near - skin, far - skin

    def target_table(self) -> pd.DataFrame:
        """One row per case, those that do not reach among them: coverage, homogeneity, LETd in the GTV, the worst scenario,
        and what lies outside the target where all of the patient was computed."""
        return self._target_table.copy()

    @cached_property
    def _target_table(self) -> pd.DataFrame:
        t, g, maps = self.target, self.gtv, self._nominal
        dosed, percent = self._first(self.dosed()), 100.0 / self.prescription
        dose = evaluate.statistics(maps["rbe_dose"], self._in(t), percent=(95, 2, 98, 50))
        let = evaluate.statistics(maps["let_d"].where(dosed), self._in(g), percent=(98,))
        mean = cases.mean_let(maps, self._in(g), dosed)
        physical = evaluate.statistics(maps["dose"], self._in(t), percent=(50,))
        rows: dict[str, dict[str, Any]] = {}
        for case, one in self.plans.items():
            d = dose.loc[(case, t)]
            row: dict[str, Any] = {"dose system": system_in_words(one.plan.model)}
            row |= {f"{t} {metric} [%]": percent * d[f"{metric}%"] for metric in ("D95", "D2")}
            row[f"{t} (D2 − D98) / D50"] = (d["D2%"] - d["D98%"]) / d["D50%"]
            row[f"{g} LETd mean {KEV}"] = float(mean.sel(case=case).squeeze())
            row[f"{g} LETd L98 {KEV}"] = let.loc[(case, g), "L98%"]
            if self.metrics is not None:
                worst = self.metrics.sel(case=case).min("scenario")
                row[f"{t} worst-case D95 [%]"] = percent * float(worst["D95"].sel(structure=t))
                row[f"{g} worst-case LETd L98 {KEV}"] = float(worst["L98"].sel(structure=g))
            row[f"{t} RBE-weighted / physical dose"] = d["mean"] / physical.loc[(case, t), "mean"]
            if "beam" in one.field.dims:
                row[f"RBE-weighted dose, entrance / {t}"] = self._ratio(case, "entrance")
                row[f"RBE-weighted dose, behind / {t}"] = self._ratio(case, "tail")
            rows[case] = row
        table = pd.DataFrame.from_dict(rows, orient="index")
        if self._whole:
            beyond = cases.outside(self.body, self.grid, t)
            for quantity, name in (("rbe_dose", "RBE-weighted"), ("dose", "physical")):
                unit = GY[1:-1] if quantity == "rbe_dose" else "Gy"
                found = evaluate.integral_dose(maps[quantity], beyond).squeeze("structure")
                table[f"{name} integral dose outside {t} [{unit} L]"] = [float(found.sel(case=c)) for c in rows]
        return table.reindex([*self.plans, *self.unreachable]).rename(index=self._word).rename_axis(self.kind)

    def organ_table(self) -> pd.DataFrame:
        """RBE-weighted dose per fraction and of the course, dose-weighted LETd of each organ (rows) for each case (columns)."""
        if not self.organs:
            return pd.DataFrame(columns=[*map(self._word, self.plans)]).rename_axis("no organ was found or asked for")
        organs, dosed = self._in(*self.organs), self._first(self.dosed())
        dose = evaluate.statistics(self._nominal["rbe_dose"], organs, percent=(2,), cc=(0.03,))
        let, course = cases.mean_let(self._nominal, organs, dosed), f"course of {self.fractions}"
        rows = {}
        for organ in self.organs:
            for label, column, times in (
                (f"Dmean {GY} per fraction", "mean", 1),
                (f"Dmean {GY} {course}", "mean", self.fractions),
                (f"D2 {GY} per fraction", "D2%", 1),
                (f"D2 {GY} {course}", "D2%", self.fractions),
                (f"D0.03cc {GY} {course}", "D0.03cc", self.fractions),
            ):
                rows[(organ, label)] = {case: times * dose.loc[(case, organ), column] for case in self.plans}
            rows[(organ, f"LETd mean {KEV}")] = {c: float(let.sel(case=c, structure=organ)) for c in self.plans}
        return cases.two_levels(rows, ["organ", "quantity"]).rename(columns=self._word)

    def numbers(self) -> pd.DataFrame:
        """Everything of the target and organ tables with one row per case, for `ionrt.plot.trade_offs`."""
        organs = self.organ_table().T
        return self.target_table().join(organs.set_axis([" ".join(c) for c in organs.columns], axis=1))

    def quality_table(self) -> pd.DataFrame:
        """Indices of the target (rows) per fraction and of the course, for each case (columns); ICRU 83 and Paddick."""
        inside = self.grid["structures"].sel(structure=self.target, drop=True)
        found = evaluate.plan_quality(
            self._nominal["rbe_dose"],
            self._in(self.target),
            target=self.target,
            prescription=self.prescription,
            on_grid=inside,
        ).xs(self.target, level="structure")
        rows = {}
        for key in ("D98", "D95", "D50", "D2", "Dmean", "D0.03cc"):
            rows[(f"{key} {GY}", "per fraction")] = found[key]
            rows[(f"{key} {GY}", f"course of {self.fractions}")] = self.fractions * found[key]
        rows |= {("V95 [%]", ""): found["V95"], ("(D2 − D98) / D50", ""): found["HI"], ("Paddick conformity", ""): found["CI"]}
        table = pd.DataFrame({key: values.rename(index=self._word) for key, values in rows.items()}).T
        table.index = pd.MultiIndex.from_tuples(table.index, names=[f"{self.target}, RBE-weighted dose", ""])
        return table

    def goal_table(self, goals: Sequence[str]) -> pd.DataFrame:
        """Goals of the course (rows), with what each case reaches and whether the goal is met (columns)."""
        found = evaluate.judge(
            self._nominal["rbe_dose"], self.patient, goals, prescription=self.prescription, fractions=self.fractions
        )
        words = (found["reached"].map("{:.2f}".format) + " " + found["met"]).unstack("case", sort=False)
        return words.rename(columns=self._word).rename_axis("goal of the course")

    def systems_table(self) -> pd.DataFrame:
        """The same plans (rows: case and dose system) in every dose system that a reader may hold them against."""
        rows, shown = {}, self._in(self.target, *self.organs)
        for case, one in self.plans.items():
            for model in dict.fromkeys((one.plan.model, self.model)):
                parameters = next((p.plan.parameters for p in self.plans.values() if p.plan.model == model), {})
                weighted = rbe.apply_model(self._total(case), model, **parameters)
                mean = mean_value(weighted, shown).compute()
                row = {f"{s} mean {GY}": float(mean.sel(structure=s)) for s in (self.target, *self.organs)}
                if self._whole:
                    beyond = evaluate.integral_dose(weighted, cases.outside(self.body, self.grid, self.target))
                    row[f"integral dose outside {self.target} [Gy (RBE) L]"] = float(beyond.squeeze())
                rows[(self._word(case), system_in_words(model) + (" (planned)" if model == one.plan.model else ""))] = row
        return cases.two_levels(rows, [self.kind, "RBE-weighted dose in"])

    def spot_table(self) -> pd.DataFrame:
        """Spots, particles and energies of each case and beam."""
        parts = {self._word(case): spot_table(one.weights) for case, one in self.plans.items()}
        return pd.concat(parts, names=[self.kind, "beam"])

    def share_table(self) -> pd.DataFrame:
        """Share of each ion (columns, %) in the mean physical dose of the target, for each case (rows)."""
        inside = self.grid["structures"].sel(structure=self.target)
        rows = {}
        for case, one in self.plans.items():
            if "ion" not in one.field.dims:
                raise IonrtError(f"share_table: expected fields by ion, that of {case!r} is not; see compare_options")
            part = (one.field["dose"] * inside).sum(("z", "y", "x"), dtype=float)
            rows[self._word(case)] = {
                f"{in_words(str(i))} [%]": 100 * float((part / part.sum()).sel(ion=i)) for i in part["ion"].values
            }
        return pd.DataFrame.from_dict(rows, orient="index").fillna(0.0).rename_axis(self.kind)

    def worst_table(self) -> pd.DataFrame:
        """Nominal, expected and worst value of coverage, LETd and organ doses (rows) over scenarios, per case (columns)."""
        found, rows = self._scenarios, {}
        known = [str(s) for s in found["structure"].values]
        wanted = [(self.target, "D95", "min", GY), (self.gtv, "L98", "min", KEV), (self.target, "D2", "max", GY)]
        wanted += [(organ, metric, "max", GY) for organ in self.organs if organ in known for metric in ("D2", "mean")]
        for structure, metric, worst, unit in wanted:
            values = evaluate.band(cases.as_quantity(found[metric].sel(structure=structure, drop=True)), percent=())
            for label, statistic in (("nominal", "nominal"), ("expected", "expected"), ("worst", worst)):
                rows[(f"{structure} {'LETd ' * (unit == KEV)}{metric} {unit}", label)] = {
                    self._word(c): float(values.sel(statistic=statistic, case=c)) for c in self.plans
                }
        return cases.two_levels(rows, ["per fraction", "over scenarios"])

    def in_scenarios(self) -> list[xr.DataArray]:
        """D95 of the target and L98 of the GTV (case, scenario), as `ionrt.plot.scenario_points` draws them."""
        found = {"D95": self.target, "L98": self.gtv}
        return [cases.as_quantity(self._scenarios[m].sel(structure=s, drop=True)) for m, s in found.items()]

    def course_table(
        self, case: str, *, range_error: float, setup_error: float, patients: int = 4, fractions: int = 4, seed: int = 1
    ) -> pd.DataFrame:
        """Systematic and random part of D95 and L98 of the target, from courses with daily set-up errors.

        Standard deviations: half the range error (relative); systematic and daily set-up half the set-up error [mm] each.
        """
        one, half = self.plans[case], 0.5 * setup_error
        if one.influence is None:
            raise IonrtError(f"course_table: the influence of {case!r} was not kept; see compare_robustness")
        drawn = scenarios_random(
            patients, seed=seed, range_sigma=0.5 * range_error, setup_sigma=half, daily_sigma=half, fractions=fractions
        )
        asked = cases.asked_of(one.plan)
        found = scenario_field(self.patient, one.influence, one.weights, drawn, within=(self.target,), **asked)
        maps, rows = cases.planned_maps(one.plan, found), {}
        for label, name, percent in ((f"D95 {GY}", "rbe_dose", 95.0), (f"LETd L98 {KEV}", "let_d", 98.0)):
            metric = evaluate.dose_at_volume(maps[name], self._in(self.target), percent=percent).isel(structure=0)
            parts = error_parts(metric.compute())
            rows[label] = {str(p): float(parts.sel(part=p)) for p in parts["part"].values}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("per fraction")

    def how_table(self) -> pd.DataFrame:
        """What the plans rest on, enough to make them again."""
        return pd.DataFrame({"": dict(self.made)}).rename_axis("")

    def summary_table(self) -> pd.DataFrame:
        """What was asked: target, prescription, dose system, beams, and the cases that reach or do not."""
        some, n = self._nominal["dose"].isel(case=0, drop=True), self.fractions
        size = float(mean_value(some, self._in(self.target))["volume"].squeeze())
        beams = dict.fromkeys(b.name.removeprefix(f"{b.ion} ") for one in self.plans.values() for b in one.plan.beams)
        rows = {
            "target": f"{self.target}, {size:.1f} cm³",
            "prescription": f"{self.prescription:g} Gy (RBE) per fraction" + f", {n} fractions" * (n > 1),
            "patient": cases.whose(self.patient).rstrip(".") or "read from DICOM",
            "dose system": self._system,
            "LETd": self._let,
            "beams": ", ".join(f"{b}°" for b in beams),
            "organs at risk": ", ".join(self.organs),
            "dose grid": " × ".join(f"{float(self.grid[d][1] - self.grid[d][0]):.2g}" for d in ("x", "y", "z")) + " mm",
            **self.asked,
            f"{self.kind}s that reach": ", ".join(map(self._word, self.plans)),
            f"{self.kind}s that do not": "; ".join(f"{self._word(i)}: {why}" for i, why in self.unreachable.items()) or "none",
        }
        return pd.DataFrame({"": rows}).rename_axis("")

    @property
    def ions(self) -> str:
        """Whose plans of which ions these are: sentences for captions."""
        ions = dict.fromkeys(in_words(b.ion) for one in self.plans.values() for b in one.plan.beams)
        return f"{cases.whose(self.patient)} Ions: {', '.join(ions)}.".strip()

    def caption(self, what: str, *, let: bool = True) -> str:
        """A caption with the definitions that every table needs; `let`: those of LETd, too."""
        missing = f" Not within reach: {', '.join(map(in_words, self.unreachable))}." if self.unreachable else ""
        quality = f" LETd: {self._let}, {self.above}, means weighted with dose." if let else ""
        about = f"{what} {self.ions} Dose system: {self._system}.{cases.about_systems(self.systems.values())}{quality}"
        return f"{about} Doses per fraction, D [%] of the prescription, unless it says course.{missing}"

    def key_numbers(self) -> str:
        """Rounded figures that must come out the same on every machine."""
        said = self.rounded(self)
        return "\n".join(said.get(case) or f"{case:<3} does not reach" for case in (*self.plans, *self.unreachable))

    def _word(self, case: str) -> str:
        return in_words(case) if self.kind == "ion" else case

    @property
    def _system(self) -> str:
        return system_in_words(cases.systems_of({in_words(case): system for case, system in self.systems.items()}))

    @property
    def _let(self) -> str:
        return f"dose average over {LET_LABELS[self.maps['let_d'].attrs['let_definition']]}"

    @property
    def _whole(self) -> bool:
        """Whether all of the patient was computed."""
        return "scenario" not in self.maps.dims

    @property
    def _scenarios(self) -> xr.Dataset:
        if self.metrics is None:
            raise IonrtError("expected a comparison under scenarios; give scenarios= to compare_options")
        return self.metrics

    @property
    def _nominal(self) -> xr.Dataset:
        return self._first(self.maps)

    def _first(self, of: Any) -> Any:
        """The first scenario, which is the nominal one."""
        return of if self._whole else of.isel(scenario=0, drop=True)

    def _in(self, *names: str) -> xr.Dataset | xr.DataArray:
        return self.structures.sel(structure=list(names))

    def _total(self, case: str) -> xr.Dataset:
        """The nominal field (z, y, x)."""
        one = self._first(self.plans[case].field)
        return one.sum([d for d in ("beam", "ion") if d in one.dims], keep_attrs=True)

    def _alone(self, case: str, beam: int) -> xr.Dataset:
        if "beam" not in (one := self.plans[case].field).dims:
            raise IonrtError(f"expected fields by beam, that of {case!r} is not; see compare_ions")
        return one.isel(beam=beam, drop=True)

    def _axis(self, beam: int) -> tuple[np.ndarray, np.ndarray]:
        first = next(iter(self.plans.values())).plan.beams[beam]
        return centroid(self.grid["structures"].sel(structure=self.target)), -first.axes[2]

    def _crossings(self, beam: int) -> tuple[float, float, float]:
        """Distance [mm] along the axis of skin, near and far end of the target; 0 at the centre of the target."""
        through, direction = self._axis(beam)
        along = np.arange(-600.0, 600.5, 0.5)
        target, body = (
            evaluate.depth_profile(one, through=through, direction=direction, distance=along) > 0.5
            for one in (self.grid["structures"].sel(structure=self.target, drop=True), self.body)
        )
        at = target["distance"].values
        return float(at[body.values].min()), float(at[target.values].min()), float(at[target.values].max())

    def _ratio(self, case: str, side: str) -> float:
        """Mean over the beams of a ratio of RBE-weighted dose, each beam alone."""
        wanted, target = self.plans[case].plan, self.grid["structures"].sel(structure=self.target)
        found = []
        for k, beam in enumerate(wanted.beams):
            alone = rbe.apply_model(self._alone(case, k), wanted.model, **wanted.parameters)
            found.append(float(ratio_to_target(alone, target, self.body, direction=-beam.axes[2], side=side)))
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
