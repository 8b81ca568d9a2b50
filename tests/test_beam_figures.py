"""The validation book's tables and panels, and the frozen references they rest on."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import xarray as xr

from ionrt import resources
from ionrt.beam import figures, validation


@pytest.fixture(scope="module")
def beams() -> dict[str, xr.Dataset]:
    return {"He": figures.example("He", 100.0, step=1.0), "Ne": figures.example("Ne", 150.0, step=1.0)}


def test_panels_without_references(beams: dict[str, xr.Dataset]) -> None:
    origin = figures.origin_panels(beams)
    assert list(origin) == ["Helium, 100 MeV/u", "Neon, 150 MeV/u"]
    for lines in origin.values():
        assert float(lines["all"].max()) == pytest.approx(1, abs=1e-3)
        assert all(float(da.max()) < 1.001 for da in lines.values())
    panels, points = figures.build_up_panels(beams)
    assert list(panels["Helium, 100 MeV/u"]) == ["hydrogen"] and "fluorine" in panels["Neon, 150 MeV/u"] and not points
    for lines in figures.let_panels(beams).values():
        assert list(lines) == ["primary ions", "all charged", "all charged, with target fragments"]
    for lines in figures.spectra_panels(beams).values():
        assert len(lines) == 3 and all(float(da.max()) == pytest.approx(1) for da in lines.values())


def test_every_line_gives_reference_and_ours_and_what_is_not_validated_is_named() -> None:
    table = figures.verdicts([validation.stopping_lines])
    lines = table[table["verdict"] != "not validated"]
    assert len(lines) == 15 and set(lines["verdict"]) <= {"pass", "MISS"} and not lines.isin([""]).any().any()
    assert list(table.loc["no open reference"].index) == list(figures.NOT_VALIDATED)
    counts = figures.tally(table)
    assert counts.loc["stopping power and range"].sum() == 15 == counts.loc["all", ["pass", "MISS"]].sum()
    assert counts.loc["no open reference", "not validated"] == len(figures.NOT_VALIDATED)


def test_residuals_of_cross_sections() -> None:
    total, partial = figures.cross_sections(), figures.partial_cross_sections()
    for table in (total, partial):
        np.testing.assert_allclose(table["residual [%]"], 100 * (table["ours [mb]"] / table["measured [mb]"] - 1))
    assert (total[total["kind"] == "reaction"]["residual [%]"].abs().median()) < 3
    assert {"C", "O", "Ne"} <= set(partial["ion"]) and partial["residual [%]"].abs().median() < 15


def test_references_are_those_of_their_card() -> None:
    """Name and hash of every file stand in the card, and no other file beside it."""
    folder = resources.shipped("datasets") / "reference"
    stated = dict(re.findall(r"^\| `([a-z0-9_]+\.csv)` \|.*\| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M))
    assert stated == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.csv")}


def test_a_caption_names_what_is_drawn() -> None:
    line = xr.DataArray(np.ones(2), coords={"depth": [0.0, 1.0]}, name="dose")
    assert figures.drawn({"a": {"ionrt": line, "Geant4 bic": line}}, {}) == "Lines: ionrt, Geant4 bic."
    assert figures.drawn({"a": {"ionrt": line}}, {"a": {"Haettner": (line, line)}}).endswith("Circles: Haettner.")


def test_deviation_is_nothing_against_oneself() -> None:
    depth = np.arange(0.0, 100.0)
    dose = xr.DataArray(1 + 9 * np.exp(-((depth - 80) ** 2) / 8), coords={"depth": depth}, name="dose")
    panels, points = figures.deviation_panels(
        {"a": {"ionrt": dose, "other": dose}}, {"a": {"points": (depth, 2 * dose.values)}}
    )
    near = np.abs(depth - validation.fall(depth, dose.values, 0.8)) <= 4
    assert np.isnan(panels["a"]["other"].values[near]).all() and np.allclose(panels["a"]["other"].values[~near], 0)
    assert np.allclose(points["a"]["points"][1], -50) and not np.isin(points["a"]["points"][0], depth[near]).any()
