"""The explorer: its numbers are those of the arrays, and a browser without a network can drive it."""

from __future__ import annotations

import re
import socket
import time

import numpy as np
import pytest
import xarray as xr
from browser import DEEP, Page, needs_chromium

from ionrt import evaluate, plot, rbe
from ionrt.let import let_d
from ionrt.quantities import IonrtError, stamp
from ionrt.report import external_resources

AT = {"z": np.arange(-30.0, 31, 5), "y": np.arange(-40.0, 41, 4), "x": np.arange(-60.0, 61, 3)}
WANTED = "b[data-quantity]"
SHIFT = {"p": (1.0, 5.0, 1.2), "C": (0.4, 60.0, 12.0)}  # dose, LETd, z* of two made-up fields


def labelled(values, name, **attrs):
    return stamp(xr.DataArray(values.astype(np.float32), dims=tuple(AT), coords=AT), name, **attrs)


@pytest.fixture(scope="module")
def scene():
    """SYNTHETIC fields of two ions, CT and two structures on one grid."""
    z, y, x = np.meshgrid(*AT.values(), indexing="ij")
    fields = {}
    for ion, (level, let, zstar) in SHIFT.items():
        dose = level * np.exp(-((x + 3) ** 2 + y**2 + z**2) / 900)
        fields[ion] = xr.Dataset(
            {
                "dose": labelled(dose, "dose"),
                "let_x_dose": labelled(dose * let * (1 + x / 200), "let_x_dose", let_definition="charged"),
                "zstar_x_dose": labelled(dose * zstar, "zstar_x_dose", parameter_set="mkm_nirs"),
            }
        )
    ct = labelled(np.where((x / 55) ** 2 + (y / 38) ** 2 < 1, 20.0 + x, -1000.0), "ct")
    parts = [labelled((x - c) ** 2 + y**2 + z**2 < 18**2, "structures") for c in (0, 30)]
    return fields, xr.Dataset({"ct": ct, "structures": xr.concat(parts, "structure").assign_coords(structure=["CTV", "Organ"])})


def test_values_and_histograms_are_those_of_the_arrays(scene):
    fields, grid = scene
    view = plot.explore(fields, grid, prescription=2.0)
    assert view.case.options == ["p", "C"] and view.index["x"] == pytest.approx(20, abs=1)
    view.case.value = "C"
    for name, place in (("x", 12), ("y", 8), ("z", 5)):
        view.places[name].value = place
    view.dose.value = 1.5
    scaled = xr.Dataset({k: (1.5 * v).assign_attrs(v.attrs) for k, v in fields["C"].items()})
    weighted = rbe.nirs_mkm(scaled)
    found = view.scene.at("C", view.index, **view.settings)
    here = {"x": 12, "y": 8, "z": 5}
    assert found["rbe_dose"] == pytest.approx(float(weighted.isel(here)), rel=1e-5)
    assert found["dose"] == pytest.approx(1.5 * float(fields["C"]["dose"].isel(here)), rel=1e-5)
    assert found["ct"] == float(grid["ct"].isel(here))
    np.testing.assert_allclose(
        view.planes["transverse"].wash.data["image"][0][6:15],
        weighted.isel(z=5)[6:15].where(lambda w: w >= 0.02 * view.top),
        rtol=1e-5,
    )
    curves = view.scene.histograms("C", "rbe_dose", ["CTV"], **view.settings)["CTV"]
    expected = evaluate.dvh(weighted, grid["structures"].sel(structure=["CTV"]), at=curves[0])
    np.testing.assert_allclose(curves[1], 100 * expected.squeeze(), atol=0.5)
    view.less.value = "p"
    protons = rbe.nirs_mkm(xr.Dataset({k: (1.5 * v).assign_attrs(v.attrs) for k, v in fields["p"].items()}))
    np.testing.assert_allclose(view.values("rbe_dose", {"z": 5}), (weighted - protons).isel(z=5), atol=1e-5)


def test_only_models_that_fit_the_ions_and_the_field_are_offered(scene):
    fields, grid = scene
    offered = plot.explore(fields, grid, prescription=2.0).scene.models("C")
    assert offered[0] == "nirs_mkm" and "constant" in offered
    assert not {"lem1", "smk", "wedenberg", "mcnamara"} & set(offered), "no moments, or not known to be protons"
    known = {"p": fields["p"].assign_coords(ion="p")}
    assert "wedenberg" in plot.explore(known, grid, prescription=2.0).scene.models("p")


def test_a_patient_is_brought_to_the_grid_of_the_field(scene):
    fields, grid = scene
    half = {d: np.concatenate([[a - s / 4, a + s / 4] for a in v]) for d, v in AT.items() for s in [v[1] - v[0]]}
    fine = grid.interp(half, method="nearest", kwargs={"fill_value": "extrapolate"})
    for name in grid:
        fine[name].attrs = grid[name].attrs
    view = plot.explore(fields, fine, prescription=2.0)
    np.testing.assert_allclose(view.scene.ct, grid["ct"])
    np.testing.assert_allclose(view.scene.structures["Organ"], grid["structures"].sel(structure="Organ"))
    with pytest.raises(IonrtError, match="do not lie on the grid"):
        plot.explore(fields, fine.isel(x=slice(4, None)))


def test_what_cannot_be_explored_is_refused(scene):
    fields, grid = scene
    with pytest.raises(IonrtError, match="expected a comparison"):
        plot.explore(3)
    with pytest.raises(IonrtError, match="expected a field with `dose`"):
        plot.explore({"a": fields["C"][["let_x_dose"]]}, grid)
    with pytest.raises(IonrtError, match="structure: 'CTW'"):
        plot.explore(fields, grid, structures=["CTW"])


@pytest.fixture
def page(scene, tmp_path):
    """The explorer served on this machine, and a browser that sees nothing else."""
    import panel as pn

    needs_chromium()
    fields, grid = scene
    view = plot.explore(fields, grid, prescription=2.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = pn.serve(view.view, port=port, address="127.0.0.1", show=False, threaded=True, verbose=False)
    time.sleep(1.0)
    try:
        with Page(f"http://127.0.0.1:{port}/", tmp_path / "profile") as opened:
            yield view, opened
    finally:
        server.stop()


def read(page):
    """What stands under the cross-hair in the page."""
    page.elements("b[data-quantity]", at_least=4)
    seen = page.driver.execute_script(
        DEEP.replace("return found", "return found.map(e => [e.dataset.quantity, e.textContent])"), WANTED
    )
    return {name: float(text) for name, text in seen}


def until(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.1)
    return what()


def highest(view):
    """The largest value on the transverse map."""
    return float(np.nanmax(view.planes["transverse"].wash.data["image"][0]))


def test_a_browser_without_a_network_drives_it(page):
    view, opened = page
    assert min(opened.canvases(4)) > 1, "three planes and a histogram are painted"
    before = dict(view.index)
    found = read(opened)
    expected = view.scene.at("p", before, **view.settings)
    assert found == pytest.approx({k: float(f"{v:.4g}") for k, v in expected.items()})
    handles = opened.elements(".noUi-handle", at_least=6)
    moved = {h.get_attribute("aria-valuemax"): h for h in handles}
    moved[f"{AT['x'].size - 1:.1f}"].send_keys("\ue014\ue014")  # right, twice
    assert until(lambda: view.index["x"] == before["x"] + 2), "the slider moves the cross-hair"
    expected = view.scene.at("p", view.index, **view.settings)
    assert until(lambda: read(opened)["dose"] == pytest.approx(float(f"{expected['dose']:.4g}")))
    assert until(lambda: view.planes["sagittal"].cross[0].location == AT["y"][view.index["y"]])
    top = highest(view)
    moved["3.0"].send_keys("\ue014" * 5)
    assert until(lambda: view.dose.value > 1.03), "so does the dose per fraction"
    assert until(lambda: highest(view) > top), "the server paints after it has the value"
    expected = view.scene.at("p", view.index, **view.settings)
    assert until(lambda: read(opened)["rbe_dose"] == pytest.approx(float(f"{expected['rbe_dose']:.4g}")))
    assert opened.errors() == []


def test_slices_in_a_report_are_slid_through_offline(scene, tmp_path):
    """What stands under the cross-hair is the array's, within a step of the map; sliders, clicks and the difference work."""
    fields, grid = scene
    needs_chromium()
    made = plot.browse(fields, grid, prescription=1.0, caption="SYNTHETIC.")
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><meta charset='utf-8'>{made.whole_html()}", encoding="utf-8")
    assert external_resources(made.whole_html()) == [] and "without target fragments" in made.caption
    with Page(tmp_path / "page.html", tmp_path / "profile") as opened:
        find = opened.driver.find_elements
        assert until(lambda: find("css selector", "[data-ready]"))
        slider = find("css selector", "input[type=range]")[2]  # of x
        slider.send_keys("\ue014\ue014")  # right, twice
        text = find("css selector", ".browse-readout")[0].text
        place = {d: float(re.search(rf"{d} (-?[\d.]+)", text).group(1)) for d in AT}
        assert place["x"] == 6.0
        for n, (ion, field) in enumerate(fields.items()):
            for name, whole in (("RBE-weighted dose", rbe.nirs_mkm(field)), ("LETd", let_d(field))):
                read = float(re.findall(rf"{ion} (\d+\.?\d*)", text.partition(name)[2])[0])
                assert read == pytest.approx(float(whole.sel(place)), abs=0.004 * float(whole.max())), (n, name)
        assert "CTV" in text and "CT 26 HU" in text
        pixels = "return document.querySelector('canvas').toDataURL()"
        seen = {opened.driver.execute_script(pixels)}
        less = find("css selector", "select")[1]
        less.send_keys("C")
        seen.add(opened.driver.execute_script(pixels))
        find("css selector", "canvas")[0].click()
        seen.add(opened.driver.execute_script(pixels))
        assert len(seen) == 3, "difference and click change what is drawn"
        assert opened.errors() == []


def test_a_report_takes_no_crowd_of_cases(scene):
    fields, grid = scene
    with pytest.raises(IonrtError, match="at most 12 cases"):
        plot.browse({f"{i}": fields["C"] for i in range(13)}, grid, prescription=1.0)
