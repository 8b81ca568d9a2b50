"""Figures of trial design: what a dose-finding design recommends, power against patients, boundaries, survival."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from ionrt.plot.style import BARS, MARKERS, PANEL_COLOURS, Figure, in_columns, line_look, panel, sized, tidy
from ionrt.quantities import codes_in_words

BAR_COLOURS = PANEL_COLOURS[1:]
NOT_DATA = "SYNTHETIC: simulated, no patients."


def recommendations(table: pd.DataFrame, *, axis: str, columns: int = 3, width: int = 1140, caption: str = "") -> Figure:
    """Share of simulated trials that recommend each level: one panel per true toxicity curve, one bar per design.

    Parameters
    ----------
    table : of `ionrt.trial.compare_dose_finding`.
    axis : text of the horizontal axis with unit and LET definition.
    columns : panels per row.
    width, caption : of the figure [pixels]; first sentence; the true toxicity stands below each level.

    Returns
    -------
    Figure, a panel per scenario.
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
            bars.append(hv.Rectangles(boxes).opts(color=BARS[j % 6], line_color="#333333", line_width=0.6))
        layout = panel(
            title=scenario,
            **frame,
            ylim=(0, 103),
            xlim=(-0.6, len(ticks) - 0.4),
            xticks=ticks,
            xlabel=axis if k >= len(scenarios) - columns else "",
            ylabel="Recommended [% of trials]" if k % columns == 0 else "",
        )
        drawn.append(hv.Overlay(bars).opts(layout))
    grid = in_columns(drawn, columns)
    text = f"{caption} Recommended level; bars from left to right: {', '.join(designs)}. Below each level its true toxicity."
    key = tuple((design, colour, "square") for design, colour in zip(designs, BARS, strict=False))
    return Figure(grid, f"{text} {NOT_DATA}".strip(), key=key)


def power_curve(
    curve: pd.DataFrame, *, planned: int, power: float, alpha: float, width: int = 640, caption: str = ""
) -> Figure:
    """Power and type I error against the number of patients at which accrual stopped.

    Parameters
    ----------
    curve : of `ionrt.trial.accrual_curve`.
    planned : patients.
    power, alpha : of the plan, shares of one; alpha one-sided.
    width, caption : of the figure [pixels]; first sentence; bars are 1.96 Monte Carlo standard errors.

    Returns
    -------
    Figure, shares in per cent.
    """
    n, lines = curve.index.to_numpy(float), []
    key = (("power", BAR_COLOURS[0], "solid"), ("type I error", BAR_COLOURS[1], "dashed"))
    for name, (_, colour, dash) in zip(("power", "type1"), key, strict=True):
        points = (n, 100 * curve[name].to_numpy())
        lines.append(hv.Curve(points).opts(color=colour, line_dash=dash, line_width=2.2))
        lines.append(hv.ErrorBars((*points, 196 * curve[f"{name}_se"].to_numpy())).opts(line_color=colour))
    marks = [hv.VLine(planned), hv.HLine(100 * power), hv.HLine(100 * alpha)]
    lines += [mark.opts(color="#777777", line_width=1, line_dash="dotted") for mark in marks]
    layout = panel(
        frame_width=width - 120,
        frame_height=300,
        ylim=(0, 103),
        xlim=(0, 1.03 * planned),
        xlabel="Patients when accrual stopped",
        ylabel="Trials that reject the null hypothesis [%]",
    )
    text = f"{caption} Bars: 1.96 Monte Carlo standard errors; dotted: planned number of patients, power and type I error. "
    text += f"{NOT_DATA}"
    return Figure(hv.Overlay(lines).opts(layout), text.strip(), key=key)


def boundaries(tables: dict[str, pd.DataFrame], *, width: int = 640, caption: str = "") -> Figure:
    """Efficacy (and futility) bounds against information: one line per rule.

    Parameters
    ----------
    tables : name -> table of `ionrt.trial.spending_bounds`.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, bounds on the Z scale.
    """
    lines: list[Any] = []
    key = tuple((name, *line_look(k)) for k, name in enumerate(tables))
    # where lines agree the first is on top
    for (name, colour, dash), marker in reversed(list(zip(key, MARKERS, strict=False))):
        table, style = tables[name], {"color": colour, "line_dash": dash, "line_width": 2.2}
        x = 100 * table["information"].to_numpy()
        lines.append(hv.Curve((x, table["z_efficacy"].to_numpy())).opts(**style))
        lines.append(hv.Scatter((x, table["z_efficacy"].to_numpy())).opts(color=colour, size=9, marker=marker, fill_alpha=0.6))
        if "z_futility" in table and np.isfinite(table["z_futility"]).any():
            lines.append(hv.Curve((x, table["z_futility"].to_numpy())).opts(**style))
    layout = panel(
        frame_width=width - 120,
        frame_height=280,
        xlim=(0, 103),
        xlabel="Information [% of the planned events]",
        ylabel="Bound on the Z scale",
    )
    stops = "Above the upper line the trial stops for efficacy, below a lower one for futility."
    return Figure(hv.Overlay(lines).opts(layout), f"{caption} {stops}".strip(), key=key)


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

    Parameters
    ----------
    table : of `ionrt.outcome.kaplan_meier` or `cumulative_incidence` (one cause), or of `ionrt.cohort.safe_curve`.
    unit, since : of time, and from when it is counted.
    label : of the endpoint.
    y : survival or incidence.
    steps : False joins the points by lines, for a safe curve: with one point per several events, steps would come late.
    at_risk : table of `ionrt.outcome.at_risk`, written under the time axis.
    top : of the axis [%].
    origin : SYNTHETIC or clinical; single patients have no marks.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, shares in per cent.
    """
    strata = list(dict.fromkeys(table["stratum"]))
    reach = float(table["time"].max()) if at_risk is None else max(float(table["time"].max()), float(at_risk["time"].max()))
    lines: list[Any] = []
    for k, stratum in enumerate(strata):
        part, style = table[table["stratum"] == stratum], dict(zip(("color", "line_dash"), line_look(k), strict=True))
        x = part["time"].to_numpy(float)
        curve, low, high = (100 * part[c].to_numpy(float) for c in (y, "lower", "upper"))
        if steps:
            x = np.repeat(x, 2)[1:]
            curve, low, high = (np.repeat(v, 2)[:-1] for v in (curve, low, high))
        known = np.isfinite(low) & np.isfinite(high)
        band = hv.Area((x[known], low[known], high[known]), vdims=["low", "high"])
        lines.append(band.opts(color=style["color"], alpha=0.15, line_alpha=0))
        lines.append(hv.Curve((x, curve)).opts(line_width=2.2, **style))
    names = 7 * max((len(codes_in_words(str(s))) for s in strata), default=0) if at_risk is not None else 0

    def aligned(plot: Any, _: Any) -> None:
        """Room for the names of the strata beside both axes, which else are cut at the right to stand below one another."""
        plot.state.min_border_left = max(60, names + 24)

    shape = {"frame_width": width - 170, "xlim": (-0.05 * reach, 1.03 * reach), "hooks": [tidy, aligned]}
    layout = panel(
        **shape,
        frame_height=300,
        ylim=(0, top),
        xticks=None if at_risk is None else sorted(set(at_risk["time"])),  # the numbers stand under them
        xlabel=f"Time since {since} [{unit}]",
        ylabel=f"{label} [%]",
    )
    drawn: Any = hv.Overlay(lines).opts(layout)
    if at_risk is not None:
        drawn = in_columns([drawn, _numbers_at_risk(at_risk, strata, shape)], 1)
    text = "At risk: patients just before the time." if at_risk is not None else ""
    said = f"{caption} Shaded: pointwise 95 % limits. {text} {NOT_DATA if origin == 'SYNTHETIC' else ''}"
    key = tuple((str(stratum), *line_look(k)) for k, stratum in enumerate(strata))
    return Figure(drawn, " ".join(said.split()), key=key)


def _numbers_at_risk(at_risk: pd.DataFrame, strata: list, shape: dict[str, Any]) -> hv.Overlay:
    """The numbers as text under their times, one line per stratum, in the stratum's colour."""
    rows: list[Any] = []
    for k, stratum in enumerate(strata):
        part = at_risk[at_risk["stratum"] == stratum]
        place = np.full(len(part), float(len(strata) - 1 - k))
        texts = [str(int(v)) if np.isfinite(v) else "" for v in part["at_risk"].to_numpy(float)]
        rows.append(
            hv.Labels((part["time"].to_numpy(float), place, texts)).opts(text_color=line_look(k)[0], text_font_size="9pt")
        )

    def bare(plot: Any, _: Any) -> None:
        plot.state.yaxis.axis_line_color = plot.state.yaxis.major_tick_line_color = None

    layout = panel(
        **(shape | {"hooks": [*shape["hooks"], bare]}),
        title="At risk",
        frame_height=24 * len(strata),
        ylim=(-0.6, len(strata) - 0.4),
        yticks=[(len(strata) - 1 - k, codes_in_words(str(stratum))) for k, stratum in enumerate(strata)],
        xlabel="",
        ylabel="",
        show_grid=False,
        xaxis=None,
    )
    return hv.Overlay(rows).opts(layout)


def flow(counts: pd.DataFrame, *, min_cell: int = 0, origin: str = "SYNTHETIC", width: int = 900, caption: str = "") -> Figure:
    """CONSORT diagram of a trial: boxes from assessment to analysis, one column per arm.

    Parameters
    ----------
    counts : of `ionrt.trial.consort_from`.
    min_cell : counts below it, and those from which they would follow, are not shown.
    origin : SYNTHETIC or clinical.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, the diagram.

    References
    ----------
    Hopewell et al. 2025, doi 10.1136/bmj-2024-081123.
    """
    arms = [str(arm) for arm in dict.fromkeys(counts["arm"]) if arm != "all"]
    each, gap = 1.0 / len(arms), 0.03
    assessed, excluded = _stated(counts, "all", ("assessed", "excluded"), min_cell)
    boxes = [(0.22, 0.62, 5, [assessed]), (0.68, 0.99, 4, [excluded, *_reasons(counts, "excluded", "all", min_cell)])]
    boxes.append((0.22, 0.62, 3, [f"randomised: {_total(counts, 'randomised', 'all')}"]))
    for k, arm in enumerate(arms):
        left, right = k * each + gap, (k + 1) * each - gap
        treated = _stated(counts, arm, ("received", "not_received"), min_cell)
        boxes.append((left, right, 2, [f"{arm}: {_total(counts, 'allocated', arm)} allocated", *treated]))
        gone = [line for s in ("lost", "discontinued") for line in _stated(counts, arm, (s,), min_cell)]
        boxes.append((left, right, 1, gone))
        boxes.append((left, right, 0, _stated(counts, arm, ("analysed", "excluded_from_analysis"), min_cell)))
    tall = 0.36
    shapes = hv.Rectangles([(x0, row - tall, x1, row + tall) for x0, x1, row, _ in boxes])
    words = hv.Labels([((x0 + x1) / 2, row, "\n".join(text)) for x0, x1, row, text in boxes])
    down = [(0.42, 5 - tall, 0.42, 3 + tall), (0.42, 4, 0.68, 4)]
    for k in range(len(arms)):
        x = (k + 0.5) * each
        down += [(0.42, 3 - tall, x, 2 + tall), *((x, r - tall, x, r - 1 + tall) for r in (2, 1))]
    layout = panel(
        frame_width=width - 60, frame_height=560, xlim=(0, 1), ylim=(-0.5, 5.5), xaxis=None, yaxis=None, show_grid=False
    )
    drawn = hv.Segments(down).opts(color="#555555", line_width=1.2) * shapes.opts(color="white", line_color="#333333")
    drawn *= words.opts(text_font_size="10pt", text_color="#1d2327")
    hidden = f"Counts below {min_cell}, and what they would follow from, are not shown." if min_cell else ""
    text = f"{caption} {hidden} {NOT_DATA if origin == 'SYNTHETIC' else ''}"
    return Figure(drawn.opts(layout), " ".join(text.split()))


def _total(counts: pd.DataFrame, stage: str, arm: str) -> int:
    return int(counts.loc[(counts["stage"] == stage) & (counts["arm"] == arm) & (counts["reason"] == ""), "n"].iloc[0])


def _stated(counts: pd.DataFrame, arm: str, stages: tuple[str, ...], min_cell: int) -> list[str]:
    """One line per stage; counts that add up to a known one are hidden together."""
    found = {stage: _total(counts, stage, arm) for stage in stages}
    hide = any(0 < n < min_cell for n in found.values())
    return [f"{stage.replace('_', ' ')}: {'not shown' if hide else n}" for stage, n in found.items()]


def _reasons(counts: pd.DataFrame, stage: str, arm: str, min_cell: int) -> list[str]:
    rows = counts[(counts["stage"] == stage) & (counts["arm"] == arm) & (counts["reason"] != "")]
    hide = (rows["n"] < min_cell).any()
    return [f"{row.reason}" if hide else f"{row.reason}: {row.n}" for row in rows.itertuples()]
