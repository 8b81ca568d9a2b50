"""Tables as plain HTML, neat in JupyterLab, in the report and in print."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ionrt.plot.style import Figure
from ionrt.quantities import codes_in_words

GREY = " style='color: #697176; background: #f3f4f5'"  # 4.5 to 1 against its ground
LIMIT = re.compile(r"\b(lower|upper)\b")  # limits are read beside their estimate, with its decimals
NUMERAL = re.compile(r"([<>≤≥]?\s?[-+−]?\d[\d.]*(\s?%|\smm)?|–)?")
HEADING = 18, 120  # letters of a line in the head of a column, and of all columns together


class Html:
    """Something with an HTML face; a plain-text one for the terminal."""

    def __init__(self, text: str, plain: str) -> None:
        self.text, self.plain = text, plain

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.plain


def _decimals(values: pd.Series, digits: int) -> int:
    """Decimals of a whole column, so that it lines up: `digits` significant ones for its typical value, 3 at most."""
    sizes = sorted(abs(float(v)) for v in values if not isinstance(v, str) and pd.notna(v) and v != 0)
    if not sizes or all(float(v).is_integer() for v in sizes):
        return 0
    sizes = [v for v in sizes if v >= 5e-4] or sizes  # what shows as zero is no typical value
    return min(max(digits - 1 - math.floor(math.log10(sizes[len(sizes) // 2])), 0), 3)


def _places(frame: pd.DataFrame, digits: int) -> dict[Any, int]:
    """Decimals of each column; limits take those of the estimate in front, a column ``p`` has three."""
    places: dict[Any, int] = {}
    before = None
    for name in frame.columns:
        if before is not None and LIMIT.search(str(name)):
            places[name] = places[before]
        else:
            places[name], before = 3 if _is_p(name) else _decimals(frame[name], digits), name
    return places


def _is_p(name: Any) -> bool:
    return str(name) == "p" or str(name).endswith(" p")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not NUMERAL.fullmatch(value)


def _shown(value: Any, decimals: int, name: Any = "") -> str:
    """Text as it is, a dash for nothing, no zero below zero, a p that would round to nothing as less than its last digit."""
    if isinstance(value, str):
        return codes_in_words(value).replace("<=", "≤").replace(">=", "≥")
    if pd.isna(value):
        return "–"
    text = f"{float(value):.{decimals}f}"
    if float(text) == 0.0:
        text = f"< {10.0**-decimals:.{decimals}f}" if _is_p(name) else text.lstrip("-")
    return text


def _head(name: Any, columns: int) -> str:
    """The head of a column in short lines, a unit in one piece."""
    whole = re.sub(r"\[.*?\]|\(.*?\)", lambda unit: unit[0].replace(" ", "\N{NO-BREAK SPACE}"), codes_in_words(str(name)))
    return "<br>".join(
        html.escape(line)
        for line in textwrap.wrap(
            whole, max(8, min(HEADING[0], HEADING[1] // columns)), break_long_words=False, break_on_hyphens=False
        )
    )


def _row_heads(keys: list[Any]) -> list[str]:
    """Header cells of the index; of several levels, each in a column; a repeated name shows on phones and long prints only."""
    split = [k if isinstance(k, tuple) else (k,) for k in keys]
    cells = []
    for i, key in enumerate(split):
        same = [i > 0 and split[i - 1][: level + 1] == key[: level + 1] for level in range(len(key))]
        words = [codes_in_words(str(k)).replace("keV/µ", "keV/\N{WORD JOINER}µ") for k in key]
        kinds = [" ".join(["short"] * (len(w) < 25) + ["brief"] * (len(w) < 16)) for w in words]  # stay in one line
        shown = [
            f"<span class='again' hidden>{html.escape(w)}</span>" if s else html.escape(w)
            for w, s in zip(words, same, strict=True)
        ]
        cells.append("".join(f"<th scope='row' class='{k}'>{w}</th>" for w, k in zip(shown, kinds, strict=True)))
    return cells


def table(
    frame: pd.DataFrame,
    *,
    digits: int = 3,
    by_row: bool = False,
    decimals: int | None = None,
    quiet: Iterable[bool] | None = None,
    caption: str = "",
) -> Figure:
    """A table with one caption sentence.

    Parameters
    ----------
    frame : units in the names, an unnamed 0, 1, 2, ... is not shown.
    digits : significant digits, with the same number of decimals along each column; columns of limits ("lower", "upper") take
        those of their estimate, and one named ``p`` has three decimals.
    by_row : along each row instead.
    decimals : the same in all columns of numbers that are not whole.
    quiet : per row, True for one in grey.
    caption : sentence.

    Returns
    -------
    Figure, the table with its caption.

    Examples
    --------
    >>> frame = pd.DataFrame({"structure": ["CTV"], "D95 % [Gy (RBE)]": [57.0]})  # SYNTHETIC
    >>> shown = ionrt.plot.table(frame, caption="Target coverage; SYNTHETIC.")
    >>> shown.kind, shown.caption
    ('table', 'Target coverage; SYNTHETIC.')
    """
    counted = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    heads = [""] * len(frame) if counted else _row_heads(list(frame.index))
    first = [] if counted else [str(n or "") for n in frame.index.names]
    n = len(first) + len(frame.columns)
    words = {c for c in frame.columns if all(isinstance(v, str) for v in frame[c]) and any(map(_is_text, frame[c]))}
    top = "".join(f"<th>{_head(name, n)}</th>" for name in first)
    top += "".join(f"<th scope='col' class='{'text' if c in words else ''}'>{_head(c, n)}</th>" for c in frame.columns)
    columns = _places(frame, digits)
    if decimals is not None:
        columns = {c: decimals if some else 0 for c, some in columns.items()}
    rows = []
    shades = [GREY if grey else "" for grey in ([False] * len(frame) if quiet is None else quiet)]
    for head, shade, (_, row) in zip(heads, shades, frame.iterrows(), strict=True):
        places = dict.fromkeys(frame.columns, _decimals(row, digits)) if by_row else columns
        kinds = {c: "text" + " short" * (len(str(v)) < 14) if c in words or _is_text(v) else "number" for c, v in row.items()}
        cells = "".join(f"<td class='{kinds[c]}'>{html.escape(_shown(v, places[c], c))}</td>" for c, v in row.items())
        rows.append(f"<tr{shade}>{head}{cells}</tr>")
    head = f"<thead><tr>{top}</tr></thead>" if any([*first, *map(str, frame.columns)]) else ""
    body = f"<table class='ionrt'>{head}<tbody>{''.join(rows)}</tbody></table>"
    return Figure(Html(body, frame.to_string()), caption, kind="table")
