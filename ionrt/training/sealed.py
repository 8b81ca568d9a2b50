"""The record of a learner: notebooks run again from scratch, one offline page to be signed by hand."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Collection, Iterable, Mapping
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ionrt import __version__
from ionrt.files import content_hash, read_notebook, write_text
from ionrt.lazy import IonrtError, needed, one_of
from ionrt.training.engine import ASKED, LANGUAGE, RECORD
from ionrt.training.exercise import CORE, MODULES, TRACKS, Exercise, exercises

if TYPE_CHECKING:
    import pandas as pd

SAID = re.compile(r"^(T\d\d\.\d+): (open|right|wrong|unclear) - ", re.M)
WORDS = {"right": "right", "wrong": "not yet right", "open": "open", "unclear": "no answer of the kind asked for"}
MADE_WITH = ("numpy", "scipy", "xarray")
BEST = ("right", "wrong", "unclear", "open")
FEWEST = 5  # learners behind a number of the summary
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
td,th{border-bottom:1px solid #ccc;text-align:left;padding:.25rem .4rem;vertical-align:top}
.right{font-weight:600}.line{border-bottom:1px solid #222;display:inline-block;min-width:14rem}small{color:#555}
@media print{body{margin:0;max-width:none;font-size:10pt}tr{break-inside:avoid}}"""
BLANKS = (
    "Name, staff number",
    "Hospital",
    "Assessor",
    "Level (1 aware, 2 with help, 3 alone, 4 teaches)",
    "Written parts of T09 and T14 (0 to 8 points each)",
    "Remarks",
    "Date, signature of the learner",
    "Date, signature of the assessor",
)


LARGEST_LOG = 1_000_000  # bytes; some thousands of tries


def verdicts(
    folder: str | os.PathLike[str], *, modules: Collection[str] = tuple(MODULES), progress: bool = False
) -> dict[str, str]:
    """Run the training notebooks of a folder from scratch and collect what their checks say.

    Parameters
    ----------
    folder : with notebooks whose names begin with T and two digits.
    modules : those to run, such as the ones of a track.
    progress : print a line per notebook.

    Returns
    -------
    Dictionary exercise -> "right", "wrong", "open" or "unclear" (also where its cell stops with an error). Of several answers
        to one exercise in a notebook the last counts, of copies of a notebook the best.

    Raises
    ------
    IonrtError
        No such notebook, one that cannot be read or whose kernel ends, or one in which no check ran (its first error).
    """
    books = [p for p in sorted(Path(folder).glob("T[0-9][0-9]*.ipynb")) if p.name[:3] in modules]
    if not books:
        raise IonrtError("no training notebook (T00..., T01...) in the folder given; `ionrt init DIR` copies them")
    found: dict[str, str] = {}
    for path in books:
        said = _run(path)
        found |= {name: state for name, state in said.items() if BEST.index(state) <= BEST.index(found.get(name, "open"))}
        if progress:
            print(f"{path.name[:3]}  {sum(s == 'right' for s in said.values())} of {len(said)} right", flush=True)
    return found


def _run(path: Path) -> dict[str, str]:
    """Exercise -> state of one notebook; the learner's log hears nothing of this run."""
    client = needed("nbclient", "a training record")
    quiet = {name: value for name, value in os.environ.items() if name not in (RECORD, LANGUAGE)}
    book = read_notebook(path)
    try:
        options = {"timeout": 600, "kernel_name": "python3", "allow_errors": True, "extra_arguments": ["--log-level=ERROR"]}
        run = client.NotebookClient(book, resources={"metadata": {"path": str(path.parent)}}, **options)
        run.execute(env=quiet)
    except (TimeoutError, RuntimeError) as error:  # the two that nbclient raises although errors are allowed
        raise IonrtError(f"{path.name}: {str(error).splitlines()[0]}; look for the cell that does not end") from None
    said: dict[str, str] = {}
    stopped = []
    for cell in book.cells:
        texts = [o.get("text", "") for o in cell.get("outputs", ()) if o.get("output_type") == "stream"]
        errors = [f"{o.ename}: {o.evalue}" for o in cell.get("outputs", ()) if o.get("output_type") == "error"]
        now = dict(SAID.findall("\n".join(texts))) or (dict.fromkeys(ASKED.findall(cell.source), "unclear") if errors else {})
        said |= {name: state for name, state in now.items() if state != "open" or name not in said}
        stopped += errors
    if stopped and set(said.values()) <= {"unclear"}:
        raise IonrtError(f"{path.name} stops before its first check: {stopped[0][:200]}")
    return said


def record(found: Mapping[str, str], path: str | os.PathLike[str], *, track: str) -> str:
    """Write the page of a learner; nothing of the person, the machine or the folder is on it.

    Parameters
    ----------
    found : exercise -> state, as `verdicts` returns it.
    path : HTML file to write.
    track : "physicist", "oncologist", "biologist" or "statistician".

    Returns
    -------
    Hash of what the page says: the same answers to the same exercises give the same hash.

    Raises
    ------
    IonrtError
        An unknown track, exercise or state.
    """
    one_of(track, tuple(TRACKS), what="track")
    known = exercises()
    for name, state in found.items():
        one_of(name, tuple(known), what="exercise")
        one_of(state, tuple(WORDS), what=name)
    chosen = {name: one for name, one in known.items() if one.module in TRACKS[track]}
    states = {name: found.get(name, "open") for name in chosen}
    seal = content_hash(track, __version__, _seal(chosen.values()), list(states.items()))
    write_text(path, _page(chosen, states, track, seal))
    return seal


def _seal(chosen: Iterable[Exercise]) -> str:
    """Changes when a question or what counts as right changes."""
    return content_hash([(one.name, one.ask, one.kind, one.expected, one.tolerance) for one in chosen])


def _page(chosen: Mapping[str, Exercise], states: Mapping[str, str], track: str, seal: str) -> str:
    core = [n for n in chosen if chosen[n].module in CORE]
    rest = [n for n in chosen if n not in core]

    def share(names: list[str]) -> str:
        return f"{sum(states[n] == 'right' for n in names)} of {len(names)}"

    rows = []
    for module in TRACKS[track]:
        mine = [n for n in chosen if chosen[n].module == module]
        about = f"{module} {MODULES[module]}{' (core)' if module in CORE else ''}"
        rows.append(f"<tr><th colspan=2>{about}</th><th>{share(mine)}</th><th>{_seal(chosen[n] for n in mine)[:8]}</th></tr>")
        rows += [
            f'<tr><td>{n}</td><td>{escape(chosen[n].ask)}</td><td class="{states[n]}">{WORDS[states[n]]}</td>'
            f"<td>{escape(chosen[n].competency)}</td></tr>"
            for n in mine
        ]
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in MADE_WITH)])
    blanks = "".join(f'<tr><td>{text}</td><td><span class="line">&nbsp;</span></td></tr>' for text in BLANKS)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ionrt training record</title><style>{STYLE}</style></head><body>
<h1>Training record: {escape(track)}</h1>
<p>The learner's notebooks were run again from scratch with ionrt {escape(__version__)} ({versions}).
Core exercises right: <b>{share(core)}</b>; others of the track: <b>{share(rest)}</b>.
To pass: all core exercises, four of five of the others, both written parts.</p>
<p><small>The page shows what was answered, not who answered: a person signs for that. It holds no personal data;
the lines below are filled in by hand. Research software and SYNTHETIC data; no qualification for treating patients.</small></p>
<table>{blanks}</table>
<table><tr><th>exercise</th><th>question</th><th>verdict</th><th>competency; hash of the module</th></tr>
{"".join(rows)}</table>
<p><small>Hash of ionrt's version, exercises and verdicts: {seal}. The same answers give the same hash, so a later change of
the page shows; it is no proof of who answered. A module whose hash has changed has other questions: sit it again.</small></p>
</body></html>
"""


def forget() -> bool:
    """Delete the learner's own log, the file that IONRT_TRAINING_RECORD names.

    Returns
    -------
    Whether there was one.
    """
    place = os.environ.get(RECORD)
    there = bool(place) and os.path.isfile(Path(str(place)).expanduser())
    if there:
        Path(str(place)).expanduser().unlink()
    return there


def summary(logs: Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """How exercises do, not how people do: from the logs that learners hand in, one file each.

    Parameters
    ----------
    logs : files that `check` wrote, one per learner.

    Returns
    -------
    DataFrame, one row per exercise that at least five learners tried (nothing is said of others): learners, first_try (share
    right at the first try), tries (mean), look (whether it is too hard or too easy to teach: below 30 or above 95 % right at
    first try of at least ten).

    Raises
    ------
    IonrtError
        A file that is no such log.
    """
    import pandas as pd

    tries = []
    for learner, place in enumerate(logs):
        rows = _rows(Path(place))
        tries += [{"exercise": r["exercise"], "learner": learner, "right": r["state"] == "right"} for r in rows]
    each = pd.DataFrame(tries, columns=["exercise", "learner", "right"]).groupby(["exercise", "learner"])["right"]
    of = pd.DataFrame({"first": each.first(), "tries": each.size()}).groupby("exercise")
    table = of.agg(learners=("first", "size"), first_try=("first", "mean"), tries=("tries", "mean"))
    table = table[table["learners"] >= FEWEST]
    return table.assign(look=(table["learners"] >= 10) & ~table["first_try"].between(0.3, 0.95))


def _rows(place: Path) -> list[dict[str, Any]]:
    try:
        small = os.path.isfile(place) and place.stat().st_size <= LARGEST_LOG
        rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()] if small else [{}]
        if all(r["exercise"] in exercises() and r["state"] in WORDS for r in rows):
            return rows
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise IonrtError(f"{place.name}: expected a log of training checks, one line of JSON per try") from None
