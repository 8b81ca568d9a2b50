"""environment.yml, pyproject.toml and the lock say the same."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ionrt import resources
from ionrt.lazy import one_of

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_ONLY = {"python", "pip", "hatchling"}
CONDA_NAMES: dict[str, str] = {"gdcm": "python-gdcm"}  # where conda calls a package otherwise
EXTRAS = PROJECT["optional-dependencies"]
CORE = {"lazy", "resources", "quantities", "ions", "beam", "biology", "let", "rbe", "sobp"}  # rooms that need no extra
PEERS = {
    "fredtools",
    "opentps",
    "pyRadPlan",
    "pymkm",
}  # compared with in benchmarks and tests, each in an environment of its own


def stated(*extras: str) -> dict[str, str]:
    """Lower bounds by canonical name of the core and of these extras, those within them included."""
    found: dict[str, str] = {}
    waiting = [*PROJECT["dependencies"], *(r for extra in extras for r in EXTRAS[extra])]
    for requirement in map(Requirement, waiting):
        if requirement.name == PROJECT["name"]:
            waiting += [r for extra in sorted(requirement.extras) for r in EXTRAS[extra]]
        else:
            found[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return found


def pip_bounds() -> dict[str, str]:
    return stated("test", "docs")


def conda_bounds() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert all(isinstance(e, str) for e in entries), "no pip section: the package is installed with --no-deps afterwards"
    parsed = [Requirement(e) for e in entries]
    names = {r: canonicalize_name(CONDA_NAMES.get(r.name, r.name)) for r in parsed}
    return {names[r]: str(r.specifier) for r in parsed if names[r] not in CONDA_ONLY}


def test_conda_environment_states_the_same_bounds_as_pyproject():
    assert conda_bounds() == pip_bounds()


def test_bounds_are_lower_bounds_only():
    capped = {name: spec for name, spec in pip_bounds().items() if not re.fullmatch(r">=[\d.]+", spec)}
    assert not capped


def test_python_floor_agrees():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python{PROJECT['requires-python']}" in entries


def test_lock_pins_every_dependency_at_or_above_its_floor_with_hashes_and_without_hosts():
    lock = (ROOT / "constraints.txt").read_text()
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock
    blocks = [b for b in re.split(r"\n(?=\S)", lock.strip()) if b and not b.startswith("#")]
    assert all("--hash=sha256:" in b for b in blocks)
    pins: dict[str, list[str]] = {}
    for block in blocks:
        pin = Requirement(block.split("\\")[0].split("--hash")[0].strip())
        pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    for name, bound in stated(*EXTRAS).items():
        found = pins.get(name)
        assert found, f"{name} is not in constraints.txt: run `make lock`"
        assert all(SpecifierSet(bound).contains(v) for v in found), f"{name}{bound}: the lock has {found}; run `make lock`"


def test_version_is_stated_once():
    import ionrt

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert ionrt.__version__ == citation["version"] and PROJECT["dynamic"] == ["version"]  # read by hatch


def sources(folder: str) -> dict[str, str]:
    """Python text of every module, stub and notebook of a folder, by name."""
    files = {str(p.relative_to(ROOT)): p.read_text() for end in ("py", "pyi") for p in (ROOT / folder).rglob(f"*.{end}")}
    for book in (ROOT / folder).rglob("*.ipynb"):
        cells = json.loads(book.read_text())["cells"]
        files[str(book.relative_to(ROOT))] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return files


def imported(text: str) -> set[str]:
    """Top-level modules of all imports, also those within functions and those asked for by `lazy.needed`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "needed":
            found |= {str(node.args[0].value)} if isinstance(node.args[0], ast.Constant) else set()
    return {name.partition(".")[0] for name in found}


def tier(path: str) -> tuple[str, ...]:
    """Extras on which a file may count."""
    first, *rest = path.split("/")
    if first == "ionrt":
        return () if not rest or rest[0].partition(".")[0] in CORE else ("all",)
    return ("test",) if first == "tests" else ("all", "test")


@pytest.mark.parametrize("folder", ["ionrt", "tests", "notebooks", "benchmarks"])
def test_every_imported_module_is_declared_in_the_tier_that_needs_it(folder):
    distributions = packages_distributions()
    beside = {"tests": ["tests"], "benchmarks": ["benchmarks", "tests"]}.get(
        folder, []
    )  # a benchmark may drive the tests' browser
    local = {p.stem for place in beside for p in (ROOT / place).rglob("*.py")}
    known = local | PEERS | {"ionrt"} | sys.stdlib_module_names
    for path, text in sources(folder).items():
        declared = stated(*tier(path))
        for module in imported(text) - known:
            names = {canonicalize_name(d) for d in distributions.get(module, [module])}
            assert names & set(declared), (
                f"{path} imports {module} ({', '.join(names)}): not declared in {tier(path) or 'core'}"
            )


def test_a_missing_extra_is_named_with_what_to_install(tmp_path):
    """Also from `python -m ionrt`, in one line and without a traceback."""
    hide = "import sys; sys.modules |= dict.fromkeys(('pydicom', 'holoviews', 'statsmodels', 'papermill'))\n"
    for use, extra in (
        ("import ionrt; ionrt.read_dicom", "plan"),
        ("from ionrt import plot; plot.setup", "lab"),
        ("import ionrt; ionrt.report", "lab"),
    ):
        code = f"{hide}try:\n    {use}\nexcept ValueError as error:\n    print(type(error).__name__, error)"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert said.startswith("IonrtError") and f'pip install "ionrt[{extra}]"' in said
    code = f"{hide}from ionrt.__main__ import main; sys.exit(main(['report', 'compare_ions']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and 'pip install "ionrt[lab]"' in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_wheel_carries_what_a_report_needs(tmp_path):
    """Notebooks, protocols and data sets come from the folders of the checkout, each once."""
    force = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {(name, Path(inside).name) for name, inside in force.items()} == {(f, f) for f in resources.FOLDERS}
    assert (ROOT / "ionrt" / "py.typed").is_file()
    inside = tmp_path / "work"
    start = resources.copy_to(inside)
    copied = {str(p.relative_to(inside)) for p in inside.rglob("*") if p.is_file()}
    tracked = subprocess.run(["git", "ls-files", *resources.FOLDERS], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert start.is_file() and copied >= {name for name in tracked if not name.endswith(".cfg")} and len(copied) > 20
    with pytest.raises(ValueError, match="notebooks, trials, datasets already"):
        resources.copy_to(inside)


def test_names_of_nothing_are_asked_for_with_a_clear_error():
    with pytest.raises(ValueError, match="notebook: 'x' does not exist; there are none"):
        one_of("x", [], what="notebook")


def test_a_notebook_starts_without_the_grammar_of_addresses_which_stays_there_for_others():
    """Its 38 grammars take a second to compile, in every kernel that draws."""
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "done = InteractiveShell.instance().run_cell('from ionrt import plot; plot.setup(); import nbformat.validator, sys')\n"
        "done.raise_error(); import sys; print('jsonschema' in sys.modules, 'rfc3987_syntax' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "True False" in run.stdout
