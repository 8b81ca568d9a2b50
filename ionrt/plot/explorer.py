"""Looking around in a result: three planes under one cross-hair, and what another dose per fraction or model would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import contourpy
import numpy as np
import xarray as xr
from bokeh import models as bokeh_models
from bokeh import plotting

from ionrt import rbe
from ionrt.let import ions_of
from ionrt.patient import regrid
from ionrt.plot.scene import GRID, Scene
from ionrt.plot.slice_views import GREY, ISODOSES, PLANES, contour, target_first
from ionrt.plot.style import COLOURMAPS, PANEL_COLOURS, label, whole_palette
from ionrt.quantities import IonrtError, one_of, system_in_words

# type hints of Bokeh refuse what it documents (ranges as pairs, mappers by name) and hide what it has (spans)
figure: Any = plotting.figure
models: Any = bokeh_models
SHOWN = ("rbe_dose", "dose", "let_d", "rbe", "ct")


def explore(
    result: Any,
    patient: xr.Dataset | None = None,
    *,
    model: str = "nirs_mkm",
    prescription: float | None = None,
    structures: Iterable[str] = (),
    height: int = 340,
) -> Any:
    """Look around in a comparison, a field or several in JupyterLab: planes, cross-hair, histograms, other doses and models.

    A click sets the cross-hair, sliders move it; HU, dose, LETd, RBE-weighted dose and structures under it are read out. Dose
    per fraction, model and its parameter change the maps at once: the plan stays, its weights are multiplied.

    Parameters
    ----------
    result : `Comparison` of `ionrt.compare`; a field of `ionrt.field` (z, y, x), with `ion`, `beam` or `scenario` in front or
        not; or {name: field}.
    patient : for fields: Dataset with ``ct`` and ``structures``, as it was planned on; brought to the grid of the fields.
    model : for fields: the planned model.
    prescription : for fields [Gy (RBE)] per fraction, default the largest dose.
    structures : names to show at the beginning, default all but outlines.
    height : of a plane [pixels].

    Returns
    -------
    Explorer, a Panel view: the last line of a cell shows it, ``explore(...).servable()`` serves it.

    Raises
    ------
    IonrtError
        What is no result, fields without dose, a patient whose grid is not that of the fields.
    """
    return Explorer(scene_of(result, patient, model, prescription), structures=tuple(structures), height=height)


def scene_of(result: Any, patient: xr.Dataset | None, model: str, prescription: float | None) -> Scene:
    """What `explore` and `browse` look at."""
    if hasattr(result, "cases") and hasattr(result, "grid"):
        made = result.cases
        return Scene(
            {name: field for name, (field, _) in made.items()},
            result.grid,
            prescription=result.prescription,
            models={name: one.model for name, (_, one) in made.items()},
            parameters={name: one.parameters for name, (_, one) in made.items()},
            ions={name: [b.ion for b in one.beams] for name, (_, one) in made.items()},
        )
    if isinstance(result, xr.Dataset):
        result = _parts(result)
    if not isinstance(result, Mapping) or not all(isinstance(f, xr.Dataset) for f in result.values()):
        raise IonrtError(f"explore: expected a comparison, a field or {{name: field}}, got {type(result).__name__}")
    grid = _on_grid(patient, next(iter(result.values()))) if patient is not None and result else xr.Dataset()
    models = dict.fromkeys(result, one_of(model, tuple(rbe.MODELS), what="model"))
    return Scene(dict(result), grid, prescription=prescription, models=models, ions={n: ions_of(f) for n, f in result.items()})


def _on_grid(patient: xr.Dataset, field: xr.Dataset) -> xr.Dataset:
    """The patient on the voxels of a field, which are averages of the CT's."""

    def fits(one: xr.Dataset) -> bool:
        return all(one[d].size == field[d].size and np.allclose(one[d], field[d], atol=1e-3) for d in GRID)

    if fits(patient):
        return patient
    coarse = regrid(patient, spacing=[abs(float(field[d][1] - field[d][0])) for d in GRID])
    if not fits(coarse):
        raise IonrtError("explore: the fields do not lie on the grid of this patient; give the one that they were planned on")
    return coarse


def _parts(field: xr.Dataset) -> dict[str, xr.Dataset]:
    """A field as it is; with a dimension in front its sum, where that has a meaning, and each part."""
    front = [str(d) for d in field["dose"].dims if d not in GRID] if "dose" in field else []
    if not front:
        return {"field": field}
    dim, labels = front[0], field[front[0]].values
    parts = {str(v): field.isel({dim: i}, drop=True) for i, v in enumerate(labels)}
    return parts if dim in ("scenario", "plan", "case") else {"all": field.sum(dim, keep_attrs=True), **parts}


class Explorer:
    """The view of a `Scene`: widgets left, three planes and a histogram right. See `explore`."""

    def __init__(self, scene: Scene, *, structures: tuple[str, ...] = (), height: int = 340) -> None:
        import panel as pn

        # style sheets come with the view; else a notebook asks a network for them
        pn.config.inline = True  # type: ignore[misc]  # it can be set
        self.scene, self.pn = scene, pn
        names = list(scene.structures)
        shown = [one_of(s, names, what="structure") for s in structures] or [
            n for n in names if np.count_nonzero(scene.structures[n]) < 0.2 * scene.structures[n].size
        ]
        cases, first = list(scene.fields), next(iter(scene.fields))
        start = self._middle(shown)
        w = pn.widgets
        quantities = {label(q, _about(scene.planned[first])): q for q in SHOWN if q != "ct" or scene.ct is not None}
        self.case = w.Select(label="Case", options=cases, value=first)
        self.less = w.Select(label="Less", options={"nothing": "", **{c: c for c in cases}}, value="", visible=len(cases) > 1)
        self.quantity = w.Select(label="Quantity", options=quantities, value="rbe_dose")
        self.model = w.Select(label="Dose system", options=_by_name(scene.models(first)), value=scene.planned[first])
        per = scene.prescription
        self.dose = w.FloatSlider(label="Dose per fraction, planned = 1", start=0.2, end=3.0, step=0.01, value=1.0)
        self.ratio = w.FloatSlider(label="alpha/beta [Gy]", start=1.0, end=20.0, step=0.1, value=2.0, visible=False)
        self.factor = w.FloatSlider(label="Constant RBE", start=0.8, end=4.0, step=0.01, value=1.1, visible=False)
        self.places = {
            d: w.IntSlider(label=f"{d} [voxel]", start=0, end=scene.axes[d].size - 1, value=start[d]) for d in ("x", "y", "z")
        }
        self.chosen = w.MultiChoice(label="Structures", options=names, value=shown)
        self.lines = w.Checkbox(label=f"Isodoses {', '.join(map(str, ISODOSES))} % of {per:g} Gy (RBE)", value=True)
        self.readout = pn.pane.HTML("", css_classes=["readout"], width=260)
        self.planes = {name: _Plane(name, self, height) for name in PLANES}
        self.histogram = _Histogram(height)
        every = (self.case, self.less, self.quantity, self.model, self.dose, self.ratio, self.factor, self.chosen, self.lines)
        for widget in (*every, *self.places.values()):
            widget.param.watch(self._changed, "value")
        self.case.param.watch(self._other_case, "value")
        self.update()
        left = pn.Column(*every, *self.places.values(), self.readout, width=290)
        plots = [pn.pane.Bokeh(f) for f in (*(p.figure for p in self.planes.values()), self.histogram.figure)]
        self.view = pn.Row(left, pn.GridBox(*plots, ncols=2))

    def __getattr__(self, name: str) -> Any:
        """What a Panel object answers, its view answers: `servable`, `show`, `save`, the display of a notebook."""
        if name in ("view", "__setstate__") or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.view, name)

    def _middle(self, shown: Iterable[str]) -> dict[str, int]:
        names = target_first({n: self.scene.kinds[n] for n in shown if self.scene.structures[n].any()})
        if not names:
            return {d: a.size // 2 for d, a in self.scene.axes.items()}
        inside = self.scene.structures[names[0]]
        at = []
        for i, n in enumerate(inside.shape):
            along = inside.sum(axis=tuple(k for k in range(3) if k != i))
            at.append(np.average(np.arange(n), weights=along))
        return {d: round(float(a)) for d, a in zip(GRID, at, strict=True)}

    @property
    def index(self) -> dict[str, int]:
        """Voxel under the cross-hair."""
        return {d: int(self.places[d].value or 0) for d in GRID}

    @property
    def settings(self) -> dict[str, Any]:
        """Dose per fraction relative to the plan, model and its parameters, as the widgets stand."""
        return {
            "scale": float(self.dose.value or 1.0),
            "model": self.model.value,
            "alpha_beta": self.ratio.value,
            "rbe": self.factor.value,
        }

    def _other_case(self, _: Any) -> None:
        able = self.scene.models(self.case.value)
        self.model.param.update(options=_by_name(able), value=self.model.value if self.model.value in able else able[0])

    def _changed(self, _: Any) -> None:
        self.update()

    def values(self, quantity: str, where: Any, case: str = "") -> np.ndarray:
        """A quantity of the chosen case, less that of the other where one is chosen."""
        if quantity == "ct":
            assert self.scene.ct is not None
            return self.scene.ct[tuple(where[d] if d in where else slice(None) for d in GRID)]
        made = self.scene.value(case or self.case.value, quantity, where, **self.settings)
        if self.less.value and not case:
            less = self.less.value
            model = self.settings["model"] if self.settings["model"] in self.scene.models(less) else ""
            made = made - self.scene.value(less, quantity, where, **{**self.settings, "model": model})
        return made

    def update(self) -> None:
        """Everything as the widgets stand, told the page at once: it paints one time."""
        with self.pn.io.hold():
            self._update()

    def _update(self) -> None:
        takes = rbe.MODELS[self.model.value].defaults
        self.ratio.visible, self.factor.visible = "alpha_beta" in takes, self.model.value == "constant"
        cut = {name: self.values(self.quantity.value, {PLANES[name][0]: self.index[PLANES[name][0]]}) for name in PLANES}
        finite = np.concatenate([v[np.isfinite(v)].ravel() for v in cut.values()])
        self.top = top = float(np.abs(finite).max(initial=0.0)) or 1.0
        for name, plane in self.planes.items():
            plane.update(cut[name], top)
        if self.quantity.value != "ct":
            curves = self.scene.histograms(self.case.value, self.quantity.value, self.chosen.value, **self.settings)
            self.histogram.update(curves, label(self.quantity.value, _about(self.model.value)), list(self.scene.structures))
        self.readout.object = self._words()

    def _words(self) -> str:
        index, scene = self.index, self.scene
        found = scene.at(self.case.value, index, **self.settings)
        place = ", ".join(f"{d} {scene.axes[d][index[d]]:.1f}" for d in ("x", "y", "z"))
        rows = [("at", f"{place} mm")]
        rows += [(label(q, _about(self.model.value)), f"<b data-quantity='{q}'>{v:.4g}</b>") for q, v in found.items()]
        rows += [("in", ", ".join(scene.inside(index)) or "no structure")]
        rows += [("planned dose system", system_in_words(scene.planned[self.case.value]))]
        return "<table>" + "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in rows) + "</table>"


def _by_name(models: Iterable[str]) -> dict[str, str]:
    return {system_in_words(model): model for model in models}


def _about(model: str) -> xr.DataArray:
    return xr.DataArray(0.0, attrs={"rbe_model": model})


class _Plane:
    """One plane: CT in grey, the quantity over it, contours, isodoses and the cross-hair."""

    def __init__(self, name: str, of: Explorer, height: int) -> None:
        self.of, self.name = of, name
        self.normal, self.across, self.down = PLANES[name]
        scene = of.scene
        x, y = scene.axes[self.across], scene.axes[self.down]
        dx, dy = (abs(a[-1] - a[0]) / max(a.size - 1, 1) or 1.0 for a in (x, y))
        self.frame = {"x": x[0] - dx / 2, "y": y[0] - dy / 2, "dw": dx * x.size, "dh": dy * y.size}
        flip = self.down == "y"
        ends = (self.frame["y"], self.frame["y"] + self.frame["dh"])
        width = int(np.clip(height * self.frame["dw"] / self.frame["dh"], 160, 1.5 * height))
        self.figure = figure(
            frame_height=height, frame_width=width, title=name, tools="pan,wheel_zoom,reset,tap", active_scroll="wheel_zoom",
            x_range=(self.frame["x"], self.frame["x"] + self.frame["dw"]), y_range=ends[::-1] if flip else ends,
            x_axis_label=f"{self.across} [mm]", y_axis_label=f"{self.down} [mm]", output_backend="canvas",
        )  # fmt: skip
        self.figure.toolbar.logo = None
        self.grey = models.ColumnDataSource({"image": []})
        self.wash = models.ColumnDataSource({"image": []})
        self.paths = models.ColumnDataSource({"xs": [], "ys": [], "colour": [], "dash": []})
        self.iso = models.ColumnDataSource({"xs": [], "ys": []})
        self.figure.image(
            "image",
            source=self.grey,
            color_mapper=models.LinearColorMapper(palette="Greys256", low=GREY[0], high=GREY[1]),
            **self.frame,
        )
        self.mapper = models.LinearColorMapper(
            palette=whole_palette("inferno"), low=0, high=1, nan_color="rgba(0,0,0,0)", low_color="rgba(0,0,0,0)"
        )
        self.figure.image("image", source=self.wash, color_mapper=self.mapper, alpha=0.72, name="wash", **self.frame)
        self.figure.multi_line("xs", "ys", source=self.paths, line_color="colour", line_dash="dash", line_width=1.8)
        self.figure.multi_line("xs", "ys", source=self.iso, line_color="#FFFFFF", line_width=1.1, line_dash="4 2")
        self.drawn: tuple[Any, ...] = ()  # CT and contours as they stand in the page
        self.cross = [models.Span(dimension=d, line_color="#00E0FF", line_width=1) for d in ("height", "width")]
        for span in self.cross:
            self.figure.add_layout(span)
        self.figure.add_layout(models.ColorBar(color_mapper=self.mapper, width=10, padding=4), "right")
        self.figure.on_event("tap", self._tapped)

    def _tapped(self, event: Any) -> None:
        for dim, at in ((self.across, event.x), (self.down, event.y)):
            self.of.places[dim].value = int(np.abs(self.of.scene.axes[dim] - at).argmin())

    def _paths(self, values: np.ndarray, level: float) -> list[np.ndarray]:
        x, y = self.of.scene.axes[self.across], self.of.scene.axes[self.down]
        if min(values.shape) < 2 or not np.nanmax(values) > level:
            return []
        return list(contourpy.contour_generator(x, y, values, line_type="Separate").lines(level))  # type: ignore[arg-type]

    def update(self, values: np.ndarray, top: float) -> None:
        """The slice under the cross-hair; `top` ends the colour scale of all planes."""
        of, index = self.of, self.of.index
        now = (index[self.normal], *of.chosen.value)
        if now != self.drawn:
            self._anatomy(tuple(index[d] if d == self.normal else slice(None) for d in GRID))
            self.drawn = now
        quantity, difference = of.quantity.value, bool(of.less.value)
        colours = "coolwarm" if difference else COLOURMAPS.get(quantity, "viridis")
        if quantity == "ct":
            shown = np.full(values.shape, np.nan, np.float32)
        else:
            shown = np.where(np.abs(values) >= 0.02 * top, values, np.nan).astype(np.float32)
        self.mapper.update(palette=whole_palette(colours), low=-top if difference else 0.0, high=top)
        self.wash.data = {"image": [shown]}
        lines: list[np.ndarray] = []
        if of.lines.value:
            dose = (
                values
                if quantity == "rbe_dose" and not difference
                else of.values("rbe_dose", {self.normal: index[self.normal]}, of.case.value)
            )
            lines = [p for level in ISODOSES for p in self._paths(dose, 0.01 * level * of.scene.prescription)]
        self.iso.data = {"xs": [p[:, 0] for p in lines], "ys": [p[:, 1] for p in lines]}
        for span, dim in zip(self.cross, (self.across, self.down), strict=True):
            span.location = float(of.scene.axes[dim][index[dim]])
        self.figure.title.text = f"{self.name}, {self.normal} = {of.scene.axes[self.normal][index[self.normal]]:.1f} mm"

    def _anatomy(self, where: tuple[Any, ...]) -> None:
        """CT and contours of another slice, or of other structures."""
        scene, xs, ys, looks = self.of.scene, [], [], []
        if scene.ct is not None:
            self.grey.data = {"image": [scene.ct[where]]}
        for k, name in enumerate(scene.structures):
            for path in self._paths(scene.structures[name][where], 0.5) if name in self.of.chosen.value else ():
                xs.append(path[:, 0])
                ys.append(path[:, 1])
                looks.append(contour(k))
        self.paths.data = {"xs": xs, "ys": ys, "colour": [c for c, _ in looks], "dash": [d for _, d in looks]}


class _Histogram:
    """Histograms of the chosen structures on one pair of axes."""

    def __init__(self, height: int) -> None:
        self.figure = figure(
            frame_height=height, frame_width=int(1.25 * height), title="volume histograms", tools="pan,wheel_zoom,reset,hover",
            tooltips=[("", "@name"), ("", "$x{0.00}"), ("volume", "$y{0.0} %")], y_axis_label="Volume [%]", y_range=(0, 103),
        )  # fmt: skip
        self.figure.toolbar.logo = None
        self.lines = models.ColumnDataSource({"xs": [], "ys": [], "colour": [], "dash": [], "name": []})
        self.figure.multi_line(
            "xs", "ys", source=self.lines, line_color="colour", line_dash="dash", line_width=2, legend_field="name"
        )

    def update(self, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, order: list[str]) -> None:
        self.figure.xaxis.axis_label = xlabel
        tint, dash = zip(*(contour(order.index(n), PANEL_COLOURS) for n in curves), strict=True) if curves else ((), ())
        xs, ys = ([c[k].astype(np.float32) for c in curves.values()] for k in (0, 1))  # arrays travel as they are
        self.lines.data = {"xs": xs, "ys": ys, "colour": list(tint), "dash": list(dash), "name": list(curves)}
