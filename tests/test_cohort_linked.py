"""An outsider lays all tables of the cohort report side by side: cohorts of many sizes, small centres, rare indications."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from linked_tables import Outsider

import ionrt
from ionrt import cohort, plot

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "notebooks" / "08_exchange_cohort.ipynb"
CROSSED = {  # start of a caption: what its rows and columns are
    "Patients by indication": ("indication", "centre"),
    "Flow of patients": ("step", "centre"),
    "Calendar time": ("years", "centre"),
    "Patients by age and sex": ("age_band", "sex"),
}
CLIQUES = [("indication", "centre"), ("step", "centre"), ("years", "centre"), ("indication", "age_band", "sex")]
GIVEN = {"GTV volume": "gtv_volume", "physical dose": "physical_dose", "ECOG status": "ecog"}
COUNT = re.compile(r"(at least|fewer than) (\d+)")


def run(folder: Path, book: Path = BOOK) -> list[tuple[str, pd.DataFrame]]:
    """Caption and content of every table that the notebook shows for the cohort in `folder`."""
    seen: list[tuple[str, pd.DataFrame]] = []
    real = plot.table
    try:
        plot.table = lambda frame, caption="", **_: seen.append((caption.partition(". ")[2] or caption, frame))
        names: dict[str, object] = {"display": lambda *_: None}  # IPython's
        for cell in nbformat.read(book, as_version=4).cells:
            if cell.cell_type == "code" and "plot.setup()" not in cell.source:
                exec(cell.source, names)
            elif "plot.setup()" in cell.source:
                exec(cell.source.replace("plot.setup()", ""), names)
            if "parameters" in cell.metadata.get("tags", ()):
                names["cohort"] = str(folder)
    finally:
        plot.table = real
    return seen


def truth(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per patient with the levels of every published table, made without the notebook."""
    course = tables["course"].drop_duplicates("pid").set_index("pid")
    people = tables["patient"].set_index("pid")
    year = course["treat_year"] // 5 * 5
    followed = tables["followup"].groupby("pid")["day"].max() >= 365
    step = np.where(
        course["let_d_mean"].isna(),
        "no LETd",
        np.where(followed, "analysed: LETd and one year", "followed for less than a year"),
    )
    out = people.assign(
        indication=people["indication"].str.replace("_", " "),
        centre=people["refer_centre"],
        step=pd.Series(step, index=course.index),
        years=year.astype(str) + " to " + (year + 4).astype(str),
    )
    out["age_band"] = cohort.merge_bands(out["age_band"], counted=out["indication"].ne("paediatric"))
    if (out["sex"].eq("M") & out["indication"].ne("prostate")).sum() < 10:
        out["sex"] = "all"
    return out.join(course[["gtv_volume", "physical_dose"]].notna()).assign(ecog=people["ecog"].notna())


def possible(cell: dict[str, object]) -> bool:
    """What everybody knows: children are young, and men have a prostate."""
    child = cell.get("indication") == "paediatric" and cell.get("age_band", "0")[0] not in "01"
    return not child and not (cell.get("indication") == "prostate" and cell.get("sex", "M") == "F")


def attack(shown: list[tuple[str, pd.DataFrame]], people: pd.DataFrame) -> list[tuple[dict[str, object], int, float, float]]:
    """Every small count behind the tables with the range that an outsider can give it."""
    names = sorted({c for clique in CLIQUES for c in clique}) + list(GIVEN.values())
    levels = {name: sorted(people[name].unique(), key=str) for name in names}
    outsider = Outsider(levels, [*CLIQUES, *((c,) for c in GIVEN.values())], possible)
    small: dict[tuple[tuple[str, object], ...], int] = {}
    for caption, frame in shown:
        axes = next((a for start, a in CROSSED.items() if caption.startswith(start)), None)
        if axes is None and not caption.startswith("Values given"):
            assert frame.empty or not any(pd.api.types.is_integer_dtype(frame[c]) for c in frame), (
                f"counts in a table nobody attacks: {caption}"
            )
            continue
        for row, cells in frame.iterrows():
            for column, value in cells.items():
                where = {k: v for k, v in zip(axes or (), (row, column), strict=False) if v != "Total"}
                where = where if axes else {GIVEN[str(row)]: column == "given"}
                at = np.logical_and.reduce([people[k].eq(v) for k, v in where.items()], initial=True)
                count = int(np.sum(np.broadcast_to(at, len(people))))
                if pd.isna(value):
                    if count < 10 and all(v in levels[k] for k, v in where.items()):
                        small[tuple(where.items())] = count
                else:
                    assert count == value >= 10, (caption, where)
                    outsider.learn(where, float(value))
    return [(dict(w), n, *outsider.bounds(dict(w))) for w, n in small.items()]


def case(n: int, seed: int) -> dict[str, pd.DataFrame]:
    """A SYNTHETIC cohort with a second referring centre of a few patients in a few indications."""
    tables = {name: table.copy() for name, table in cohort.synthetic(n, seed).items()}
    rng = np.random.default_rng(seed)
    patient = tables["patient"]
    few = patient.index[patient["indication"].isin(rng.choice(patient["indication"].unique(), 3))]
    few = rng.choice(few, size=min(len(few), int(rng.integers(1, 40))), replace=False)
    patient.loc[few, "refer_centre"] = "centre_D"
    return tables


@pytest.mark.parametrize(("n", "seed"), [(60, 1), (150, 2), (400, 4), (1000, 20311)])
def test_no_small_count_follows_from_all_tables_together(n, seed, tmp_path):
    tables = case(n, seed)
    cohort.save(tables, tmp_path)
    found = attack(run(tmp_path), truth(tables))
    assert found, "a cohort without small counts tests nothing"
    for where, count, low, high in found:
        assert low - 1e-3 <= count <= high + 1e-3
        assert high - low >= 10 - 1e-3, (where, count, low, high)


def test_the_attack_finds_what_two_tables_give_away(tmp_path):
    """Tables protected one by one: a total that one of them hides and the next one shows."""
    tables = case(400, 4)
    cohort.save(tables, tmp_path)
    people = truth(tables)
    shown = run(tmp_path)
    careless = [(c, pd.crosstab(people["indication"], people["centre"], margins=True, margins_name="Total").astype("Int64"))
                if c.startswith("Patients by indication") else (c, f) for c, f in shown]  # fmt: skip
    careless[0] = (careless[0][0], careless[0][1].where(careless[0][1] >= 10))
    assert any(high - low < 10 for *_, low, high in attack(careless, people))


def test_counts_that_stand_alone_are_rounded(tmp_path):
    tables = case(300, 3)
    cohort.save(tables, tmp_path)
    shown = dict(run(tmp_path))
    for caption, frame in shown.items():
        for value in frame.to_numpy().ravel():
            if isinstance(value, str) and (said := COUNT.fullmatch(value)):
                assert int(said[2]) % 10 == 0, caption
    assert COUNT.fullmatch(str(shown["Hand-over and export."].loc["patients referred to another centre", "found"]))
    assert cohort.safe_count(9) == "fewer than 10" and cohort.safe_count(649) == "at least 640"
    with pytest.raises(ionrt.IonrtError, match="-1"):
        cohort.safe_count(-1)


@pytest.mark.filterwarnings("ignore:actuarial NTCP")  # a warning to the reader of the notebook
@pytest.mark.parametrize("name", ["08_exchange_cohort", "09_outcomes", "10_ntcp"])
def test_one_centre_with_one_dose_system_gets_its_report(name, tmp_path, monkeypatch):
    """Nothing to convert, nobody handed over: the notebooks say so instead of stopping."""
    monkeypatch.chdir(ROOT / "notebooks")
    centre = cohort.split(cohort.synthetic(1400, 6))["centre_B"]
    centre["patient"][["refer_centre", "followup_centre"]] = "centre_B"
    centre["followup"]["centre"] = "centre_B"
    cohort.save(centre, tmp_path)
    shown = run(tmp_path, ROOT / "notebooks" / f"{name}.ipynb")
    assert len(shown) >= 3


def test_a_cohort_too_small_for_a_model_is_told_so(tmp_path):
    cohort.save(cohort.synthetic(60, 6), tmp_path)
    with pytest.raises(ionrt.IonrtError, match="too small for a model"):
        run(tmp_path, ROOT / "notebooks" / "10_ntcp.ipynb")
