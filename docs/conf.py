"""Documentation site: `make docs`. Offline: no request leaves the page; formulas become MathML, fonts and search come along."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

import generated  # noqa: E402  (beside this file)

import ionrt  # noqa: E402
from ionrt.report import EXTERNAL  # noqa: E402

project, author, copyright = "ionrt", "The ionrt developers", "The ionrt developers, BSD-3-Clause"
version = release = ionrt.__version__
extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "mathml"]
exclude_patterns = ["_build", "_ext"]
suppress_warnings = ["mystnb.unknown_mime_type"]

nb_execution_mode = "off"  # the reports are the executed notebooks; nbval tests them
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "signature"
numpydoc_show_class_members = False
html_math_renderer = "mathml"

html_theme = "pydata_sphinx_theme"
html_title = "ionrt"
html_sidebars = {
    page: [] for page in ("models", "variables", "structure", "security", "changelog", "statistics-methods", "howto/*")
}
html_css_files = ["wrap.css"]
html_static_path = ["_static"]
html_theme_options = {
    "show_nav_level": 2,
    "navigation_depth": 3,
    "icon_links": [],
    "announcement": "Research software. Not a medical device, not approved for clinical use.",
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False
html_extra_path = ["_extra"] if (HERE / "_extra").is_dir() else []
templates_path: list[str] = []


def no_requests(app: Any, error: Exception | None) -> None:
    """A page that would load something from elsewhere is an error."""
    for page in (p for kind in ("html", "css") for p in Path(app.outdir).rglob(f"*.{kind}") if not error):
        if found := EXTERNAL.search(page.read_text(encoding="utf-8")):
            raise ExtensionError(f"{page} would load {found.group()}")


def setup(app: Any) -> None:
    """Pages that the code itself fills: variables, models, the API by room; notebooks beside them."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "notebooks", target, ignore=shutil.ignore_patterns("*.cfg", ".ipynb_checkpoints"))
    generated.write(HERE)
    app.connect("build-finished", no_requests)
