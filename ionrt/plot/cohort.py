"""Figures of the exchange cohort: aggregated curves and forest plots, never a mark of a single patient."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from ionrt.plot.style import BARS, PANEL_COLOURS, Figure, line_look, panel, ticks
from ionrt.quantities import codes_in_words


def _origin(origin: str) -> str:
    return "SYNTHETIC data: simulated, no patients." if origin == "SYNTHETIC" else ""


def lines(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str,
    xlabel: str,
    ylabel: str,
    origin: str,
    marks: bool = True,
    top: float = 103,
    width: int = 640,
    caption: str = "",
) -> Figure:
    """Aggregated curves in percent with limits where there are any: one line per level of `by`.

    Parameters
    ----------
    table : DataFrame with the columns `x`, `y` and, where known, lower and upper, shares of one (`ionrt.cohort.safe_curve`,
        predictions of a fit).
    x, y : columns.
    by : column of the lines.
    xlabel, ylabel : with unit.
    origin : SYNTHETIC or clinical.
    marks : at every row, as the rows are estimates and the straight lines between them are not.
    top : of the axis [%].
    width, caption : of the figure [pixels]; first sentence, with LET definition, RBE model and ion.

    Returns
    -------
    Figure, shares in per cent.
    """
    drawn: list[Any] = []
    key: list[tuple[str, str, str]] = []
    for i, (level, part) in enumerate(table.groupby(by, sort=False, observed=True)):
        colour, dash = line_look(i)
        style: dict[str, Any] = {"color": colour, "line_dash": dash, "line_width": 2.2}
        at, value = part[x].to_numpy(float), 100 * part[y].to_numpy(float)
        if {"lower", "upper"} <= set(part):
            low, high = (100 * part[c].fillna(part[y]).to_numpy(float) for c in ("lower", "upper"))
            band = hv.Area((at, low, high), vdims=["low", "high"])
            drawn.append(band.opts(color=style["color"], alpha=0.12, line_alpha=0))
        drawn.append(hv.Curve((at, value), label=str(level)).opts(**style))
        key.append((str(level), style["color"], style["line_dash"]))
        if marks:
            drawn.append(hv.Scatter((at, value)).opts(color=style["color"], size=6))
    layout = panel(
        frame_width=width - 120,
        frame_height=300,
        ylim=(0, top),
        xlabel=xlabel,
        ylabel=f"{ylabel} [%]",
        show_legend=False,
    )
    return Figure(hv.Overlay(drawn).opts(layout), f"{caption} {_origin(origin)}".strip(), key=tuple(key))


def counts(table: pd.DataFrame, *, xlabel: str, origin: str, width: int = 760, caption: str = "") -> Figure:
    """Counts as bars, one row per row of the table, one bar per column; what the table hides has no bar.

    Parameters
    ----------
    table : of `ionrt.cohort.safe_table` (missing where hidden), totals aside.
    xlabel : of the counts.
    origin : SYNTHETIC or clinical.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure of bars.
    """
    shown = table.drop(index="Total", columns="Total", errors="ignore").apply(pd.to_numeric, errors="coerce")
    n, drawn = len(shown.columns), []
    for j, name in enumerate(shown.columns):
        boxes = []
        for i, value in enumerate(shown[name].to_numpy(float)[::-1]):
            low = i - 0.4 + 0.8 * (n - 1 - j) / n
            boxes += [(0.0, low, value, low + 0.72 / n)] if np.isfinite(value) else []
        drawn.append(hv.Rectangles(boxes).opts(color=BARS[j % 6], line_color="#333333", line_width=0.6))
    layout = panel(
        frame_width=width - 240,
        frame_height=20 + 26 * len(shown),
        yticks=list(enumerate(str(row) for row in shown.index[::-1])),
        ylim=(-0.6, len(shown) - 0.4),
        xlabel=xlabel,
        ylabel="",
    )
    key = tuple((str(name), BARS[j % 6], "square") for j, name in enumerate(shown.columns))
    order = f"Bars from top to bottom: {', '.join(name for name, *_ in key)}; without a bar: not shown."
    return Figure(hv.Overlay(drawn).opts(layout), f"{caption} {order} {_origin(origin)}".strip(), key=key)


def forest(
    table: pd.DataFrame, *, label: str, xlabel: str, origin: str, width: int = 640, caption: str = "", truth: str = ""
) -> Figure:
    """Hazard or odds ratios with their intervals on a logarithmic axis, one row each.

    Parameters
    ----------
    table : DataFrame with the columns `label`, hazard_ratio, lower, upper.
    label : column that names the rows.
    xlabel : names the ratio and its unit.
    origin : SYNTHETIC or clinical.
    width, caption : of the figure [pixels]; first sentence.
    truth : column with a planted value (a hollow diamond).

    Returns
    -------
    Figure on a logarithmic axis.
    """
    rows = np.arange(len(table))[::-1].astype(float)
    ratio, low, high = (table[c].to_numpy(float) for c in ("hazard_ratio", "lower", "upper"))
    drawn: list[Any] = [hv.VLine(1.0).opts(color="#777777", line_width=1, line_dash="dotted")]
    drawn.append(hv.Segments(list(zip(low, rows, high, rows, strict=True))).opts(color=PANEL_COLOURS[1], line_width=2.2))
    drawn.append(hv.Scatter((ratio, rows)).opts(color=PANEL_COLOURS[1], size=9, marker="square"))
    if truth:
        planted = table[truth].to_numpy(float)
        hollow = {"fill_alpha": 0, "line_color": PANEL_COLOURS[0], "line_width": 2}
        drawn.append(hv.Scatter((planted, rows)).opts(size=17, marker="diamond", **hollow))
        low, high = np.minimum(low, planted), np.maximum(high, planted)
    across = 0.95 * min(1.0, float(np.nanmin(low))), 1.05 * max(1.0, float(np.nanmax(high)))
    layout = panel(
        frame_width=width - 260,
        frame_height=60 + 34 * len(table),
        logx=True,
        xlim=across,
        xticks=ticks(*across),
        yticks=list(zip(rows, map(codes_in_words, table[label].astype(str)), strict=True)),
        ylim=(-0.7, len(table) - 0.3),
        xlabel=xlabel,
        ylabel="",
    )
    key = (("estimate", PANEL_COLOURS[1], "square"), ("planted", "#FFFFFF", "diamond")) if truth else ()
    return Figure(hv.Overlay(drawn).opts(layout), f"{caption} Bars: 95 % limits. {_origin(origin)}".strip(), key=key)


def coverage(table: pd.DataFrame, *, label: str, width: int = 640, caption: str = "") -> Figure:
    """How often 95 % limits hold the true value: one row per analysis, its Monte Carlo error, the nominal value and a band.

    Parameters
    ----------
    table : DataFrame of simulated data with the columns `label`, coverage and coverage_se (shares of one).
    label : column that names the rows.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, shares in per cent.
    """
    rows = np.arange(len(table))[::-1].astype(float)
    share, error = 100 * table["coverage"].to_numpy(float), 196 * table["coverage_se"].to_numpy(float)
    drawn: list[Any] = [hv.VSpan(93, 97).opts(color="#E6E6E6", alpha=0.7), hv.VLine(95).opts(color="#777777", line_width=1)]
    drawn.append(hv.Segments(list(zip(share - error, rows, share + error, rows, strict=True))).opts(color=PANEL_COLOURS[1]))
    drawn.append(hv.Scatter((share, rows)).opts(color=PANEL_COLOURS[1], size=9, marker="square"))
    layout = panel(
        frame_width=width - 260,
        frame_height=60 + 30 * len(table),
        yticks=list(zip(rows, table[label].astype(str), strict=True)),
        ylim=(-0.7, len(table) - 0.3),
        xlim=(min(50.0, float((share - error).min()) - 2), 100),
        xlabel="Limits that hold the planted value [%]",
        ylabel="",
    )
    return Figure(hv.Overlay(drawn).opts(layout), f"{caption} Grey: 93 to 97 %. {_origin('SYNTHETIC')}".strip())


def calibration(table: pd.DataFrame, *, label: str, origin: str, width: int = 460, caption: str = "") -> Figure:
    """Observed against predicted risk by quantile, with limits, the line of agreement, Brier score and AUC.

    Parameters
    ----------
    table : of `ionrt.outcome.calibration`.
    label : of the event with its horizon.
    origin : SYNTHETIC or clinical.
    width, caption : of the figure [pixels]; first sentence, with LET definition, RBE model and ion.

    Returns
    -------
    Figure, risks in per cent.
    """
    x, y, low, high = (100 * table[c].to_numpy(float) for c in ("predicted", "observed", "lower", "upper"))
    top = 1.1 * float(np.nanmax(np.concatenate([x, y, high]))) or 1.0
    known = np.isfinite(low) & np.isfinite(high)
    drawn: list[Any] = [hv.Curve(([0, top], [0, top])).opts(color="#777777", line_width=1, line_dash="dotted")]
    drawn.append(hv.Segments((x[known], low[known], x[known], high[known])).opts(color=PANEL_COLOURS[1], line_width=2.0))
    drawn.append(hv.Scatter((x, y)).opts(color=PANEL_COLOURS[1], size=9))
    layout = panel(
        frame_width=width - 120,
        frame_height=width - 120,
        xlim=(0, top),
        ylim=(0, top),
        xlabel=f"Predicted {label} [%]",
        ylabel=f"Observed {label} [%]",
    )
    a = table.attrs
    scores = f"Brier score {a['brier']:.3f} ({a['brier_null']:.3f} with one risk for all), AUC {a['auc']:.2f}."
    text = f"{caption} {len(table)} groups by predicted risk, bars: 95 % limits; dotted: agreement. {scores} {_origin(origin)}"
    return Figure(hv.Overlay(drawn).opts(layout), text.strip())
