"""What a report is made from: parameters as plain data, command, versions, commit."""

from __future__ import annotations

import ast
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ionrt
from ionrt.files import content_hash, read_notebook
from ionrt.lazy import IonrtError

DEEPEST, LONGEST = 6, 10_000  # lists in lists, and items of one
MADE_WITH = ("numpy", "xarray", "numba", "scipy", "bokeh")


def how_made(source: Path, chosen: Mapping[str, str]) -> dict[str, str]:
    """What makes the page again: command, versions, commit; `chosen` parameters as the page shows them, without folders."""
    words = [f"-p {shlex.quote(f'{name}={value}')}" for name, value in chosen.items()]
    return {
        "command": " ".join(["ionrt report", source.stem, *words]),
        "ionrt": f"{ionrt.__version__}{_commit()}",
        "notebook": f"{source.name}, hash {content_hash(source.read_bytes())[:12]}",
        "made with": f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in MADE_WITH)}",
    }


def typed(value: Any, shown: str) -> str:
    """A parameter as it is typed behind ``-p``."""
    around = ("[", "]") if isinstance(value, list) else ("{", "}") if isinstance(value, Mapping) else ("", "")
    return shown.join(around)


def _commit() -> str:
    """Commit of the checkout that the package lies in, and whether files were changed since; nothing for a wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=, changed since", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f", commit {found.stdout.strip()}"


def plain_value(value: Any, name: str, depth: int = 0) -> Any:
    """A parameter as plain data: numbers, texts, lists and dictionaries with text keys; folders become text, tuples lists."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, str):
        if value.isascii() or value.encode("utf-8", "replace").decode() == value:
            return str(value)
    elif isinstance(value, (list, tuple)) and depth < DEEPEST and len(value) <= LONGEST:
        return [plain_value(one, name, depth + 1) for one in value]
    elif isinstance(value, dict) and depth < DEEPEST and len(value) <= LONGEST and all(isinstance(k, str) for k in value):
        return {plain_value(k, name, DEEPEST): plain_value(one, name, depth + 1) for k, one in value.items()}
    raise IonrtError(
        f"parameter {name}: expected finite numbers, texts, lists or dictionaries of them (at most {DEEPEST} deep), got"
        f" {type(value).__name__}; put a date or another text in quotes"
    )


def like(value: Any, default: Any, name: str) -> Any:
    """A parameter of the kind of its default: one value for a list of one, a number where a number stood; else refused."""
    numeric = (int, float)
    if default is None:
        return value
    if isinstance(default, list):
        values = value if isinstance(value, list) else [value]
        return [like(one, default[0], name) for one in values] if default else values
    kinds = {bool: "true or false", str: "a text", dict: "names with values, {name: value}"}
    for kind, words in kinds.items():
        if isinstance(default, kind) and not isinstance(value, kind):
            if kind is str and type(value) in numeric:
                return f"{value}"  # a structure or a folder may be called 60
            raise IonrtError(f"parameter {name}: expected {words}, as in {default!r}, got {value!r}")
    if type(default) in numeric and type(value) not in numeric:
        raise IonrtError(f"parameter {name}: expected a number, as in {default!r}, got {value!r}")
    return value


def _tagged(source: Path) -> str:
    cells = read_notebook(source).cells
    tagged = [str(c.source) for c in cells if "parameters" in c.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise IonrtError(f"{source.name}: expected one cell tagged `parameters`, found {len(tagged)}")
    try:
        ast.parse(tagged[0])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise IonrtError(
            f"{source.name}: the cell tagged `parameters` is no Python ({type(error).__name__}); write `name = value` lines"
        ) from None
    return tagged[0]


def parameters_of(source: Path) -> dict[str, Any]:
    """Names and default values of the cell tagged ``parameters``, one ``name = value`` per line, nothing else."""
    found: dict[str, Any] = {}
    nodes: list[Any] = list(ast.parse(_tagged(source)).body)
    for node in nodes:
        plain = isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        try:
            value = ast.literal_eval(node.value) if plain else None
        except (ValueError, TypeError, RecursionError, MemoryError):
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


def notes(source: Path) -> dict[str, str]:
    """What stands behind each parameter in its cell: unit, choices, what an empty one means."""
    text = _tagged(source)
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        end = node.end_lineno or node.lineno
        rest = lines[end - 1].encode()[node.end_col_offset or 0 :].decode()
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and rest.strip().startswith("#"):
            found[node.targets[0].id] = rest.strip().removeprefix("#").strip()
    return found
