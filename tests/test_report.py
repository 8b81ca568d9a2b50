"""Reports: one file, no network, everything painted; bad input leaves nothing behind."""

from __future__ import annotations

import datetime
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import nbformat
import pytest
from browser import Page

from ionrt.__main__ import _parameters as command_line
from ionrt.__main__ import _parser
from ionrt.made import like
from ionrt.quantities import IonrtError
from ionrt.report import external_resources, find_notebook, math_to_mathml, report

ROOT = Path(__file__).resolve().parents[1]
SCENE = """
import numpy as np, xarray as xr
from ionrt import plot, evaluate
plot.setup()
at = np.arange(-30, 31, 3.0)
z, y, x = np.meshgrid(at, at, at, indexing="ij")
grid = dict(dims=("z", "y", "x"), coords=dict.fromkeys("zyx", at))
ct = xr.DataArray(np.where(x**2 + y**2 < 800, 0.0, -1000), name="ct", **grid)
ball = xr.DataArray((x**2 + y**2 + z**2 < 200) * 1.0, name="structures", **grid).expand_dims(structure=["CTV"])
dose = xr.DataArray(np.exp(-(x**2 + y**2) / 300) * level, name="dose", **grid).expand_dims(ion=["C", "O"])
"""


def write(path: Path, *cells: str, parameters: str = "level = 2.0\nfolder = ''") -> Path:
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_markdown_cell("# A *test* page\n\nFormula $E = mc^2$, price \\$5, code `$x$`."),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(source) for source in cells),
        nbformat.v4.new_code_cell("print('secret key number')", metadata={"tags": ["keep_output"]}),
    ]
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    source = write(
        folder / "07_demo.ipynb",
        SCENE,
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='optimise', disable=None): pass",
        "plot.slices(dose, ct, ball)",
        "plot.histograms(evaluate.dvh(dose, ball))",
        "plot.table(evaluate.statistics(dose, ball), caption='Numbers of the plan.')",
    )
    return report(source, folder / "out" / "demo.html", {"level": 3.0, "folder": "/data/hospital/patient_17"})


def test_one_file_without_code_or_external_resources(made):
    page = made.html.read_text()
    assert external_resources(page) == []
    assert made.html.stat().st_size < 8e6
    assert "<math" in page and "plot.slices(" not in page and "secret key number" not in page
    assert '<html lang="en">' in page and "not for clinical use" in page and "ionrt 0." in page
    assert "optimise" not in page, "a progress bar stands still on a page"
    assert "Numbers of the plan." in page and '<table class="ionrt">' in page
    assert page.count("<figure") == page.count('<figcaption class="caption') == 3
    assert "patient_17" not in page and "hospital" not in page and "[folder]" in page, "a folder's name is often a patient's"


def test_the_executed_notebook_is_kept_and_nothing_else(made):
    assert sorted(p.name for p in made.html.parent.iterdir()) == ["demo.html", "demo.ipynb", "index.html"]
    sources = [c.source for c in nbformat.read(made.notebook, as_version=4).cells]
    assert any("level = 3.0" in s for s in sources)


def test_a_page_may_end_where_the_notebook_says_so(tmp_path):
    """What was shown before stays, the message is the last line; an error elsewhere still leaves nothing."""
    failing = "from ionrt import IonrtError\nraise IonrtError('ask for <the CT>')"
    source = write(tmp_path / "checks.ipynb", "print('the list')", failing, "print('an answer')")
    with pytest.raises(IonrtError, match="ask for <the CT>"):
        report(source, tmp_path / "out" / "page.html")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    book = nbformat.read(source, as_version=4)
    book.cells[3].metadata["tags"] = ["may-stop"]
    nbformat.write(book, source)
    made = report(source, tmp_path / "out" / "page.html")
    page = made.html.read_text()
    assert "the list" in page and "ask for &lt;the CT&gt;" in page and "an answer" not in page
    assert "Traceback" not in page and "raise IonrtError" not in page and "Exception was encountered" not in page
    assert "Settings of this report" in page


def test_every_plot_is_painted_offline_and_the_console_is_clean(made, tmp_path):
    with Page(made.html, tmp_path) as page:
        colours = page.canvases(at_least=3)
        assert len(colours) >= 3 and min(colours) > 1
        assert page.errors() == []
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 1440


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        "<link rel='stylesheet' href='//example.org/x.css'>",
        "<style>@import 'https://example.org/f.css';</style>",
        "<style>p { background: url(http://example.org/a.png) }</style>",
        '<script>import("https://example.org/m.js")</script>',
        '<img alt="x" src="http://example.org/a.png">',
    ],
)
def test_external_resources_are_found(text):
    assert len(external_resources(f"<p>see https://example.org</p>{text}")) == 1


def test_links_for_readers_are_no_resources():
    assert external_resources('<a href="https://doi.org/10.1088/0031-9155/60/8/3271">source</a>') == []


def test_a_page_that_would_load_something_is_not_written(tmp_path):
    source = write(tmp_path / "bad.ipynb", "from IPython.display import HTML\nHTML('<img src=\"https://example.org/a.png\">')")
    with pytest.raises(IonrtError, match="1 resources from elsewhere"):
        report(source, tmp_path / "out" / "bad.html")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_error_of_the_notebook_is_ours_and_leaves_nothing(tmp_path):
    source = write(tmp_path / "bad.ipynb", "from ionrt.quantities import IonrtError\nraise IonrtError('the target is empty')")
    with pytest.raises(IonrtError, match=r"^the target is empty$"):
        report(source, tmp_path / "out" / "bad.html")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kernel_that_does_not_answer_is_no_full_disk(tmp_path, monkeypatch):
    def silent(*_, **__):
        raise TimeoutError("Timeout waiting for IOPub output")

    monkeypatch.setattr("ionrt.report.papermill.execute_notebook", silent)
    with pytest.raises(IonrtError, match="did not answer in time"):
        report("start_here", tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_unknown_names_list_the_known(tmp_path):
    with pytest.raises(IonrtError, match="'compare_ions'"):
        find_notebook("compare_ion")
    with pytest.raises(IonrtError, match="parameter of bad: 'levl' does not exist; there are 'level'"):
        report(write(tmp_path / "bad.ipynb"), tmp_path / "x.html", {"levl": 1})


def test_mathml_leaves_prices_and_code_alone():
    assert math_to_mathml("costs $5 and `$x$`") == "costs &#36;5 and `$x$`"
    assert math_to_mathml("$a$ b $$c$$").count("<math") == 2


def quick(path: Path, *cells: str, parameters: str = "patient = ''\ntarget = 'CTV'\norgans = []") -> Path:
    """A notebook without plots."""
    book = nbformat.v4.new_notebook()
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    exact = nbformat.v4.new_code_cell("print('exactly', 40 + 3)", metadata={"tags": ["keep_output"]})
    book.cells = [nbformat.v4.new_markdown_cell("# test"), first, *(nbformat.v4.new_code_cell(c) for c in cells), exact]
    nbformat.write(book, path)
    return path


NAMES = (
    "CTV 60/66Gy",
    "<!--<script>",
    "{boost}",
    "</script><b>",
    "\"'\\",
    "a\nb",
    "$x^2$",
    "\u202eVTC\u202c",
    "%s",
    "https://x.y/z",
)


def test_names_reach_the_page_as_they_are_and_run_nothing(tmp_path):
    """Texts in lists, tuples and dictionaries are data: what would be code, a tag or a format elsewhere is shown."""
    code = '";open("PWN","w")#'
    cells = (
        "from IPython.display import HTML, display\nimport json\nprint(json.dumps([target, organs]))\n"
        "display(HTML('<script type=\"application/json\">' + json.dumps(organs[:2]) + '</script>'))",
    )
    source = quick(tmp_path / "{x}.ipynb", *cells)
    made = report(
        source, tmp_path / "{out}" / "a.html", {"target": NAMES[0], "organs": (NAMES[1], NAMES[2], (code,), *NAMES[3:])}
    )
    page, book = made.html.read_text(encoding="utf-8"), nbformat.read(made.notebook, as_version=4)
    printed = next(o.text for c in book.cells for o in c.get("outputs", ()) if o.output_type == "stream")
    assert json.loads(printed) == [NAMES[0], [NAMES[1], NAMES[2], [code], *NAMES[3:]]]
    assert not list(tmp_path.rglob("PWN")) and not (Path.cwd() / "PWN").exists()
    assert "CTV 60/66Gy" in page and "{boost}" in page and "&lt;!--&lt;script&gt;" in page
    assert "<!--" not in page and "Settings of this report" in page.rpartition("</script>")[2], "no script swallows the page"


@pytest.mark.parametrize("value", [float("nan"), b"x", {1: 2}, object(), datetime.date(2020, 1, 1), "\ud800", [[[[[[[1]]]]]]]])
def test_a_parameter_is_plain_data(tmp_path, value):
    with pytest.raises(IonrtError, match=r"parameter target: expected finite numbers, texts, lists or dictionaries"):
        report(quick(tmp_path / "a.ipynb"), tmp_path / "out" / "a.html", {"target": value})
    assert not (tmp_path / "out").exists()


def test_a_parameter_that_holds_itself_is_refused(tmp_path):
    loop: list = []
    loop.append(loop)
    with pytest.raises(IonrtError, match="at most 6 deep"):
        report(quick(tmp_path / "a.ipynb"), tmp_path / "a.html", {"organs": loop})


@pytest.mark.parametrize("name", ["병원/김철수_12345678", "病院/山田太郎", 'O\'Brien "x"/Müller 7', "a b/../Kim_77001", "link"])
def test_no_folder_is_left_in_page_or_notebook(tmp_path, name):
    """Whatever its letters: not its path, not its last part, in no spelling; warnings and exact counts are not kept either."""
    folder = tmp_path / "data" / name
    if name == "link":
        (tmp_path / "data" / "Doe_4711").mkdir(parents=True)
        folder.symlink_to("Doe_4711")
    else:
        (tmp_path / "data" / "a b").mkdir(parents=True)
        folder.resolve().mkdir(parents=True)
    cells = (
        "import json, os, warnings\nfrom pathlib import Path\nfrom urllib.parse import quote\nwarnings.warn(patient)\n"
        "print(patient, repr(patient), json.dumps(patient), json.dumps(json.dumps(patient)), quote(patient))\n"
        "print(os.path.abspath(patient), Path(patient).resolve(), os.path.normpath(patient), Path(patient).resolve().name)",
        "[patient, Path(patient)]",
    )
    made = report(quick(tmp_path / "a.ipynb", *cells), tmp_path / "a.html", {"patient": folder})
    last = folder.resolve().name
    for file in (made.html, made.notebook):
        text = file.read_text(encoding="utf-8")
        assert "[patient]" in text
        for word in {
            str(folder),
            str(folder.resolve()),
            last,
            json.dumps(last)[1:-1],
            quote(last),
            html.escape(last),
            str(tmp_path),
        }:
            assert word not in text, (file.name, word)
        assert "exactly 43" not in text and "UserWarning" not in text


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ionrt", *arguments], capture_output=True, text=True, cwd=ROOT, env=os.environ)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nonsense"], "notebook: 'nonsense' does not exist"),
        (["report", "compare_ions", "--patient", "no/such/folder"], "expected a folder"),
        (["report", "compare_ions", "-p", "spacing"], "-p expects KEY=VALUE"),
    ],
)
def test_command_line_says_it_in_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line", ["a, b = 1, 2", "a = {}\na |= {'x': 1}", "a = b = 1", "a: int = 1", "a = 2 * 3", "import os", "a = 1\na = 2"]
)
def test_parameters_that_a_reader_could_not_set_are_refused(tmp_path, line):
    with pytest.raises(IonrtError, match="the cell tagged `parameters`"):
        report(write(tmp_path / "bad.ipynb", parameters=line), tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_a_page_says_how_it_was_made_without_folders_and_stands_in_the_index(tmp_path):
    import ionrt.report as module

    source = module.find_notebook("compare_ions")
    chosen = {"patient": "/home/someone/Kim/dicom", "ions": ["p", "C"], "machine": {"C": "/data/secret/C.nc"}, "spacing": 8}
    shown = {k: module.typed(v, module._shown(v, k, source, given=True)) for k, v in chosen.items()}
    made = module.how_made(source, shown)
    words = "-p 'patient=[patient]' -p 'ions=[p, C]' -p 'machine={C: [machine]}' -p spacing=8"
    assert made["command"] == f"ionrt report 01_compare_ions {words}"
    assert "/data/secret/C.nc" in module._folders(chosen, source)
    page = module._page("A page", "<p>x</p>", shown, made)
    assert "How it was made" in page and "numba" in page and "notebook" in made
    assert not any(word in page for word in ("someone", "secret", "/home", str(module.Path.cwd())))
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "other.html").write_text("<html><title>no report</title></html>")
    index = module.write_index(tmp_path).read_text()
    assert "href='a.html'" in index and "A page" in index and "other.html" not in index
    assert module.external_resources(index) == []


def test_a_file_of_the_working_folder_is_found_from_the_folder_of_the_notebook(tmp_path, monkeypatch):
    import ionrt.report as module

    for name in ("cohort", "CTV"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    source = module.find_notebook(ROOT / "notebooks" / "09_outcomes.ipynb")
    found = {k: module._from_here(v, k, source) for k, v in {"cohort": "cohort", "name": "own.yaml", "target": "CTV"}.items()}
    assert found == {"cohort": str(tmp_path / "cohort"), "name": str(tmp_path / "own.yaml"), "target": "CTV"}
    shipped = "../datasets/exchange_cohort"
    assert (
        module._from_here(shipped, "cohort", source) == shipped and module._from_here("none.csv", "name", source) == "none.csv"
    )
    assert module._from_here(["cohort", 3], "days_folder", source) == [str(tmp_path / "cohort"), 3]


def test_settings_stand_beside_what_they_are():
    import ionrt.report as module

    notes = module.notes(module.find_notebook("rbe_models"))
    assert notes == {
        "interval": "mm of water, the target",
        "prescription": "Gy (RBE) per fraction, NIRS clinical dose",
    }
    page = module._page("A page", "", {"ions": "C", "interval": "100, 160"}, {}, notes)
    assert "<td>100, 160</td><td>mm of water, the target</td>" in page and "<td>C</td><td></td>" in page


@pytest.mark.parametrize(
    ("value", "default", "found"),
    [
        (90, [135, 225], [90]),
        (90, [], [90]),
        ([90, 100.5], [135], [90, 100.5]),
        (60, "CTV", "60"),
        (4, 3.0, 4),
        (None, None, None),
        ({"a": ["C"]}, {}, {"a": ["C"]}),
    ],
)
def test_a_parameter_is_of_the_kind_of_its_default(value, default, found):
    assert like(value, default, "x") == found


@pytest.mark.parametrize(
    ("value", "default", "said"),
    [
        ("abc", 3.6, "expected a number, as in 3.6, got 'abc'"),
        (["ninety"], [135, 225], "expected a number, as in 135, got 'ninety'"),
        ([90], 135.0, "expected a number"),
        (True, 3, "expected a number"),
        ("no", True, "expected true or false"),
        (["C"], "CTV", "expected a text, as in 'CTV'"),
        ("C", {}, "expected names with values"),
    ],
)
def test_a_parameter_of_another_kind_is_refused_in_one_line(value, default, said):
    with pytest.raises(IonrtError, match="^parameter x: " + re.escape(said)):
        like(value, default, "x")


@pytest.mark.parametrize(("text", "value"), [("no", "no"), ("1:30", "1:30"), ("[p, C]", ["p", "C"]), ("1e-3", 1e-3)])
def test_values_of_the_command_line_are_read_as_settings_are(text, value):
    assert command_line(_parser().parse_args(["report", "x", "-p", f"key={text}"])) == {"key": value}


def test_a_value_that_cannot_be_read_names_its_parameter():
    with pytest.raises(IonrtError, match=r"^-p ions: not readable as YAML"):
        command_line(_parser().parse_args(["report", "x", "-p", "ions=[p"]))


def test_of_several_pages_those_that_can_be_made_are_made(tmp_path, monkeypatch, capsys):
    from ionrt.__main__ import main

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "01_few.ipynb", "import ionrt\nraise ionrt.IonrtError('too few for a model')")
    write(tmp_path / "02_whole.ipynb", "print(level)")
    assert main(["report", "01_few.ipynb", "02_whole.ipynb", "--out", "pages"]) == 2
    said = capsys.readouterr()
    assert "1 of 2 pages not made: 01_few: " in said.err and "too few for a model" in said.err
    assert "whole.html" in said.out and sorted(p.name for p in (tmp_path / "pages").glob("[!i]*.html")) == ["whole.html"]
