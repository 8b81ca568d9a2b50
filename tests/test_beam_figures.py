"""The validation book's tables and panels: with the references, and where they are absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ionrt.beam import figures, validation


@pytest.fixture(scope="module")
def beams() -> dict[str, xr.Dataset]:
    return {"He": figures.example("He", 100.0, step=1.0), "Ne": figures.example("Ne", 150.0, step=1.0)}


def test_panels_without_references(beams: dict[str, xr.Dataset]) -> None:
    origin = figures.origin_panels(beams)
    assert list(origin) == ["He, 100 MeV/u", "Ne, 150 MeV/u"]
    for lines in origin.values():
        assert float(lines["all"].max()) == pytest.approx(1, abs=1e-3)
        assert all(float(da.max()) < 1.001 for da in lines.values())
    panels, points = figures.build_up_panels(beams, None)
    assert list(panels["He, 100 MeV/u"]) == ["hydrogen"] and "fluorine" in panels["Ne, 150 MeV/u"] and not points
    for lines in figures.let_panels(beams).values():
        assert list(lines) == ["primary", "charged", "charged with target"]
    for lines in figures.spectra_panels(beams).values():
        assert len(lines) == 3 and all(float(da.max()) == pytest.approx(1) for da in lines.values())


def test_tables_without_references_say_what_is_not_validated() -> None:
    table = figures.verdicts(None)
    assert list(table.index) == list(figures.NOT_VALIDATED) and set(table["verdict"]) == {"not validated"}
    assert figures.cross_sections(None).empty and figures.partial_cross_sections(None).empty


def test_every_line_gives_reference_and_ours(shared: Callable[[str], Path]) -> None:
    folder = shared(validation.FOLDER).parents[1]
    table = figures.verdicts(folder, [validation.stopping_lines])
    lines = table[table["verdict"] != "not validated"]
    assert set(lines["verdict"]) <= {"pass", "MISS"} and not lines.isin([""]).any().any()


def test_residuals_of_cross_sections(shared: Callable[[str], Path]) -> None:
    folder = shared(validation.FOLDER).parents[1]
    for table in (figures.cross_sections(folder), figures.partial_cross_sections(folder)):
        np.testing.assert_allclose(table["residual"], 100 * (table["ours"] / table["measured"] - 1))
    total = figures.cross_sections(folder)
    assert (total[total["kind"] == "reaction"]["residual"].abs().median()) < 3
    partial = figures.partial_cross_sections(folder)
    assert {"C", "O", "Ne"} <= set(partial["ion"]) and partial["residual"].abs().median() < 15


def test_deviation_is_nothing_against_oneself() -> None:
    depth = np.arange(0.0, 100.0)
    dose = xr.DataArray(1 + 9 * np.exp(-((depth - 80) ** 2) / 8), coords={"depth": depth}, name="dose")
    panels, points = figures.deviation_panels(
        {"a": {"ionrt": dose, "other": dose}}, {"a": {"points": (depth, 2 * dose.values)}}
    )
    near = np.abs(depth - validation.fall(depth, dose.values, 0.8)) <= 4
    assert np.isnan(panels["a"]["other"].values[near]).all() and np.allclose(panels["a"]["other"].values[~near], 0)
    assert np.allclose(points["a"]["points"][1], -50) and not np.isin(points["a"]["points"][0], depth[near]).any()
