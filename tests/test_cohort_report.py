"""The exported pages of the cohort notebooks: no small count, no patient, no patient-level array."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from ionrt import cohort
from ionrt.report import report

ROOT = Path(__file__).resolve().parents[1]
COUNTED = {"centre_A", "centre_B", "centre_C", "Total", "F", "M", "courses", "given", "missing"}


class Tables(HTMLParser):
    """Rows of all tables of a page, cells as text."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.cell: list[str] | None = None

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("".join(self.cell).strip())
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)


@pytest.fixture(scope="module", params=["08_exchange_cohort", "09_outcomes", "10_ntcp"])
def page(request, tmp_path_factory):
    os.environ["TQDM_DISABLE"] = "1"
    here, out = Path.cwd(), tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    os.chdir(ROOT / "notebooks")
    try:
        report(ROOT / "notebooks" / f"{request.param}.ipynb", out, {})
    finally:
        os.chdir(here)
    return out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_patient_and_no_array_of_patients(page):
    patients = cohort.load(ROOT / "datasets" / "exchange_cohort")["patient"]
    assert not re.search(r"SYN-\d{4}", page)
    body = page[page.find("<body>") :]
    # numbers in plots come as plain lists or as encoded arrays with their shape: curves of some dozen points
    lists = [m.count(",") + 1 for m in re.findall(r"\[[-\d.eE,\s]+\]", body)]
    arrays = [int(n) for n in re.findall(r'"shape":\s*\[(\d+)\]', body)]
    assert max(lists + arrays, default=0) < 100 < len(patients)
    assert "SYNTHETIC" in body


@pytest.mark.slow
def test_no_count_below_ten_in_a_table(page):
    parser = Tables()
    parser.feed(page[page.find("<body>") :])
    assert parser.tables
    for table in parser.tables:
        head = table[0]
        for row in table[1:]:
            for name, cell in zip(head[-len(row) :], row, strict=False):
                if name in COUNTED and re.fullmatch(r"\d+", cell):
                    assert int(cell) >= 10, (head, row)
        if "Total" in head:
            assert_not_recoverable(table)


def assert_not_recoverable(table):
    """A row or column with exactly one hidden cell would give it away."""
    numbers = [row[1:] for row in table[1:]]
    for line in [*numbers, *zip(*numbers, strict=True)]:
        hidden = sum(cell in ("–", "") for cell in line)
        assert hidden != 1, line


def test_the_executed_notebook_does_not_name_the_folders_of_the_hospital(tmp_path):
    """A path given as a parameter, printed, shown in a table and raised as text leaves only its last part."""
    folder = tmp_path / "St. Canary Hospital" / "Muster, Eva (4711)"
    folder.mkdir(parents=True)
    cells = [
        nbformat.v4.new_markdown_cell("# Test"),
        nbformat.v4.new_code_cell("where = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from pathlib import Path\nprint(where, [where])\nPath(where) / 'CT.dcm'"),
    ]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}})
    nbformat.write(book, tmp_path / "small.ipynb")
    made = report(tmp_path / "small.ipynb", tmp_path / "out" / "small.html", {"where": str(folder)})
    for file in (made.notebook, made.html):
        text = file.read_text(encoding="utf-8")
        assert "Muster, Eva (4711)" in text
        assert "Canary" not in text and str(tmp_path) not in text
    assert nbformat.read(made.notebook, as_version=4).cells[2].source.strip().endswith('"Muster, Eva (4711)"')
