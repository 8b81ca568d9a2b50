"""Figures: what they say, what they hold, how large they are."""

from __future__ import annotations

import os

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ionrt import evaluate, plot
from ionrt.evaluate.histograms import mean_value
from ionrt.let import let_d
from ionrt.patient import write_rtdose
from ionrt.quantities import IonrtError
from ionrt.trial.flow_diagram import consort

GRID = ("z", "y", "x")
Z, Y, X = np.arange(-15, 16, 3.0), np.arange(-60, 61, 3.0), np.arange(-90, 91, 3.0)


def on_grid(values, name, **attrs):
    return xr.DataArray(values.astype(np.float32), dims=GRID, coords={"z": Z, "y": Y, "x": X}, name=name, attrs=attrs)


@pytest.fixture(scope="module")
def scene():
    """An ellipse of water with two structures and the fields of two ions."""
    z, y, x = np.meshgrid(Z, Y, X, indexing="ij")
    body = (x / 80) ** 2 + (y / 50) ** 2 < 1
    ct = on_grid(np.where(body, 0.0, -1000.0), "ct")
    parts = [on_grid(((x - c) ** 2 + y**2 + z**2 < 15**2), "structures") for c in (0, 40)]
    structures = xr.concat(parts, pd.Index(["CTV", "Organ"], name="structure"))
    ions = pd.Index(["C", "Ne"], name="ion")
    dose = xr.concat([on_grid(body * s * np.exp(-(y**2) / 500), "dose") for s in (2.0, 1.5)], ions)
    let = xr.concat([on_grid(body * s, "let_d", let_definition="charged") for s in (70.0, 140.0)], ions)
    rbe = (dose * 2).rename("rbe_dose").assign_attrs(units="Gy (RBE)", rbe_model="nirs_mkm")
    return ct, structures, dose, let, rbe


@pytest.mark.parametrize(
    "use",
    [
        lambda da, ct, structures, path: plot.slices(da, ct, structures),
        lambda da, ct, structures, path: plot.depth_profiles(da.mean(["z", "x"], keep_attrs=True).rename(y="distance")),
        lambda da, ct, structures, path: evaluate.dvh(da, structures),
        lambda da, ct, structures, path: evaluate.statistics(da, structures),
        lambda da, ct, structures, path: mean_value(da, structures),
        lambda da, ct, structures, path: evaluate.gamma(da, da, dose_percent=3, distance_mm=3),
        lambda da, ct, structures, path: evaluate.plan_quality(da, structures, target="CTV", prescription=2.0),
        lambda da, ct, structures, path: write_rtdose(da, structures.to_dataset(name="structures"), path / "RD.dcm"),
    ],
    ids=["slices", "profiles", "dvh", "statistics", "mean", "gamma", "quality", "rtdose"],
)
@pytest.mark.parametrize("key", ["let_definition", "rbe_model"])
def test_what_arithmetic_left_without_a_definition_is_refused(scene, use, key, tmp_path):
    ct, structures, _, let, rbe = scene
    one = {"let_definition": let, "rbe_model": rbe}[key].isel(ion=0, drop=True)
    lost = 0.5 * (one + one.assign_attrs({key: "another"}))
    assert lost.name == one.name and key not in lost.attrs  # plain xarray lets it pass
    with pytest.raises(IonrtError, match=f"without {key}"):
        use(lost, ct, structures, tmp_path)


def test_the_default_slice_is_that_of_what_the_structure_set_calls_a_target(scene):
    ct, structures, dose, _, _ = scene
    here = structures.copy()
    here[1] = np.roll(here[1], 2, axis=list(here.dims[1:]).index("z"))
    named = here.assign_coords(structure=["視神経", "臨床標的体積"])
    typed = named.assign_coords(roi_type=("structure", ["ORGAN", "CTV"]))
    at = [float((s * s.z).sum() / s.sum()) for s in here]
    assert at[0] != at[1]
    for one, z in ((named, at[0]), (typed, at[1])):
        assert f"z = {float(ct.z.sel(z=z, method='nearest')):.0f} mm" in plot.slices(dose, ct, one).caption


def test_a_caption_says_that_a_definition_was_assumed(scene):
    ct, structures, _, let, _ = scene
    field = xr.Dataset({"dose": xr.ones_like(let).drop_attrs(), "let_x_dose": let.drop_attrs()})
    assert "assumed: the field does not say" in plot.slices(let_d(field), ct, structures).caption
    assert "assumed" not in plot.slices(let, ct, structures).caption
    old = field.assign(let_x_dose=field.let_x_dose.assign_attrs(let_definition="primary"))
    assert "weighted with the dose of all particles" in plot.slices(let_d(old), ct, structures).caption


def test_every_caption_names_ions_let_definition_and_rbe_model(scene):
    ct, structures, _, let, rbe = scene
    figures = [
        plot.slices(rbe, ct, structures),
        plot.histograms(evaluate.dvh(rbe, structures)),
        plot.depth_profiles(
            [evaluate.depth_profile(q, through=(0, 0, 0), direction=(1, 0, 0), distance=X) for q in (let, rbe)]
        ),
    ]
    for figure in figures:
        assert "Ions: carbon, neon." in figure.caption and "NIRS" in figure.caption and "Gy (RBE; NIRS-mMKM)" in figure.caption
    assert "without target fragments" in plot.slices(let, ct, structures).caption
    assert "without target fragments" in figures[2].caption


@pytest.mark.parametrize(
    ("model", "heads", "axis"),
    [
        ("nirs_mkm", ["Carbon, NIRS-mMKM", "Neon, NIRS-mMKM"], "RBE-weighted dose\n[Gy (RBE; NIRS-mMKM)]"),
        (
            "constant (C); lem1 (Ne)",
            ["Carbon, constant RBE", "Neon, LEM-I"],
            "RBE-weighted dose\n[Gy (RBE; constant RBE (C);\nLEM-I (Ne))]",
        ),
    ],
)
def test_panels_and_axes_say_the_dose_system(scene, model, heads, axis):
    import holoviews as hv

    ct, structures, _, _, rbe = scene
    rbe = rbe.assign_attrs(rbe_model=model)
    plot.setup()
    panels = [child for child, *_ in hv.render(plot.slices(rbe, ct, structures).element, backend="bokeh").children]
    assert [p.title.text for p in panels] == heads
    curves = hv.render(plot.histograms(evaluate.dvh(rbe, structures)).element, backend="bokeh")
    assert {child.below[0].axis_label for child, *_ in curves.children} == {axis}


def test_histograms_of_one_plan_are_lines_of_one_panel(scene):
    import holoviews as hv

    _, structures, *_, rbe = scene
    plot.setup()
    names = [str(n) for n in structures["structure"].values]
    for alone in (rbe.isel(ion=0, drop=True), rbe.isel(ion=[0])):
        figure = plot.histograms(evaluate.dvh(alone, structures))
        drawn = hv.render(figure.element, backend="bokeh")
        panels = [child for child, *_ in drawn.children] if hasattr(drawn, "children") else [drawn]
        assert len(panels) == 1 and len(panels[0].renderers) == len(names)
        assert [name for name, *_ in figure.key] == names and "Compared" not in figure.caption


def test_profiles_side_by_side_have_heads_of_equal_height(scene):
    import holoviews as hv

    *_, dose, _, rbe = scene
    along = [da.mean(["z", "x"], keep_attrs=True).rename(y="distance") for da in (dose, rbe.assign_attrs(rbe_model="smk"))]
    plot.setup()
    drawn = [child for child, *_ in hv.render(plot.depth_profiles(along).element, backend="bokeh").children]
    assert [p.title.text.split("\n")[-1] for p in drawn] == ["Physical dose [Gy]", "[Gy (RBE; SMK)]"]
    assert len({p.title.text.count("\n") for p in drawn}) == 1
    assert [p.left[0].axis_label for p in drawn] == ["[Gy]", "[Gy (RBE)]"]


def test_slices_share_one_colour_scale_and_lie_the_radiological_way(scene):
    import holoviews as hv

    ct, structures, dose, *_ = scene
    figure = plot.slices(dose, ct, structures, limits=(0, 3), unreachable=["O"])
    plot.setup()
    grid = hv.render(figure.element, backend="bokeh")
    panels = [child for child, *_ in grid.children]
    assert [p.title.text for p in panels] == ["Carbon", "Neon", "Oxygen: does not reach"]
    for panel in panels:
        assert panel.y_range.start > panel.y_range.end, "anterior is up: y falls towards the top"
        assert panel.x_range.start < panel.x_range.end, "the patient's right is at the left"
        assert panel.x_range is panels[0].x_range, "slices are linked"
        mappers = [r.glyph.color_mapper for r in panel.renderers if hasattr(r.glyph, "color_mapper")]
        assert (mappers[1].low, mappers[1].high) == (0, 3)
    assert figure.key[0] == ("CTV", "#FFFFFF", "solid")
    assert len({dash for _, _, dash in figure.key}) == len(figure.key) > 1, "in grey the dash tells"


def test_slices_of_a_patient_without_structures_are_drawn(scene):
    ct, structures, dose, *_ = scene
    plot.setup()
    figure = plot.slices(dose, ct, structures.isel(structure=slice(0, 0)))
    assert not figure.key and figure.element is not None


def test_the_image_is_where_the_field_is(scene):
    import holoviews as hv

    ct, structures, *_ = scene
    marked = on_grid(np.zeros((Z.size, Y.size, X.size)), "dose")
    marked[{"z": 5, "y": 3, "x": 7}] = 5.0
    wash = plot.slices(marked, ct, structures, at=float(Z[5]), floor=0.5).element.traverse(lambda e: e, [hv.Image])[1]
    table = wash.dframe().dropna()
    assert len(table) == 1
    assert (table["x"].item(), table["y"].item()) == pytest.approx((X[7], Y[3]))


def test_html_is_small_and_waits_for_bokeh(scene):
    ct, structures, _, _, rbe = scene
    plot.setup()
    html = plot.slices(rbe, ct, structures).to_html()
    assert len(html) < 200_000
    assert "Bokeh.embed" in html and "http" not in html.replace("http://www.w3.org", "")


def test_structure_without_volume_is_named_not_dropped(scene):
    _, structures, _, _, rbe = scene
    structures = structures.where(structures["structure"] != "Organ", 0.0)
    figure = plot.histograms(evaluate.dvh(rbe, structures))
    assert "Without volume on the grid: Organ." in figure.caption


def test_table_lines_up_and_escapes():
    frame = pd.DataFrame(
        {"D95 [Gy]": [3.5312, 0.01, np.nan], "n": [1230, 7, 12], "say": ["<a>", "b", "c"]}, index=["p", "He", "C"]
    )
    figure = plot.table(frame.rename_axis("ion"), caption="Numbers.")
    html = figure.element._repr_html_()
    assert ">3.53<" in html and ">0.01<" in html and ">–<" in html and ">1230<" in html and "&lt;a&gt;" in html
    assert figure.caption == "Numbers."
    long = plot.table(pd.DataFrame({"n": range(16)}, index=pd.RangeIndex(16, name="row")), caption="Many.").whole_html()
    short = figure.whole_html()
    assert long.index("Many.") < long.index("<table") and short.index("Numbers.") > short.index("<table")


def test_a_counting_index_is_not_shown_and_a_quiet_row_is_grey():
    html = plot.table(pd.DataFrame({"say": ["a", "b"]}), quiet=[False, True]).element._repr_html_()
    assert "<th scope='row'" not in html and "<tr><td" in html and html.count("background: #") == 1
    assert html.index(">a<") < html.index("background: #") < html.index(">b<")


def test_limits_line_up_with_their_estimate_and_heads_keep_their_units():
    frame = pd.DataFrame({"hazard ratio": [0.609, 1.806], "lower": [0.4, 1.2], "upper [1]": [0.83, 12.5], "p": [1e-7, 0.6]})
    html = plot.table(frame.assign(**{"LETd in the GTV [keV/µm]": [-1e-9, 0.04]})).element._repr_html_()
    for cell in ("0.61", "0.40", "12.50", "&lt; 0.001", "0.600", "0.000", "0.040"):
        assert f">{cell}<" in html, cell
    assert "LETd in the GTV<br>[keV/µm]" in html
    fixed = plot.table(frame[["hazard ratio", "p"]].assign(n=[3, 4]), decimals=1).element._repr_html_()
    assert ">0.6<" in fixed and ">1.8<" in fixed and ">3<" in fixed
    verdicts = pd.DataFrame({"ours": ["0.07 %", "–"], "say": ["pass", "3 of 4"]})
    shown = plot.table(verdicts).element._repr_html_()
    assert "class='number'>0.07 %<" in shown and "class='text short'>3 of 4<" in shown


def test_names_beyond_ions_look_apart():
    from ionrt.plot.style import looks

    elements = ["hydrogen", "helium", "lithium", "beryllium", "boron", "carbon", "nitrogen", "oxygen", "fluorine", "neon"]
    found = looks(["all", "primary", "target", *elements])
    assert len(set(found.values())) == 13
    assert found["helium"] == looks(["He"])["He"]
    assert len(set(looks(map(str, range(28))).values())) == 28


def test_unknown_quantity_and_plane(scene):
    ct, structures, dose, *_ = scene
    with pytest.raises(IonrtError, match="not a known quantity"):
        plot.slices(dose.rename("x"), ct, structures)
    with pytest.raises(IonrtError, match="'transverse'"):
        plot.slices(dose, ct, structures, plane="axial")


def test_a_figure_is_saved_with_its_key_and_caption(scene, tmp_path):
    from browser import needs_chromium
    from PIL import Image

    ct, structures, _, _, rbe = scene
    figure = plot.histograms(evaluate.dvh(rbe, structures), caption="Two ions.")
    with pytest.raises(IonrtError, match=r"ending: '\.pdf'"):
        figure.save(tmp_path / "x.pdf")
    with pytest.raises(IonrtError, match="a table is no picture"):
        plot.table(pd.DataFrame({"a": [1]})).save(tmp_path / "x.svg")
    needs_chromium()
    text = figure.save(tmp_path / "x.svg").read_text()
    assert "Volume [%]" in text and ">carbon</text>" in text and "Two ions." in text and "#D55E00" in text.upper()
    picture = np.asarray(Image.open(plot.slices(rbe, ct, structures).save(tmp_path / "x.png")).convert("RGB"))
    assert picture.shape[1] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 500, "maps, not an empty page"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a browser is a script of a shell")
def test_a_browser_that_does_not_answer_or_speaks_another_encoding(scene, tmp_path, monkeypatch):
    figure, browser = plot.histograms(evaluate.dvh(scene[-1], scene[1])), tmp_path / "chromium"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("ionrt.plot.picture.PATIENCE", 0.5)
    for does, message in (("exec sleep 20", "did not answer in 0.5 s"), (r"printf '\345\226 \377'", "painted nothing")):
        browser.write_text(f"#!/bin/sh\n{does}\n")
        browser.chmod(0o755)
        with pytest.raises(IonrtError, match=message):
            figure.save(tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()


@pytest.mark.parametrize(
    ("least", "shown", "hidden"), [(0, "excluded: 3", "not shown"), (10, "not received: not shown", "excluded: 3")]
)
def test_flow_of_a_trial_hides_what_would_give_a_small_count_away(least, shown, hidden):
    stages = {"allocated": 40, "received": 38, "not_received": 2, "lost": 4, "discontinued": 0}
    arm = stages | {"analysed": 40, "excluded_from_analysis": 0}
    counts = consort(assessed=83, excluded={"declined": 3}, randomised=80, arms={"carbon": arm, "photon": arm})
    figure = plot.flow(counts, min_cell=least, caption="A test.")
    text = " ".join(str(t) for labels in figure.element.traverse(lambda x: x, [hv.Labels]) for t in labels.dimension_values(2))
    assert shown in text and hidden not in text and "carbon: 40 allocated" in text
    assert ("assessed: 83" in text) == ("received: 38" in text) == (least == 0), "their difference is a small count"


def test_counts_as_bars_leave_out_what_the_table_hides():
    table = pd.DataFrame({"A": [30.0, float("nan"), 50.0], "B": [20.0, 12.0, 40.0]}, index=["lung", "liver", "Total"])
    figure = plot.counts(table, xlabel="Patients", origin="clinical", caption="A test.")
    bars = [tuple(r) for one in figure.element.traverse(lambda x: x, [hv.Rectangles]) for r in one.array()]
    assert sorted(r[2] for r in bars) == [12.0, 20.0, 30.0] and "SYNTHETIC" not in figure.caption


def test_isodoses_and_the_ct_alone(scene):
    ct, structures, _, _, rbe = scene
    figure = plot.slices(rbe, ct, structures, isodoses=2.0)
    assert "Lines: 50, 80, 95, 107 % of 2 Gy (RBE; NIRS-mMKM)." in figure.caption
    plain = hv.render(plot.slices(rbe, ct, structures).element, backend="bokeh").children
    for (with_lines, *_), (without, *_) in zip(hv.render(figure.element, backend="bokeh").children, plain, strict=True):
        assert (with_lines.y_range.start, with_lines.y_range.end) == (without.y_range.start, without.y_range.end)
        assert with_lines.y_range.start > with_lines.y_range.end, "the back of the patient is below"
        assert with_lines.title.text == without.title.text and with_lines.frame_width == without.frame_width
    alone = plot.slices(ct, ct, structures)
    assert "with contours" in alone.caption and "colour wash" not in alone.caption and "plot" in alone.to_html()


def test_logarithmic_axes_have_ticks_at_1_2_and_5():
    line = xr.DataArray([0.5, 3.0, 8.0], dims="depth", coords={"depth": [0.0, 1.0, 2.0]}, name="dose")
    options = plot.curves({"p": {"p": line}}, xlabel="Depth [mm]", logy=True).element.traverse(
        lambda e: e.opts.get("plot").kwargs.get("yticks"), ["Overlay"]
    )
    assert [v for v, _ in options[0]] == [0.5, 1.0, 2.0, 5.0, 10.0]
    wide = plot.curves({"p": {"p": 1e-3 * 10**line}}, xlabel="Depth [mm]", logy=True).element.traverse(
        lambda e: e.opts.get("plot").kwargs.get("yticks"), ["Overlay"]
    )
    assert [t for _, t in wide[0]] == ["0.01", "0.1", "1", "10", "100", "1000", "10000", "100000"]


def test_lines_say_under_the_pointer_whose_they_are(scene):
    _, structures, dose, let, _ = scene
    profile = dose.mean(["z", "x"], keep_attrs=True).rename(y="distance")
    for figure in (plot.histograms(evaluate.dvh(let, structures)), plot.depth_profiles([profile])):
        page = figure.to_html()
        assert page.count('["", "carbon"]') == page.count('["", "neon"]') > 0
