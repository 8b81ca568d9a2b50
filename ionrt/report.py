"""Run a notebook with parameters and make one HTML file that needs no network; the only importer of papermill and nbconvert."""

from __future__ import annotations

import ast
import datetime
import html
import importlib
import json
import platform
import re
import shlex
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill

import ionrt
from ionrt import resources
from ionrt.files import atomic, content_hash
from ionrt.lazy import IonrtError, one_of

NOTICE = "Research software. Not a medical device, not for clinical use."
HEAD = 40_000  # letters of a page in which its title stands
MADE_WITH = ("numpy", "xarray", "numba", "scipy", "bokeh")
MATH = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<![\s\\])\$(?![\d\w])", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
JQUERY = re.compile(r"var element = \$\('#([\w-]+)'\);")  # written by nbconvert, which expects jQuery from a network
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
        if Path(name).is_file():
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
    out : HTML file; default ``reports/<name without number>.html``. The executed notebook is kept beside it.
    parameters : values that replace those of the notebook.

    Returns
    -------
    Report with the paths of both files.

    Errors
    ------
    IonrtError for an unknown notebook or parameter, for an error that the notebook itself reports, and for a page that
    would load something from elsewhere. Nothing is written then.
    """
    source = find_notebook(notebook)
    target = Path(out) if out else Path("reports") / f"{re.sub(r'^[0-9]+_', '', source.stem)}.html"
    defaults = _parameters(source)
    chosen = dict(parameters or {})
    for name in chosen:
        one_of(name, tuple(defaults), what=f"parameter of {source.stem}")
    kept = target.with_suffix(".ipynb")
    with atomic(target) as page, atomic(kept) as executed:
        _execute(source, executed, chosen)
        _without_folders(executed, chosen)
        page.write_text(to_html(executed, {**defaults, **chosen}, _how_made(source, chosen)), encoding="utf-8")
    write_index(target.parent)
    return Report(target.resolve(), kept.resolve())


def write_index(folder: Path) -> Path:
    """One page with a link to every report of a folder, newest first; renewed with each report."""
    rows = []
    for page in sorted(folder.glob("*.html"), key=lambda p: -p.stat().st_mtime):
        head = page.read_text(encoding="utf-8", errors="replace")[:HEAD]
        if page.name == "index.html" or 'name="generator" content="ionrt' not in head:
            continue
        title = re.search(r"<title>(.*?)</title>", head)
        about = re.search(r'name="description" content="(.*?)"', head)
        link = f"<a href='{html.escape(page.name, quote=True)}'>{title.group(1) if title else html.escape(page.stem)}</a>"
        rows.append(f"<tr><th scope='row'>{link}</th><td>{about.group(1) if about else ''}</td></tr>")
    body = f"<h1>Reports</h1><table class='ionrt'><tbody>{''.join(rows)}</tbody></table>"
    with atomic(folder / "index.html") as place:
        place.write_text(_page("Reports", body, {}, {}), encoding="utf-8")
    return folder / "index.html"


def _how_made(source: Path, chosen: Mapping[str, Any]) -> dict[str, str]:
    """What makes the page again: versions, commit, command. Of paths only the last part, as in the settings."""
    words = [f"-p {shlex.quote(f'{name}={_typed(value)}')}" for name, value in chosen.items()]
    versions = ", ".join(f"{name} {version(name)}" for name in MADE_WITH)
    return {
        "command": " ".join(["ionrt report", source.stem, *words]),
        "ionrt": f"{ionrt.__version__}{_commit()}",
        "notebook": f"{source.name}, hash {content_hash(source.read_bytes())[:12]}",
        "made with": f"Python {platform.python_version()}, {versions}",
    }


def _typed(value: Any) -> str:
    """A parameter as one types it behind ``-p``, without folders."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_typed(k)}: {_typed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_typed, value)) + "]"
    return "" if value is None or value == "" else _shown(value)


def _commit() -> str:
    """Commit of the checkout that the package lies in, and whether files were changed since; nothing for a wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=, changed since", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return f", commit {found.stdout.strip()}"


def _parameters(source: Path) -> dict[str, Any]:
    """Names and default values of the cell tagged ``parameters``, one ``name = value`` per line, nothing else."""
    cells = nbformat.read(source, as_version=4).cells
    tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise IonrtError(f"{source.name}: expected one cell tagged `parameters`, found {len(tagged)}")
    found: dict[str, Any] = {}
    for node in ast.parse(tagged[0]).body:
        plain = isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        try:
            value = ast.literal_eval(node.value) if plain else None
        except ValueError:
            plain = False
        if not plain:
            raise IonrtError(
                f"{source.name}: the cell tagged `parameters` may hold `name = value` only, one per line, each a number,"
                f" a text, a list or a dictionary, got `{ast.unparse(node)}`; what is computed belongs in the next cell"
            )
        name = node.targets[0].id
        if name in found:
            raise IonrtError(f"{source.name}: the cell tagged `parameters` gives {name!r} twice")
        found[name] = value
    return found


def _execute(source: Path, executed: Path, parameters: dict[str, Any]) -> None:
    # what writes the page loads while the kernel computes
    threading.Thread(target=importlib.import_module, args=("nbconvert",), daemon=True).start()
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters=parameters,
            cwd=str(source.parent),
            progress_bar=True,
            kernel_name="python3",
            language="python",
            extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings about local sockets are noise here
        )
    except papermill.PapermillExecutionError as error:
        if error.ename.endswith(("IonrtError", "ReachError")):
            raise IonrtError(error.evalue) from None
        raise


def _without_folders(executed: Path, parameters: Mapping[str, Any]) -> None:
    """Take the folders of this machine out of the executed notebook: of a path only its last part stays."""
    book = nbformat.read(executed, as_version=4)
    book.metadata.pop("papermill", None)
    text = nbformat.writes(book)
    values = [v for value in parameters.values() for v in (value if isinstance(value, (list, tuple)) else [value])]
    for value in sorted({str(v) for v in values if "/" in str(v) or "\\" in str(v)}, key=len, reverse=True):
        for form in (str(Path(value).resolve()), value, repr(value)[1:-1]):
            text = text.replace(json.dumps(form)[1:-1], json.dumps(_shown(value))[1:-1])
    executed.write_text(text, encoding="utf-8")


def to_html(executed: Path, parameters: Mapping[str, Any], made: Mapping[str, str] | None = None) -> str:
    """The page of an executed notebook, as text; raises if it would load anything from elsewhere.

    `parameters` and `made`, what makes the page again, are listed at its end.
    """
    book = nbformat.read(executed, as_version=4)
    _prepare(book)
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True).from_notebook_node(book)
    body = JQUERY.sub(r"var element = document.getElementById('\1');", body)
    title = next((m.group(1) for c in book.cells if (m := re.search(r"^# (.+)$", c.source, re.MULTILINE))), executed.stem)
    page = _page(title, body, parameters, made or {})
    outside = external_resources(page)
    if outside:
        raise IonrtError(
            f"the report would load {len(outside)} resources from elsewhere, first {outside[0]!r}; nothing was written"
        )
    return page


def external_resources(page: str) -> list[str]:
    """Everything in a page that would make a browser ask another machine."""
    return [m.group(0)[-120:] for m in EXTERNAL.finditer(page)]


def _prepare(book: Any) -> None:
    """MathML for formulas, no progress bars, no printed key numbers: they stand in a table, or the cell is tagged `sentence`.

    Cells tagged `synthetic` leave the page together where none of them shows anything: the data are not SYNTHETIC.
    """
    about = [cell for cell in book.cells if "synthetic" in cell.metadata.get("tags", ())]
    if not any(cell.get("outputs") for cell in about):
        book.cells = [cell for cell in book.cells if cell not in about]
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = math_to_mathml(cell.source)
            continue
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", ())
            hidden = "keep_output" in tags and "sentence" not in tags
            shown = [o for o in cell.outputs if o.output_type != "stream" or not (hidden or o.name == "stderr")]
            cell.outputs = [o for o in shown if o.output_type == "stream" or o.get("data")]


def math_to_mathml(text: str) -> str:
    """Replace ``$…$`` and ``$$…$$`` outside code by MathML."""
    from latex2mathml.converter import convert as to_mathml

    def one(match: re.Match[str]) -> str:
        formula, display = (match.group(1), "block") if match.group(1) else (match.group(2), "inline")
        return to_mathml(formula.strip(), display=display)

    parts = CODE.split(text)
    return "".join(part if i % 2 else MATH.sub(one, part).replace("$", "&#36;") for i, part in enumerate(parts))


def _shown(value: Any) -> str:
    """A parameter for the reader; of a path only the last part, so that no folder of a hospital leaves with the file."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) or "default"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value)) or "default"
    text = "default" if value is None or value == "" else str(value)
    return Path(text).name if "/" in text or "\\" in text else text


def _rows(heading: str, values: Mapping[str, str]) -> str:
    """A block of names and values at the end of a page; nothing where there are none."""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(k)}</th><td>{html.escape(_shown(v))}</td></tr>" for k, v in values.items()
    )
    return f"<h2>{heading}</h2><table class='ionrt settings'><tbody>{rows}</tbody></table>" if rows else ""


def _page(title: str, body: str, parameters: Mapping[str, Any], made: Mapping[str, str]) -> str:
    css = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    day = datetime.date.today()
    today = f"{day.day} {day:%B %Y}"  # Windows has no %-d
    settings = _rows("How it was made", made) + _rows("Settings of this report", {k: _shown(v) for k, v in parameters.items()})
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
