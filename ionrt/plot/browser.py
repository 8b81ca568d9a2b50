"""Looking through a report without Python, offline: a result in three planes with sliders, one of several figures at a time."""

from __future__ import annotations

import base64
import gzip
import html
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ionrt.plot.explorer import scene_of
from ionrt.plot.scene import GRID, Scene
from ionrt.plot.slice_views import GREY, ISODOSES, SIDES, contour, target_first
from ionrt.plot.slice_views import window as grey_of
from ionrt.plot.style import COLOURMAPS, Figure, label, provenance, unit, whole_palette
from ionrt.plot.tables import Html
from ionrt.quantities import IonrtError

STRUCTURES, STEPS = 8, 255  # drawn at most, one bit each; levels of a map above zero
CASES = 12  # more would make a page that nobody can send


def browse(
    result: Any,
    patient: xr.Dataset | None = None,
    *,
    quantities: Iterable[str] = ("rbe_dose", "let_d"),
    structures: Iterable[str] = (),
    model: str = "nirs_mkm",
    prescription: float | None = None,
    caption: str = "",
) -> Figure:
    """Slices through a result in a report: three planes with a slider each, cross-hair, values of all cases under it, isodoses,
    structures, and the difference of two cases; plain canvas, no network, no Python.

    Parameters
    ----------
    result, patient, model, prescription : as in `explore`; cut to where there is dose or a structure.
    quantities : of ``rbe_dose``, ``dose``, ``let_d``, ``rbe``.
    structures : names, at most eight, default the targets and what follows.
    caption : first sentence.

    Returns
    -------
    Figure. A map is held in 255 steps of its scale, so a value under the cross-hair is right to 0.2 % of the scale's end; CT
    to 2 HU within the grey scale.

    Raises
    ------
    IonrtError
        As of `explore`, and for more than twelve cases.
    """
    scene = scene_of(result, patient, model, prescription)
    if len(scene.fields) > CASES:
        raise IonrtError(f"browse: expected at most {CASES} cases, got {len(scene.fields)}; take a part of them")
    names = list(structures) or [n for n in target_first(scene.kinds) if _inner(scene, n)]
    names = names[:STRUCTURES]
    box = _box(scene, names)
    volumes, about = _volumes(scene, list(quantities), names, box)
    place = f"browse-{uuid.uuid4().hex}"
    said = json.dumps(about | {"volumes": volumes}).replace("</", "<\\/")
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").replace("ABOUT", said).replace("PLACE", place)
    words = f"{caption} Slices through {', '.join(scene.fields)}: click or slide. Lines: structures and isodoses of"
    words += (
        f" {', '.join(map(str, ISODOSES))} % of {scene.prescription:g} {unit('rbe_dose', _about(scene))}. Doses per fraction."
    )
    text = f"{words} {_provenance(scene, getattr(result, 'patient', patient))}"
    frame = f"<div id='{place}' class='browse' role='group' aria-label='{html.escape(text, quote=True)}'></div>"
    return Figure(Html(f"{frame}<script>{script}</script>", "slices"), " ".join(text.split()), key=_key(names))


def _inner(scene: Scene, name: str) -> bool:
    return bool(0 < np.count_nonzero(scene.structures[name]) < 0.2 * scene.structures[name].size)


def _key(names: list[str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((n, *contour(i)) for i, n in enumerate(names))


def _provenance(scene: Scene, patient: xr.Dataset | None) -> str:
    """Whose patient, LET definition and dose system of each case."""
    who = {m: [c for c in scene.fields if scene.planned[c] == m] for m in dict.fromkeys(scene.planned.values())}
    about = {"rbe_model": "; ".join(f"{m} ({', '.join(cases)})" if len(who) > 1 else m for m, cases in who.items())}
    if patient is not None and "synthetic" in patient.attrs:
        about["synthetic"] = patient.attrs["synthetic"]
    let = next((f["let_x_dose"].attrs.get("let_definition") for f in scene.fields.values() if "let_x_dose" in f), None)
    return provenance([xr.DataArray(0.0, name="let_d", attrs=about | ({"let_definition": let} if let else {}))])


def _box(scene: Scene, names: list[str]) -> tuple[slice, ...]:
    """Where any case has a fiftieth of the prescription, or a structure is."""
    used = np.any([f["dose"].values > 0.02 * scene.prescription for f in scene.fields.values()], axis=0)
    used = np.any([used, *(scene.structures[n] > 0.5 for n in names)], axis=0)
    if not used.any():
        raise IonrtError("browse: no dose and no structure to show")
    along = [np.flatnonzero(used.any(axis=tuple(k for k in range(3) if k != i))) for i in range(3)]
    return tuple(slice(max(int(a[0]) - 4, 0), int(a[-1]) + 5) for a in along)


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(np.ascontiguousarray(values).tobytes(), 9, mtime=0)).decode()


def _volumes(scene: Scene, quantities: list[str], names: list[str], box: tuple[slice, ...]) -> tuple[dict, dict]:
    """What the page draws, each as bytes of one grid, and what it must know of them."""
    where = dict(zip(GRID, box, strict=True))
    axes = {d: scene.axes[d][where[d]] for d in GRID}
    packed, scales = {}, {}
    for case in scene.fields:
        for quantity in [q for q in quantities if q != "let_d" or "let_x_dose" in scene.fields[case]]:
            values = np.nan_to_num(scene.value(case, quantity, where))
            top = float(values.max()) or 1.0
            packed[f"{case}|{quantity}"] = _packed(np.rint(values / top * STEPS).astype(np.uint8))
            scales[f"{case}|{quantity}"] = top
    inside = sum((scene.structures[n][box] > 0.5).astype(np.uint8) << i for i, n in enumerate(names))
    packed["structures"] = _packed(np.broadcast_to(np.asarray(inside, np.uint8), [axes[d].size for d in GRID]))
    if scene.ct is not None:
        packed["ct"] = _packed(grey_of(xr.DataArray(scene.ct[box])))
    targets = np.flatnonzero(np.asarray(inside) & 1) if names else np.empty(0, int)
    shape = [axes[d].size for d in GRID]
    start = np.unravel_index(int(targets[targets.size // 2]), shape) if targets.size else [n // 2 for n in shape]
    shown = dict.fromkeys(k.split("|")[1] for k in scales)
    about = {
        "cases": list(scene.fields),
        "quantities": {q: label(q, _about(scene)) for q in shown},
        "units": {q: unit(q) for q in shown},
        "axes": {d: [float(a[0]), float(a[1] - a[0]) if a.size > 1 else 1.0, int(a.size)] for d, a in axes.items()},
        "start": dict(zip(GRID, map(int, start), strict=True)),
        "scales": scales,
        "palettes": {q: whole_palette(COLOURMAPS.get(q, "viridis")) for q in shown} | {"less": whole_palette("coolwarm")},
        "structures": names,
        "contours": [[colour, [] if dash == "solid" else [*map(int, dash.split())]] for _, colour, dash in _key(names)],
        "isodoses": [0.01 * share * scene.prescription for share in ISODOSES],
        "grey": list(GREY),
        "sides": {d: list(s) for d, s in SIDES.items()},
    }
    return packed, about


def _about(scene: Scene) -> xr.DataArray:
    return xr.DataArray(0.0, attrs={"rbe_model": "; ".join(dict.fromkeys(scene.planned.values()))})


_SCRIPT = """(function show() {
  const box = document.getElementById("PLACE"), items = ITEMS, names = NAMES;
  if (!box || !(window.Bokeh && Bokeh.embed)) return setTimeout(show, 50);
  const [slider, words] = [box.querySelector("input"), box.querySelector("output")];
  const places = [...box.querySelectorAll(".plot")], drawn = new Set();
  const turn = () => {
    const at = +slider.value;
    places.forEach((place, k) => { place.style.display = k === at ? "" : "none"; });
    words.textContent = names[at];
    if (!drawn.has(at)) { drawn.add(at); Bokeh.embed.embed_item(items[at]); }
  };
  slider.oninput = turn;
  turn();
})();"""


def slide(figures: Mapping[str, Figure], *, over: str, start: str | None = None) -> Figure:
    """One of several figures at a time, chosen by a slider below which its name stands; on paper the one last shown.

    Parameters
    ----------
    figures : name of each position, with unit, and its figure; the same axes in all of them show what moves.
    over : what the slider changes, for screen readers and the caption.
    start : name of the figure shown first, default the first.

    Returns
    -------
    Figure with the key and the caption of the first one.

    Raises
    ------
    IonrtError for no figure, a table, a `start` that is none of the names.
    """
    names = list(figures)
    if not names or (start is not None and start not in names):
        raise IonrtError(f"slide: expected figures by name, one of them {start!r}, got {', '.join(names) or 'none'}")
    at = names.index(start) if start is not None else 0
    first, place = figures[names[0]], f"slide-{uuid.uuid4().hex}"
    items = [figure.item(f"{place}-{k}") for k, figure in enumerate(figures.values())]
    script = _SCRIPT.replace("PLACE", place).replace("NAMES", json.dumps(names)).replace("ITEMS", f"[{', '.join(items)}]")
    said = [html.escape(f"{name}. {first.caption}", quote=True) for name in names]
    plots = "".join(f"<div id='{place}-{k}' class='plot' role='img' aria-label='{text}'></div>" for k, text in enumerate(said))
    label = html.escape(over, quote=True)
    control = f"<input type='range' min='0' max='{len(names) - 1}' value='{at}' style='width:24em;vertical-align:middle'"
    body = f"<p>{label} {control} aria-label='{label}'> <output style='font-weight:600;white-space:nowrap'></output></p>{plots}"
    text = f"{first.caption} Slider: {over}, {names[0]} to {names[-1]}.".strip()
    return Figure(Html(f"<div id='{place}'>{body}</div><script>{script}</script>", "figures"), text, key=first.key)
