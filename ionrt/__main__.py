"""Command line: ``ionrt init | report | indications | basedata | training | check``, or ``python -m ionrt ...``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from ionrt import __version__, lazy, resources
from ionrt.files import parse_yaml
from ionrt.lazy import IonrtError, one_of


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 with one line on stderr when the input was bad."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except IonrtError as error:
        print(f"ionrt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ionrt: interrupted; nothing half-written, what was finished is kept for the next run", file=sys.stderr)
        return 130
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror or error}"
        print(f"ionrt: {what}; make room, or give a folder that exists and can be written", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        known = lazy.missing(error, "this command")
        if known is error:
            raise
        print(f"ionrt: {known}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ionrt", description="Multi-ion radiotherapy research.")
    parser.add_argument("--version", action="version", version=f"ionrt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    report = commands.add_parser("report", help="run a notebook and write one HTML file")
    report.add_argument("notebook", nargs="+", help="names (compare_ions) or paths of notebooks")
    report.add_argument("--patient", metavar="DIR", help="folder with DICOM CT and RTSTRUCT")
    report.add_argument("--days", metavar="DIR", action="append", default=[], help="folder with a daily CT (repeat for each)")
    report.add_argument("--target", metavar="NAME", help="structure to be treated")
    report.add_argument("--cohort", metavar="DIR", help="folder with the tables of a cohort")
    report.add_argument("--out", metavar="DIR", default="reports", help="folder of the reports (default: reports)")
    report.add_argument("-p", dest="parameters", metavar="KEY=VALUE", action="append", default=[], help="any other parameter")
    report.set_defaults(run=_report)
    pages = commands.add_parser("indications", help="one page per indication, and an index")
    pages.add_argument("--out", metavar="DIR", default="reports/indications", help="folder of the pages")
    pages.set_defaults(run=_indications)
    basedata = commands.add_parser("basedata", help="base data of the ions in water")
    basedata.add_argument("action", choices=("build", "info", "export", "clear"))
    basedata.add_argument("ions", nargs="*", help="p He C O Ne (default: all)")
    basedata.add_argument(
        "--out", metavar="DIR", default=".", help="folder for export, or a file that ends in .nc or .mat (one ion)"
    )
    basedata.add_argument("--all", action="store_true", help="clear: also what the present version wrote")
    basedata.set_defaults(run=_basedata)
    init = commands.add_parser("init", help="a folder to work in: notebooks, protocols, data sets")
    init.add_argument("folder", metavar="DIR")
    init.set_defaults(run=_init)
    training = commands.add_parser("training", help="the learner's record of the training series")
    training.add_argument("action", nargs="?", choices=("record", "summary"), help="record: of one learner; summary: of logs")
    training.add_argument(
        "place", nargs="*", help="record: folder of the notebooks (default: notebooks/training); summary: logs"
    )
    training.add_argument("--track", default="physicist", help="physicist, oncologist, biologist or statistician")
    training.add_argument("--out", metavar="FILE", default="training_record.html", help="the page to write")
    training.add_argument("--forget", action="store_true", help="delete the log that IONRT_TRAINING_RECORD names")
    training.set_defaults(run=_training)
    commands.add_parser("check", help="does this environment work?").set_defaults(run=_check)
    return parser


def _parameters(chosen: argparse.Namespace) -> dict[str, Any]:
    """The parameters of all options; values are read as YAML, so 3, true and [p, C] are what they look like."""
    out: dict[str, Any] = {}
    for text in chosen.parameters:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise IonrtError(f"-p expects KEY=VALUE, got {text!r}")
        out[key] = parse_yaml(value, f"-p {key}")
        if value.count("#") > repr(out[key]).count("#"):  # YAML takes it for a comment
            raise IonrtError(f"-p {key}: {value!r} holds a #; put the text in quotes")
    for key in ("patient", "cohort"):
        if folder := getattr(chosen, key):
            if not os.path.isdir(folder):
                raise IonrtError(f"--{key}: expected a folder, {folder!r} is none")
            out[key] = str(Path(folder).resolve())
    for folder in chosen.days:
        if not os.path.isdir(folder):
            raise IonrtError(f"--days: expected a folder, {folder!r} is none")
    if chosen.days:
        out["days"] = [str(Path(folder).resolve()) for folder in chosen.days]
    return out | ({"target": chosen.target} if chosen.target else {})


def _report(chosen: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")  # of the libraries underneath; ours are errors
    with lazy.light():
        from ionrt.report import find_notebook, report

    parameters, refused = _parameters(chosen), []
    for name in [find_notebook(n) for n in chosen.notebook]:
        short = name.stem.lstrip("0123456789").lstrip("_")
        try:
            made = report(name, Path(chosen.out) / f"{short}.html", parameters)
        except IonrtError as reason:
            if len(chosen.notebook) == 1:
                raise
            refused.append(f"{name.stem}: {reason}")  # what one notebook cannot carry is no reason not to make the next
            continue
        size = made.html.stat().st_size / 1e6
        print(f"report    {made.html}  ({size:.1f} MB, 0 external resources)\nnotebook  {made.notebook}", flush=True)
    if refused:
        raise IonrtError(f"{len(refused)} of {len(chosen.notebook)} pages not made: {'; '.join(refused)}")


def _indications(chosen: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    from ionrt.indications import load

    with lazy.light():
        from ionrt.report import report

    for name in load().pages:  # the index of the folder is renewed with each
        print(f"page      {report('20_indication', Path(chosen.out) / f'{name}.html', {'indication': name}).html}", flush=True)


def _init(chosen: argparse.Namespace) -> None:
    start = resources.copy_to(chosen.folder)
    print(f"{start.parents[1]} is ready; next: jupyter lab {start}, or: cd {chosen.folder} && ionrt report compare_ions")


def _training(chosen: argparse.Namespace) -> None:
    from ionrt import training
    from ionrt.training.exercise import TRACKS

    if chosen.action == "record":
        one_of(chosen.track, tuple(TRACKS), what="--track")
        if len(chosen.place) > 1:
            raise IonrtError(f"training record takes one folder, got {', '.join(chosen.place)}")
        print("running the notebooks from scratch, about a quarter of a minute each")
        usual = ("notebooks/training", "training", ".")  # a terminal of JupyterLab opens in notebooks
        folder = chosen.place[0] if chosen.place else next((f for f in usual if any(Path(f).glob("T0*.ipynb"))), usual[0])
        found = training.verdicts(folder, modules=TRACKS[chosen.track], progress=True)
        print(f"record    {chosen.out}  (hash {training.record(found, chosen.out, track=chosen.track)})")
    elif chosen.action == "summary":
        print(training.summary(chosen.place).round(2).to_string())
    elif not chosen.forget:
        raise IonrtError("training: expected record, summary or --forget")
    if chosen.forget:
        print("the log is deleted" if training.forget() else "there is no log: nothing was kept")


def _basedata(chosen: argparse.Namespace) -> None:
    from ionrt import beam, ions

    if chosen.action == "clear":
        if chosen.ions:
            raise IonrtError("basedata clear takes no ions: it deletes what other versions wrote, or everything with --all")
        gone, size = beam.clear(everything=chosen.all)
        print(f"{len(gone)} files deleted, {size / 1e6:.0f} MB")
        return
    names = chosen.ions or list(ions.IONS)
    for ion in names:
        one_of(ion, tuple(ions.IONS), what="ion")
    out = Path(chosen.out)
    if chosen.action == "export" and out.suffix and len(names) > 1:
        raise IonrtError(f"--out {out}: one file holds one ion, got {', '.join(names)}; name one ion or give a folder")
    for ion in names:
        data = beam.base_data(ion)
        if chosen.action == "export":
            print(beam.export(data, out if out.suffix else out / f"basedata_{ion}.nc"))
            continue
        energy, key = data["energy"].values, data.attrs.get("content_key")
        print(
            f"{ion:<3}{energy.size:4d} energies {energy.min():.0f}-{energy.max():.0f} MeV/u  {data.nbytes / 1e6:.0f} MB  {key}"
        )


def _check(chosen: argparse.Namespace) -> None:
    """Imports, a kernel for notebooks, a stopping power that is right, a slice that is drawn as in a report."""
    from ionrt import beam, plot
    from ionrt.compare import open_patient

    for name in ("numpy", "xarray", "dask", "numba", "pydicom", "statsmodels", "holoviews", "bokeh", "papermill", "nbconvert"):
        print(f"{name:<12}{getattr(lazy.needed(name, 'a report'), '__version__', 'ok')}")
    from jupyter_client.kernelspec import KernelSpecManager

    if "python3" not in KernelSpecManager().find_kernel_specs():
        raise IonrtError('no python3 kernel for notebooks; run: pip install "ionrt[lab]"')
    reach = float(beam.csda_range("C", 400.0).squeeze())
    if not 265.0 < reach < 285.0:
        raise IonrtError(f"range of carbon at 400 MeV/u is {reach:.1f} mm; expected about 275 mm: the installation is damaged")
    patient = open_patient()
    plot.slices(patient["ct"], patient["ct"], patient["structures"]).to_html()
    print(f"{'plot':<12}one slice of the built-in SYNTHETIC pelvis drawn")
    print(f"{'ionrt':<12}{__version__}: all well")


if __name__ == "__main__":
    sys.exit(main())
