"""Curves of models and definitions side by side: one panel per case, one line per model, published points on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from ionrt.ions import in_words
from ionrt.plot.style import SHADE, Figure, in_columns, label, looks, panel, provenance, sized, ticks
from ionrt.quantities import IonrtError

Points = Mapping[str, tuple[Any, Any]]


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
