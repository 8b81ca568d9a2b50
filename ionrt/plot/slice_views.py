"""A quantity as colour wash on CT with contours, several cases side by side under one colour scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import contourpy
import holoviews as hv
import numpy as np
import xarray as xr

from ionrt.patient.names import is_external, is_target, kinds_of
from ionrt.patient.reading.frames import check_frame
from ionrt.plot.style import (
    COLOUR_BAR,
    COLOURMAPS,
    FONT_SIZES,
    STRUCTURE_COLOURS,
    STRUCTURE_DASHES,
    Figure,
    by_case,
    capital,
    label,
    provenance,
    system_of,
    tidy,
    unit,
)
from ionrt.quantities import QUANTITIES, IonrtError, one_of

PLANES = {"transverse": ("z", "x", "y"), "coronal": ("y", "x", "z"), "sagittal": ("x", "y", "z")}
GREY = (-360.0, 440.0)  # HU, ends of the grey scale
ISODOSES = (50, 80, 95, 107)  # % of the prescription
SIDES = {"x": ("R", "L"), "y": ("A", "P"), "z": ("I", "S")}


def window(ct: xr.DataArray) -> np.ndarray:
    """CT numbers as 8-bit grey."""
    return np.clip((ct.values - GREY[0]) / (GREY[1] - GREY[0]) * 255, 0, 255).astype(np.uint8)


def _cut(da: xr.DataArray, normal: str, at: float, rows: str, columns: str) -> xr.DataArray:
    return da.sel({normal: at}, method="nearest").transpose(..., rows, columns)


def _top(da: xr.DataArray) -> float:
    """Upper end of a colour scale."""
    highest = float(da.quantile(0.998))
    return highest if np.isfinite(highest) and highest > 0 else 1.0


def _box(
    ct: xr.DataArray, cut: xr.DataArray, outline: xr.DataArray, rows: str, columns: str, margin: float = 12.0
) -> dict[str, tuple[float, float]]:
    """Extent of what is shown and of the structures, outlines of the body aside; of the body where nothing is shown."""
    out = {}
    inner = [s for s, kind in kinds_of(outline).items() if not is_external(s, kind)]
    for dim, other in ((rows, columns), (columns, rows)):
        parts = [cut[dim].values[cut.notnull().any([d for d in cut.dims if d != dim]).values]]
        drawn = outline.sel(structure=inner) > 0.5
        parts.append(outline[dim].values[drawn.any(["structure", other]).values])
        if not parts[0].size:
            parts = [ct[dim].values[(ct > -400).any(other).values]]
        where = np.concatenate(parts) if sum(p.size for p in parts) else ct[dim].values
        low, high = float(where.min()) - margin, float(where.max()) + margin
        out[dim] = (max(low, float(ct[dim].min())), min(high, float(ct[dim].max())))
    return out


def _lines(fractions: xr.DataArray, rows: str, columns: str, *levels: float) -> Any:
    """The lines of all levels as one curve with gaps, which is drawn several times faster than one path each."""
    values = np.pad(np.asarray(fractions.values, dtype=float), 1)
    x, y = (np.pad(fractions[d].values, 1, mode="reflect", reflect_type="odd") for d in (columns, rows))
    made = contourpy.contour_generator(x, y, values, line_type="Separate")
    gap = np.full((1, 2), np.nan)
    parts = [part for level in levels for line in made.lines(level) for part in (line, gap)]
    return hv.Curve(np.concatenate(parts[:-1] or [np.empty((0, 2))]), kdims=[columns], vdims=[rows])  # type: ignore[arg-type]


def _contours(structures: xr.DataArray, rows: str, columns: str) -> list[Any]:
    """One curve per structure that the slice meets, all on one dark rim."""
    lines = {i: _lines(one, rows, columns, 0.5) for i, one in enumerate(structures)}
    met = {i: line for i, line in lines.items() if len(line)}
    if not met:
        return []
    gap = np.full((1, 2), np.nan)
    under = np.concatenate([part for line in met.values() for part in (line.array(), gap)])
    rim = hv.Curve(under, kdims=[columns], vdims=[rows]).opts(color="#000000", alpha=0.45, line_width=3.4)
    looks = {i: contour(i) for i in met}
    drawn = (line.opts(color=looks[i][0], line_dash=looks[i][1], line_width=1.8 if i else 2.4) for i, line in met.items())
    return [rim, *drawn]


def _image(da: xr.DataArray, values: np.ndarray, vdim: Any) -> Any:
    """A slice between its outer faces; rows ascend in our grids, images are given from the top."""
    rows, columns = (da[d].values for d in da.dims)
    half_r, half_c = (abs(a[1] - a[0]) / 2 for a in (rows, columns))
    bounds = columns[0] - half_c, rows[0] - half_r, columns[-1] + half_c, rows[-1] + half_r
    return hv.Image(values[::-1], kdims=[str(da.dims[1]), str(da.dims[0])], vdims=[vdim], bounds=bounds)


def slices(
    da: xr.DataArray,
    ct: xr.DataArray,
    structures: xr.DataArray,
    *,
    plane: str = "transverse",
    at: float | None = None,
    limits: tuple[float, float] | None = None,
    floor: float = 0.05,
    where: xr.DataArray | None = None,
    own_scale: bool = False,
    within: bool = False,
    isodoses: float | None = None,
    unreachable: Iterable[str] = (),
    width: int = 1140,
    columns: int = 3,
    caption: str = "",
) -> Figure:
    """One slice of a quantity on CT, one panel per ion or case, one colour scale or own ones, linked axes, cut to the beams.

    Parameters
    ----------
    da : quantity on (z, y, x), or with ``case`` or ``ion`` in front, mm; the CT itself for contours alone.
    ct : CT numbers [HU] on any grid of the same frame.
    structures : fractions (structure, z, y, x), drawn at one half.
    plane : ``transverse``, ``coronal`` or ``sagittal``.
    at : position [mm] of the slice; default the middle of the target (the first structure of its type or name), else of the
        first structure.
    limits : ends of the colour scale [unit of `da`], default 0 to the maximum in the slice.
    floor : values below this share of the upper end are transparent.
    where : mask (.., z, y, x) of voxels to show instead.
    own_scale : a colour scale for each panel, where `limits` are not given.
    within : only inside the body (CT above -400 HU).
    isodoses : value [unit of `da`] of which lines at 50, 80, 95 and 107 % are drawn.
    unreachable : cases that have no plan; they get a panel that says so.
    width : of the whole figure [pixels].
    columns : panels per row.
    caption : first sentence; what is shown, its LET definition and RBE model are added.

    Returns
    -------
    Figure with a HoloViews layout, in radiological orientation: the patient's right is at the left of a transverse slice.

    Raises
    ------
    IonrtError
        A plane or quantity that does not exist, an LET or RBE-weighted dose without its definition.
    """
    normal, across, down = PLANES[one_of(plane, tuple(PLANES), what="plane")]
    name = str(da.name)
    if name not in QUANTITIES:
        raise IonrtError(f"slices: {name!r} is not a known quantity; rename it to one of {', '.join(COLOURMAPS)}")
    check_frame(ct, da, what="slices: the dose", quiet=True)
    at = _middle(structures, normal) if at is None else at
    cut, grey, outline = (_cut(one, normal, at, down, across).compute() for one in (da, ct, structures))
    place = float(cut[normal])
    cut = by_case(cut)
    if name == "ct":
        limits = limits or GREY
    else:
        shown = by_case(_cut(where, normal, at, down, across)) if where is not None else cut >= floor * float(cut.max())
        cut = cut.where(shown)
    if within:
        cut = cut.where(grey.interp({d: cut[d] for d in (down, across)}, method="nearest") > -400.0)
    box = _box(grey, cut, outline, down, across)
    cut, grey = (one.sel({d: slice(*v) for d, v in box.items()}) for one in (cut, grey))
    each = own_scale and limits is None
    shared = limits or (0.0, _top(cut))
    absent = [str(i) for i in unreachable]
    lines = f" Lines: {', '.join(map(str, ISODOSES))} % of {isodoses:g} {unit(name, da)}." if isodoses else ""
    text = f"{caption} {_what(cut, each, plane, place)}{lines} {provenance([cut if cut['case'].values[0] else da, ct])}"
    cut = cut.reindex(case=[*cut["case"].values, *absent]) if absent else cut
    n = min(columns, cut.sizes["case"])
    frame = min(int((width - 150) / n) - (84 if each else 14), 420)
    size = (frame, int(frame * (box[down][1] - box[down][0]) / (box[across][1] - box[across][0])))
    panels = []
    for k, case in enumerate(str(i) for i in cut["case"].values):
        title = ", ".join(filter(None, (capital(case), system_of(da, case))))
        title = f"{capital(case)}: does not reach" if case in absent else title
        one = cut.sel(case=case)
        scale = (0.0, _top(one)) if each else shared
        over = []
        if isodoses:
            thin = _lines(one.fillna(0.0), down, across, *(0.01 * share * isodoses for share in ISODOSES))
            over = [thin.opts(color="#FFFFFF", line_width=0.9, line_dash="3 2")]
        panels.append(_panel(one, title, grey, outline, scale, box, size, k % n == 0, each or k % n == n - 1, over))
    layout = hv.Layout(panels).cols(n).opts(hv.opts.Layout(shared_axes=True, toolbar="right", merge_tools=True))
    return Figure(layout, text.strip(), key=_key(outline))


def _what(cut: xr.DataArray, each: bool, plane: str, at: float) -> str:
    normal = PLANES[plane][0]
    if cut.name == "ct":
        return f"{label('ct')} with contours, {plane} slice at {normal} = {at:.0f} mm."
    scale = "each panel on a colour scale of its own" if each else "one colour scale"
    return f"{label(str(cut.name), cut)} as colour wash on CT, {plane} slice at {normal} = {at:.0f} mm, {scale}."


def target_first(kinds: Mapping[str, str]) -> list[str]:
    """Structures (name to type), target volumes in front, outlines of the body last."""
    return sorted(kinds, key=lambda n: (not is_target(n, kinds[n]), is_external(n, kinds[n])))


def _middle(structures: xr.DataArray, normal: str) -> float:
    """Centre along one axis of the target, else of the first structure; of the grid where it is empty."""
    if not (named := target_first(kinds_of(structures))):
        return float(structures[normal].mean())
    first = structures.sel(structure=named[0])
    profile = first.sum([d for d in first.dims if d != normal]).compute()
    total = float(profile.sum())
    return float((profile * profile[normal]).sum()) / total if total else float(structures[normal].mean())


def _key(outline: xr.DataArray) -> tuple[tuple[str, str, str], ...]:
    names = [str(s) for s in outline["structure"].values]
    met = [float(outline.sel(structure=s).max()) > 0.5 for s in names]
    return tuple((s, *contour(i)) for i, s in enumerate(names) if met[i])


def contour(i: int, colours: Sequence[str] = STRUCTURE_COLOURS) -> tuple[str, str]:
    """Colour and dash of the structure number i; after the eighth the colours begin again, each with another dash."""
    n = len(colours)
    return colours[i % n], STRUCTURE_DASHES[(i + i // n) % n]


def _panel(one, title, grey, outline, limits, box, size, first, last, over=()):
    """CT, wash, contours and orientation letters of one ion."""
    down, across = one.dims
    frame, height = size
    wash = one.values.astype(np.float32)
    name = str(one.name)
    value = hv.Dimension(name, label=label(name, one), range=limits)
    base = _image(grey, window(grey), "CT").opts(cmap="gray", clim=(0, 255), tools=[])
    colour = _image(one, wash, value).opts(
        cmap=COLOURMAPS.get(name, "viridis"),
        clim=limits,
        alpha=1.0 if name == "ct" else 0.72,
        clipping_colors={"NaN": "transparent"},
        tools=["hover"],
    )
    if last:
        colour = colour.opts(
            colorbar=True,
            clabel=unit(name) or label(name, one),
            colorbar_opts=COLOUR_BAR,
        )
    letters = _letters(across, down, box)
    flip = {"invert_yaxis": down == "y"}
    return hv.Overlay([base, colour, *over, *_contours(outline, down, across), letters]).opts(
        hv.opts.Overlay(
            title=title,
            frame_width=frame,
            frame_height=height,
            xlim=box[across],
            ylim=box[down],
            xlabel=f"{across} [mm]",
            ylabel=f"{down} [mm]" if first else "",
            yaxis="left" if first else None,
            default_tools=["box_zoom", "reset"],
            xticks=5,
            yticks=5,
            fontsize=FONT_SIZES,
            hooks=[tidy],
            bgcolor="#000000",
            **flip,
        )
    )


def _letters(across: str, down: str, box: dict[str, tuple[float, float]]) -> Any:
    """R/L, A/P, S/I at the edges of the slice."""
    (left, right), (low, high) = box[across], box[down]
    x_mid, y_mid, dx, dy = (left + right) / 2, (low + high) / 2, 0.045 * (right - left), 0.06 * (high - low)
    points = [
        (left + dx, y_mid, SIDES[across][0]),
        (right - dx, y_mid, SIDES[across][1]),
        (x_mid, low + dy, SIDES[down][0]),
        (x_mid, high - dy, SIDES[down][1]),
    ]
    return hv.Labels(points, kdims=[across, down], vdims="text").opts(
        text_color="#FFFFFF",
        text_font_size="9pt",
        text_font_style="bold",
        background_fill_color="#222222",
        background_fill_alpha=0.7,
    )
