"""The house stands: imports go one way, each heavy library has one home, `import ionrt` is light."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ionrt"

# Left is upstream. A room imports from itself and from rooms to its left only.
ORDER = [
    "lazy", "resources", "quantities",
    "threads", "ions", "beam", "biology", "let", "rbe", "sobp", "patient", "plan", "evaluate", "adapt", "compare",
    "outcome", "cohort", "trial", "plot", "report", "__main__",
]  # fmt: skip
HOMES = {
    "pydicom": {"patient"},
    "statsmodels": {"outcome", "cohort"},
    "holoviews": {"plot"},
    "bokeh": {"plot"},
    "nbconvert": {"report"},
    "papermill": {"report"},
    "pandera": {"cohort"},
    "SimpleITK": {"adapt"},
}
HEAVY = {"pydicom", "statsmodels", "holoviews", "bokeh", "nbconvert", "papermill", "numba", "xarray", "scipy", "pandas", "dask"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    first = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return first.split("_")[0] if first.startswith("plot_") else first


def imports(module: Path) -> list[tuple[str, int]]:
    """Absolute names of all that a module imports, also inside functions, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ("ionrt", *module.relative_to(PACKAGE).parts[: -node.level])
                base = ".".join([*here, *([base] if base else [])])
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def test_every_module_has_a_place_in_the_order():
    assert {room(m) for m in MODULES} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_go_one_way(module):
    if room(module) == "__init__":
        return
    here = ORDER.index(room(module))
    for name, line in imports(module):
        parts = name.split(".")
        if parts[0] != "ionrt" or parts[1:] in ([], ["__version__"]):  # the package itself: its version, its place on disk
            continue
        assert ORDER.index(parts[1]) <= here, f"{module.name}:{line} imports {name}, which is downstream of {room(module)}"


@pytest.mark.parametrize("home", ORDER)
def test_modules_of_a_room_import_in_no_circle(home):
    """Not for types either."""
    mine = [m for m in MODULES if room(m) == home and m.stem != "__init__"]
    names = {".".join(("ionrt", *m.relative_to(PACKAGE).with_suffix("").parts)): m for m in mine}
    graph = {n: {k for name, _ in imports(m) for k in (name, name.rpartition(".")[0]) if k in names} for n, m in names.items()}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(names)  # a circle raises, and names it


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_each_heavy_library_has_one_home(module):
    for name, line in imports(module):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or room(module) in homes, f"{module.name}:{line} imports {name}; its home is {homes}"


def test_modules_stay_small():
    long = {str(m.relative_to(PACKAGE)): n for m in MODULES if (n := len(m.read_text().splitlines())) > 400}
    assert not long, "is there a second idea in them?"


def test_import_is_fast_and_loads_nothing_heavy():
    code = (
        "import time, sys; t = time.perf_counter(); import ionrt; t = time.perf_counter() - t;"
        "print(t); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert float(out[0]) < 1.0
    assert not HEAVY & set(out[1].split())


def test_every_public_name_resolves_and_is_documented():
    import ionrt

    for name in ionrt.__all__:
        public = getattr(ionrt, name)
        assert public.__doc__, f"ionrt.{name} has no docstring"
