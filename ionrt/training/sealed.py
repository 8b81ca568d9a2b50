"""The record of a learner: notebooks run again from scratch, one offline page to be signed by hand."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from ionrt import __version__
from ionrt.files import write_text
from ionrt.lazy import IonrtError, needed, one_of
from ionrt.training.engine import RECORD
from ionrt.training.exercise import CORE, TRACKS, Exercise, exercises

SAID = re.compile(r"^(T\d\d\.\d+): (open|right|wrong|unclear) - ", re.M)
WORDS = {"right": "right", "wrong": "not yet right", "open": "open", "unclear": "no answer of the kind asked for"}
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


def verdicts(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Run every training notebook of a folder from scratch and collect what its checks say.

    Parameters
    ----------
    folder : with notebooks whose names begin with T and two digits.

    Returns
    -------
    Dictionary exercise -> "right", "wrong", "open" or "unclear"; the last check of an exercise counts.

    Raises
    ------
    IonrtError
        No such notebook, or one that stops with an error (its name and the error).
    """
    client, nbformat = needed("nbclient", "a training record"), needed("nbformat", "a training record")
    books = sorted(p for p in Path(folder).glob("T[0-9][0-9]*.ipynb") if "solution" not in p.stem)
    if not books:
        raise IonrtError("no training notebook (T00..., T01...) in the folder given; `ionrt init DIR` copies them")
    found: dict[str, str] = {}
    for path in books:
        book = nbformat.read(path, as_version=4)
        try:
            client.NotebookClient(
                book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
            ).execute()
        except client.exceptions.CellExecutionError as error:
            raise IonrtError(f"{path.name} stops: {error.ename}: {str(error.evalue)[:200]}") from None
        texts = [o.get("text", "") for c in book.cells for o in c.get("outputs", ()) if o.get("output_type") == "stream"]
        found |= dict(SAID.findall("\n".join(texts)))
    return found


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
        An unknown track or exercise.
    """
    one_of(track, tuple(TRACKS), what="track")
    known = exercises()
    for name in found:
        one_of(name, tuple(known), what="exercise")
    chosen = {name: one for name, one in known.items() if one.module in TRACKS[track]}
    states = {name: found.get(name, "open") for name in chosen}
    sealed = [[n, states[n], repr(one.expected), one.tolerance] for n, one in chosen.items()]
    seal = hashlib.sha256(json.dumps([track, __version__, sealed]).encode()).hexdigest()[:32]
    write_text(path, _page(chosen, states, track, seal))
    return seal


def _page(chosen: Mapping[str, Exercise], states: Mapping[str, str], track: str, seal: str) -> str:
    core = [n for n in chosen if chosen[n].module in CORE]
    rest = [n for n in chosen if n not in core]

    def share(names: list[str]) -> str:
        return f"{sum(states[n] == 'right' for n in names)} of {len(names)}"

    rows = "".join(
        f'<tr><td>{n}</td><td>{escape(one.ask)}</td><td class="{states[n]}">{WORDS[states[n]]}</td>'
        f"<td>{escape(one.competency)}</td></tr>"
        for n, one in chosen.items()
    )
    blanks = "".join(f'<tr><td>{text}</td><td><span class="line">&nbsp;</span></td></tr>' for text in BLANKS)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ionrt training record</title><style>{STYLE}</style></head><body>
<h1>Training record: {escape(track)}</h1>
<p>The learner's notebooks were run again from scratch with ionrt {escape(__version__)}.
Core exercises right: <b>{share(core)}</b>; others of the track: <b>{share(rest)}</b>.
To pass: all core exercises, four of five of the others, both written parts.</p>
<p><small>The page shows what was answered, not who answered: a person signs for that. It holds no personal data;
the lines below are filled in by hand. Research software and SYNTHETIC data; no qualification for treating patients.</small></p>
<table>{blanks}</table>
<table><tr><th>exercise</th><th>question</th><th>verdict</th><th>competency</th></tr>{rows}</table>
<p><small>Hash of exercises and verdicts: {seal}. The same answers give the same hash.</small></p></body></html>
"""


def forget() -> None:
    """Delete the learner's own log, the file that IONRT_TRAINING_RECORD names."""
    place = os.environ.get(RECORD)
    if place:
        Path(place).expanduser().unlink(missing_ok=True)
