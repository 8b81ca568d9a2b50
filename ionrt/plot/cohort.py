"""Figures of the exchange cohort: aggregated curves and forest plots, never a mark of a single patient."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from ionrt.plot.style import FONT_SIZES, PANEL_COLOURS, Figure, tidy

DASHES = ("solid", "dashed", "dotdash", "dotted")


def _options(**more: Any) -> hv.Options:
    grid = {"show_grid": True, "gridstyle": {"grid_line_color": "#E6E6E6"}}
    common = {"fontsize": FONT_SIZES, "default_tools": ["box_zoom", "reset"], "hooks": [tidy], **grid}
    return hv.opts.Overlay(**common, **more)


def _origin(origin: str) -> str:
    return "SYNTHETIC data: simulated, no patients." if origin == "SYNTHETIC" else ""


def lines(
    table: pd.DataFrame, *, x: str, y: str, by: str, xlabel: str, ylabel: str, origin: str, width: int = 640, caption: str = ""
) -> Figure:
    """Aggregated curves in percent with limits where there are any: one line per level of `by`.

    Parameters: `table` with columns `x`, `y` and, where known, lower and upper as shares of one (`ionrt.cohort.safe_curve`,
    predictions of a fit); `by` column of the lines; `xlabel`, `ylabel` with unit; `origin` SYNTHETIC or clinical; `width`
    [pixels]; `caption` first sentence, with LET definition, RBE model and ion. Straight lines between the rows.
    """
    drawn: list[Any] = []
    for i, (level, part) in enumerate(table.groupby(by, sort=False, observed=True)):
        style = {"color": PANEL_COLOURS[1 + i % 7], "line_dash": DASHES[i % 4], "line_width": 2.2}
        at, value = part[x].to_numpy(float), 100 * part[y].to_numpy(float)
        if {"lower", "upper"} <= set(part):
            low, high = (100 * part[c].fillna(part[y]).to_numpy(float) for c in ("lower", "upper"))
            band = hv.Area((at, low, high), vdims=["low", "high"])
            drawn.append(band.opts(color=style["color"], alpha=0.12, line_alpha=0))
        drawn.append(hv.Curve((at, value), label=str(level)).opts(**style))
    layout = _options(
        frame_width=width - 120,
        frame_height=300,
        ylim=(0, 103),
        xlabel=xlabel,
        ylabel=f"{ylabel} [%]",
        legend_position="right",
    )
    return Figure(hv.Overlay(drawn).opts(layout), f"{caption} {_origin(origin)}".strip())


def forest(
    table: pd.DataFrame, *, label: str, xlabel: str, origin: str, width: int = 640, caption: str = "", truth: str = ""
) -> Figure:
    """Hazard or odds ratios with their intervals on a logarithmic axis, one row each.

    Parameters: `table` with columns `label`, hazard_ratio, lower, upper; `xlabel` names the ratio and its unit; `truth` column
    with a planted value (a cross); `origin` SYNTHETIC or clinical; `width` [pixels]; `caption` first sentence.
    """
    rows = np.arange(len(table))[::-1].astype(float)
    ratio, low, high = (table[c].to_numpy(float) for c in ("hazard_ratio", "lower", "upper"))
    drawn: list[Any] = [hv.VLine(1.0).opts(color="#777777", line_width=1, line_dash="dotted")]
    drawn.append(hv.Segments(list(zip(low, rows, high, rows, strict=True))).opts(color=PANEL_COLOURS[1], line_width=2.2))
    drawn.append(hv.Scatter((ratio, rows), label="estimate").opts(color=PANEL_COLOURS[1], size=9, marker="square"))
    if truth:
        planted = hv.Scatter((table[truth].to_numpy(float), rows), label="planted")
        drawn.append(planted.opts(color=PANEL_COLOURS[2], size=11, marker="x", line_width=2.5))
    ticks = list(zip(rows, table[label].astype(str), strict=True))
    layout = _options(
        frame_width=width - 260,
        frame_height=60 + 34 * len(table),
        logx=True,
        yticks=ticks,
        ylim=(-0.7, len(table) - 0.3),
        xlabel=xlabel,
        ylabel="",
        legend_position="top_right",
        show_legend=bool(truth),
    )
    return Figure(hv.Overlay(drawn).opts(layout), f"{caption} Bars: 95 % limits. {_origin(origin)}".strip())
