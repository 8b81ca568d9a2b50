"""Run a notebook with parameters and make one HTML file that needs no network; the only importer of papermill and nbconvert."""

from __future__ import annotations

import builtins
import datetime
import html
import importlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import papermill

import ionrt
from ionrt import resources
from ionrt.files import DiskError, atomic, read_notebook
from ionrt.lazy import IonrtError, one_of
from ionrt.made import how_made, like, notes, parameters_of, plain_value, typed

NOTICE = "Research software. Not a medical device, not for clinical use."
HEAD = 40_000  # letters of a page in which its title stands
MATH = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<![\s\\])\$(?![\d\w])", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
JQUERY = re.compile(r"var element = \$\('#([\w-]+)'\);")  # written by nbconvert, which expects jQuery from a network
NOTEBOOK = re.compile(r"<a\b[^>]*href=\"[^\":]*\.ipynb\"[^>]*>(.*?)</a>", re.DOTALL)  # does not travel with the page
SCRIPT = re.compile(r"(<script\b[^>]*>)(.*?)(</script>)", re.DOTALL | re.IGNORECASE)
FOLDERS = ("store", "patient", "cohort", "participants", "folder", "path")  # endings of parameters that hold a path
TABLES = (".yaml", ".yml", ".csv")  # endings of files that a parameter may name without a folder
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"
# what makes a browser ask another machine: attributes of tags, style sheets, script imports
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|embed|source|audio|video|track|input)\b[^>]*?\ssrc\s*=\s*["']?\s*(?:https?:)?//[^\s"'>]+
    |<link\b[^>]*?\shref\s*=\s*["']?\s*(?:https?:)?//[^\s"'>]+
    |\bimport\(\s*["'](?:https?:)?//[^"']+
    |\bimport\s[^;"'()]*?from\s*["'](?:https?:)?//[^"']+
    |@import\s+["']?(?:https?:)?//[^"';]+
    |\burl\(\s*["']?(?:https?:)?//[^"')]+""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Report:
    """Where a report is: the HTML file for readers, the executed notebook for colleagues."""

    html: Path
    notebook: Path


def notebooks() -> dict[str, Path]:
    """Notebooks by name, from ``notebooks/`` of the working folder, or those that came with the package."""
    return resources.files("notebooks", "*.ipynb", Path.cwd())


def find_notebook(name: str | Path) -> Path:
    """The notebook of this path or name; the number in front may be left out."""
    if Path(name).suffix == ".ipynb":
        if os.path.isfile(name):
            return Path(name).resolve()
        raise IonrtError(f"notebook {str(name)!r} does not exist")
    known = notebooks()
    short = {re.sub(r"^\d+_", "", stem): path for stem, path in known.items()} | known
    return short[one_of(str(name), tuple(short), what="notebook")]


def report(notebook: str | Path, out: str | Path | None = None, parameters: Mapping[str, Any] | None = None) -> Report:
    """Execute a notebook and write it as one HTML file: code hidden, formulas as MathML, plots inside, nothing from a network.

    Parameters
    ----------
    notebook : path or name (``compare_ions``); it has a cell tagged ``parameters``.
    out : HTML file; default ``reports/<name without number>.html``. The executed notebook is kept beside it; it shows no output
        that the page does not show. Folders among the parameters, which often bear a patient's name, are in neither.
    parameters : values that replace those of the notebook: numbers, texts, lists and dictionaries of them (paths become texts).

    Returns
    -------
    Report with the paths of both files.

    Raises
    ------
    IonrtError
        For an unknown notebook or parameter, a parameter that is no plain data, an error that the notebook itself reports, and
        a page that would load something from elsewhere. Nothing is written then.
    """
    source = find_notebook(notebook)
    target = Path(out) if out else Path("reports") / f"{re.sub(r'^[0-9]+_', '', source.stem)}.html"
    defaults = parameters_of(source)
    for name in parameters or {}:
        one_of(name, tuple(defaults), what=f"parameter of {source.stem}")
    chosen = {name: like(plain_value(value, name), defaults[name], name) for name, value in (parameters or {}).items()}
    chosen = {name: _from_here(value, name, source) for name, value in chosen.items()}
    shown = {name: _shown(chosen.get(name, value), name, source, given=name in chosen) for name, value in defaults.items()}
    kept = target.with_suffix(".ipynb")
    with atomic(target) as page, atomic(kept) as executed:
        _execute(source, executed, chosen)
        _without_traces(executed, _folders(chosen, source))
        page.write_text(
            to_html(executed, shown, how_made(source, {n: typed(chosen[n], shown[n]) for n in chosen}), notes(source)),
            encoding="utf-8",
        )
    write_index(target.parent)
    return Report(target.resolve(), kept.resolve())


def write_index(folder: Path) -> Path:
    """One page with a link to every report of a folder, newest first; renewed with each report."""
    rows = []
    pages = [page for page in folder.glob("*.html") if page.is_file()]
    for page in sorted(pages, key=lambda p: -p.stat().st_mtime):
        with page.open(encoding="utf-8", errors="replace") as text:
            head = text.read(HEAD)
        if page.name == "index.html" or 'name="generator" content="ionrt' not in head:
            continue
        title = re.search(r"<title>(.*?)</title>", head)
        about = re.search(r'name="description" content="(.*?)"', head)
        named, said = (html.escape(html.unescape(m.group(1))) if m else "" for m in (title, about))
        link = f"<a href='{html.escape(quote(page.name), quote=True)}'>{named or html.escape(page.stem)}</a>"
        rows.append(f"<tr><th scope='row'>{link}</th><td>{said}</td></tr>")
    body = f"<h1>Reports</h1><table class='ionrt settings'><tbody>{''.join(rows)}</tbody></table>"
    with atomic(folder / "index.html") as place:
        place.write_text(_page("Reports", body, {}, {}), encoding="utf-8")
    return folder / "index.html"


def _execute(source: Path, executed: Path, parameters: dict[str, Any]) -> None:
    # what writes the page loads while the kernel computes
    threading.Thread(target=importlib.import_module, args=("nbconvert",), daemon=True).start()
    book = read_notebook(source)
    if parameters:  # written here, as literals of checked values: a text can not become code
        place = next(i for i, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", ()))
        lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        book.cells.insert(place + 1, nbformat.v4.new_code_cell(lines, metadata={"tags": ["injected-parameters"]}))
    nbformat.write(book, executed)
    path = str(executed).replace("{", "{{").replace("}", "}}")  # papermill fills in braces
    try:
        papermill.execute_notebook(
            path,
            path,
            cwd=str(source.parent),
            progress_bar=True,
            kernel_name="python3",
            language="python",
            iopub_timeout=120,  # s; its 4 are too few where many processes share a processor
            extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings about local sockets are noise here
        )
    except papermill.PapermillExecutionError as error:
        if issubclass(getattr(builtins, error.ename, Exception), (OSError, MemoryError)):
            raise IonrtError(f"in the notebook: {error.ename}: {error.evalue}; make room on the disk or in memory") from None
        if not _ends_there(executed, error):
            raise
    except TimeoutError as error:  # of nbclient; Python counts it among the disk's
        raise IonrtError("the notebook's process did not answer in time; try again when the machine is less busy") from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DiskError(f"the notebook could not be kept ({why}); make room, or set JUPYTER_RUNTIME_DIR and TMPDIR") from error
    except RuntimeError as error:  # nbclient's words for a kernel that is gone
        if "kernel" not in str(error).lower():
            raise
        why = "the notebook's process was ended from outside, often for lack of memory; try a coarser grid"
        raise IonrtError(why) from error


def _ends_there(executed: Path, error: papermill.PapermillExecutionError) -> bool:
    """Whether the cell that failed with an error of ours may end the page (tag ``may-stop``), with what it says last."""
    if not error.ename.endswith(("IonrtError", "ReachError", "DiskError")):
        return False
    book = nbformat.read(executed, as_version=4)
    cells = [c for c in book.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", ())]
    at = next(i for i, c in enumerate(cells) if "error" in [o.output_type for o in c.get("outputs", ())])
    if "may-stop" not in cells[at].metadata.get("tags", ()):
        raise IonrtError(error.evalue) from None
    last = {"text/html": f"<p class='stop' role='alert'><strong>This page ends here:</strong> {html.escape(error.evalue)}</p>"}
    cells[at].outputs, book.cells = [nbformat.v4.new_output("display_data", last)], cells[: at + 1]
    nbformat.write(book, executed)
    return True


def _is_path(value: Any, name: str, source: Path) -> bool:
    """Whether a text is a path of this machine; a name such as ``CTV 60/66Gy`` is none."""
    if not isinstance(value, str) or not ("/" in value or "\\" in value):
        return False
    if name.endswith(FOLDERS) or re.match(r"[/~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\", value):
        return True
    try:
        return Path(value).exists() or (source.parent / value).exists()
    except (OSError, ValueError):
        return False


def _from_here(value: Any, name: str, source: Path) -> Any:
    """A file or folder of the working folder by its whole path, as the notebook runs in its own folder."""
    if isinstance(value, list):
        return [_from_here(one, name, source) for one in value]
    if not isinstance(value, str) or not value or os.path.exists(source.parent / value):
        return value
    named = name.endswith(FOLDERS) or Path(value).suffix in TABLES or _is_path(value, name, source)
    return os.path.abspath(value) if named and os.path.exists(value) else value


def _folders(parameters: Mapping[str, Any], source: Path) -> dict[str, str]:
    """All spellings of the paths among the parameters, and of the folders of this machine, with what stands for them."""
    found: dict[str, str] = {}
    for name, value in parameters.items():
        parts = value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else [value]
        for one in parts:
            if _is_path(one, name, source):
                path = Path(os.path.expanduser(one))
                spelled = {one, str(path), os.path.abspath(path), os.path.normpath(path), str(path.resolve())}
                spelled |= {os.path.abspath(source.parent / path), str((source.parent / path).resolve())}
                found |= dict.fromkeys(spelled, f"[{name}]")
                last = path.resolve().name
                if len(last) >= 4 and re.search(r"\d|[^\x00-\x7f]|.[ _^,.]", last):  # a name or number, no common word
                    found[last] = f"[{name}]"
    ours, temporary = Path(ionrt.__file__).parents[1], Path(tempfile.gettempdir())
    machine = (Path.cwd(), source.parent, ours, Path(sys.prefix), Path(os.path.expanduser("~")), temporary)
    return found | {str(p): "[folder]" for p in machine if len(p.parts) > 2 and str(p) not in found}


def _without_traces(executed: Path, folders: Mapping[str, str]) -> None:
    """Leave in the executed notebook what its page shows, without folders, times and messages of this machine."""
    book = nbformat.read(executed, as_version=4)
    for key in ("papermill", "widgets"):
        book.metadata.pop(key, None)
    for cell in book.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _page_outputs(cell)
    spelled: dict[str, str] = {}
    for path, stands in folders.items():
        quoted, plain = json.dumps(path)[1:-1], json.dumps(path, ensure_ascii=False)[1:-1]
        twice = json.dumps(quoted)[1:-1]
        forms = {path, html.escape(path), repr(path)[1:-1], quoted, plain, twice, html.escape(quoted), quote(path)}
        spelled |= {form: stands for form in forms if len(form) >= 4}
    if spelled:
        pattern = re.compile("|".join(re.escape(form) for form in sorted(spelled, key=len, reverse=True)))
        cells = _replaced(json.loads(nbformat.writes(book)), pattern, spelled)
        book = nbformat.reads(json.dumps(cells), as_version=4)
    executed.write_text(nbformat.writes(book), encoding="utf-8")


def _replaced(part: Any, pattern: re.Pattern[str], stands: Mapping[str, str]) -> Any:
    """The same lists and dictionaries with the texts in them changed."""
    if isinstance(part, str):
        return pattern.sub(lambda match: stands[match.group(0)], part)
    lines = isinstance(part, list) and all(isinstance(line, str) for line in part)
    if lines and part and all(line.endswith("\n") for line in part[:-1]):  # of one text
        return pattern.sub(lambda match: stands[match.group(0)], "".join(part)).splitlines(True)
    if isinstance(part, list):
        return [_replaced(one, pattern, stands) for one in part]
    return {k: _replaced(v, pattern, stands) for k, v in part.items()} if isinstance(part, dict) else part


def _page_outputs(cell: Any) -> list[Any]:
    """Outputs that the page shows: no warnings, errors, progress bars, printed key numbers; of several forms the page's own."""
    tags = cell.metadata.get("tags", ())
    hidden = "keep_output" in tags and "sentence" not in tags  # tagged so where no table repeats the numbers
    shown = [o for o in cell.outputs if (o.output_type == "stream" and not hidden and o.name != "stderr") or o.get("data")]
    shown = [o for o in shown if WIDGET not in o.get("data", ())]  # progress bars, which would stand still here
    for output in shown:
        if "data" in output and "text/html" in output.data:
            output.data.pop("text/plain", None)
    return shown


def to_html(
    executed: Path,
    parameters: Mapping[str, str],
    made: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> str:
    """The page of an executed notebook, as text; raises if it would load anything from elsewhere.

    `parameters`, each with its note, and `made`, what makes the page again, are listed at its end.
    """
    book = nbformat.read(executed, as_version=4)
    _prepare(book)
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True).from_notebook_node(book)
    body = NOTEBOOK.sub(r"\1", JQUERY.sub(r"var element = document.getElementById('\1');", body))
    title = next((m.group(1) for c in book.cells if (m := TITLE.search(c.source))), executed.stem)
    body = SCRIPT.sub(lambda m: m[1] + m[2].replace("<!--", "\\u003c!--").replace("<script", "\\u003cscript") + m[3], body)
    page = _page(title, body, parameters, made or {}, notes)
    if outside := external_resources(page):
        why = f"the report would load {len(outside)} resources from elsewhere, first {outside[0]!r}; nothing was written"
        raise IonrtError(why)
    return page


def external_resources(page: str) -> list[str]:
    """Everything in a page that would make a browser ask another machine."""
    return [m.group(0)[-120:] for m in EXTERNAL.finditer(page)]


def _prepare(book: Any) -> None:
    """MathML for formulas, no progress bars, no printed key numbers (they stand in a table).

    Cells tagged `synthetic` leave the page together where none of them shows anything: the data are not SYNTHETIC.
    """
    from ionrt.quantities import codes_in_words

    about = [cell for cell in book.cells if "synthetic" in cell.metadata.get("tags", ())]
    if not any(cell.get("outputs") for cell in about):
        book.cells = [cell for cell in book.cells if cell not in about]
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = math_to_mathml(_outside_code(cell.source, codes_in_words))
        elif cell.cell_type == "code":
            cell.outputs = _page_outputs(cell)
    _titled(book)


def _titled(book: Any) -> None:
    """A title that the notebook computes (``Markdown("# ...")``) takes the place of the one it was written with."""
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            if made := TITLE.match(output.get("data", {}).get("text/markdown", "")):
                cell.outputs.remove(output)
                first = next(c for c in book.cells if TITLE.search(c.source))
                first.source = TITLE.sub(lambda _: made.group(0), first.source, count=1)
                return


def math_to_mathml(text: str) -> str:
    """Replace ``$…$`` and ``$$…$$`` outside code by MathML."""
    from latex2mathml.converter import convert as to_mathml

    def one(match: re.Match[str]) -> str:
        return to_mathml((match[1] or match[2]).strip(), display="block" if match[1] else "inline")

    return _outside_code(text, lambda part: MATH.sub(one, part).replace("$", "&#36;"))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if i % 2 else change(part) for i, part in enumerate(CODE.split(text)))


def _shown(value: Any, name: str, source: Path, *, given: bool) -> str:
    """A parameter for the reader; a folder that was given is not shown, as its name is often a patient's."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_shown(v, name, source, given=given)}" for k, v in value.items()) or "default"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(one, name, source, given=given) for one in value) or "default"
    if _is_path(value, name, source):
        return f"[{name}]" if given else Path(value).name
    return "default" if value is None or value == "" else str(value)


def _rows(heading: str, values: Mapping[str, str], notes: Mapping[str, str] | None = None) -> str:
    """A block of names and values at the end of a page, where there are notes with a third column; nothing for no values."""
    cells = ([k, v, *([notes.get(k, "")] if notes else [])] for k, v in values.items())
    words = ([html.escape(c).replace("`", "") for c in row] for row in cells)
    lines = (f"{k.replace('_', '_<wbr>')}</th>{''.join(f'<td>{c}</td>' for c in row)}" for k, *row in words)
    rows = "".join(f"<tr><th scope='row'>{line}</tr>" for line in lines)
    return f"<h2>{heading}</h2><table class='ionrt settings'><tbody>{rows}</tbody></table>" if rows else ""


def _page(
    title: str, body: str, parameters: Mapping[str, str], made: Mapping[str, str], notes: Mapping[str, str] | None = None
) -> str:
    css, script = (Path(__file__).with_suffix(kind).read_text(encoding="utf-8") for kind in (".css", ".js"))
    today = f"{(day := datetime.date.today()).day} {day:%B %Y}"  # Windows has no %-d
    settings = _rows("How it was made", made) + _rows("Settings of this report", parameters, notes)
    about = html.escape(f"{today}. {made.get('command', '')}", quote=True)
    plain = html.escape(re.sub(r"[*_`]", "", title))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="ionrt {ionrt.__version__}">
<meta name="description" content="{about}">
<title>{plain}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
<script>{script}</script>
</head>
<body>
<header class="banner"><span>ionrt {ionrt.__version__}</span><span>{today}</span><strong>{NOTICE}</strong></header>
<main>
{body}
{settings}
</main>
<footer class="banner"><span>Made with ionrt {ionrt.__version__} on {today}</span><strong>{NOTICE}</strong></footer>
</body>
</html>
"""
