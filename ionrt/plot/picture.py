"""A figure as a picture on disk: a browser of this computer paints it, nothing comes from a network."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from bokeh.embed import json_item
from bokeh.models import Plot
from bokeh.resources import INLINE

from ionrt.files import atomic
from ionrt.quantities import IonrtError, one_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge", "microsoft-edge")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--no-first-run",
    "--run-all-compositor-stages-before-draw",  # else a busy machine leaves parts of the picture blank
)
PATIENCE = 120  # s
WIDTH, LINE, LETTERS = 1240, 18, 165  # pixels, pixels, letters of a line of the caption
DASHES = {"solid": "none", "dashed": "6 3", "dotdash": "2 3 6 3", "dotted": "2 3"}
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {  # of markers in a key, in units of their radius
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": ((0, -1), (1, 0.9), (-1, 0.9)),
    "inverted_triangle": ((0, 1), (1, -0.9), (-1, -0.9)),
    "diamond": ((0, -1.2), (0.8, 0), (0, 1.2), (-0.8, 0)),
    "hex": ((-1, 0), (-0.5, -0.9), (0.5, -0.9), (1, 0), (0.5, 0.9), (-0.5, 0.9)),
    "star": (
        (0, -1.2), (0.3, -0.4), (1.1, -0.4), (0.5, 0.2), (0.7, 1), (0, 0.5), (-0.7, 1), (-0.5, 0.2), (-1.1, -0.4), (-0.3, -0.4),
    ),
    "cross": (
        (-1, -0.2), (-0.2, -0.2), (-0.2, -1), (0.2, -1), (0.2, -0.2), (1, -0.2), (1, 0.2), (0.2, 0.2), (0.2, 1), (-0.2, 1),
        (-0.2, 0.2), (-1, 0.2),
    ),
}  # fmt: skip
PALE = ("#FFFFFF", "#F0E442")  # need a rim on white paper
# the page tells what it holds in its own text, which the browser prints out
PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8">{scripts}</head>
<body style="margin:0"><div id="plot"></div><pre id="out"></pre>
<script>
Bokeh.embed.embed_item({item}, "plot").then(views => {{
  const view = views.roots ? views.roots[0] : views;
  const canvas = view.export("{kind}", false);
  const text = "{kind}" == "svg" ? canvas.ctx.get_serialized_svg(true) : canvas.canvas.toDataURL("image/png");
  document.getElementById("out").textContent = "BEGIN" + btoa(unescape(encodeURIComponent(text))) + "END";
}});
</script></body></html>"""


def save(model: Any, key: tuple[tuple[str, str, str], ...], caption: str, path: Path) -> Path:
    """Paint a Bokeh model with key and caption to an SVG, or that to a PNG."""
    kind = one_of(path.suffix.lower(), (".svg", ".png"), what="save: ending")
    browser = next((b for b in map(shutil.which, BROWSERS) if b), None)
    if browser is None:
        raise IonrtError(f"save: no browser to paint with; install one of {', '.join(BROWSERS)}")
    picture = _with_words(_svg(browser, model), key, caption)
    with atomic(path) as place:
        if kind == ".svg":
            place.write_text(picture, encoding="utf-8")
        else:
            place.write_bytes(_png(browser, picture))
    return path


def _run(browser: str, folder: str, page: str, *flags: str) -> str:
    source = Path(folder) / "page.html"
    source.write_text(page, encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000", *flags, source.as_uri()]
    try:  # a browser writes UTF-8 whatever the computer's own encoding is
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise IonrtError(f"save: the browser did not answer in {PATIENCE} s; try again when the machine is less busy") from None
    return done.stdout


def _svg(browser: str, model: Any) -> str:
    for one in model.select({"type": Plot}):
        one.output_backend = "svg"
    page = PAGE.format(scripts=INLINE.render(), item=json.dumps(json_item(model)).replace("</", "<\\/"), kind="svg")
    with tempfile.TemporaryDirectory() as folder:
        found = re.search(r"BEGIN([A-Za-z0-9+/=]+)END", _run(browser, folder, page, "--dump-dom"))
    if not found:
        raise IonrtError("save: the browser painted nothing; try again, or take the picture from the report")
    return base64.b64decode(found.group(1)).decode("utf-8")


def _with_words(svg: str, key: tuple[tuple[str, str, str], ...], caption: str) -> str:
    """The picture with its key and caption below."""
    size = re.search(r"<svg[^>]*?width=\"([\d.]+)[^>]*?height=\"([\d.]+)", svg)
    width, height = (float(size.group(1)), float(size.group(2))) if size else (WIDTH, 600.0)
    lines = textwrap.wrap(caption, max(int(LETTERS * width / WIDTH), 40))
    parts, x, y = [], 10.0, height + LINE
    for name, colour, dash in key:
        if x + 50 + 7 * len(name) > width and x > 10:
            x, y = 10.0, y + LINE
        parts.append(f"{glyph(colour, dash, x, y - 4)}<text x='{x + 36}' y='{y}'>{html.escape(name)}</text>")
        x += 60 + 7 * len(name)
    y += LINE if key else 0
    parts += [f"<text x='10' y='{y + LINE * k}' fill='#5b6770'>{html.escape(line)}</text>" for k, line in enumerate(lines, 1)]
    whole = y + LINE * (len(lines) + 1)
    words = "".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:g}' height='{whole:g}' role='img'>"
        f"<title>{html.escape(caption)}</title><rect width='100%' height='100%' fill='white'/>{svg}"
        f"<g font-family='Helvetica, Arial, sans-serif' font-size='13'>{words}</g></svg>"
    )


def _png(browser: str, svg: str) -> bytes:
    width, height = re.search(r"width='([\d.]+)' height='([\d.]+)'", svg).groups()  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "picture.png"
        flags = (
            f"--window-size={float(width):.0f},{float(height):.0f}",
            "--force-device-scale-factor=2",
            f"--screenshot={out}",
        )
        _run(browser, folder, f"<!DOCTYPE html><html><body style='margin:0'>{svg}</body></html>", *flags)
        if not out.is_file():
            raise IonrtError("save: the browser painted nothing; try again, or take the picture from the report")
        return out.read_bytes()


def glyph(colour: str, dash: str, x: float = 0.0, y: float = 6.0) -> str:
    """One entry of a key, from `x` on and around `y`; `dash` of a line, or the name of a marker."""
    if dash in OUTLINES:
        points = " ".join(f"{x + 15 + 5 * a:.1f},{y + 5 * b:.1f}" for a, b in OUTLINES[dash])
        return f"<polygon points='{points}' fill='{colour}' stroke='#222222'/>"
    if dash == "circle":
        return f"<circle cx='{x + 15}' cy='{y}' r='5' fill='{colour}' stroke='#222222'/>"
    where = f"x1='{x}' y1='{y}' x2='{x + 30}' y2='{y}' stroke-dasharray='{DASHES.get(dash, dash)}'"
    rim = f"<line {where} stroke='#777' stroke-width='4.5'/>" if colour in PALE else ""
    return rim + f"<line {where} stroke='{colour}' stroke-width='2.6'/>"
