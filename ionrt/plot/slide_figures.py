"""Figures that a slider goes through, without Python: in JupyterLab, in a report, offline."""

from __future__ import annotations

import html
import json
import uuid
from collections.abc import Mapping

from ionrt.plot.style import Figure
from ionrt.plot.tables import Html
from ionrt.quantities import IonrtError

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
