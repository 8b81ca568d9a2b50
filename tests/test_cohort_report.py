"""The exported pages of the cohort notebooks: no small count, no patient, no patient-level array."""

from __future__ import annotations

import base64
import gzip
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest

from ionrt import cohort, outcome
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


def read_tables(page):
    parser = Tables()
    parser.feed(page[page.find("<body>") :])
    return parser.tables


@pytest.fixture(scope="module", params=["08_exchange_cohort", "09_outcomes", "10_ntcp"])
def page(request, tmp_path_factory):
    os.environ["TQDM_DISABLE"] = "1"
    here, out = Path.cwd(), tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    os.chdir(ROOT / "notebooks")
    try:
        report(ROOT / "notebooks" / f"{request.param}.ipynb", out, {"use": "export"} if request.param[:2] == "09" else {})
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
    assert read_tables(page)
    for table in read_tables(page):
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


NUMBERS = r'"array": \{"type": "bytes", "data": "([^"]+)"\}'
CURVE = re.compile(
    r'"name": "([^"]+)", "data_source".{1,900}?\["x", \{"type": "ndarray", ' + NUMBERS + r".{1,200}?" + NUMBERS, re.DOTALL
)


CODES = {"overall survival": "OS", "local control": "LC"}


def numbers(text):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)))


@pytest.mark.slow
def test_no_two_points_of_a_curve_are_fewer_than_ten_events_apart(page):
    """All points that the page gives of one curve, drawn or in a table, against the events of the patients behind it."""
    curves = [(name, numbers(x), numbers(y) / 100) for name, x, y in CURVE.findall(page)]
    if "Outcomes against dose" not in page:
        assert not any(y[0] == 1 for _, _, y in curves)
        return
    tables = cohort.load(ROOT / "datasets" / "exchange_cohort")
    ends = {e: cohort.endpoint_table(tables, e) for e in ("OS", "LC")}
    points = {}
    for name, x, y in curves:
        if y[0] != 1:
            continue  # incidence; the next test
        for endpoint, table in ends.items():
            rows = table[table["indication"].eq(name)]
            exact = outcome.kaplan_meier(rows, "time", "event", at=list(x))["survival"].to_numpy()
            if np.abs(exact - y).max() < 0.0051:
                points[name, endpoint] = set(x)
    assert len(points) == 6, points.keys()
    name = endpoint = ""
    for row in next(t for t in read_tables(page) if t[0][:3] == ["indication", "endpoint", "time [years]"])[1:]:
        name, endpoint = row[0].replace("head and neck", "head_neck") or name, row[1] or endpoint
        points.setdefault((name, CODES[endpoint]), {0.0}).add(float(row[2]))
    for (name, endpoint), times in points.items():
        rows = ends[endpoint][ends[endpoint]["indication"].eq(name)]
        count, _ = np.histogram(rows.loc[rows["event"].eq(1), "time"], bins=[*sorted(times)])
        assert count.min() >= 10, (name, endpoint, sorted(times), count)
        assert (rows["time"] > max(times)).sum() >= 10, (name, endpoint)


@pytest.mark.slow
def test_no_two_points_of_an_incidence_are_fewer_than_ten_events_apart(page):
    found = [(name, numbers(x), numbers(y)) for name, x, y in CURVE.findall(page)]
    found = [(name, x) for name, x, y in found if y[0] == 0 and name in ("prostate", "head_neck", "recurrent")]
    assert bool(found) == ("Outcomes against dose" in page)
    tables = cohort.load(ROOT / "datasets" / "exchange_cohort")
    late = outcome.toxicity_times(tables["toxicity"], cohort.patient_table(tables), grade=2, late_from=90)
    for name, x in found:
        rows = late[late["indication"].eq(name)]
        count, _ = np.histogram(rows.loc[rows["code"].eq(1), "time"] / 365.25, bins=x)
        assert count.min() >= 10 and (rows["time"] / 365.25 > x[-1]).sum() >= 10, name


@pytest.mark.slow
def test_the_trial_report_gives_no_small_difference(tmp_path):
    """Safety counts everybody who was randomised, an unplanned analysis does not say its n; numbers at risk are
    rounded by `safe_at_risk`, which has its own test below."""
    os.environ["TQDM_DISABLE"] = "1"
    out = report(ROOT / "notebooks" / "13_trial_report.ipynb", tmp_path / "trial.html", {"use": "export"}).html
    tables = read_tables(out.read_text(encoding="utf-8"))
    heads = {tuple(t[0]): t[1:] for t in tables}
    arms = {"photon": 79, "carbon": 155}
    safety = heads["worst grade", "photon", "carbon"]
    for k, size in enumerate(arms.values(), 1):
        shown = [int(row[k]) for row in safety if row[k] != "–"]
        hidden = len(safety) - len(shown)
        assert hidden != 1 and (hidden or sum(shown) == size) and size - sum(shown) not in range(1, 10)
    assert not any("strata, population" in row and "n" in head for head, rows in heads.items() for row in rows)


@pytest.mark.slow
def test_the_executed_notebook_does_not_name_the_folders_of_the_hospital(tmp_path):
    """A path given as a parameter, printed, shown in a table and raised as text leaves nothing, not its last part either."""
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
        assert "Muster" not in text and "[where]" in text
        assert "Canary" not in text and str(tmp_path) not in text
    assert nbformat.read(made.notebook, as_version=4).cells[2].source.strip().endswith("'[where]'")


def test_numbers_at_risk_of_an_export_are_rounded():
    table = cohort.endpoint_table(cohort.load(ROOT / "datasets" / "exchange_cohort"), "OS")
    exact = outcome.at_risk(table, "time", "event", by="indication")
    safe = cohort.safe_at_risk(exact, 10)
    shown = safe["at_risk"].dropna().astype(int)
    assert len(shown) and (shown % 10 == 0).all() and (shown <= exact["at_risk"].loc[shown.index]).all()
    assert "events" not in safe and safe["at_risk"].isna().eq(exact["at_risk"] < 10).all()
