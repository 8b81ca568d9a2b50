"""The check: a verdict and a sentence for whatever a learner gives, never a traceback."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ionrt.lazy import IonrtError
from ionrt.training.exercise import LANGUAGES, Exercise, exercises

ASKED = re.compile(r"""check\(\s*["'](T\d\d\.\d+)["']""")
TYPED = re.compile(r"^\s*answer\s*=\s*(.*?)\s*(?:#.*)?$", re.M)
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
        return "open", one.say("not answered yet")
    if one.kind == "choice":
        return _choice(one, given)
    if one.kind == "refusal":
        return _refusal(one, given)
    x, trouble = _number(one, given)
    if x is None:
        return "unclear", trouble
    if one.kind == "at_least":
        low = one.say("lower than a plan of this kind reaches; compare both plans once more")
        return ("right", one.why) if x >= one.expected else ("wrong", low)
    if abs(x - one.expected) <= one.tolerance * (1 + 1e-12):
        return "right", one.why
    for slip in one.slips:
        if abs(x - slip.value) <= slip.tolerance * (1 + 1e-12):
            return "wrong", slip.says
    return "wrong", _usual(one, x)


def _choice(one: Exercise, given: Any) -> tuple[str, str]:
    letter = given.strip().lower() if isinstance(given, str) else ""
    if letter not in one.choices:
        return "unclear", one.say("answer with one of the letters {letters}, in quotes", letters=", ".join(one.choices))
    return ("right", one.why) if letter == one.expected else ("wrong", next(s.says for s in one.slips if s.value == letter))


def _refusal(one: Exercise, given: Any) -> tuple[str, str]:
    if not isinstance(given, Callable):  # type: ignore[arg-type]
        return "unclear", one.say("give the call itself, not its result: answer = lambda: the_call(...)")
    try:
        given()
    except IonrtError as error:
        said = str(error)
        if one.expected.lower() in said.lower():
            return "right", one.why
        return "wrong", one.say("ionrt refused it, for another reason than the one looked for: {said}", said=said[:160])
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[:160]}"
        return "wrong", one.say("that is an error of the call, not a refusal of ionrt: {said}", said=said)
    return "wrong", one.say("it went through: nothing was refused")


def _number(one: Exercise, given: Any) -> tuple[float | None, str]:
    unit = f" [{one.unit}]" if one.unit else ""
    if isinstance(given, str):
        found = re.match(r"\s*([-+]?\d+(?:[.,]\d+)?)\s*(.*)$", given)
        hint = f": {found.group(1).replace(',', '.')}" if found else ""
        return None, one.say("answer with a number{unit} without quotes, not with text", unit=unit) + hint
    if isinstance(given, (bool, np.bool_)):
        return None, one.say("answer with a number{unit}, not with true or false", unit=unit)
    if not isinstance(given, Real):
        if getattr(given, "size", None) != 1 or getattr(getattr(given, "dtype", None), "kind", "") not in tuple("iuf"):
            return None, one.say("answer with one number{unit}, not with {kind}", unit=unit, kind=type(given).__name__)
        given = given.item()
    try:
        x = float(given)
    except (OverflowError, ValueError, TypeError):
        x = math.inf
    return (x, "") if math.isfinite(x) else (None, one.say("{x} cannot be compared; look where it comes from", x=x))


def _usual(one: Exercise, x: float) -> str:
    """Slips that every question knows."""
    right, tolerance = float(one.expected), max(one.tolerance, 0.01 * abs(float(one.expected)))

    def near(value: float, scale: float = 1.0) -> bool:
        return math.isfinite(value) and abs(value - right) <= tolerance * scale

    if right != 0 and near(-x):
        return one.say("the sign is the other way round")
    if one.unit == "%" and near(100 * x):
        return one.say("that is the fraction; the question asks for per cent")
    if "MeV/u" in one.unit and near(x / MEV):
        return one.say("that is the total energy of the ion; the question asks per nucleon (MeV/u)")
    if one.fractions and (near(x / one.fractions) or near(x * one.fractions)):
        return one.say("per fraction or in all? The two differ by {n}, the number of fractions", n=one.fractions)
    for factor in (10, 100, 1000):
        if near(x / factor) or near(x * factor):
            return one.say("off by a factor of {factor}: look at the units (cm and mm, Gy and cGy, keV and MeV)", factor=factor)
    if x != 0 and right != 0 and near(1 / x, max(1.0, 0.02 * abs(right) / tolerance)):
        return one.say("that is the inverse: divide the other way")
    if right and 0.5 < x / right < 2:
        return one.say("not yet; about {percent:.0f} % away", percent=abs(x / right - 1) * 100)
    return one.say("not yet; not near")


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
    From the first check on, an answer cell that Python cannot run (a word without quotes, a number with its unit, a refused
    call outside of a lambda) is answered with a sentence as well; errors of other cells look as ever.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and not shell.custom_exceptions:  # errors of answer cells, unless the notebook handles them itself
        shell.set_custom_exc((NameError, SyntaxError, IonrtError), _said)
    known = _known()
    one = known.get(str(name).strip())
    if one is None:
        nearest = difflib.get_close_matches(str(name), known, n=3, cutoff=0.0)
        print(f"{name}: no such exercise; the nearest names are {', '.join(nearest)}")
        return
    state, sentence = verdict(one, None if answer is ... else answer)
    print(f"{one.name}: {state} - {sentence}")
    if state == "open" and one.words:  # the notebook has the question in English
        print(one.question)
    _log(one.name, state)


def _known() -> dict[str, Exercise]:
    language = os.environ.get(LANGUAGE, "en")
    return exercises(language if language in LANGUAGES else "en")


def _said(shell: Any, kind: type[Exception], error: Exception, trace: Any, tb_offset: int | None = None) -> None:
    cell = str(shell.user_ns.get("In", [""])[-1])
    asked, typed = ASKED.findall(cell), TYPED.search(cell)
    one = _known().get(asked[-1]) if asked else None
    if one is None or typed is None:
        maker, trace = (shell.SyntaxTB, []) if issubclass(kind, SyntaxError) else (shell.InteractiveTB, trace)
        shell._showtraceback(kind, error, maker.structured_traceback(kind, error, trace, tb_offset=tb_offset))
        return
    given = typed[1] if one.kind in ("number", "at_least") else 0  # no letter, no call: the sentence says what is asked for
    python = f"{kind.__name__}: {str(getattr(error, 'msg', error)).splitlines()[0]}"
    print(f"{one.name}: unclear - {verdict(one, given)[1]} ({python})")
    _log(one.name, "unclear")


def _log(name: str, state: str) -> None:
    place = os.environ.get(RECORD)
    if not place or state == "open":
        return
    try:
        with Path(place).expanduser().open("a", encoding="utf-8") as file:
            file.write(json.dumps({"exercise": name, "state": state, "minute": int(time.time() // 60)}) + "\n")
    except OSError as error:
        print(f"(the log that {RECORD} names cannot be written: {error.strerror})")
