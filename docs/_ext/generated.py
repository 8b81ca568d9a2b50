"""Pages made from the code, so that they cannot differ from it: variables, RBE models, public names by room."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from numpydoc.docscrape import FunctionDoc

import ionrt
from ionrt.quantities import QUANTITIES
from ionrt.rbe import MODELS, functions

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
    api = list(_api())
    _page(folder / "api.rst", api)
    for old in (folder / "api").glob("*.rst"):  # a name that has gone keeps no page
        if f"   {old.stem}" not in api:
            old.unlink()
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
        "One call for all: `ionrt.rbe.apply_model(field, name, **parameters)`; common ones also by their own name.",
    )
    yield from ("Confidence says how well the parameters are known; validity what the model was made for.", "")
    for name, model in MODELS.items():
        said = FunctionDoc(getattr(functions, name))
        yield from (f"## {name}", "", *said["Summary"], "")
        if said["Extended Summary"]:
            yield from ("```text", *said["Extended Summary"], "```", "")
        yield f"- needs: {', '.join(f'`{m}`' for m in ('dose', *model.moments))}"
        yield f"- defaults: {', '.join(f'{k} = {v!r}' for k, v in model.defaults.items()) or 'none'}"
        yield f"- validity: {model.validity}"
        yield f"- confidence: {model.confidence}"
        yield from (f"- reference: {model.citation}", "")


def _api() -> Iterable[str]:
    """A name of the package itself has its page there, and not once more in its room."""
    yield from ("API", "===", "", "Public names by room; a room imports only from rooms above it.", "")
    yield from _names("ionrt", "The names most people need", {n: getattr(ionrt, n) for n in ionrt.__all__})
    above = {id(getattr(ionrt, n)) for n in ionrt.__all__}
    for name, what in ROOMS.items():
        room = import_module(f"ionrt.{name}")
        own = [n for n, v in vars(room).items() if getattr(v, "__module__", "") == room.__name__]
        listed = getattr(room, "__all__", None) or own
        found = {n: v for n in listed if not n.startswith("_") and id(v := getattr(room, n)) not in above}
        yield from _names(room.__name__, what, found)


def _names(module: str, what: str, found: dict[str, object]) -> Iterable[str]:
    title, names = f"{module}: {what}", [n for n, v in sorted(found.items()) if callable(v)]
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
    found = (p.relative_to(folder).with_suffix("") for p in (folder / "notebooks").rglob("*.ipynb"))
    yield from sorted(p.as_posix() for p in found)
    yield "```"


def _decisions(folder: Path) -> Iterable[str]:
    yield from ("# Decisions", "", "Why things are as they are, half a page each.", "", "```{toctree}", ":maxdepth: 1", "")
    yield from sorted(f"decisions/{p.stem}" for p in (folder / "decisions").glob("*.md"))
    yield "```"
