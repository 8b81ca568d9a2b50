"""Figures of trial design: what a dose-finding design recommends, power against patients, boundaries, survival."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from ionrt.plot.style import LINE_DASHES, PANEL_COLOURS, Figure, in_columns, panel, sized

BAR_COLOURS = PANEL_COLOURS[1:]
NOT_DATA = "SYNTHETIC: simulated, no patients."


def recommendations(table: pd.DataFrame, *, axis: str, columns: int = 3, width: int = 1140, caption: str = "") -> Figure:
    """Share of simulated trials that recommend each level: one panel per true toxicity curve, one bar per design.

    Parameters: `table` of `ionrt.trial.compare_dose_finding`; `axis` text of the horizontal axis with unit and LET definition;
    `columns` panels per row; `width` [pixels]; `caption` first sentence. The true toxicity stands below each level.
    """
    scenarios = list(dict.fromkeys(table.index.get_level_values("scenario")))
    designs = list(dict.fromkeys(table.index.get_level_values("design")))
    drawn, frame = [], {"frame_width": sized(width, columns)["frame_width"], "frame_height": 190}
    for k, scenario in enumerate(scenarios):
        part = table.loc[scenario]
        truth = part.loc[designs[0]]
        ticks = [(i, "none" if i == 0 else f"{row['value']:g}\n{100 * row['p_toxicity']:.0f} %") for i, row in truth.iterrows()]
        bars: list[Any] = []
        for j, design in enumerate(designs):
            left = np.arange(len(ticks)) - 0.4 + 0.8 * j / len(designs)
            high = 100.0 * part.loc[design, "selected"].to_numpy()
            boxes = [(x, 0.0, x + 0.72 / len(designs), y) for x, y in zip(left, high, strict=True)]
            bars.append(hv.Rectangles(boxes, label=design).opts(color=BAR_COLOURS[j], line_alpha=0, show_legend=k == 0))
        layout = panel(
            title=scenario,
            **frame,
            ylim=(0, 103),
            xlim=(-0.6, len(ticks) - 0.4),
            xticks=ticks,
            xlabel=axis if k >= len(scenarios) - columns else "",
            ylabel="Trials [%]" if k % columns == 0 else "",
            legend_position="top_left",
            show_legend=k == 0,
        )
        drawn.append(hv.Overlay(bars).opts(layout))
    grid = in_columns(drawn, columns)
    text = f"{caption} Recommended level by design ({', '.join(designs)}); below each level its true toxicity. {NOT_DATA}"
    return Figure(grid, text.strip())


def power_curve(
    curve: pd.DataFrame, *, planned: int, power: float, alpha: float, width: int = 640, caption: str = ""
) -> Figure:
    """Power and type I error against the number of patients at which accrual stopped.

    Parameters: `curve` of `ionrt.trial.accrual_curve`; `planned` patients; `power` and one-sided `alpha` of the plan; `width`
    [pixels]; `caption` first sentence. Bars are 1.96 Monte Carlo standard errors.
    """
    n, lines = curve.index.to_numpy(float), []
    for name, text, colour, dash in (
        ("power", "power", BAR_COLOURS[0], "solid"),
        ("type1", "type I error", BAR_COLOURS[1], "dashed"),
    ):
        points = (n, 100 * curve[name].to_numpy())
        lines.append(hv.Curve(points, label=text).opts(color=colour, line_dash=dash, line_width=2.2))
        lines.append(hv.ErrorBars((*points, 196 * curve[f"{name}_se"].to_numpy())).opts(line_color=colour))
    marks = [hv.VLine(planned), hv.HLine(100 * power), hv.HLine(100 * alpha)]
    lines += [mark.opts(color="#777777", line_width=1, line_dash="dotted") for mark in marks]
    layout = panel(
        frame_width=width - 120,
        frame_height=300,
        ylim=(0, 103),
        xlim=(0, 1.03 * planned),
        xlabel="Patients when accrual stopped",
        ylabel="Trials that reject [%]",
        legend_position="top_left",
    )
    text = f"{caption} Dotted: planned number of patients, power and type I error. {NOT_DATA}"
    return Figure(hv.Overlay(lines).opts(layout), text.strip())


def boundaries(tables: dict[str, pd.DataFrame], *, width: int = 640, caption: str = "") -> Figure:
    """Efficacy (and futility) bounds against information: one line per rule.

    Parameters: `tables`, name -> table of `ionrt.trial.spending_bounds`; `width` [pixels]; `caption` first sentence.
    """
    lines: list[Any] = []
    for (name, table), colour, dash in zip(tables.items(), BAR_COLOURS, LINE_DASHES * 2, strict=False):
        style = {"color": colour, "line_dash": dash, "line_width": 2.2}
        x = 100 * table["information"].to_numpy()
        lines.append(hv.Curve((x, table["z_efficacy"].to_numpy()), label=name).opts(**style))
        lines.append(hv.Scatter((x, table["z_efficacy"].to_numpy())).opts(color=colour, size=7))
        if "z_futility" in table and np.isfinite(table["z_futility"]).any():
            lines.append(hv.Curve((x, table["z_futility"].to_numpy())).opts(**style))
    layout = panel(
        frame_width=width - 120,
        frame_height=280,
        xlim=(0, 103),
        xlabel="Information [% of the planned events]",
        ylabel="Bound on the Z scale",
        legend_position="top_right",
    )
    return Figure(hv.Overlay(lines).opts(layout), f"{caption} Above the upper line the trial stops for efficacy.".strip())


def survival_steps(
    table: pd.DataFrame,
    *,
    unit: str,
    label: str,
    y: str = "survival",
    steps: bool = True,
    at_risk: pd.DataFrame | None = None,
    since: str = "randomisation",
    top: float = 103.0,
    origin: str = "SYNTHETIC",
    width: int = 640,
    caption: str = "",
) -> Figure:
    """Kaplan-Meier or incidence curves with their pointwise limits, one per stratum, and the numbers at risk beneath.

    Parameters: `table` of `ionrt.outcome.kaplan_meier` or `cumulative_incidence` (one cause), or of
    `ionrt.cohort.safe_curve`; `unit` of time, counted `since`; `label` of the endpoint; `y`: survival or incidence; `top` of
    the axis [%]; `at_risk` table of `ionrt.outcome.at_risk`, written under the time axis. `steps`: False joins the points by
    lines, for a safe curve: with one point per several events, steps would come late. `origin`: SYNTHETIC or clinical. No
    marks of single patients.
    """
    strata = list(dict.fromkeys(table["stratum"]))
    reach = float(table["time"].max()) if at_risk is None else max(float(table["time"].max()), float(at_risk["time"].max()))
    lines: list[Any] = []
    for k, stratum in enumerate(strata):
        part, style = table[table["stratum"] == stratum], {"color": BAR_COLOURS[k % 7], "line_dash": LINE_DASHES[k % 4]}
        x = part["time"].to_numpy(float)
        curve, low, high = (100 * part[c].to_numpy(float) for c in (y, "lower", "upper"))
        if steps:
            x = np.repeat(x, 2)[1:]
            curve, low, high = (np.repeat(v, 2)[:-1] for v in (curve, low, high))
        known = np.isfinite(low) & np.isfinite(high)
        band = hv.Area((x[known], low[known], high[known]), vdims=["low", "high"])
        lines.append(band.opts(color=style["color"], alpha=0.15, line_alpha=0))
        lines.append(hv.Curve((x, curve), label=str(stratum)).opts(line_width=2.2, **style))
    shape = {"frame_width": width - 170, "xlim": (-0.03 * reach, 1.03 * reach)}
    layout = panel(
        **shape,
        frame_height=300,
        ylim=(0, top),
        xlabel=f"Time since {since} [{unit}]",
        ylabel=f"{label} [%]",
        legend_position="top_right" if y == "survival" else "top_left",
    )
    drawn: Any = hv.Overlay(lines).opts(layout)
    if at_risk is not None:
        drawn = in_columns([drawn, _numbers_at_risk(at_risk, strata, shape)], 1)
    text = "At risk: patients just before the time." if at_risk is not None else ""
    said = f"{caption} Shaded: pointwise 95 % limits. {text} {NOT_DATA if origin == 'SYNTHETIC' else ''}"
    return Figure(drawn, " ".join(said.split()))


def _numbers_at_risk(at_risk: pd.DataFrame, strata: list, shape: dict[str, Any]) -> hv.Overlay:
    """The numbers as text under their times, one line per stratum, in the stratum's colour."""
    rows: list[Any] = []
    for k, stratum in enumerate(strata):
        part = at_risk[at_risk["stratum"] == stratum]
        place = np.full(len(part), float(len(strata) - 1 - k))
        texts = [str(int(v)) if np.isfinite(v) else "" for v in part["at_risk"].to_numpy(float)]
        rows.append(
            hv.Labels((part["time"].to_numpy(float), place, texts)).opts(text_color=BAR_COLOURS[k % 7], text_font_size="9pt")
        )
    layout = panel(
        **shape,
        title="At risk",
        frame_height=24 * len(strata),
        ylim=(-0.6, len(strata) - 0.4),
        yticks=[(len(strata) - 1 - k, str(stratum)) for k, stratum in enumerate(strata)],
        xlabel="",
        ylabel="",
        show_grid=False,
        xaxis=None,
    )
    return hv.Overlay(rows).opts(layout)
