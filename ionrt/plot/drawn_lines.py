"""Volume histograms and depth profiles, one colour per ion."""

from __future__ import annotations

from collections.abc import Mapping

import holoviews as hv
import numpy as np
import xarray as xr

from ionrt.plot.style import ION_COLOURS, ION_DASHES, ION_NAMES, Figure, in_columns, label, panel, provenance
from ionrt.quantities import check


def _curve(x: np.ndarray, y: np.ndarray, ion: str, kdim: hv.Dimension, vdim: hv.Dimension) -> hv.Curve:
    good = np.isfinite(y)
    return hv.Curve((x[good].astype(np.float32), y[good].astype(np.float32)), kdim, vdim).opts(
        color=ION_COLOURS.get(ion, "#333333"), line_dash=ION_DASHES.get(ion, "solid"), line_width=2.2, tools=["hover"]
    )


def _key(da: xr.DataArray) -> tuple[tuple[str, str, str], ...]:
    """The lines of the ions; under the figure, where they cover nothing."""
    ions = [str(i) for i in da["ion"].values] if "ion" in da.dims else []
    return tuple((ION_NAMES.get(i, i), ION_COLOURS.get(i, "#333333"), ION_DASHES.get(i, "solid")) for i in ions if i)


def histograms(curves: xr.DataArray, *, columns: int = 3, width: int = 1140, caption: str = "") -> Figure:
    """Cumulative volume histograms of `ionrt.dvh`: one panel per structure, one line per ion.

    Parameters: `curves`, ``volume_fraction`` ([ion,] structure, <quantity>); `columns` panels per row; `width` of the figure
    [pixels]; `caption` first sentence. Structures without volume are left out and named in the caption.
    """
    check(curves, "volume_fraction", dims=("structure",))
    quantity = str(curves.attrs.get("quantity") or curves.dims[-1])
    curves = (curves if "ion" in curves.dims else curves.expand_dims(ion=[""])).compute()
    present = [s for s in curves["structure"].values if bool(np.isfinite(curves.sel(structure=s)).any())]
    absent = [str(s) for s in curves["structure"].values if s not in present]
    n = min(columns, len(present)) or 1
    size = int(width / n) - 95
    used = curves[quantity].where((curves.sel(structure=present) > 0.002).any(["ion", "structure"]))
    reach = 1.05 * float(used.max()) or 1.0
    kdim, vdim = hv.Dimension(quantity, label=label(quantity, curves)), hv.Dimension("volume", label="Volume [%]")
    drawn = []
    for k, structure in enumerate(present):
        lines = [
            _curve(curves[quantity].values, 100 * curves.sel(structure=structure, ion=ion).values, str(ion), kdim, vdim)
            for ion in curves["ion"].values
        ]
        drawn.append(
            hv.Overlay(lines).opts(
                panel(
                    title=str(structure),
                    frame_width=size,
                    frame_height=int(min(0.75 * size, 260)),
                    ylim=(0, 103),
                    xlim=(0, reach),
                    xlabel=label(quantity, curves),
                    ylabel="Volume [%]" if k % n == 0 else "",
                )
            )
        )
    missing = f" Without volume on the grid: {', '.join(absent)}." if absent else ""
    text = f"{caption} Cumulative volume histograms of {label(quantity, curves)} per structure.{missing} {provenance([curves])}"
    return Figure(in_columns(drawn, n), text.strip(), key=_key(curves))


def depth_profiles(
    profiles: Mapping[str, xr.DataArray] | list[xr.DataArray],
    *,
    target: tuple[float, float] | None = None,
    columns: int = 3,
    width: int = 1140,
    caption: str = "",
) -> Figure:
    """Quantities along the beam axis: one panel per quantity, one line per ion, the target shaded.

    Parameters: `profiles`, arrays ([ion,] distance [mm]) of `ionrt.evaluate.depth_profile`; `target` from, to [mm] on the same
    axis; `columns` panels per row; `width` [pixels]; `caption` first sentence.
    """
    arrays = list(profiles.values()) if isinstance(profiles, Mapping) else list(profiles)
    n = min(columns, len(arrays)) or 1
    size = int(width / n) - 95
    kdim, drawn = hv.Dimension("distance", label="Depth in the body [mm]"), []
    for da in arrays:
        da = (da if "ion" in da.dims else da.expand_dims(ion=[""])).compute()
        name = str(da.name)
        vdim = hv.Dimension(name, label=label(name, da))
        lines = [_curve(da["distance"].values, da.sel(ion=i).values, str(i), kdim, vdim) for i in da["ion"].values]
        top = 1.08 * float(np.nanmax(da.values, initial=0.0)) or 1.0
        shade = [hv.VSpan(*target).opts(color="#999999", alpha=0.22, line_alpha=0)] if target else []
        drawn.append(
            hv.Overlay([*shade, *lines]).opts(
                panel(
                    frame_width=size,
                    frame_height=int(min(0.8 * size, 280)),
                    xlabel="Depth in the body [mm]",
                    ylabel=label(name, da),
                    ylim=(0, top),
                    xlim=(float(da["distance"].min()), float(da["distance"].max())),
                )
            )
        )
    shaded = " The target is shaded." if target else ""
    text = f"{caption} {', '.join(label(str(a.name)) for a in arrays)} along the beam through the centre of the target.{shaded}"
    return Figure(in_columns(drawn, n), f"{text} {provenance(arrays)}".strip(), key=_key(arrays[0]))
