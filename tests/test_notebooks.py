"""The policy for notebooks: small, stripped, compared, without paths; and a wrong digit is noticed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ionrt.made import parameters_of

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PATHS = re.compile(r"""["'](?:/[A-Za-z]|[A-Za-z]:[\\/]|~/)""")
RICH = ("image/", "application/javascript", "application/vnd.", "text/html")


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def book(request):
    return request.param, nbformat.read(request.param, as_version=4)


def tags(cell) -> list[str]:
    return list(cell.metadata.get("tags", ()))


def test_small(book):
    assert book[0].stat().st_size < 100_000


def test_has_parameters_and_a_compared_cell(book):
    found = [tag for cell in book[1].cells for tag in tags(cell)]
    assert found.count("parameters") == 1
    assert any("keep_output" in tags(c) and c.outputs for c in book[1].cells if c.cell_type == "code")


def test_every_parameter_can_be_set_from_outside(book):
    assert parameters_of(book[0])


def test_output_is_kept_only_where_it_is_compared(book):
    for i, cell in enumerate(c for c in book[1].cells if c.cell_type == "code"):
        if "keep_output" not in tags(cell):
            assert not cell.outputs, f"code cell {i} keeps output; strip it (nbstripout) or tag it keep_output"
            continue
        for output in cell.outputs:
            kinds = list(output.get("data", ()))
            assert not [k for k in kinds if k.startswith(RICH)], f"code cell {i} keeps {kinds}; print rounded numbers instead"


def test_cells_are_short_and_tell_a_story(book):
    for cell in book[1].cells:
        if cell.cell_type == "code" and "parameters" not in tags(cell):
            lines = cell.source.splitlines()
            assert len(lines) <= 15, f"{len(lines)} lines: move the logic into the package\n{cell.source[:200]}"
            assert not re.search(r"^\s*for .* in .*(values|range\()", cell.source, re.MULTILINE), cell.source
    assert sum(c.cell_type == "markdown" for c in book[1].cells) >= 3


def test_no_absolute_path(book):
    for cell in book[1].cells:
        if cell.cell_type == "code":
            assert not PATHS.search(cell.source), cell.source
    assert "/home/" not in book[0].read_text() and "\\Users\\" not in book[0].read_text()


def test_no_execution_metadata_that_changes_with_every_run(book):
    text = json.loads(book[0].read_text())
    assert "papermill" not in text["metadata"]
    assert not [c for c in text["cells"] if "execution" in c["metadata"] or "papermill" in c["metadata"]]


def test_a_wrong_digit_is_noticed(tmp_path):
    """nbval, called as `make test` calls it, accepts the right number and refuses one wrong digit."""
    cells = [nbformat.v4.new_code_cell("print('range 275.3 mm')", metadata={"tags": ["keep_output"]}, execution_count=1)]
    outcome = {}
    for shown in ("275.3", "275.4"):
        cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"range {shown} mm\n")]
        path = tmp_path / f"planted_{shown.replace('.', '_')}.ipynb"
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}}), path
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "none.ini"), "--nbval"]
        (tmp_path / "none.ini").write_text("[pytest]\n")
        options = ["--nbval-sanitize-with", str(FOLDER / "sanitise.cfg"), str(path)]
        outcome[shown] = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert outcome["275.3"].returncode == 0, outcome["275.3"].stdout
    assert outcome["275.4"].returncode == 1 and "275.4" in outcome["275.4"].stdout
