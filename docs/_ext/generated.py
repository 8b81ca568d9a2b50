"""Pages made from the code, so that they cannot differ from it: variables, RBE models, public names by room."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import ionrt
from ionrt.quantities import QUANTITIES
from ionrt.rbe import MODELS

ROOMS = {
    "quantities": "Vocabulary: units, definitions, what may be added",
    "beam": "Physics of p, He, C, O, Ne in water, base data",
    "biology": "Track structure and cell models",
    "let": "Linear energy transfer of a field",
    "rbe": "RBE models and dose systems",
    "patient": "DICOM in and out, structures, calibration, phantoms, de-identification",
    "plan": "Rooms, beams, influence, optimisation, fields",
    "evaluate": "Histograms, indices, gamma",
    "adapt": "Daily CT: registration, mapping, accumulation, triggers",
    "compare": "Ions, options and robustness side by side",
    "cohort": "The exchange cohort: import, validation, safe export",
    "outcome": "Survival, competing risks, regression, NTCP",
    "indications": "What is known for an indication, in which dose system",
    "trial": "Protocols, designs, simulation, randomisation",
    "training": "Checked exercises and the record",
    "plot": "Figures",
    "report": "One offline HTML file from a notebook",
}


def write(folder: Path) -> None:
    """All generated pages."""
    _page(folder / "variables.md", _variables())
    _page(folder / "models.md", _models())
    _page(folder / "api.rst", _api())
    _page(folder / "reports.md", _notebooks(folder))
    _page(folder / "decisions.md", _decisions(folder))


def _page(path: Path, lines: Iterable[str]) -> None:
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # else every build would build everything
        path.write_text(text, encoding="utf-8")


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _variables() -> Iterable[str]:
    yield from (
        "# Variables",
        "",
        "Every labelled array that ionrt makes or takes is one of these. Additive ones may be summed over",
    )
    yield from ("ion, beam, fraction and spot; the last column names the attributes without which a value has no meaning.", "")
    yield from (_row("name", "unit", "what it is", "additive", "must say"), _row(*["---"] * 5))
    for name, q in QUANTITIES.items():
        yield _row(f"`{name}`", q.unit, q.long_name, "yes" if q.additive else "", ", ".join(q.carries))


def _models() -> Iterable[str]:
    yield from (
        "# RBE models",
        "",
        "One call for all: `ionrt.rbe.apply_model(field, name, **parameters)`, or the function of that name.",
    )
    yield from ("Confidence says how well the parameters are known; validity what the model was made for.", "")
    for name, model in MODELS.items():
        text = inspect.getdoc(getattr(ionrt.rbe, name, None)) or ""
        said = text.split("\n\n")
        yield from (f"## {name}", "", said[0], "")
        if len(said) > 1:
            yield from ("```text", said[1], "```", "")
        yield f"- needs: {', '.join(f'`{m}`' for m in ('dose', *model.moments))}"
        yield f"- defaults: {', '.join(f'{k} = {v!r}' for k, v in model.defaults.items()) or 'none'}"
        yield f"- validity: {getattr(model.validity, 'text', model.validity)}"
        yield f"- confidence: {model.confidence}"
        yield from (f"- reference: {model.citation}", "")


def _api() -> Iterable[str]:
    yield from ("API", "===", "", "Public names by room; a room imports only from rooms above it.", "")
    yield from _names("ionrt", "The names most people need", ionrt)
    for room, what in ROOMS.items():
        if hasattr(ionrt, room):
            yield from _names(f"ionrt.{room}", what, import_module(f"ionrt.{room}"))


def _names(module: str, what: str, room: object) -> Iterable[str]:
    listed = getattr(room, "__all__", None) or [
        n for n, v in vars(room).items() if not n.startswith("_") and getattr(v, "__module__", "") == module
    ]
    names = [n for n in sorted(set(listed)) if callable(getattr(room, n))]
    title = f"{module}: {what}"
    if names:
        yield from (title, "-" * len(title), "", ".. autosummary::", "   :toctree: api", "   :nosignatures:", "")
        yield from (f"   {module}.{n}" for n in names)
        yield ""


def _notebooks(folder: Path) -> Iterable[str]:
    yield from ("# Reports", "", "Every notebook runs with your own patient, tables and parameters:")
    yield from (
        "`ionrt report NAME --patient FOLDER -p name=value` writes one offline HTML file. The pages below show them without",
        "",
    )
    yield from ("results; `make report NOTEBOOK=NAME` shows them with.", "", "```{toctree}", ":maxdepth: 1", "")
    yield from sorted(f"notebooks/{p.stem}" for p in (folder / "notebooks").glob("*.ipynb"))
    yield "```"


def _decisions(folder: Path) -> Iterable[str]:
    yield from ("# Decisions", "", "Why things are as they are, half a page each.", "", "```{toctree}", ":maxdepth: 1", "")
    yield from sorted(f"decisions/{p.stem}" for p in (folder / "decisions").glob("*.md"))
    yield "```"
