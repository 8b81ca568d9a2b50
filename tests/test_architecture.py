"""The house stands: imports go one way, each heavy library has one home, `import ionrt` is light."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ionrt"

# Left is upstream. A room imports from itself and from rooms to its left only.
ORDER = [
    "moved",
    "lazy", "resources", "files", "parallel", "quantities", "ions", "beam", "biology", "let", "rbe", "sobp", "patient", "plan",
    "evaluate", "adapt", "compare", "outcome", "cohort", "indications", "trial", "training", "plot", "made", "report",
    "__main__",
]  # fmt: skip
HOMES = {
    "pydicom": {"patient"},
    "statsmodels": {"outcome", "cohort"},
    "holoviews": {"plot"},
    "panel": {"plot"},
    "bokeh": {"plot"},
    "nbconvert": {"report"},
    "papermill": {"report"},
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
        "import time, sys; t = time.process_time(); import ionrt; t = time.process_time() - t;"
        "print(t); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert float(out[0]) < 1.0  # processor time; 0.02 s alone
    assert not HEAVY & set(out[1].split())


def stubs() -> dict[str, list[tuple[str, str]]]:
    """Public names of every room as (module that defines it, name); "ionrt" itself included."""
    found = {}
    for stub in sorted(PACKAGE.rglob("__init__.pyi")):
        parts = ".".join(("ionrt", *stub.parent.relative_to(PACKAGE).parts))
        nodes = [n for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ImportFrom)]
        found[parts] = [(f"{parts}.{n.module}" if n.module else parts, a.asname or a.name) for n in nodes for a in n.names]
    return found


@pytest.mark.parametrize("home", stubs())
def test_one_name_is_one_thing(home):
    """A module with the name of a public function would replace it as soon as somebody imports the module."""
    names = {name for module, name in stubs()[home] if module != home}
    folder = PACKAGE.joinpath(*home.split(".")[1:])
    assert not names & {p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}


def test_every_public_name_resolves_in_any_order_and_is_documented():
    """In a shuffled order, then again after every module has been imported in another."""
    names = [(home, name) for home, found in stubs().items() for _, name in found]
    modules = [
        ".".join(("ionrt", *m.relative_to(PACKAGE).with_suffix("").parts)) for m in MODULES if not m.stem.startswith("__")
    ]
    code = f"""
import importlib, random
names, modules = {names!r}, {modules!r}
random.Random(3).shuffle(names), random.Random(5).shuffle(modules)
get = lambda home, name: getattr(importlib.import_module(home), name)
first = [get(*n) for n in names]
for module in modules:
    importlib.import_module(module)
changed = [n for n, was in zip(names, first) if get(*n) is not was]
bare = [n for n, was in zip(names, first) if callable(was) and not was.__doc__]
print(changed, bare)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[] []", done.stdout + done.stderr


def test_a_name_of_the_first_version_still_answers_and_says_where_it_lives():
    from ionrt.moved import MOVED, home_of

    public = {(found, name) for found, names in stubs().items() for _, name in names}
    for found, names in MOVED.items():
        for name in names.split():
            assert (f"ionrt.{found}", name) not in public, f"{found}.{name} is public: no longer moved"
            home = home_of(f"ionrt.{found}", name)
            with pytest.warns(DeprecationWarning, match=f"from {home} import {name}"):
                old = getattr(importlib.import_module(f"ionrt.{found}"), name)
            assert old is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="never"):
        getattr(importlib.import_module("ionrt.trial"), "never")  # noqa: B009


def test_the_number_of_public_names():
    """Every name is a promise; before adding one, see what it replaces."""
    assert len({name for found in stubs().values() for _, name in found}) <= 248


def folders() -> list[Path]:
    return sorted({m.parent for m in MODULES})


@pytest.mark.parametrize("folder", folders(), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_room_has_few_floors(folder):
    """A module or inner room stands above all that it imports from its own room; five floors can be drawn from memory."""
    here = ("ionrt", *folder.relative_to(PACKAGE).parts)
    inside = {p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()} - {"__init__"}
    graph: dict[str, set[str]] = {name: set() for name in inside}
    for module in (m for m in MODULES if m.is_relative_to(folder) and m != folder / "__init__.py"):
        unit = module.relative_to(folder).parts[0].removesuffix(".py")
        for name, _ in imports(module):
            parts = name.split(".")
            if tuple(parts[: len(here)]) == here and len(parts) > len(here) and parts[len(here)] in inside - {unit}:
                graph[unit].add(parts[len(here)])
    floor: dict[str, int] = {}
    for unit in graphlib.TopologicalSorter(graph).static_order():
        floor[unit] = 1 + max((floor[below] for below in graph[unit]), default=0)
    if folder != PACKAGE:  # whose order is above
        assert max(floor.values(), default=0) <= 5, floor


def test_decisions_have_one_number_each():
    numbers = [p.name[:4] for p in (PACKAGE.parent / "docs" / "decisions").glob("*.md")]
    assert all(n.isdigit() for n in numbers) and len(numbers) == len(set(numbers))
