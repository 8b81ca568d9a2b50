"""Full disk, no place, interrupt, kill, two at once, damage, a clock set back: one line, nothing half-written, then right."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import dask
import dicom_small
import numpy as np
import pandas as pd
import pytest
import test_patient_deidentify_attacks as attacks
import test_report
from plan_fixtures import simple_plan, synthetic_base, water_box

from ionrt import cohort, deidentify, files
from ionrt.__main__ import main
from ionrt.beam import base_data, basedata
from ionrt.files import DiskError, atomic
from ionrt.plan import influence
from ionrt.quantities import IonrtError
from ionrt.report import report

BASE = {"C": synthetic_base("C")}
SITE = cohort.synthetic(60, 1, indication="lung")
CASE = water_box((9, 21, 9), target_radius=6.0), simple_plan()


@dataclass(frozen=True)
class Door:
    """Something that writes below `out` from inputs in `given`, and what of it must be the same again."""

    run: Callable[[Path, Path], object]
    result: Callable[[Path], object]
    gives_way: bool = False  # goes on without the file, with a warning


def _sources(given: Path) -> None:
    attacks.saved(attacks.study(), given / "deid")
    for course in ("A", "B"):
        dicom_small.save(dicom_small.study(), given / "studies" / course)
    test_report.write(given / "page.ipynb", "print('all of it')\n")


def _features(given: Path, out: Path) -> pd.DataFrame:
    return cohort.patient_features(given / "studies", out / "f", metrics=["Mean"], origin="SYNTHETIC")


def _base(given: Path, out: Path) -> object:
    os.environ["IONRT_CACHE"] = str(out)
    return base_data("C", energy=[100.0, 120.0], progress=False)


def _tree(folder: Path) -> list[str]:
    """Every file with a hash, so that a failure shows in one line which one differs."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return [f"{p.relative_to(folder).as_posix()} {hashlib.md5(p.read_bytes()).hexdigest()}" for p in files]


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*")]


def _texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text("utf-8") for p in sorted(folder.glob("*.html"))}


DOORS = {
    "base data": Door(_base, _tree, gives_way=True),
    "influence": Door(lambda given, out: influence(*CASE, base=BASE, store=out / "store"), _tree),
    "report": Door(lambda given, out: report(given / "page.ipynb", out / "r" / "page.html"), lambda out: _texts(out / "r")),
    "de-identification": Door(lambda given, out: deidentify(given / "deid", out / "d", key=attacks.KEY), _tree),
    "features": Door(_features, _tree),
    "exports": Door(
        lambda given, out: cohort.summary(SITE, site="s", register=out / "x"), lambda out: sorted(_names(out / "x"))
    ),
}
QUICK = [name for name in DOORS if name != "report"]  # a notebook takes seconds


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    _sources(folder)
    return folder


@pytest.fixture(autouse=True)
def built(monkeypatch, tmp_path):
    """Base data without the minutes of their computation; a cache of one's own."""
    monkeypatch.setenv("IONRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(basedata, "build", lambda *_, **__: BASE["C"].drop_attrs().copy())
    monkeypatch.setattr(basedata.store, "check_base_data", lambda ds: ds)


@pytest.fixture(scope="module")
def right(given, tmp_path_factory):
    """What each door leaves when nothing happens."""
    known: dict[str, object] = {}

    def of(name: str) -> object:
        if name not in known:
            out = tmp_path_factory.mktemp("right")
            DOORS[name].run(given, out)
            known[name] = DOORS[name].result(out)
        return known[name]

    return of


@contextlib.contextmanager
def full_disk(n_bytes: int = 60) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Ctrl-C at the moment before the first thing takes its name."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    replaced = SimpleNamespace(**{**vars(os), "replace": stop, "link": stop})
    original, files.os = files.os, replaced
    try:
        yield
    finally:
        files.os = original


def visible(folder: Path) -> list[str]:
    """Files by name; what has a hidden folder or name belongs to a writer that is not at its end."""
    paths = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    return [p.name for p in paths if not any(part.startswith(".") for part in p.parts)]


def clear_hidden(folder: Path) -> None:
    """What a killed writer leaves half-written."""
    for path in list(folder.rglob(".*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def refuses(door: Door, given: Path, out: Path) -> None:
    """One line that names no more than it must, or a warning and the result."""
    if door.gives_way:
        with pytest.warns(UserWarning, match="will be computed again .* set IONRT_CACHE"):
            door.run(given, out)
        return
    with pytest.raises(DiskError, match=r"could not be .*make room") as caught:
        door.run(given, out)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DOORS)
def test_full_disk(name, given, right, tmp_path):
    expected = right(name)  # and what numba compiles is in its own cache
    with dask.config.set(scheduler="synchronous"), full_disk():  # else a second course may end when the disk has room again
        refuses(DOORS[name], given, tmp_path / "out")
    assert not [n for n in visible(tmp_path / "out") if not n.endswith(("failures.csv", "export.key"))]  # 32 bytes fit
    DOORS[name].run(given, tmp_path / "out")
    assert DOORS[name].result(tmp_path / "out") == expected


@pytest.mark.parametrize("place", ["a file", "nowhere"])
@pytest.mark.parametrize("name", DOORS)
def test_no_place_to_write(name, place, given, tmp_path):
    out = Path("/proc/none") if place == "nowhere" else tmp_path / "out"
    if place == "a file":
        out.write_text("not a folder")
    refuses(DOORS[name], given, out)
    assert place == "nowhere" or out.read_text() == "not a folder"


@pytest.mark.parametrize("name", DOORS)
def test_interrupt(name, given, right, tmp_path):
    with dask.config.set(scheduler="synchronous"), interrupted(), pytest.raises(KeyboardInterrupt):
        DOORS[name].run(given, tmp_path / "out")
    assert visible(tmp_path / "out") == []
    DOORS[name].run(given, tmp_path / "out")
    assert DOORS[name].result(tmp_path / "out") == right(name)


@pytest.mark.parametrize("name", QUICK)
def test_two_at_once(name, given, right, tmp_path):
    """Both end well, or one says that the folder is taken; what is there is whole."""

    def one(_: int) -> str:
        try:
            DOORS[name].run(given, tmp_path / "out")
        except IonrtError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(one, range(2)))
    assert "" in said and all("\n" not in s for s in said)
    assert name == "de-identification" or said == ["", ""]
    assert DOORS[name].result(tmp_path / "out") == right(name)


TWO = """
import os, sys, traceback
from pathlib import Path
import test_faults
test_faults.basedata.build = lambda *_, **__: test_faults.BASE["C"].drop_attrs().copy()
test_faults.basedata.store.check_base_data = lambda ds: ds
for name in sys.argv[2:]:
    start, go = os.pipe()
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            os.close(go)
            os.read(start, 1)  # ends when the parent closes: both at once
            try:
                test_faults.DOORS[name].run(Path(sys.argv[1]), Path(name))
            except test_faults.IonrtError as error:
                os._exit(3 if "\\n" not in str(error) else 4)
            except BaseException:
                traceback.print_exc()
                os._exit(5)
            os._exit(0)
    os.close(go)
    print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.parametrize("name", DOORS)
def test_two_processes_at_once(name, given, right, tmp_path):
    """As two threads, but with nothing in common except the disk: both end well, or one is told that the folder is taken."""
    command = [sys.executable, "-W", "ignore", "-c", TWO, str(given), name]
    done = subprocess.run(command, env=_paths(), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() in ([["0", "0"], ["0", "3"]] if name == "de-identification" else [["0", "0"]]), done.stderr
    assert DOORS[name].result(tmp_path / name) == right(name)
    assert not list((tmp_path / name).rglob(".*"))  # nothing half-written


def test_a_clock_set_back_between_two_reports(given, tmp_path, monkeypatch):
    """The page says the day that the clock says; the earlier page, which is of the future then, and the index stay right."""
    out = tmp_path / "r"
    report(given / "page.ipynb", out / "first.html")
    day = datetime.date(1996, 2, 29)
    monkeypatch.setattr("ionrt.report.datetime", SimpleNamespace(date=SimpleNamespace(today=lambda: day)))
    for path in out.iterdir():
        os.utime(path, (4e9,) * 2)
    for _ in range(2):
        made = report(given / "page.ipynb", out / "second.html")
        os.utime(made.html, (8.2e8,) * 2)
    pages = _texts(out)
    assert set(pages) == {"first.html", "second.html", "index.html"} and "1996" in pages["second.html"]
    assert "1996" not in pages["first.html"] and pages["index.html"].count("second.html") == 1
    assert pages["index.html"].index("first.html") < pages["index.html"].index("second.html")


@pytest.mark.parametrize("years", [-30, 30])
@pytest.mark.parametrize("name", ["base data", "influence", "features"])
def test_a_clock_that_was_set_changes_nothing(name, years, given, right, tmp_path):
    """Files of the future or of another century are as good as today's: only contents count."""
    out = tmp_path / "out"
    DOORS[name].run(given, out)
    for path in (*out.rglob("*"), *given.rglob("*")):
        os.utime(path, (1.7e9 + years * 3.15e7,) * 2)
    before = {p: p.stat().st_ino for p in out.rglob("*") if p.suffix in (".nc", ".npy") or "courses" in p.parts}
    DOORS[name].run(given, out)
    assert before and before == {p: p.stat().st_ino for p in before}  # nothing was made again
    assert DOORS[name].result(out) == right(name)


KILLED = """
import os, signal, sys
from pathlib import Path
import test_faults
from ionrt import files
test_faults.basedata.build = lambda *_, **__: test_faults.BASE["C"].drop_attrs().copy()
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.os = test_faults.SimpleNamespace(**{**vars(os), "replace": kill, "link": kill})
for name in sys.argv[2:]:
    child = os.fork()
    if not child:
        test_faults.DOORS[name].run(Path(sys.argv[1]), Path(name))
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_kill(given, right, tmp_path):
    """Killed before the first thing takes its name: only hidden places are left, and the next run is right."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(given), *DOORS]
    done = subprocess.run(command, env=_paths(), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(DOORS)
    for name, door in DOORS.items():
        out = tmp_path / name
        assert [p for p in out.rglob("*") if p.is_file()] and visible(out) == [], name
        clear_hidden(out)
        door.run(given, out)
        assert door.result(out) == right(name), name


# --- features: what was kept is used only for the same contents, and only whole


def test_another_study_of_the_same_sizes_and_times_is_computed_anew(given, tmp_path):
    studies = shutil.copytree(given / "studies", tmp_path / "in" / "studies")
    path = studies / "A" / "RD.dcm"
    before = _features(tmp_path / "in", tmp_path / "out").set_index("cid")["value"]
    stat, whole = path.stat(), path.read_bytes()
    dicom_small.save({"RD.dcm": dicom_small.dose(4.0)}, studies / "A")
    assert len(path.read_bytes()) == len(whole)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = _features(tmp_path / "in", tmp_path / "out").set_index("cid")["value"]
    np.testing.assert_allclose(after["A"], 2.0 * before["A"], rtol=1e-3)
    np.testing.assert_array_equal(after["B"], before["B"])


@pytest.mark.parametrize("damage", ["cut", "flipped", "rows lost", "empty"])
def test_a_damaged_course_file_is_not_used(damage, given, tmp_path):
    right = _features(given, tmp_path)
    for path in (tmp_path / "f" / "courses").iterdir():
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        path.write_bytes({
            "cut": whole[:-40], "flipped": whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:],
            "rows lost": b"".join([lines[0], *lines[2:]]), "empty": b"",
        }[damage])  # fmt: skip
    pd.testing.assert_frame_equal(_features(given, tmp_path), right)


# --- the rest of the house


def test_an_error_about_another_file_passes(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic(tmp_path / "a"):
        (tmp_path.parent / "elsewhere" / "b").read_bytes()
    assert not isinstance(caught.value, DiskError)


def test_without_a_home_nothing_is_written_into_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("IONRT_CACHE")
    monkeypatch.setattr(files.platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiskError), atomic(files.cache_folder("x") / "y"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing half-written"),
        (OSError(errno.EROFS, "Read-only file system", "reports"), 2, "reports: Read-only file system; make room"),
        (DiskError("page.html could not be written (No space left on device)"), 2, "No space left"),
    ],
)
def test_the_command_line_ends_in_one_line(error, code, says, monkeypatch, capsys):
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr("ionrt.resources.copy_to", run)
    assert main(["init", "folder"]) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_notebook_whose_process_ends_is_one_line(tmp_path):
    source = test_report.write(tmp_path / "page.ipynb", "import os\nos._exit(1)")
    with pytest.raises(IonrtError, match="ended from outside"):
        report(source, tmp_path / "out" / "page.html")
    assert visible(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("from ionrt.files import write_text\nwrite_text('/proc/none/x', 'text')", r"^x could not be written"),
        ("raise OSError(28, 'No space left on device')", "No space left on device; make room"),
    ],
)
def test_a_full_disk_in_the_notebook_is_one_line(code, says, tmp_path):
    with pytest.raises(IonrtError, match=says):
        report(test_report.write(tmp_path / "page.ipynb", code), tmp_path / "out" / "page.html")


# --- a cluster


MACHINE = """
import asyncio
from distributed import Scheduler, Worker
async def run():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as s, Worker(s.address, nthreads=1, dashboard=False):
        print(s.address, flush=True)
        await s.finished()
asyncio.run(run())
"""


def _paths() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shared_folder_gone_then_scheduler_lost(given, right, tmp_path):
    """Each is one line; after it the run goes on here from the blocks that are kept."""
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "out"
    machine = subprocess.Popen([sys.executable, "-W", "ignore", "-c", MACHINE], stdout=subprocess.PIPE, text=True, env=_paths())

    def kill() -> None:
        """Once a block is there, or after so long that the test fails."""
        for _ in range(3000):
            if list(out.glob("store/[0-9a-f]*")):
                break
            time.sleep(0.01)
        machine.kill()

    try:
        address = machine.stdout.readline().strip()
        with dask.config.set({"distributed.comm.timeouts.connect": 2}), distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=60)
            with pytest.raises(IonrtError, match="could not be written"):
                DOORS["influence"].run(given, Path("/proc/none"))
            with (
                ThreadPoolExecutor(1) as pool,
                pytest.raises(IonrtError, match=r"cluster was lost .* blocks are kept") as caught,
            ):
                pool.submit(kill)
                DOORS["influence"].run(given, out)
            assert "\n" not in str(caught.value)
    except asyncio.CancelledError:  # of the client, when it is closed after its scheduler
        assert caught.value
    finally:
        machine.kill()
        machine.communicate()
    clear_hidden(out)  # the worker was killed, perhaps in the midst of its next block
    DOORS["influence"].run(given, out)
    assert DOORS["influence"].result(out) == right("influence")
