"""Figures for plans of several ions and for rooms: what is drawn is what was given, and errors are clear."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ionrt import plot
from ionrt.compare import reach_table
from ionrt.plot.planning import depth_views
from ionrt.quantities import IonrtError, stamp

TABLE = pd.DataFrame(
    {"LETd D98 [keV/µm]": [60.0, 90.0, np.nan], "D95 [%]": [98.0, 99.0, np.nan]}, index=["carbon", "carbon + oxygen", "neon"]
)


def drawn(figure) -> str:
    return figure.to_html()


def test_trade_offs_name_every_option_that_has_a_plan():
    figure = plot.trade_offs(TABLE, against="LETd D98 [keV/µm]", along=["D95 [%]"], caption="Options.")
    assert [name for name, *_ in figure.key] == ["carbon", "carbon + oxygen"] and figure.caption == "Options."
    assert "D95 [%]" in drawn(figure)
    with pytest.raises(IonrtError, match="no column 'D50'"):
        plot.trade_offs(TABLE, against="D50", along=["D95 [%]"])


def test_spot_weights_add_up_along_the_energies():
    n = 8
    columns = {"beam": ["C gantry 90"] * 4 + ["O gantry 90"] * 4, "beam_index": [0] * 4 + [1] * 4, "ion": ["C"] * 4 + ["O"] * 4}
    columns |= {"u": [0.0, 0.0, 5.0, 5.0] * 2, "v": [0.0] * n, "energy": [100.0, 110.0] * 4}
    weights = stamp(
        xr.DataArray(np.arange(n) * 1e6, dims="spot", coords={k: ("spot", v) for k, v in columns.items()}), "spot_weight"
    )
    figure = plot.spot_weights(weights)
    points = list(figure.element.traverse(lambda e: e, [hv.Points]))
    assert [sorted(p["n"]) for p in points] == [[1.0, 5.0], [9.0, 13.0]], "millions of particles per ray"
    assert "gantry 90" in figure.caption and drawn(figure)


def test_depth_views_have_one_scale_around_no_change():
    values = np.array([[[3.0, np.nan], [-7.4, 0.0]], [[1.0, 1.0], [1.0, np.nan]]])
    on = {"beam": ["1 C gantry 90", "2 C gantry 180"], "v": [0.0, 2.0], "u": [-2.0, 0.0]}
    figure = depth_views(xr.Dataset({"wepl_change": stamp(xr.DataArray(values, on, ("beam", "v", "u")), "wepl_change")}))
    points = list(figure.element.traverse(lambda e: e, [hv.Points]))
    assert [sorted(p["n"]) for p in points] == [[-7.4, 0.0, 3.0], [1.0, 1.0, 1.0]], "a ray that misses the target is not drawn"
    assert all(hv.Store.lookup_options("bokeh", p, "plot").kwargs["clim"] == (-8.0, 8.0) for p in points)
    assert "bright, deeper" in figure.caption and "gantry 180" in drawn(figure)


def reach_map(room="gantry 1", couch=(0.0,)) -> xr.Dataset:
    coords = {"ion": ["C", "Ne"], "gantry": [0.0, 90.0, 180.0], "couch": list(couch)}
    values = np.array([100.0, 50.0, np.nan, 10.0, -30.0, np.nan]).reshape(2, 3, 1) * np.ones((1, 1, len(couch)))
    margin = stamp(xr.DataArray(values, dims=tuple(coords), coords=coords), "reach_margin")
    return xr.Dataset({"reach_margin": margin, "reaches": margin >= -1.0}, attrs={"room": room})


def test_reach_curves_and_their_table():
    figure = plot.reach_curves(reach_map(), reach_map("other"))
    assert [name for name, *_ in figure.key] == ["carbon", "neon"] and "Gantry angle" in drawn(figure)
    with pytest.raises(IonrtError, match="gantry and couch both vary"):
        plot.reach_curves(reach_map(couch=(0.0, 15.0)))
    table = reach_table([reach_map()])
    assert table.loc[("gantry 1", "carbon"), ["directions", "depth known", "reach"]].tolist() == [3, 2, 2]
    assert (
        table.loc[("gantry 1", "neon"), "reach"] == 1 and table.loc[("gantry 1", "neon"), "smallest margin [mm water]"] == -30.0
    )
    with pytest.raises(IonrtError, match="Datasets of ionrt"):
        reach_table([xr.Dataset()])


def test_directions_show_both_rooms():
    labels = {
        "room": ["gantry 1"] * 3 + ["fixed beam"] * 2,
        "gantry": [0.0, 90.0, 180.0, 90.0, 90.0],
        "couch": [0.0] * 4 + [180.0],
    }
    swept = xr.Dataset(coords={k: ("direction", v) for k, v in labels.items()})
    for name in ("direction_score", "range_error", "wepl_proximal"):
        swept[name] = stamp(xr.DataArray([1.0, 2.0, np.nan, 3.0, 4.0], dims="direction"), name)
    figure = plot.directions(swept, caption="All.")
    assert [name for name, *_ in figure.key] == ["gantry 1 (gantry turns)", "fixed beam (couch turns)"] and drawn(figure)


def test_slices_of_cases_say_what_is_compared():
    grid = {"z": np.arange(-4.0, 5.0, 2.0), "y": np.arange(-10.0, 11.0, 2.0), "x": np.arange(-10.0, 11.0, 2.0)}
    shape = tuple(len(v) for v in grid.values())
    dose = xr.DataArray(np.ones((2, *shape)), dims=("case", *grid), coords={"case": ["carbon", "carbon + oxygen"], **grid})
    weighted = stamp(dose, "rbe_dose", rbe_model="nirs_mkm")
    ct = stamp(xr.DataArray(np.zeros(shape), dims=tuple(grid), coords=grid), "ct")
    inside = xr.DataArray(np.ones((1, *shape)), dims=("structure", *grid), coords={"structure": ["CTV"], **grid})
    figure = plot.slices(weighted, ct, inside, caption="Plans.")
    assert "Compared: carbon, carbon + oxygen." in figure.caption and "Ions:" not in figure.caption
