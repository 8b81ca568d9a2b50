"""The schedule of a page, planned in its phantom; two tables that are computed once and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import pandas as pd

import ionrt
from ionrt import evaluate
from ionrt.compare import Options, compare_options, open_patient
from ionrt.files import DiskError, cache_folder, content_hash, read_sealed, write_sealed
from ionrt.indications.facts import Indications
from ionrt.indications.limits import check_limits
from ionrt.patient import add_ellipsoid, recipe
from ionrt.plan import beam_set
from ionrt.rbe import DOSE_SYSTEMS

COARSE: dict[str, Any] = {"spacing": 5.0, "spot_spacing": 6.0, "iterations": 50}
HEAD = (4.0, -12.0, -38.0)  # centre of the target in the head
RADII = {20: 16.8, 50: 22.8, 100: 28.8}  # mm, by volume in cm3


def plan_page(facts: Indications, page: str, *, per_fraction: float | None = None, **grid: Any) -> Options:
    """Plan the schedule of a page in its SYNTHETIC phantom with the ions that the page names.

    Parameters
    ----------
    facts : of `load`; page : name; per_fraction : dose per fraction [Gy (RBE)], needed only where no schedule is a default.
    grid : `spacing`, `spot_spacing` [mm], `iterations` of `compare_options`; a coarse default, for a page and not for a number.

    Returns
    -------
    Options, one per ion or mix.
    """
    entry, one = facts.pages[page], facts.schedule(page)
    wanted = entry["plan"]
    patient = open_patient(anatomy=wanted["anatomy"], gap=float(wanted.get("gap", 0.0)))
    for part in wanted.get("add", ()):
        patient = add_ellipsoid(patient, part["name"], centre=part["centre"], radii=part["radii"], kind=part["kind"])
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
        proton_model=str(DOSE_SYSTEMS[entry["planned_in"]].model),  # one dose system on a page, protons too
        **(COARSE | wanted.get("grid", {}) | grid),
    )


def limits_of(facts: Indications, page: str, made: Options) -> pd.DataFrame:
    """The constraints of a page against each of its plans: verdict by option where comparable, the reason where not."""
    rows, one = facts.of("constraints", page), facts.schedule(page)
    columns = {}
    for name in made.options:
        maps = made.maps.sel(option=name, drop=True)
        found = check_limits(
            rows,
            system=facts.pages[page]["planned_in"],
            fractions=float("nan") if one is None else one["fractions"],
            dose=maps["rbe_dose"],
            let_d=maps["let_d"],
            structures=made.grid["structures"],
        )
        said = [f"{r.verdict} ({r.value:.1f})" if not r.reason else "not comparable" for r in found.itertuples()]
        columns[name] = pd.Series(said, index=found.index, dtype=object)
    table = pd.DataFrame(columns, index=rows.index)
    reason = found["reason"].replace("", "same dose system and fractions")
    return pd.concat([rows[["organ", "metric"]], table, reason.rename("because")], axis=1)


def coverage(made: Options) -> str:
    """One line per ion or mix: whether D95 of the target is at least 95 % of what was prescribed."""
    table = made.target_table()[f"{made.target} D95 [%]"]
    lines = [f"{name}: does not reach ({made.unreachable[name][:60]})" for name in made.unreachable]
    return "\n".join([f"{n}: D95 at least 95 %: {'yes' if table[n] >= 95.0 else 'NO'}" for n in made.options] + lines)


def gap_table(gaps: tuple[float, ...] = (0.0, 3.0, 5.0, 10.0), *, total: float = 55.2, fractions: int = 12) -> pd.DataFrame:
    """Pancreas, carbon from behind: what the gap to the duodenum [mm] leaves of the dose there; computed once, then kept.

    Returns
    -------
    DataFrame by gap: D95 of the target [% of prescription], largest dose and hottest cm3 of the duodenum [Gy (RBE; NIRS-mMKM)].
    """

    def row(gap: float) -> dict[str, float]:
        made = compare_options(
            open_patient(anatomy="abdomen", gap=gap), {"C": beam_set(["C"], [160, 200])}, target="GTV_head",
            organs=["Duodenum", "Stomach"], prescription=total / fractions, fractions=fractions, **COARSE,
        )  # fmt: skip
        dose = made.maps["rbe_dose"].sel(option="C", drop=True)
        duodenum = made.grid["structures"].sel(structure=["Duodenum"])
        hot = fractions * evaluate.dose_at_volume(dose, duodenum, cc=[0.1, 1.0]).values.ravel()
        names = [f"duodenum D{v} [Gy (RBE; NIRS-mMKM)]" for v in ("0.1cc", "1cc")]
        return {"D95 [%]": made.target_table()["GTV_head D95 [%]"]["C"], **dict(zip(names, hot, strict=True))}

    key = content_hash(recipe("abdomen").to_csv(), gaps, total, fractions, COARSE, ionrt.__version__)
    return _kept(f"gap-{key}", lambda: pd.DataFrame({g: row(g) for g in gaps}).T.rename_axis("gap [mm]"))


def size_table(sizes: tuple[int, ...] = (20, 50, 100), *, let_minimum: float = 90.0) -> pd.DataFrame:
    """Head, two lateral fields, 57.6 in 16: LETd by size [cm3] and mix with a wish for 90 keV/um; computed once, then kept.

    Returns
    -------
    DataFrame by size and mix: LETd D98 [keV/um] in the target, D95 [% of prescription].
    """

    def one(size: int) -> pd.DataFrame:
        patient = add_ellipsoid(open_patient(anatomy="head"), "sphere", centre=HEAD, radii=RADII[size])
        mixes = {name: beam_set(name.split("+"), [80, 280]) for name in ("C", "C+O", "O", "C+Ne")}
        made = compare_options(
            patient, mixes, target="sphere", organs=["BrainStem", "Chiasm"], let_minimum=let_minimum, let_weight=0.05, **COARSE
        )
        columns = {f"sphere {c}": c for c in ("LETd L98 [keV/µm]", "LETd mean [keV/µm]", "D95 [%]")}
        return made.target_table()[list(columns)].rename(columns=columns).rename_axis("mix")

    key = content_hash(recipe("head").to_csv(), sizes, let_minimum, COARSE, ionrt.__version__)
    return _kept(f"size-{key}", lambda: pd.concat({s: one(s) for s in sizes}, names=["size [cm3]"]).reset_index(level="mix"))


def beside(page: str) -> tuple[pd.DataFrame, str]:
    """The table computed here that stands beside a published statement, and that statement; empty where there is none."""
    if page == "pancreas":
        said = (
            "Published (doi:10.1186/s13014-020-01515-5, abstract; 13 plans): 4.6 x 12 and 4.0 x 14 kept the high-dose limits of"
            " stomach and duodenum only where the target was not adjacent, 3.0 x 17 always. The limits were not seen."
            " Computed: 4.6 x 12, carbon alone."
        )
        return gap_table(), said
    if page == "head_neck":
        said = (
            "Published (AAPM 2026 abstract 924, abstract; 16 plans at 90 keV/um): C+O at about 20 cm3, O at 50, C+Ne at 100."
            " Computed: LETd with a wish for 90 keV/um in every voxel."
        )
        return size_table(), said
    return pd.DataFrame({"": ["none"]}), "No published statement of this page is computed here."


def _kept(name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table from the cache folder, computed and written there where it is not, or not as it was written."""
    path = cache_folder("indications") / f"{name}.csv"
    content = read_sealed(path)
    if content is None:
        content = compute().to_csv().encode()
        with suppress(DiskError):  # computed again next time
            write_sealed(path, content)
    return pd.read_csv(BytesIO(content), index_col=0)
