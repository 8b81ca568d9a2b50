"""Lines in panels: volume histograms, depth profiles, curves of models; metrics in scenarios; one look per ion or case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from ionrt.ions import in_words
from ionrt.plot.style import MARKERS, SHADE, Figure, by_case, in_columns, label, looks, panel, provenance, sized, ticks, unit
from ionrt.quantities import IonrtError, check

Points = Mapping[str, tuple[Any, Any]]


def _curve(x: np.ndarray, y: np.ndarray, who: str, look: tuple[str, str], kdim: hv.Dimension, vdim: hv.Dimension) -> hv.Curve:
    """A line that says under the pointer whose it is."""
    good = np.isfinite(y)
    said = [("", in_words(who))] if who else []
    return hv.Curve((x[good].astype(np.float32), y[good].astype(np.float32)), kdim, vdim).opts(
        color=look[0],
        line_dash=look[1],
        line_width=2.2,
        tools=["hover"],
        hover_tooltips=[*said, *((d.label, f"@{{{d.name}}}{{0.00}}") for d in (kdim, vdim))],
    )


def _looks(da: xr.DataArray) -> dict[str, tuple[str, str]]:
    return looks(str(c) for c in da["case"].values) if da["case"].values[0] else {"": ("#333333", "solid")}


def _key(of: Mapping[str, tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    """The lines; under the figure, where they cover nothing."""
    return tuple((in_words(name), *look) for name, look in of.items() if name)


def histograms(curves: xr.DataArray, *, columns: int = 3, width: int = 1140, caption: str = "") -> Figure:
    """Cumulative volume histograms of `ionrt.dvh`: a panel per structure, a line per ion or case; of one plan all in one.

    Parameters
    ----------
    curves : DataArray ``volume_fraction`` ([case or ion,] structure, quantity), shares of one; with ``statistic`` in front, of
        `ionrt.evaluate.band`, the line is the nominal scenario and a band lies between the extremes of all.
    columns : panels per row.
    width : of the figure [pixels].
    caption : first sentence.

    Returns
    -------
    Figure
        Structures without volume are left out and named in the caption.

    Raises
    ------
    IonrtError
        No volume histogram; a band without ``nominal``, ``min`` or ``max``.
    """
    check(curves, "volume_fraction", dims=("structure",))
    quantity = str(curves.attrs.get("quantity") or curves.dims[-1])
    banded = "statistic" in curves.dims
    if banded and (missing := {"nominal", "min", "max"} - {str(s) for s in curves["statistic"].values}):
        raise IonrtError(f"histograms: the statistic {sorted(missing)[0]!r} is missing; see ionrt.evaluate.band")
    curves = by_case(curves).compute()
    low, middle, high = ((curves.sel(statistic=s) if banded else curves) for s in ("min", "nominal", "max"))
    present = [s for s in curves["structure"].values if bool(np.isfinite(middle.sel(structure=s)).any())]
    drawn_for = middle.notnull().any(quantity).transpose("structure", "case")
    absent = [
        str(s) if not one.any() else f"{s} ({', '.join(in_words(str(c)) for c in curves['case'].values[~one])})"
        for s, one in zip(curves["structure"].values, drawn_for.values, strict=True)
        if not one.all()
    ]
    said = provenance([curves])
    if curves.sizes["case"] == 1 and not banded:  # a line per structure, under the name of the plan
        whose = in_words(str(curves["case"].values[0]))
        curves = curves.sel(structure=present).isel(case=0, drop=True).rename(structure="case").expand_dims(structure=[whose])
        low, middle, high, present = curves, curves, curves, [whose] if present else []
    n = min(columns, len(present)) or 1
    used = curves[quantity].where((high.sel(structure=present) > 0.002).any(["case", "structure"]))
    kdim, vdim = hv.Dimension(quantity, label=label(quantity, curves)), hv.Dimension("volume", label="Volume [%]")
    x, look, drawn = curves[quantity].values, _looks(curves), []
    for k, structure in enumerate(present):
        at = [{"structure": structure, "case": case} for case in curves["case"].values]
        items: list[Any] = []
        for one in at if banded else []:
            ends = (100 * low.sel(one).values, 100 * high.sel(one).values)
            area = hv.Area(tuple(v.astype(np.float32) for v in (x, *ends)), kdim, ["low", "high"])
            items.append(area.opts(color=look[str(one["case"])][0], fill_alpha=0.25, line_alpha=0.0))
        items += [_curve(x, 100 * middle.sel(one).values, str(one["case"]), look[str(one["case"])], kdim, vdim) for one in at]
        drawn.append(
            hv.Overlay(items).opts(
                panel(
                    title=str(structure),
                    ylim=(0, 103),
                    xlim=(0, 1.05 * float(used.max()) or 1.0),
                    xlabel=_in_lines(label(quantity, curves)),
                    ylabel="Volume [%]" if k % n == 0 else "",
                    **sized(width, max(n, 2), most=260 if n > 1 else 340),
                )
            )
        )
    what = "enough dose for an LETd" if "above" in curves.attrs else "volume on the grid"
    missing_there = f" Without {what}: {', '.join(absent)}." if absent else ""
    bands = " Lines: nominal; bands: between the extremes over all scenarios." if banded else ""
    what = f"{label(quantity, curves)}: cumulative volume histogram of each structure.{bands}{missing_there}"
    return Figure(in_columns(drawn, n), f"{caption} {what} {said}".strip(), key=_key(look))


def _in_lines(text: str) -> str:
    """A label that names its dose systems below itself, one per line, as wide as a panel."""
    words, _, unit = text.partition(" [Gy (RBE; ")
    return f"{words}\n[Gy (RBE; {unit.replace('; ', ';' + chr(10))}" if unit else text


def depth_profiles(
    profiles: Mapping[str, xr.DataArray] | list[xr.DataArray],
    *,
    target: tuple[float, float] | None = None,
    columns: int = 3,
    width: int = 1140,
    caption: str = "",
) -> Figure:
    """Quantities along the beam axis: one panel per quantity, one line per ion or case, the target shaded.

    Parameters
    ----------
    profiles : DataArrays ([case or ion,] distance [mm]) of `ionrt.evaluate.depth_profile`, in units of their quantity.
    target : from, to [mm] on the same axis.
    columns, width, caption : panels per row; of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per quantity.

    Raises
    ------
    KeyError
        An array whose name is no known quantity.
    """
    arrays = list(profiles.values()) if isinstance(profiles, Mapping) else list(profiles)
    n = min(columns, len(arrays)) or 1
    kdim, drawn, look = hv.Dimension("distance", label="Depth in the body [mm]"), [], _looks(by_case(arrays[0]))
    heads = {str(a.name): _in_lines(label(str(a.name), a)) for a in arrays}
    lines = max((head.count("\n") for head in heads.values()), default=0)  # frames side by side begin at one height
    for da in (by_case(one).compute() for one in arrays):
        name = str(da.name)
        vdim = hv.Dimension(name, label=label(name, da))
        x = da["distance"].values
        curves = [_curve(x, da.sel(case=c).values, str(c), look[str(c)], kdim, vdim) for c in da["case"].values]
        shade = [hv.VSpan(*target).opts(**SHADE)] if target else []
        drawn.append(
            hv.Overlay([*shade, *curves]).opts(
                panel(
                    xlabel="Depth in the body [mm]",
                    title="\N{NO-BREAK SPACE}\n" * (lines - heads[name].count("\n")) + heads[name],
                    ylabel=f"[{unit(name)}]" if unit(name) else "",
                    ylim=(0, 1.08 * float(np.nanmax(da.values, initial=0.0)) or 1.0),
                    xlim=(float(x.min()), float(x.max())),
                    **sized(width, n, ratio=0.8, most=280),
                )
            )
        )
    shaded = " The target is shaded." if target else ""
    text = (
        f"{caption} {', '.join(label(str(a.name), a) for a in arrays)} along the beam through the centre of the target.{shaded}"
    )
    return Figure(in_columns(drawn, n), f"{text} {provenance(arrays)}".strip(), key=_key(look))


def scenario_points(metrics: Sequence[xr.DataArray], *, width: int = 1140, caption: str = "") -> Figure:
    """A metric in each scenario: one panel per metric, one row per scenario, one marker per case.

    Parameters
    ----------
    metrics : DataArrays (case, scenario) named as their quantity, with the attribute ``metric`` ("D95").
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per metric.

    Raises
    ------
    IonrtError
        No metric.
    """
    if not metrics:
        raise IonrtError("scenario_points: expected at least one metric")
    cases = [str(p) for p in metrics[0]["case"].values]
    scenarios = [str(s) for s in metrics[0]["scenario"].values][::-1]
    n, drawn, look = len(metrics), [], looks(cases)
    for k, metric in enumerate(metrics):
        name = f"{metric.attrs.get('metric', '')} {label(str(metric.name), metric)}".strip()
        points = []
        for shape, case in zip(MARKERS, cases, strict=False):
            values = metric.sel(case=case).values[::-1].astype(float)
            one = hv.Scatter((scenarios, values), hv.Dimension("scenario"), hv.Dimension("value", label=name))
            points.append(one.opts(color=look[case][0], marker=shape, size=9, tools=["hover"], invert_axes=True, alpha=0.9))
        drawn.append(
            hv.Overlay(points).opts(
                panel(
                    frame_width=int((width - 180) / n) - 60,
                    frame_height=24 * len(scenarios) + 20,
                    invert_axes=True,
                    xlabel="" if k else "Scenario",
                    ylabel=name,
                    **({"yaxis": None} if k else {}),
                )
            )
        )
    key = tuple((in_words(case), look[case][0], shape) for shape, case in zip(MARKERS, cases, strict=False))
    return Figure(in_columns(drawn, n), f"{caption} {provenance(metrics)}".strip(), key=key)


def curves(
    panels: Mapping[str, Mapping[str, xr.DataArray]],
    *,
    xlabel: str,
    ylabel: str = "",
    points: Mapping[str, Points] | None = None,
    shaded: tuple[float, float] | None = None,
    columns: int = 2,
    width: int = 1140,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    logx: bool = False,
    logy: bool = False,
    caption: str = "",
) -> Figure:
    """Lines against one axis, panel by panel; a line of the same name looks the same everywhere.

    Parameters
    ----------
    panels : {title: {name of the line: array with one dimension, whose coordinate is the axis, or with ``quantile`` in front
        (`ionrt.rbe.bands`): a band from the first to the last, a line in the middle}}.
    xlabel : with unit.
    ylabel : by default that of the quantity in each panel.
    points : {title: {name: (x, y)}} published values, drawn as marks in the colour of the line of that name.
    shaded : from, to on the axis.
    columns : per row.
    width : [pixels].
    xlim, ylim, logx, logy : of all panels.
    caption : first sentence.

    Returns
    -------
    Figure, a panel per title.

    Raises
    ------
    IonrtError
        A line with more than one dimension; no quantity for the label of the axis.
    """
    look = looks(name for lines in panels.values() for name in lines)
    n, drawn = min(columns, len(panels)) or 1, []
    for k, (title, lines) in enumerate(panels.items()):
        items: list[Any] = [hv.VSpan(*shaded).opts(**SHADE)] if shaded else []
        items += [_band(da, look[name][0]) for name, da in lines.items() if "quantile" in da.dims]
        tops = {name: _quantile(da, -1) for name, da in lines.items()}
        lines = {name: _quantile(da, da.sizes.get("quantile", 0) // 2) for name, da in lines.items()}
        items += [_line(title, name, da, *look[name]) for name, da in lines.items()]
        for name, (x, y) in ((points or {}).get(title) or {}).items():
            colour = look[name][0] if name in look else "#333333"
            marks = hv.Scatter((np.asarray(x, float), np.asarray(y, float)))
            items.append(marks.opts(color="white", line_color=colour, line_width=2, size=9))
        first = next(iter(lines.values()))
        across = xlim or _span(lines, logx)
        up = ylim or _height(tops, across, logy)
        drawn.append(
            hv.Overlay(items).opts(
                panel(
                    title=title,
                    xlabel=xlabel if k >= len(panels) - n else "",
                    ylabel=ylabel or label(str(first.name)),
                    xlim=across,
                    ylim=up,
                    logx=logx,
                    logy=logy,
                    **({"xticks": ticks(*across)} if logx else {}),
                    **({"yticks": ticks(*up)} if logy else {}),
                    **sized(width, n),
                )
            )
        )
    grid = in_columns(drawn, n)
    arrays = [da for lines in panels.values() for da in lines.values()]
    key = tuple((in_words(name), *one) for name, one in look.items())
    return Figure(grid, f"{caption} {provenance(arrays)}".strip(), key=key)


def _line(title: str, name: str, da: xr.DataArray, colour: str, dash: str) -> hv.Curve:
    if da.ndim != 1:
        raise IonrtError(f"{title}, {name}: expected one dimension along the axis, got {da.dims}; select the others first")
    y = np.asarray(da.values, float)
    x = np.asarray(da[da.dims[0]].values, float)
    good = np.isfinite(y)
    curve = hv.Curve((x[good].astype(np.float32), y[good].astype(np.float32)))
    return curve.opts(color=colour, line_dash=dash, line_width=2.2)


def _quantile(da: xr.DataArray, k: int) -> xr.DataArray:
    """The k-th line of a band; a line as it is."""
    return da.isel(quantile=k) if "quantile" in da.dims else da


def _band(da: xr.DataArray, colour: str) -> hv.Area:
    """From the first to the last quantile."""
    x, low, high = da[da.dims[-1]].values, da.isel(quantile=0).values, da.isel(quantile=-1).values
    area = hv.Area((x.astype(np.float32), low.astype(np.float32), high.astype(np.float32)), vdims=["low", "high"])
    return area.opts(color=colour, alpha=0.22, line_alpha=0)


def _span(lines: Mapping[str, xr.DataArray], log: bool) -> tuple[float, float]:
    """From the first to the last value of the axis."""
    x = np.concatenate([np.asarray(da[da.dims[0]].values, float) for da in lines.values()])
    return float(x[x > 0].min() if log else x.min()), float(x.max())


def _height(lines: Mapping[str, xr.DataArray], across: tuple[float, float], log: bool) -> tuple[float, float]:
    """From zero, or the least positive value of a logarithmic axis, to a little above what is inside the frame."""
    seen = [da.values[(x >= across[0]) & (x <= across[1])] for da in lines.values() for x in (da[da.dims[0]].values,)]
    y = np.concatenate(seen).astype(float)
    y = y[np.isfinite(y) & ((y > 0) | (not log))]
    if not y.size:
        return 0.0, 1.0
    return (0.8 * float(y.min()), 1.3 * float(y.max())) if log else (0.0, 1.08 * float(y.max()) or 1.0)
