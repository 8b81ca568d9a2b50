"""Figures for plans of several ions and for rooms: trade-offs, spots per ion, reach, directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from ionrt.ions import in_words
from ionrt.plot.style import COLOUR_BAR, LOOK, MARKERS, PANEL_COLOURS, Figure, capital, in_columns, label, looks, panel, sized
from ionrt.quantities import IonrtError

NAMES = {
    "direction_score": "Score (lower is better)",
    "range_error": "Range error [mm]",
    "wepl_proximal": "Near edge [mm water]",
}
TURN = "Gantry angle [°]"
TABLE = "Couch angle [°]"


def trade_offs(
    table: pd.DataFrame, *, against: str, along: Sequence[str], columns: int = 3, width: int = 1140, caption: str = ""
) -> Figure:
    """One column of a table against others: a panel per other column, a marker per row (case).

    Parameters
    ----------
    table : cases as rows, e.g. `Comparison.numbers`, units in the names of columns.
    against : column up.
    along : columns across, one panel each.
    columns, width, caption : panels per row; of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per column of `along`.

    Raises
    ------
    IonrtError
        A column that the table does not have.
    """
    missing = [c for c in (against, *along) if c not in table.columns]
    if missing:
        raise IonrtError(f"trade_offs: no column {missing[0]!r}; the table has {', '.join(map(str, table.columns))}")
    n, drawn = min(columns, len(along)), []
    marks = {name: (look[0], MARKERS[i % len(MARKERS)]) for i, (name, look) in enumerate(looks(map(str, table.index)).items())}
    shown = table[np.isfinite(table[against].astype(float))]
    for k, column in enumerate(along):
        points = [
            hv.Points([(row[column], row[against])], kdims=["across", "up"]).opts(
                color=marks[str(name)][0], marker=marks[str(name)][1], size=13, line_color="#222222", alpha=0.9
            )
            for name, row in shown.iterrows()
        ]
        drawn.append(
            hv.Overlay(points).opts(
                panel(
                    xlabel=column,
                    ylabel=against if k % n == 0 else "",
                    xlim=_limits(shown[column]),
                    ylim=_limits(shown[against]),
                    **sized(width, n, ratio=0.8, most=300),
                )
            )
        )
    key = tuple((str(name), *marks[str(name)]) for name in shown.index)
    return Figure(in_columns(drawn, n), caption, key=key)


def spot_weights(weights: xr.DataArray, *, beam: int = 0, width: int = 1140, caption: str = "") -> Figure:
    """Where the particles of each ion go: energies summed, in the isocentre plane of one direction.

    Parameters
    ----------
    weights : (spot) of `ionrt.optimise`.
    beam : which direction, in the order of the plan.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per ion, in 10^6 particles.
    """
    frame = pd.DataFrame({k: weights[k].values for k in ("beam", "beam_index", "ion", "u", "v")} | {"n": weights.values})
    directions = list(dict.fromkeys(name.split(" ", 1)[1] for name in frame["beam"]))
    here = frame[[name.split(" ", 1)[1] == directions[beam] for name in frame["beam"]]]
    rays = here.groupby(["ion", "u", "v"], sort=False)["n"].sum().reset_index()
    ions = list(dict.fromkeys(here["ion"]))
    shown = {capital(ion): rays[rays["ion"] == ion].assign(n=lambda r: r["n"] / 1e6) for ion in ions}
    drawn = _rays(shown, width, clabel="10⁶ particles", cmap="viridis")
    text = f"{caption} Particles per ray and fraction, energies summed, beam's eye view of {directions[beam]}°."
    return Figure(in_columns(drawn, max(len(ions), 1)), text.strip())


def depth_views(change: xr.Dataset, *, width: int = 1140, caption: str = "") -> Figure:
    """Change of the water-equivalent depth of the target's far edge, ray by ray, as each beam sees it.

    Parameters
    ----------
    change : Dataset of `ionrt.adapt.depth.depth_change`.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per beam in the isocentre plane, in mm, one scale with 0 in its middle.
    """
    beams = [str(b) for b in change["beam"].values]
    tables = {b: change["wepl_change"].sel(beam=b, drop=True).to_dataframe("n").reset_index().dropna() for b in beams}
    most = max(1.0, float(np.ceil(abs(change["wepl_change"]).max())))
    drawn = _rays(tables, width, clabel="mm", cmap="cividis", clim=(-most, most))
    what = (
        "Change of the water-equivalent depth of the target's far edge [mm], ray by ray in the isocentre plane, that day "
        "less planned:"
        " bright, deeper than planned; dark, shallower."
    )
    text = f"{caption} {what}"
    return Figure(in_columns(drawn, max(len(beams), 1)), text.strip())


def _rays(tables: Mapping[str, pd.DataFrame], width: int, **colours: object) -> list:
    """A panel per table of rays (u, v, n)."""
    every = pd.concat(tables.values())
    size = min(int(width / max(len(tables), 2)) - 120, 330)
    limits = _limits(every["u"], left=0.06, right=0.06), _limits(every["v"], left=0.06, right=0.06)
    return [
        hv.Points(one, kdims=["u", "v"], vdims=["n"]).opts(
            color="n",
            marker="square",
            size=_marker(one, size),
            colorbar=True,
            tools=["hover"],
            colorbar_opts=COLOUR_BAR,
            frame_width=size,
            frame_height=size,
            title=title,
            xlabel="u [mm]",
            ylabel="v [mm]" if k == 0 else "",
            xlim=limits[0],
            ylim=limits[1],
            **colours,
            **LOOK,
        )
        for k, (title, one) in enumerate(tables.items())
    ]


def reach_curves(*maps: xr.Dataset, width: int = 1140, caption: str = "") -> Figure:
    """By how much each ion reaches beyond the target, along the one angle that a room turns; below zero it does not.

    Parameters
    ----------
    maps : Datasets of `ionrt.plan.reach`, margins in mm, one panel each, in which gantry or couch has one value.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per room, margins in mm.

    Raises
    ------
    IonrtError
        Gantry and couch both vary.
    """
    n = len(maps)
    drawn: list = []
    frame = {"frame_width": min(sized(width, n)["frame_width"], 460), "frame_height": 300}
    low, high = _margins(maps)
    look = looks(str(i) for m in maps for i in m["ion"].values)
    for found in maps:
        turning = "gantry" if found.sizes["gantry"] > 1 else "couch"
        if min(found.sizes["gantry"], found.sizes["couch"]) > 1:
            raise IonrtError("reach_curves: gantry and couch both vary; select one value of either first")
        margin = found["reach_margin"].squeeze([d for d in ("gantry", "couch") if d != turning])
        lines = [
            hv.Curve((margin[turning].values, margin.sel(ion=i).values)).opts(
                color=look[str(i)][0], line_dash=look[str(i)][1], line_width=2.2, tools=["hover"]
            )
            for i in margin["ion"].values
        ]
        known = np.pad(np.isfinite(margin.transpose("ion", turning).values), ((0, 0), (1, 1)))
        alone = known[:, 1:-1] & ~known[:, :-2] & ~known[:, 2:]  # no line runs through them
        dots = [
            hv.Points((margin[turning].values[one], margin.sel(ion=i).values[one])).opts(color=look[str(i)][0], size=4)
            for i, one in zip(margin["ion"].values, alone, strict=True)
        ]
        floor = hv.HLine(0.0).opts(color="#222222", line_width=1.2)
        drawn.append(
            hv.Overlay([floor, *lines, *dots]).opts(
                panel(
                    **frame,
                    title=str(found.attrs.get("room", "")),
                    xlabel=TURN if turning == "gantry" else TABLE,
                    ylabel="Reach beyond the far edge [mm water]" if not drawn else "",
                    xlim=(0, 360),
                    ylim=(low, high),
                    xticks=[0, 90, 180, 270, 360],
                )
            )
        )
    key = tuple((in_words(i), *one) for i, one in look.items())
    what = "Deepest Bragg peak less the water-equivalent depth of the target's far edge; gaps: the CT ends before the patient."
    text = f"{caption} {what}"
    return Figure(in_columns(drawn, n), text.strip(), key=key)


def directions(
    swept: xr.Dataset,
    *,
    quantities: Sequence[str] = ("direction_score", "range_error", "wepl_proximal"),
    width: int = 1140,
    caption: str = "",
) -> Figure:
    """What a sweep found, against the angle that each room turns: one panel per quantity, rooms by colour.

    Parameters
    ----------
    swept : of `ionrt.plan.sweep`.
    quantities : its variables along ``direction``.
    width, caption : of the figure [pixels]; first sentence.

    Returns
    -------
    Figure, a panel per quantity.
    """
    n, drawn = len(quantities), []
    rooms = list(dict.fromkeys(swept["room"].values.tolist()))
    turns = {r: "gantry" if len(np.unique(swept["gantry"].values[swept["room"].values == r])) > 1 else "couch" for r in rooms}
    for name in quantities:
        da = swept[name].where(np.isfinite(swept["direction_score"]))
        parts = []
        for k, room in enumerate(rooms):
            mine = da[swept["room"].values == room]
            order = np.argsort(mine[turns[room]].values)
            x, y = mine[turns[room]].values[order], mine.values[order]
            colour, marker = _colour(k + 1), MARKERS[k]
            parts += [
                hv.Curve((x, y)).opts(color=colour, line_width=1.6),
                hv.Points((x, y)).opts(color=colour, marker=marker, size=6, tools=["hover"]),
            ]
        drawn.append(
            hv.Overlay(parts).opts(
                panel(
                    **sized(width, n, ratio=0.8, most=280),
                    xlabel="Gantry or couch angle [°]",
                    ylabel=NAMES.get(name, label(name)),
                    xlim=(-5, 365),
                    xticks=[0, 90, 180, 270, 360],
                    ylim=_limits(da.to_series()),
                )
            )
        )
    key = tuple((f"{room} ({turns[room]} turns)", _colour(k + 1), MARKERS[k]) for k, room in enumerate(rooms))
    return Figure(in_columns(drawn, n), caption, key=key)


def _margins(maps: Sequence[xr.Dataset]) -> tuple[float, float]:
    """Common ends of the axis, in steps of 20 mm."""
    values = np.concatenate([m["reach_margin"].values.ravel() for m in maps])
    values = values[np.isfinite(values)]
    return (20.0 * np.floor(values.min() / 20.0 - 0.2), 20.0 * np.ceil(values.max() / 20.0)) if values.size else (-20.0, 20.0)


def _limits(values: pd.Series, *, left: float = 0.12, right: float = 0.12) -> tuple[float, float]:
    """Ends of an axis with room at both sides."""
    low, high = float(values.min()), float(values.max())
    span = _span(values)
    return low - left * span, high + right * span


def _span(values: pd.Series) -> float:
    low, high = float(values.min()), float(values.max())
    return (high - low) or max(abs(high), 1.0) * 0.1


def _marker(rays: pd.DataFrame, frame: int) -> float:
    """Size of a square [pixels] that fills the ray's cell."""
    u = np.unique(rays["u"])
    step = float(np.diff(u).min()) if u.size > 1 else 5.0
    return float(np.clip(0.9 * frame * step / (1.12 * _span(rays["u"])), 3.0, 30.0))


def _colour(i: int) -> str:
    return PANEL_COLOURS[i % len(PANEL_COLOURS)]
