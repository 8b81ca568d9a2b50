"""The look of all figures, and the caption that goes with each."""

from __future__ import annotations

import gc
import html
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh  # registers the backend, so that figures can be built before setup()
import numpy as np
import xarray as xr
from bokeh.core.types import ID
from bokeh.embed import json_item

from ionrt.ions import ION_NAMES, in_words
from ionrt.lazy import light
from ionrt.plot.picture import glyph, save
from ionrt.quantities import (
    LET_LABELS,
    QUANTITIES,
    RBE_MODELS,
    WHOLE_DOSE,
    IonrtError,
    codes_in_words,
    defined,
    system_in_words,
)

hv.Store.set_current_backend("bokeh")

# Okabe-Ito colours, oxygen and neon darker so that both stand out on white (4.4 and 3.9 to 1); in grey the dash tells.
ION_COLOURS = {"p": "#0072B2", "He": "#009E73", "C": "#D55E00", "O": "#B8588C", "Ne": "#A87900"}
ION_DASHES = {"p": "solid", "He": "6 3", "C": "14 3", "O": "2 3 6 3", "Ne": "2 3"}
LINE_DASHES = ("solid", "dashed", "dotdash", "dotted", "14 4", "14 4 2 4", "8 3 2 3 2 3", "4 2")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "cross")
STRUCTURE_COLOURS = ("#FFFFFF", "#F0E442", "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#999999")
STRUCTURE_DASHES = ("solid", "12 4", "5 4", "14 4 3 4", "9 3 2 3 2 3", "22 5", "6 3 6 9", "2 4")  # tell in grey
PANEL_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
BARS = ("#0072B2", "#E69F00", "#F0E442", "#56B4E9", "#D55E00", "#FFFFFF")  # with a dark rim; the first three part in grey
ELEMENTS = {  # colour and dash of those that are no ions of ours; the dash tells in grey
    "hydrogen": (ION_COLOURS["p"], "1 3"), "lithium": ("#56B4E9", "9 9"), "beryllium": ("#E69F00", "9 3 1 3 1 3"),
    "boron": ("#999999", "3 8"), "nitrogen": ("#4B0082", "12 3 3 3"), "fluorine": ("#CC79A7", "1 2 1 2 1 8"),
}  # fmt: skip
SHADE: dict[str, Any] = {"color": "#999999", "alpha": 0.22, "line_alpha": 0}
COLOUR_BAR = {"width": 12, "padding": 6, "title_standoff": 10, "title_text_font_style": "normal"}
COLOURMAPS = {"dose": "inferno", "rbe_dose": "inferno", "let_d": "viridis", "rbe": "cividis", "ct": "gray"}
SYMBOLS = {
    "rbe_dose": "RBE-weighted dose",
    "let_d": "LETd",
    "let_t": "LETt",
    "rbe": "RBE",
    "volume_fraction": "volume",
}
LET_MODELS = ("mcnamara", "wedenberg", "carabe", "mairani_helium")
FONT = "Helvetica, Arial, sans-serif"
FONT_SIZES = {
    "title": "12pt",
    "labels": "11pt",
    "xticks": "10pt",
    "yticks": "10pt",
    "legend": "10pt",
    "clabel": "11pt",
    "cticks": "10pt",
}


def setup() -> None:
    """Load HoloViews with all its JavaScript inside the page, so that plots show without a network."""
    with light():
        hv.extension("bokeh", inline=True, logo=False)
    if not gc.get_freeze_count():
        gc.freeze()  # modules stay: looked through no more, a second less where the kernel ends


def unit(name: str, of: xr.DataArray | None = None) -> str:
    """Unit of a quantity as it is printed, Gy (RBE) with the dose system that `of` states; empty for a pure number."""
    plain = QUANTITIES[name].unit.replace("um", "µm") if QUANTITIES[name].unit != "1" else ""
    system = "" if of is None else str(of.attrs.get("rbe_model") or "")
    return plain.replace("(RBE)", f"(RBE; {system_in_words(system)})") if system else plain


def system_of(da: xr.DataArray, case: str) -> str:
    """Dose system of one case of an RBE-weighted dose, short enough for the head of a panel; empty for other quantities."""
    for part in str(da.attrs.get("rbe_model") or "").split("; ") if da.name == "rbe_dose" else ():
        model, _, who = part.partition(" (")
        if not who or case in who.rstrip(")").split(", "):
            return system_in_words(model)
    return ""


def label(name: str, of: xr.DataArray | None = None) -> str:
    """Axis label of a quantity with its unit; the ratio of a clinical dose to physical dose is a clinical factor, no RBE."""
    text = SYMBOLS.get(name, QUANTITIES[name].long_name)
    if name == "rbe" and of is not None and "nirs_mkm" in (model := str(of.attrs.get("rbe_model", ""))):
        text = "RBE-weighted over physical dose" if ";" in model else "clinical factor"
    text = text[0].upper() + text[1:]
    return f"{text} [{unit(name, of)}]" if unit(name) else text


def looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and dash of each name, the same everywhere for an ion or element, in order of appearance for others."""
    names, symbols = list(dict.fromkeys(names)), {word: ion for ion, word in ION_NAMES.items()}
    found = {n: ELEMENTS[n] for n in names if n in ELEMENTS}
    found |= {n: (ION_COLOURS[ion], ION_DASHES[ion]) for n in names if (ion := symbols.get(n, n)) in ION_COLOURS}
    taken = {colour for colour, _ in found.values()}
    spare, n = [c for c in PANEL_COLOURS if c not in taken], len(LINE_DASHES)  # black is in no element: one always is
    for i, name in enumerate(n for n in names if n not in found):
        found[name] = (spare[i % len(spare)], LINE_DASHES[(i + (i // len(spare)) * (len(spare) == n)) % n])
    return {n: found[n] for n in names}


def by_case(da: xr.DataArray) -> xr.DataArray:
    """With the dimension ``case``: that of a comparison, of ions, or of nothing."""
    if "case" in da.dims:
        return da
    return da.rename(ion="case") if "ion" in da.dims else da.expand_dims(case=[""])


def capital(name: str) -> str:
    """A name at the head of a panel: of an ion its word."""
    return in_words(name)[:1].upper() + in_words(name)[1:] if name in ION_NAMES else name


def sized(width: int, columns: int, *, ratio: float = 0.75, most: int = 290, beside: int = 95) -> dict[str, int]:
    """Size of the frame of one of `columns` panels in a figure of `width` pixels, `beside` of them for axis and labels."""
    size = int(width / columns) - beside
    return {"frame_width": size, "frame_height": int(min(ratio * size, most))}


def line_look(k: int) -> tuple[str, str]:
    """Colour and dash of line k of several that are no ions; seven colours and eight dashes: 56 lines differ."""
    return PANEL_COLOURS[1 + k % (len(PANEL_COLOURS) - 1)], LINE_DASHES[k % len(LINE_DASHES)]


def whole_palette(name: str) -> list[str]:
    """The 256 colours of a colour map."""
    return list(hv.plotting.util.process_cmap(name, 256))


def provenance(arrays: Iterable[xr.DataArray]) -> str:
    """Whose patient, which ions, LET definition, dose system, dose of what: the sentences that no figure goes without."""
    parts: dict[str, list[str]] = {}
    counted: dict[str, None] = {}
    arrays, first, last = list(arrays), "", ""
    for da in arrays:
        if (name := str(da.attrs.get("quantity", da.name))) in QUANTITIES:
            defined(da, name)
        shown = [str(v) for d in ("case", "ion") if d in da.coords for v in da[d].values.ravel() if str(v)]
        shown = shown or str(da.attrs.get("ion") or "").split(", ")
        for name in filter(None, dict.fromkeys(shown)):
            parts.setdefault("Ions" if name in ION_NAMES else "Compared", []).append(in_words(name))
        if (definition := da.attrs.get("let_definition")) and _rests_on_let(da):
            said = str(da.attrs.get("assumed", ""))
            assumed = " (assumed: the field does not say)" * said.startswith("let_definition")
            assumed += f" ({WHOLE_DOSE})" * (WHOLE_DOSE in said)
            counted[LET_LABELS.get(definition, definition) + assumed] = None
            parts.setdefault("LETd", [])
        if above := da.attrs.get("above"):
            parts.setdefault("LETd", []).append(str(above))
        if model := da.attrs.get("rbe_model"):
            parts.setdefault("Dose system", []).append(_system(str(model)))
        if "per" in da.attrs and str(da.attrs.get("quantity", da.name)) in ("dose", "rbe_dose"):
            last = f" Doses per {da.attrs['per']}."
        if kind := da.attrs.get("synthetic"):
            first = f"SYNTHETIC patient ({kind} phantom). "
    if counted:
        parts["LETd"].insert(0, f"dose average over {'; over '.join(counted)}, unrestricted, in water")
    made = (f"{key}: {('; ' if key == 'Dose system' else ', ').join(dict.fromkeys(values))}." for key, values in parts.items())
    return first + " ".join(made) + last


def _rests_on_let(da: xr.DataArray) -> bool:
    """Whether a number is an LET or made of one; a dose of another model is not."""
    quantity = str(da.attrs.get("quantity") or da.name)
    return quantity not in ("dose", "rbe_dose", "rbe") or any(m in str(da.attrs.get("rbe_model", "")) for m in LET_MODELS)


def _system(model: str) -> str:
    """A dose system in words; of several, each with its ions, as a comparison writes them: ``constant (p); nirs_mkm (C)``."""
    words = []
    for part in model.split("; "):
        name, _, who = part.partition(" (")
        model, *more = name.split(", ")  # "nirs_mkm, oxygen: antonovic"
        said = ", ".join([*RBE_MODELS.get(model, (model,)), *more]).replace("antonovic", "Antonovic")
        words.append(f"{said} ({', '.join(map(in_words, who[:-1].split(', ')))})" if who else said)
    return "; ".join(words)


def _line(colour: str, dash: str) -> str:
    """A short piece of line, or the marker, for the key, as in the plot."""
    return f"<svg width='30' height='12' style='vertical-align:middle'>{glyph(colour, dash)}</svg>"


@dataclass(frozen=True)
class Figure:
    """A HoloViews element or a table with its caption; shows itself as the last line of a cell."""

    element: Any
    caption: str
    kind: str = "figure"
    key: tuple[tuple[str, str, str], ...] = ()  # name, colour and dash of each line

    def __post_init__(self) -> None:
        once = dict.fromkeys(
            re.split(r"(?<=\.) (?=[A-Z])", codes_in_words(self.caption))
        )  # a sentence of plot and caller stands once
        object.__setattr__(self, "caption", " ".join(once))
        object.__setattr__(self, "key", tuple((codes_in_words(name), *look) for name, *look in self.key))

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self.whole_html()))

    def whole_html(self) -> str:
        """Plot or table with key and caption, as one element that neither a screen reader nor a printer takes apart."""
        drawn = isinstance(self.element, (hv.Element, hv.Overlay, hv.Layout))
        body = self.to_html() if drawn else self.element._repr_html_()
        caption = f"<figcaption class='caption {self.kind}'>{html.escape(self.caption)}</figcaption>"
        if not drawn and body.count("<tr") > 16:  # paper breaks it: what it shows stands where it starts
            return f"<figure style='margin:0'>{caption}{body}</figure>"
        return f"<figure style='margin:0'>{body}{self._outlines()}{caption}</figure>"

    def _outlines(self) -> str:
        """The key; with a style of its own, so that it stands apart in JupyterLab as well."""
        entry = "<span style='display:inline-block;margin-right:1.6em'>"
        key = "".join(f"{entry}{_line(*one[1:])} {html.escape(one[0])}</span>" for one in self.key)
        return f"<p class='key'>{key}</p>" if key else ""

    def save(self, path: str | Path) -> Path:
        """Write the figure with its key and caption as a picture; a Chromium, Chrome or Edge on this computer paints it.

        Parameters: `path` ending in ``.svg`` or ``.png`` (twice the size on screen). Returns the path.
        Errors: IonrtError for another ending, a table, or where no browser is found.
        """
        if not isinstance(self.element, (hv.Element, hv.Overlay, hv.Layout)):
            raise IonrtError("save: a table is no picture; take the DataFrame, e.g. frame.to_csv")
        return save(hv.render(self.element, backend="bokeh"), self.key, self.caption, Path(path))

    def to_html(self) -> str:
        """Place holder and script of the plot, which waits until BokehJS is there.

        Plain Bokeh on purpose: the layouts of Panel, HoloViews' usual way, fetch style sheets from a network.
        """
        place = f"plot-{uuid.uuid4().hex}"
        item = self.item(place)
        # how wide it came out: paper shows it smaller (report.css)
        wide = f'const e = document.getElementById("{place}"); e.style.setProperty("--wide", e.firstElementChild.offsetWidth)'
        show = f"window.Bokeh && Bokeh.embed ? Bokeh.embed.embed_item({item}).then(() => {{ {wide} }}) : setTimeout(show, 50)"
        about = html.escape(self.caption or "figure", quote=True)
        holder = f'<div id="{place}" class="plot" role="img" aria-label="{about}"></div>'
        return f"{holder}\n<script>(function show() {{ {show}; }})();</script>"

    def item(self, place: str) -> str:
        """The plot as JSON that BokehJS embeds at the element of that id."""
        if not isinstance(self.element, (hv.Element, hv.Overlay, hv.Layout)):
            raise IonrtError("expected a plot, got a table or a page of its own")
        model = hv.render(self.element, backend="bokeh")
        if toolbar := getattr(model, "toolbar", None):
            toolbar.update(logo=None, autohide=True)
        return json.dumps(json_item(model, target=ID(place))).replace("</", "<\\/")


def tidy(plot: Any, _: Any) -> None:
    """Bokeh details that HoloViews has no option for."""
    figure = plot.state
    figure.output_backend = "canvas"
    figure.sizing_mode = None
    figure.outline_line_color = None
    figure.min_border_right = 18  # for the half of the last tick's label that lies outside the frame
    figure.axis.axis_line_color = "#444444"
    figure.axis.major_tick_line_color = "#444444"
    figure.axis.minor_tick_line_color = None
    figure.axis.major_tick_in = 0
    figure.axis.axis_label_text_font_style = "normal"
    figure.title.text_font_style = "bold"
    figure.title.text_font = FONT
    figure.axis.axis_label_text_font = FONT
    figure.axis.major_label_text_font = FONT


LOOK: dict[str, Any] = {
    "default_tools": ["box_zoom", "reset"],
    "fontsize": FONT_SIZES,
    "show_grid": True,
    "gridstyle": {"grid_line_color": "#E6E6E6"},
    "hooks": [tidy],
}


def panel(**more: Any) -> hv.Options:
    """The look that the panels of all figures share, and what is particular to one; the key stands under the figure."""
    return hv.opts.Overlay(**({"show_legend": False} | LOOK | more))


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Of a logarithmic axis: 1, 2 and 5 of each decade; more of them where that would be less than three, or powers of ten."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    kinds = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
    found = [[m * 10.0**k for k in decades for m in kind if low <= m * 10.0**k <= high] for kind in kinds]
    few = next((f for f in found[1:] if len(f) > 2), found[-1])
    return [(v, f"{v:.10g}") for v in (few if len(few) <= 10 else found[0])]


def in_columns(drawn: list, columns: int) -> hv.Layout:
    """Panels side by side under one tool bar, each with axes of its own."""
    return hv.Layout(drawn).cols(columns).opts(hv.opts.Layout(shared_axes=False, toolbar="right", merge_tools=True))
