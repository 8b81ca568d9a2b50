"""The check: a verdict and a sentence for whatever a learner gives, never a traceback."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from ionrt.lazy import IonrtError
from ionrt.training.exercise import Exercise, exercises

RECORD = "IONRT_TRAINING_RECORD"  # names the file of the learner's own log; without it nothing is written
LANGUAGE = "IONRT_LANGUAGE"
MEV = 12.0  # nucleons of the ion that exercises on energy ask about most


def verdict(one: Exercise, given: Any) -> tuple[str, str]:
    """What an answer is worth.

    Parameters
    ----------
    one : the exercise.
    given : the answer: a number, the letter of a choice, for a refusal a function without arguments; None is no answer yet.

    Returns
    -------
    (state, sentence), state one of "open", "right", "wrong", "unclear" (not an answer of the kind asked for).
    """
    if given is None:
        return "open", "not answered yet"
    if one.kind == "choice":
        return _choice(one, given)
    if one.kind == "refusal":
        return _refusal(one, given)
    x, trouble = _number(one, given)
    if x is None:
        return "unclear", trouble
    if one.kind == "at_least":
        return ("right", one.why) if x >= one.expected else ("wrong", f"expected at least {one.expected:g} {one.unit}".strip())
    if abs(x - one.expected) <= one.tolerance * (1 + 1e-12):
        return "right", one.why
    for slip in one.slips:
        if abs(x - slip.value) <= slip.tolerance * (1 + 1e-12):
            return "wrong", slip.says
    return "wrong", _usual(one, x)


def _choice(one: Exercise, given: Any) -> tuple[str, str]:
    letters = ", ".join(one.choices)
    if not isinstance(given, str) or given.strip().lower() not in one.choices:
        return "unclear", f"answer with one of the letters {letters}, in quotes"
    letter = given.strip().lower()
    if letter == one.expected:
        return "right", one.why
    return "wrong", next(
        (s.says for s in one.slips if s.value == letter), "read the choices once more: which of them can be shown?"
    )


def _refusal(one: Exercise, given: Any) -> tuple[str, str]:
    if not isinstance(given, Callable):  # type: ignore[arg-type]
        return "unclear", "give the call itself, not its result: answer = lambda: the_call(...)"
    try:
        given()
    except IonrtError as error:
        said = str(error)
        if one.expected.lower() in said.lower():
            return "right", one.why
        return "wrong", f"it was refused, for another reason ({said[:120]}); the reason looked for names '{one.expected}'"
    except Exception as error:
        return "wrong", f"that is an error of the call ({type(error).__name__}: {str(error)[:120]}), not a refusal of ionrt"
    return "wrong", "it went through: nothing was refused"


def _number(one: Exercise, given: Any) -> tuple[float | None, str]:
    unit = f" in {one.unit}" if one.unit else ""
    if isinstance(given, str):
        found = re.match(r"\s*([-+]?\d+(?:[.,]\d+)?)\s*(.*)$", given)
        hint = f": {found.group(1).replace(',', '.')} without quotes" if found else ""
        return None, f"answer with a number{unit}, not with text{hint}"
    if isinstance(given, bool):
        return None, f"answer with a number{unit}, not with true or false"
    if not isinstance(given, Real):
        values = getattr(given, "size", None)
        if values != 1 or getattr(given, "dtype", None) is None or given.dtype.kind not in "biuf":
            return None, f"answer with one number{unit}, not with {type(given).__name__}"
        given = given.item()
    x = float(given)
    return (x, "") if math.isfinite(x) else (None, f"{x} is not a number that can be compared; look where it comes from")


def _usual(one: Exercise, x: float) -> str:
    """Slips that every question knows."""
    right, tolerance = float(one.expected), max(one.tolerance, 0.01 * abs(float(one.expected)))

    def near(value: float, scale: float = 1.0) -> bool:
        return math.isfinite(value) and abs(value - right) <= tolerance * scale

    if right != 0 and near(-x):
        return "the sign is the other way round"
    if one.unit == "%" and near(100 * x):
        return "that is the fraction; the question asks for per cent"
    if "MeV/u" in one.unit and near(x / MEV):
        return "that is the total energy of the ion; the question asks per nucleon (MeV/u)"
    if one.fractions and (near(x / one.fractions) or near(x * one.fractions)):
        return f"per fraction or in all? The two differ by {one.fractions}, the number of fractions"
    for factor in (10.0, 100.0, 1000.0):
        if near(x / factor) or near(x * factor):
            return f"off by a factor of {factor:g}: look at the units (cm and mm, Gy and cGy, keV and MeV)"
    if x != 0 and right != 0 and near(1 / x, max(1.0, 0.02 * abs(right) / tolerance)):
        return "that is the inverse: divide the other way"
    return "not yet" + (f"; about {abs(x / right - 1) * 100:.0f} % away" if right and 0.5 < x / right < 2 else "; not near")


def check(name: str, answer: Any = None) -> None:
    """Print whether an answer is right, and why or why not.

    Parameters
    ----------
    name : of the exercise, such as "T05.1".
    answer : see `verdict`. None, or ``...``, is no answer yet.

    Notes
    -----
    Writes nothing, unless the environment variable IONRT_TRAINING_RECORD names a file: then the name, the verdict and the
    minute, and nothing about the person. IONRT_LANGUAGE ("ko", "ja") chooses the language where there is a translation.
    """
    language = os.environ.get(LANGUAGE, "en")
    known = exercises(language if language in ("ko", "ja") else "en")
    one = known.get(str(name))
    if one is None:
        module = [k for k in known if k.split(".")[0] == str(name).split(".")[0]]
        print(f"{name}: no such exercise; there are {', '.join(module or known)}")
        return
    state, sentence = verdict(one, None if answer is ... else answer)
    print(f"{one.name}: {state} - {sentence}")
    _log(one.name, state)


def _log(name: str, state: str) -> None:
    place = os.environ.get(RECORD)
    if place and state != "open":
        with Path(place).expanduser().open("a", encoding="utf-8") as file:
            file.write(json.dumps({"exercise": name, "state": state, "minute": int(time.time() // 60)}) + "\n")
