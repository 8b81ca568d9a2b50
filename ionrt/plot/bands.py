"""What scenarios do to a plan: histograms as bands, and a metric in each scenario."""

from __future__ import annotations

from collections.abc import Sequence

import holoviews as hv
import numpy as np
import xarray as xr

from ionrt.plot.style import Figure, in_columns, label, panel, provenance
from ionrt.quantities import IonrtError, check

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
DASHES = ("dashed", "solid", "dotdash", "dotted")
MARKERS = ("circle", "diamond", "square", "triangle")


def _key(plans: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((f"{p} plan", COLOURS[k % 4], DASHES[k % 4]) for k, p in enumerate(plans))


def histogram_bands(bands: xr.DataArray, *, columns: int = 3, width: int = 1140, caption: str = "") -> Figure:
    """Volume histograms with the band between the scenarios' extremes: one panel per structure, one colour per plan.

    Parameters: `bands`, ``volume_fraction`` (statistic, plan, structure, <quantity>) of `ionrt.evaluate.band` with ``min``,
    ``max`` and ``nominal``; `columns` panels per row; `width` [pixels]; `caption` first sentence.
    """
    check(bands, "volume_fraction", dims=("statistic", "plan", "structure"))
    missing = {"nominal", "min", "max"} - {str(s) for s in bands["statistic"].values}
    if missing:
        raise IonrtError(f"histogram_bands: the statistic {sorted(missing)[0]!r} is missing; see ionrt.evaluate.band")
    quantity = str(bands.attrs.get("quantity") or bands.dims[-1])
    plans, structures = ([str(v) for v in bands[d].values] for d in ("plan", "structure"))
    n = min(columns, len(structures)) or 1
    size = int(width / n) - 95
    used = bands[quantity].where((bands.sel(statistic="max") > 0.002).any(["plan", "structure"]))
    kdim, vdim = hv.Dimension(quantity, label=label(quantity, bands)), hv.Dimension("volume", label="Volume [%]")
    x = bands[quantity].values.astype(np.float32)
    drawn = []
    for k, structure in enumerate(structures):
        areas, lines = [], []
        for p, plan in enumerate(plans):
            one = (100.0 * bands.sel(plan=plan, structure=structure)).astype(np.float32)
            low, high, middle = (one.sel(statistic=s).values for s in ("min", "max", "nominal"))
            area = hv.Area((x, low, high), kdim, ["low", "high"])
            areas.append(area.opts(color=COLOURS[p % 4], fill_alpha=0.25, line_alpha=0.0))
            line = hv.Curve((x, middle), kdim, vdim)
            lines.append(line.opts(color=COLOURS[p % 4], line_dash=DASHES[p % 4], line_width=2.2, tools=["hover"]))
        drawn.append(
            hv.Overlay([*areas, *lines]).opts(
                panel(
                    frame_width=size,
                    frame_height=int(min(0.75 * size, 260)),
                    title=structure,
                    xlabel=label(quantity, bands),
                    ylabel="Volume [%]" if k % n == 0 else "",
                    xlim=(0, 1.05 * float(used.max()) or 1.0),
                    ylim=(0, 103),
                )
            )
        )
    what = f"Volume histograms of {label(quantity, bands)}: lines nominal, bands between the extremes over all scenarios."
    text = f"{caption} {what}"
    return Figure(in_columns(drawn, n), f"{text} {provenance([bands])}".strip(), key=_key(plans))


def scenario_points(metrics: Sequence[xr.DataArray], *, width: int = 1140, caption: str = "") -> Figure:
    """A metric in each scenario: one panel per metric, one row per scenario, one marker per plan.

    Parameters: `metrics`, arrays (plan, scenario) named as their quantity, with the attribute ``metric`` ("D95");
    `width` [pixels]; `caption` first sentence.
    """
    if not metrics:
        raise IonrtError("scenario_points: expected at least one metric")
    plans = [str(p) for p in metrics[0]["plan"].values]
    scenarios = [str(s) for s in metrics[0]["scenario"].values][::-1]
    n = len(metrics)
    drawn = []
    for k, metric in enumerate(metrics):
        name = f"{metric.attrs.get('metric', '')} {label(str(metric.name))}".strip()
        points = []
        for p, plan in enumerate(plans):
            values = metric.sel(plan=plan).values[::-1].astype(float)
            one = hv.Scatter((scenarios, values), hv.Dimension("scenario"), hv.Dimension("value", label=name))
            points.append(
                one.opts(color=COLOURS[p % 4], marker=MARKERS[p % 4], size=9, tools=["hover"], invert_axes=True, alpha=0.9)
            )
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
    text = f"{caption} Circles: {plans[0]} plan" + "".join(
        f"; {shape}s: {p} plan" for p, shape in zip(plans[1:], MARKERS[1:], strict=False)
    )
    return Figure(in_columns(drawn, n), f"{text}. {provenance(metrics)}".strip(), key=_key(plans))
