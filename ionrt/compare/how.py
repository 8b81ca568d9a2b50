"""What plans rest on, in words, so that they can be made again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr

from ionrt import plan
from ionrt.quantities import QUANTITIES


def how_made(plans: Iterable[plan.Plan], base: Mapping[str, xr.Dataset], spr: xr.DataArray, iterations: int) -> dict[str, str]:
    """What plans rest on, so that they can be made again: calibration, room, spots, base data, optimiser."""
    plans = list(plans)
    beams, wanted = [b for p in plans for b in p.beams], plans[0]
    rooms = {b.room.name: b.room for b in beams}
    ions = tuple(dict.fromkeys(b.ion for b in beams))
    table, digest = spr.attrs.get("calibration", "given with the patient"), spr.attrs.get("calibration_hash", "")
    spots = "default of the ion" if wanted.spot_spacing is None else f"{wanted.spot_spacing:g} mm"
    keys = {i: str(base[i].attrs.get("content_key", "own")) for i in ions if i in base}
    return {
        "HU to stopping power": f"table {table}{f', hash {digest[:12]}' if digest else ''}",
        "room": "; ".join(_room_in_words(room, ions) for room in rooms.values()),
        "spots": f"spacing {spots}, {wanted.margin:.3g} mm beyond the target",
        "objectives, per fraction": _objectives_in_words(o for p in plans for o in p.objectives or ()),
        "optimiser": f"{iterations} iterations at most",
        "base data": "; ".join(f"{i}: {key}" for i, key in keys.items()),
    }


def _room_in_words(room: plan.Room, ions: Iterable[str]) -> str:
    offered = dict(room.energies)
    energies = ", ".join(f"{i} {offered[i][0]:g} to {offered[i][1]:g} MeV/u" for i in ions if i in offered)
    optics = f"optics {room.optics_sigma:g} mm, window {room.window_thickness:g} mm of water at {room.window_distance:g} mm"
    return f"{room.name}: {energies}; {optics}; sources at {room.source_distance[0]:g} and {room.source_distance[1]:g} mm"


def _objectives_in_words(objectives: Iterable[Any]) -> str:
    """Structure by structure: ``CTV RBE-weighted dose [Gy (RBE)] = 3.6 (weight 100), ≥ 3.6 (weight 300)``."""
    said: dict[str, list[str]] = {}
    for one in objectives:
        quantity = QUANTITIES[one.quantity]
        above = "" if one.let_threshold is None else f" above {one.let_threshold:g} keV/µm"
        name = f"{one.structure} {quantity.long_name}{above} [{quantity.unit.replace('um', 'µm')}]"
        said.setdefault(name, []).append(f"{_wish(one)} (weight {one.weight:g}{_counts(one)})")
    return "; ".join(f"{name} {', '.join(dict.fromkeys(wishes))}" for name, wishes in said.items())


def _wish(one: Any) -> str:
    sign = {-1.0: "≥", 0.0: "=", 1.0: "≤"}[one.side]
    if isinstance(one, plan.MeanDose):
        return f"mean ≤ {one.level:.3g}"
    if isinstance(one, plan.GEUD):
        return f"gEUD (a = {one.exponent:g}) {'≤' if one.exponent > 0.0 else '≥'} {one.level:.3g}"
    if isinstance(one, plan.DoseVolume):
        return f"{one.level:.3g} in at {'most' if one.upper else 'least'} {100.0 * one.volume:g} % of it"
    return f"{sign} {one.level:.3g}" if hasattr(one, "level") else type(one).__name__


def _counts(one: Any) -> str:
    """How it counts beside its weight; nothing for a wish in the nominal plan."""
    return "".join([", a limit" if one.hard else "", "" if one.robust == "nominal" else f", {one.robust.replace('_', '-')}"])
