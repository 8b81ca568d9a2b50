"""Tables as plain HTML, neat in JupyterLab, in the report and in print."""

from __future__ import annotations

import html
import math
from typing import Any

import pandas as pd

from ionrt.plot.style import Figure


class _Html:
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


def table(frame: pd.DataFrame, *, digits: int = 3, caption: str = "") -> Figure:
    """A table with one caption sentence.

    Parameters: `frame`, units in the column names; `digits` significant digits; `caption`.
    """
    head = "".join(f"<th scope='col'>{html.escape(str(c))}</th>" for c in frame.columns)
    corner = " / ".join(str(n) for n in frame.index.names if n)
    rows = []
    decimals = {c: _decimals(frame[c], digits) for c in frame.columns}
    for key, row in frame.iterrows():
        names = " · ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        cells = "".join(
            f"<td class='{'text' if isinstance(v, str) else 'number'}'>{html.escape(_shown(v, decimals[c]))}</td>"
            for c, v in row.items()
        )
        rows.append(f"<tr><th scope='row'>{html.escape(names)}</th>{cells}</tr>")
    top = f"<thead><tr><th>{html.escape(corner)}</th>{head}</tr></thead>"
    body = f"<table class='ionrt'>{top}<tbody>{''.join(rows)}</tbody></table>"
    return Figure(_Html(body, frame.to_string()), caption, kind="table")
