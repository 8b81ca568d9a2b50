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


def number(value: Any, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent; a dash where there is none."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(float(value)):
        return "–"
    value = float(value)
    if value == 0:
        return "0"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{places}f}"


def table(frame: pd.DataFrame, *, digits: int = 3, caption: str = "") -> Figure:
    """A table with one caption sentence.

    Parameters: `frame`, units in the column names; `digits` significant digits; `caption`.
    """
    head = "".join(f"<th scope='col'>{html.escape(str(c))}</th>" for c in frame.columns)
    corner = " / ".join(str(n) for n in frame.index.names if n)
    rows = []
    for key, row in frame.iterrows():
        names = " · ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        cells = "".join(
            f"<td class='{'text' if isinstance(v, str) else 'number'}'>{html.escape(number(v, digits))}</td>" for v in row
        )
        rows.append(f"<tr><th scope='row'>{html.escape(names)}</th>{cells}</tr>")
    top = f"<thead><tr><th>{html.escape(corner)}</th>{head}</tr></thead>"
    body = f"<table class='ionrt'>{top}<tbody>{''.join(rows)}</tbody></table>"
    return Figure(_Html(body, frame.to_string()), caption, kind="table")
