"""What makes a report again: command, versions, commit."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ionrt
from ionrt.files import content_hash

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
