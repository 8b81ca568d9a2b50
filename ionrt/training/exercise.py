"""Exercises are data: one YAML file per module, one per language for the words; numbers are never translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from ionrt.files import read_yaml
from ionrt.lazy import IonrtError, one_of

KINDS = ("number", "choice", "refusal", "at_least")
ROLES = {"P": "physicist, dosimetrist", "O": "radiation oncologist", "B": "radiobiologist", "S": "statistician, data manager"}
CORE = ("T00", "T03", "T05", "T09", "T14")
MODULES = {
    "T00": "Tools and refusals",
    "T01": "Bragg peak and reach",
    "T02": "Fragments, tail, penumbra",
    "T03": "LET definitions",
    "T04": "Survival, RBE, oxygen",
    "T05": "Dose systems",
    "T06": "Multi-ion planning",
    "T07": "Robustness",
    "T08": "Image guidance and adaptation",
    "T09": "A plan from the partner on the desk",
    "T10": "De-identification and exchange",
    "T11": "Outcome statistics I: time",
    "T12": "Outcome statistics II: LETd, volume, dose systems",
    "T13": "Trials on a dose or an LETd axis",
    "T14": "QA, independent check, safety case",
}
TRACKS = {
    "physicist": ("T00", "T01", "T02", "T03", "T04", "T05", "T06", "T07", "T08", "T09", "T10", "T12", "T14"),
    "oncologist": tuple(MODULES),
    "biologist": ("T00", "T02", "T03", "T04", "T05", "T09", "T13", "T14"),
    "statistician": ("T00", "T03", "T05", "T09", "T10", "T11", "T12", "T13", "T14"),
}
LANGUAGES = ("en", "ko", "ja")


@dataclass(frozen=True)
class Slip:
    """A usual wrong answer and what to say to who gives it."""

    value: Any
    says: str
    tolerance: float = 0.0  # absolute


@dataclass(frozen=True)
class Exercise:
    """One question. `expected` with the absolute `tolerance` is right; `kind` is one of KINDS: a number, a letter of a choice,
    a call that has to raise, or a number that has to be at least `expected`.

    `fractions` is what a total and a dose per fraction differ by, where they may be confused."""

    name: str
    ask: str
    kind: str
    expected: Any
    why: str
    unit: str = ""
    tolerance: float = 0.0
    choices: Mapping[str, str] = field(default_factory=dict)
    slips: tuple[Slip, ...] = ()
    fractions: int | None = None
    roles: str = "POBS"
    competency: str = ""
    source: str = ""
    words: Mapping[str, str] = field(default_factory=dict)  # sentence of the engine -> translation

    def say(self, sentence: str, **values: Any) -> str:
        """A sentence of the engine in the language of the exercise."""
        return self.words.get(sentence, sentence).format(**values)

    @property
    def question(self) -> str:
        """What is asked, in which unit, and the choices."""
        unit = f" [{self.unit}]" if self.unit else ""
        return "\n".join([f"{self.ask}{unit}", *(f"  {letter}  {text}" for letter, text in self.choices.items())])

    @property
    def module(self) -> str:
        """The module it belongs to, such as "T05"."""
        return self.name.partition(".")[0]


def _exercise(row: Mapping[str, Any], where: str) -> Exercise:
    known = set(Exercise.__dataclass_fields__) | {"rel", "abs"}
    if unknown := set(row) - known:
        raise IonrtError(f"{where}: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")
    if missing := [k for k in ("name", "ask", "kind", "expected", "why") if k not in row]:
        raise IonrtError(f"{where}: {', '.join(missing)} missing")
    kind, expected = one_of(str(row["kind"]), KINDS, what=f"{where}: kind"), row["expected"]
    numeric = kind in ("number", "at_least")
    tolerance = float(row.get("abs", abs(float(expected)) * float(row.get("rel", 0.0)))) if numeric else 0.0
    slips = tuple(
        Slip(s["value"], s["says"], float(s.get("abs", abs(float(s["value"])) * float(s.get("rel", 0.01)))) if numeric else 0.0)
        for s in row.get("slips", ())
    )
    rest = {k: v for k, v in row.items() if k not in ("slips", "rel", "abs", "tolerance")}
    return Exercise(**rest, slips=slips, tolerance=tolerance)


@cache
def exercises(language: str = "en") -> dict[str, Exercise]:
    """All exercises by name.

    Parameters
    ----------
    language : "en", "ko" or "ja": the words of the questions, reasons and slips where they are translated (core modules).

    Returns
    -------
    Dictionary name ("T05.1") -> `Exercise`, in order of the modules.

    Raises
    ------
    IonrtError
        An unknown language, a file with an unknown or missing field.

    Examples
    --------
    >>> exercises()["T01.1"].unit
    'mm'
    """
    one_of(language, LANGUAGES, what="language")
    here = Path(__file__).parent
    rows = [(row, path.name) for path in sorted((here / "exercises").glob("*.yaml")) for row in read_yaml(path)]
    found = {row["name"]: _exercise(row, f"{name}: {row.get('name', 'an exercise')}") for row, name in rows}
    if len(found) < len(rows):
        raise IonrtError("two exercises have one name")
    return found if language == "en" else _translated(found, read_yaml(here / "lang" / f"{language}.yaml"))


def _translated(found: dict[str, Exercise], file: Mapping[str, Any]) -> dict[str, Exercise]:
    out = dict(found)
    for name, text in file["exercises"].items():
        one = found[name]
        says = text.get("slips", [s.says for s in one.slips])
        slips = tuple(replace(s, says=said) for s, said in zip(one.slips, says, strict=True))
        out[name] = replace(one, **(text | {"slips": slips, "words": file["sentences"]}))
    return out
