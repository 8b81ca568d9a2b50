"""Notebooks of the course with answers in place of None: what the course's own solutions are, in the words of a learner."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from ionrt.training.exercise import Exercise

FOLDER = Path(__file__).resolve().parents[1] / "notebooks" / "training"
BOOKS = sorted(FOLDER.glob("T*.ipynb"))
REFUSED = {
    "T00.3": "lambda: ionrt.rbe.wedenberg(carbon, alpha_beta=2.0)",
    "T04.6": "lambda: rbe.mcnamara(carbon, alpha_beta=2.0)",
    "T05.6": 'lambda: rbe.convert_prescription(4.6, source="NIRS-mMKM", target="LEM-I")',
    "T10.5": 'lambda: ionrt.deidentify("study", "out", key="12345678")',
}


def solution(one: Exercise) -> str:
    """What a learner types who knows it."""
    return REFUSED[one.name] if one.kind == "refusal" else repr(one.expected)


def inject(path: Path, answers: dict[str, str]) -> nbformat.NotebookNode:
    """The notebook with `answers` (exercise -> what is typed) in its answer cells."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if "exercise" in cell.metadata.get("tags", ()):
            cell.source = typed(cell.source, answers.get(asked(cell.source), "None"))
    return book


def asked(source: str) -> str:
    """Which exercise a cell asks."""
    return source.split('"')[-2]


def typed(source: str, answer: str) -> str:
    """An answer cell with the answer in place."""
    return re.sub(r"answer = .*", lambda _: f"answer = {answer}", source, count=1)
