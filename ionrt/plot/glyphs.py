"""What stands before a name in the key of a figure: a piece of its line, or its marker, as SVG."""

from __future__ import annotations

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


def glyph(colour: str, dash: str, x: float = 0.0, y: float = 6.0) -> str:
    """One entry of a key, from `x` on and around `y`; `dash` of a line, or the name of a marker."""
    if dash in OUTLINES:
        points = " ".join(f"{x + 15 + 5 * a:.1f},{y + 5 * b:.1f}" for a, b in OUTLINES[dash])
        return f"<polygon points='{points}' fill='{colour}' stroke='#222222'/>"
    if dash == "circle":
        return f"<circle cx='{x + 15}' cy='{y}' r='5' fill='{colour}' stroke='#222222'/>"
    where = f"x1='{x}' y1='{y}' x2='{x + 30}' y2='{y}'"
    lines = f"<line {where} stroke='#777' stroke-width='4.5'/>" if colour in PALE else ""
    return lines + f"<line {where} stroke='{colour}' stroke-width='2.6' stroke-dasharray='{DASHES.get(dash, dash)}'/>"
