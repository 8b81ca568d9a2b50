"""The schedule of a page, planned in its phantom; tables beside published statements, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, wraps
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import ionrt
from ionrt import adapt, evaluate, plan
from ionrt.adapt.course import weighted
from ionrt.adapt.daily import deliver
from ionrt.compare import Comparison, compare_options, open_patient
from ionrt.compare.received import Received
from ionrt.files import DiskError, cache_folder, content_hash, read_sealed, sources, write_sealed
from ionrt.indications.facts import Indications, load
from ionrt.indications.limits import check_limits, limits_received
from ionrt.indications.page import against, fractions_of
from ionrt.ions import in_words
from ionrt.patient import add_ellipsoid
from ionrt.patient.phantom import recipe
from ionrt.patient.registration import matrix_transform
from ionrt.plan import beam_set
from ionrt.quantities import IonrtError
from ionrt.rbe import DOSE_SYSTEMS

COARSE: dict[str, Any] = {"spacing": 5.0, "spot_spacing": 6.0, "iterations": 50}
HEAD = (4.0, -12.0, -38.0)  # centre of the target in the head
ROOMS = ("ions.py", "let.py", "beam", "biology", "rbe", "patient", "plan", "evaluate", "adapt", "compare", "indications")
RADII = {20: 16.8, 50: 22.8, 100: 28.8}  # mm, by volume in cm3


def plan_page(facts: Indications, page: str, *, per_fraction: float | None = None, **grid: Any) -> Comparison:
    """Plan the schedule of a page in its SYNTHETIC phantom with the ions that the page names.

    Parameters
    ----------
    facts : of `load`.
    page : name.
    per_fraction : dose per fraction [Gy (RBE)], needed only where no schedule is a default.
    grid : `spacing`, `spot_spacing` [mm], `iterations` of `compare_options`; a coarse default, for a page and not for a number.

    Returns
    -------
    Comparison, one case per ion or mix. Organs count without what lies in the target: it can not be spared and covered at once.

    Raises
    ------
    IonrtError
        As `ionrt.compare.compare_options`; a page that the data do not have.
    """
    one, entry = facts.schedule(page), facts.pages[page]
    wanted = entry["plan"]
    patient = open_patient(anatomy=wanted["anatomy"], gap=float(wanted.get("gap", 0.0)))
    for part in wanted.get("add", ()):
        patient = add_ellipsoid(patient, part["name"], centre=part["centre"], radii=part["radii"], kind=part["kind"])
    patient = _outside(patient, wanted["target"], wanted["organs"])
    dose = per_fraction or (wanted["per_fraction"] if one is None else one["total"] / one["fractions"])
    return compare_options(
        patient,
        {name: beam_set(name.split("+"), wanted["gantry"]) for name in wanted["ions"]},
        target=wanted["target"],
        gtv=wanted["gtv"],
        organs=wanted["organs"],
        prescription=float(dose),
        fractions=1 if one is None else int(one["fractions"]),
        model=str(DOSE_SYSTEMS[entry["planned_in"]].model),
        **(COARSE | wanted.get("grid", {}) | grid),
    )


def _outside(patient: xr.Dataset, target: str, organs: Sequence[str]) -> xr.Dataset:
    """The patient with `organs` cut where the target begins."""
    whole = patient["structures"]
    inside = whole.sel(structure=target, drop=True)
    cut = whole.where(~whole["structure"].isin(list(organs)), whole * (1.0 - inside))
    return patient.assign(structures=cut.astype(whole.dtype).assign_attrs(whole.attrs))


def limits_of(
    facts: Indications,
    page: str,
    made: Comparison | Received,
    *,
    fields: Sequence[xr.Dataset] = (),
    structures: xr.DataArray | None = None,
) -> pd.DataFrame:
    """The constraints that some plan of a page meets in its own dose system and fractionation; of a received plan all of them,
    against its sender's dose in the sender's system and the recomputed field in the system of each.

    Parameters
    ----------
    facts : of `load`.
    page : name.
    made : of `plan_page`, or of `ionrt.compare.receive`.
    fields : of `Received.recomputed` without ``beam``, with different parameter sets, for a received plan.
    structures : fractions (structure, z, y, x) on their grid, for a received plan.

    Returns
    -------
    DataFrame by organ: verdict and value of each ion or mix, "not comparable" where its dose system is another; one row that
    says so where there is none.

    Raises
    ------
    IonrtError
        As `check_limits`.
    """
    rows = facts.of("constraints", page)
    if isinstance(made, Received):
        if structures is None or not fields:
            raise IonrtError("limits_of: a received plan needs its recomputed fields and structures on their grid")
        return limits_received(rows, made, fields, structures)
    held, columns = against(facts, page), {}
    for name in made.plans:
        maps = made.maps.sel(case=name, drop=True)
        found = check_limits(
            rows,
            system=held[name],
            fractions=fractions_of(facts, page),
            dose=maps["rbe_dose"],
            let_d=maps["let_d"],
            structures=made.grid["structures"],
        )
        said = [f"{r.verdict} ({r.value:.1f})" if not r.reason else r.verdict for r in found.itertuples()]
        columns[name] = pd.Series(said, index=found.index, dtype=object)
    table = pd.DataFrame(columns, index=rows.index)
    met = (table != "not comparable").any(axis=1)
    if not met.any():
        none = f"none of {len(rows)} can be compared: another dose system, or other or unknown fractions"
        return pd.DataFrame({"": [none if len(rows) else "no limit was found"]})
    units = rows["unit"].astype(str).replace("percent", "%")
    said = rows.assign(unit=[u.replace("(RBE)", f"(RBE; {s})") for u, s in zip(units, rows["system"], strict=True)])
    shown = [said.loc[met, ["organ", "metric", "op", "limit", "unit"]], table[met].rename(columns=in_words)]
    return pd.concat(shown, axis=1).rename(columns={"op": "must be"}).set_index("organ")


def target_table(facts: Indications, page: str, made: Comparison) -> pd.DataFrame:
    """`Comparison.target_table` with the dose system of each row, without sums of doses of several systems.

    Parameters
    ----------
    facts, page, made : as of `limits_of`.

    Returns
    -------
    DataFrame, one row per ion or mix.
    """
    table = made.target_table()
    shown = ("D95 [%]", "D2 [%]", "LETd mean [keV/µm]", "LETd L98 [keV/µm]", "Gy L]")
    table = table[[c for c in table if c.endswith(shown) and "(RBE)" not in c]]
    table.insert(0, "dose system", [against(facts, page)[name] for name in table.index])
    return table.rename(index=in_words)


def coverage(made: Comparison) -> str:
    """Whether D95 of the target is at least 95 % of what was prescribed.

    Parameters
    ----------
    made : of `plan_page`.

    Returns
    -------
    Text, one line per ion or mix.
    """
    table = made.target_table()[f"{made.target} D95 [%]"]
    lines = [f"{name}: does not reach ({made.unreachable[name][:60]})" for name in made.unreachable]
    return "\n".join([f"{n}: D95 at least 95 %: {'yes' if table[n] >= 95.0 else 'NO'}" for n in made.plans] + lines)


@cache
def _code() -> str:
    """Hash of everything between a phantom and a table."""
    top = Path(str(files("ionrt")))
    return content_hash(*(part for room in ROOMS for part in sources(top / room)), ionrt.__version__)


def _kept(anatomy: str) -> Callable[[Callable[[], pd.DataFrame]], Callable[[], pd.DataFrame]]:
    """Of a table in this phantom: computed once, then read from the cache folder, where it is as written and of this code."""

    def kept(compute: Callable[[], pd.DataFrame]) -> Callable[[], pd.DataFrame]:
        @wraps(compute)
        def table() -> pd.DataFrame:
            whole = content_hash(recipe(anatomy).to_csv(), _code())
            path = cache_folder("indications") / f"{compute.__name__}-{whole}.csv"
            content = read_sealed(path)
            if content is None:
                content = compute().to_csv().encode()
                with suppress(DiskError):  # computed again next time
                    write_sealed(path, content)
            return pd.read_csv(BytesIO(content), index_col=0)

        return table

    return kept


@_kept("abdomen")
def gap_table() -> pd.DataFrame:
    """Pancreas, carbon from behind, 55.2 in 12: what the gap to the duodenum [mm] leaves of the dose there.

    By gap: D95 of the target [% of prescription], largest dose and hottest cm3 of the duodenum [Gy (RBE; NIRS-mMKM)].
    """
    rows = {}
    for gap in (0.0, 3.0, 5.0, 10.0):
        made = compare_options(
            open_patient(anatomy="abdomen", gap=gap), {"C": beam_set(["C"], [160, 200])}, target="GTV_head",
            organs=["Duodenum", "Stomach"], prescription=55.2 / 12, fractions=12, **COARSE,
        )  # fmt: skip
        dose = made.maps["rbe_dose"].sel(case="C", drop=True)
        duodenum = made.grid["structures"].sel(structure=["Duodenum"])
        hot = 12 * evaluate.dose_at_volume(dose, duodenum, cc=[0.1, 1.0]).values.ravel()
        names = [f"duodenum D{v} [Gy (RBE; NIRS-mMKM)]" for v in ("0.1cc", "1cc")]
        rows[gap] = {"D95 [%]": made.target_table()["GTV_head D95 [%]"]["C"], **dict(zip(names, hot, strict=True))}
    return pd.DataFrame(rows).T.rename_axis("gap [mm]")


@_kept("head")
def size_table() -> pd.DataFrame:
    """Head, two lateral fields, 57.6 in 16: LETd [keV/um] and D95 [%] by size [cm³] and mix, with a wish for 90 keV/um."""
    parts = {}
    for size, radius in RADII.items():
        patient = add_ellipsoid(open_patient(anatomy="head"), "sphere", centre=HEAD, radii=radius)
        mixes = {name: beam_set(name.split("+"), [80, 280]) for name in ("C", "C+O", "O", "C+Ne")}
        made = compare_options(
            patient, mixes, target="sphere", organs=["BrainStem", "Chiasm"], let_minimum=90.0, let_weight=0.05, **COARSE
        )
        columns = {f"sphere {c}": c for c in ("LETd L98 [keV/µm]", "LETd mean [keV/µm]", "D95 [%]")}
        parts[size] = made.target_table()[list(columns)].rename(columns=columns).rename_axis("mix")
    table = pd.concat(parts, names=["size [cm³]"]).reset_index(level="mix")
    return table.assign(reached=["yes" if v >= 90.0 else "no" for v in table["LETd L98 [keV/µm]"]])


@_kept("thorax")
def motion_table() -> pd.DataFrame:
    """Thorax, carbon, two fields: D95 of single fractions on a target that breathes 5 mm to each side in 4 s.

    The plan covers the target's way (`ionrt.adapt.itv`); every spot falls on the phase of its time (`ionrt.adapt.interplay`,
    default times, six starts). The target still, then by times that each layer is painted: mean, deviation and least D95 of the
    fractions [% of the prescription].
    """
    way, dose, period, name = (-5.0, 0.0, 5.0, 0.0), 13.2, 4.0, "GTV_peripheral"
    phases = {s: open_patient(anatomy="thorax", shift=s) for s in dict.fromkeys(way)}
    still = phases[0.0]
    planning = _outside(adapt.itv([still, phases[-5.0], phases[5.0]], name), "ITV", ["Lung_R"])
    wanted = plan.Plan(beam_set("C", [180, 270]), "ITV", dose, spacing=COARSE["spacing"], spot_spacing=COARSE["spot_spacing"])
    influence = plan.influence(planning, wanted)
    weights = plan.optimise(planning, wanted, influence, iterations=COARSE["iterations"])
    given, moved = {}, {}
    for s, phase in phases.items():
        here = adapt.place(phase, still, correction=(0.0, 0.0, 0.0)) if s else still
        given[s] = deliver(influence, here) if s else influence
        moved[s] = matrix_transform(np.eye(4) + s * np.eye(4, k=1) * (np.arange(4) == 2)[:, None])  # the target's own way
    like, target = plan.field(influence, weights), still["structures"].sel(structure=[name])
    rows = {}
    for n in (0, 1, 4):
        made = like if not n else adapt.interplay(
            [given[s] for s in way], weights, [moved[s] for s in way], period=period, like=like, rescans=n,
            starts=[period * k / 6 for k in range(6)],
        )  # fmt: skip
        dose_of = weighted(made, wanted.model).fillna(0.0)  # without a value: the last slices, far from the target
        found = 100.0 / dose * evaluate.dose_at_volume(dose_of, target, percent=95).values.ravel()
        spread = found.std(ddof=1) if n else np.nan
        row = {"D95 mean [%]": found.mean(), "D95 deviation [%]": spread, "D95 least [%]": found.min()}
        rows[f"{n} scan{'s' * (n > 1)}" if n else "still"] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("each layer")


def beside(page: str) -> tuple[pd.DataFrame, str]:
    """What is computed here beside a published statement.

    Parameters
    ----------
    page : name.

    Returns
    -------
    The table and the statement; "none" where there is none.

    Raises
    ------
    IonrtError
        As `ionrt.compare.compare_options`.
    """
    tables = {"pancreas": gap_table, "head_neck": size_table, "lung": motion_table}
    if page not in tables:
        return pd.DataFrame({"": ["none"]}), "No published statement of this page is computed here."
    return tables[page](), load().pages[page]["beside"]
