"""Figures with a slider: one at a time, without Python and without a network."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from bokeh.util.paths import bokehjs_path
from browser import Page

from ionrt import IonrtError, plot


def line(k):
    da = xr.DataArray(np.arange(5.0) * k, dims="x", coords={"x": np.arange(5.0)})
    return plot.curves({f"slope {k}": {"a": da}}, xlabel="x [mm]", ylabel="y", ylim=(0, 12), caption="SYNTHETIC.")


@pytest.mark.slow
def test_a_slider_shows_one_figure_at_a_time_offline(tmp_path):
    figure = plot.slide({f"{k} keV/µm": line(k) for k in (1, 2, 3)}, over="LET", start="2 keV/µm")
    assert figure.caption == "SYNTHETIC. Slider: LET, 1 keV/µm to 3 keV/µm."
    page = tmp_path / "page.html"
    script = (bokehjs_path() / "js" / "bokeh.min.js").read_text(encoding="utf-8")
    page.write_text(f"<!doctype html><meta charset='utf-8'><script>{script}</script>{figure.whole_html()}", encoding="utf-8")
    with Page(page, tmp_path / "profile") as opened:
        assert min(opened.canvases(1)) > 1, "the one to start with is painted"
        seen = "return [...document.querySelectorAll('.plot')].map(e => e.style.display !== 'none' && e.offsetHeight > 100)"
        said = "return document.querySelector('output').textContent"
        assert (opened.driver.execute_script(seen), opened.driver.execute_script(said)) == ([False, True, False], "2 keV/µm")
        opened.driver.find_element("css selector", "input[type=range]").send_keys("\ue014")  # right
        assert min(opened.canvases(2)) > 1, "the next one is painted when it is shown"
        assert (opened.driver.execute_script(seen), opened.driver.execute_script(said)) == ([False, False, True], "3 keV/µm")
        assert opened.errors() == []


def test_what_cannot_slide_is_refused():
    import pandas as pd

    with pytest.raises(IonrtError, match="figures by name"):
        plot.slide({}, over="LET")
    with pytest.raises(IonrtError, match="'4'"):
        plot.slide({"3": line(3)}, over="LET", start="4")
    with pytest.raises(IonrtError, match="expected a plot"):
        plot.slide({"3": plot.table(pd.DataFrame({"a": [1]}))}, over="LET")
