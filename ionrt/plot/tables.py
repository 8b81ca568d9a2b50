"""Tables as plain HTML, neat in JupyterLab, in the report and in print."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ionrt.plot.style import Figure

GREY = " style='color: #697176; background: #f3f4f5'"  # 4.5 to 1 against its ground


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
    return min(max(digits - 1 - math.floor(math.log10(sizes[len(sizes) // 2])), 0), 3)


def _shown(value: Any, decimals: int) -> str:
    """Text as it is, a dash for nothing."""
    if isinstance(value, str):
        return value
    return f"{float(value):.{decimals}f}" if pd.notna(value) else "–"


def _row_heads(keys: list[Any], names: list[str]) -> tuple[str, list[str]]:
    """Header cells of the index; of several levels, each in a column, repeated names left out."""
    split = [k if isinstance(k, tuple) else (k,) for k in keys]
    corner = "".join(f"<th>{html.escape(str(n or ''))}</th>" for n in names)
    cells = []
    for i, key in enumerate(split):
        same = [i > 0 and split[i - 1][: level + 1] == key[: level + 1] for level in range(len(key))]
        cells.append(
            "".join(f"<th scope='row'>{'' if s else html.escape(str(k))}</th>" for k, s in zip(key, same, strict=True))
        )
    return corner, cells


def table(
    frame: pd.DataFrame, *, digits: int = 3, by_row: bool = False, quiet: Iterable[bool] | None = None, caption: str = ""
) -> Figure:
    """A table with one caption sentence.

    Parameters
    ----------
    frame : units in the names, an unnamed 0, 1, 2, ... is not shown.
    digits : significant digits, with the same number of decimals along each column.
    by_row : along each row instead.
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
    corner, heads = ("", [""] * len(frame)) if counted else _row_heads(list(frame.index), list(frame.index.names))
    words = {c for c in frame.columns if all(isinstance(v, str) for v in frame[c])}
    top = corner + "".join(
        f"<th scope='col' class='{'text' if c in words else ''}'>{html.escape(str(c))}</th>" for c in frame.columns
    )
    decimals = {c: _decimals(frame[c], digits) for c in frame.columns}
    rows = []
    shades = [GREY if grey else "" for grey in ([False] * len(frame) if quiet is None else quiet)]
    for head, shade, (_, row) in zip(heads, shades, frame.iterrows(), strict=True):
        places = dict.fromkeys(frame.columns, _decimals(row, digits)) if by_row else decimals
        kinds = {c: "text" if isinstance(v, str) else "number" for c, v in row.items()}
        cells = "".join(f"<td class='{kinds[c]}'>{html.escape(_shown(v, places[c]))}</td>" for c, v in row.items())
        rows.append(f"<tr{shade}>{head}{cells}</tr>")
    names = [*frame.index.names, *frame.columns]
    head = f"<thead><tr>{top}</tr></thead>" if any(str(n) for n in names if n) else ""
    body = f"<table class='ionrt'>{head}<tbody>{''.join(rows)}</tbody></table>"
    return Figure(Html(body, frame.to_string()), caption, kind="table")
