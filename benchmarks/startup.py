"""How long `ionrt report compare_ions` takes, warm and cold, with and without bytecode: python benchmarks/startup.py [warm]
Until the first figure stands on the screen of who opens a notebook and runs all: python benchmarks/startup.py figure

Warm: caches as they are after a run before. Cold: no base data, no compiled kernel. Without bytecode: an empty folder for it
and PYTHONDONTWRITEBYTECODE, as in a read-only install, so that every process reads its Python again; kernels stay compiled.
Each line has the seconds by the clock and of the processors (kernel included); run it on an idle machine. The first figure
counts from the start of the kernel to the end of the first cell with a picture; tables come before it and do not count.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from ionrt.report import find_notebook


def once(label: str, **environment: str) -> None:
    """One report in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ionrt", "report", "compare_ions", "--out", folder]
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{label:<24} {wall:6.1f} s, {cpu:6.1f} s of processors, load {os.getloadavg()[0]:.1f}", flush=True)


def first_figure(notebook: str, label: str, **environment: str) -> None:
    """Runs a notebook cell by cell in a kernel of its own up to the first picture."""
    manager = KernelManager(kernel_name="python3")
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    manager.start_kernel(env={**os.environ, **environment})
    client = NotebookClient(nbformat.read(find_notebook(notebook), as_version=4), km=manager, timeout=None)
    with client.setup_kernel(cleanup_kc=True):
        for k, cell in enumerate(client.nb.cells):
            if cell.cell_type != "code":
                continue
            client.execute_cell(cell, k)
            if any("caption figure" in str(o.get("data", "")) for o in cell.outputs):
                break
        wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    code = cell.source.strip().splitlines()[0]
    print(
        f"{notebook} {label:<24} {wall:6.1f} s, {cpu:6.1f} s of processors, load {os.getloadavg()[0]:.1f}: {code}", flush=True
    )


def main(*wanted: str) -> None:
    """All four, or only those whose name begins as asked for; the first fills what the warm ones find."""
    if wanted == ("figure",):
        for notebook in ("start_here", "compare_ions"):
            with tempfile.TemporaryDirectory() as empty:
                caches = {"IONRT_CACHE": empty, "NUMBA_CACHE_DIR": str(Path(empty, "numba"))}
                first_figure(notebook, "cold", **caches)
                first_figure(notebook, "warm", **caches)
        return
    with tempfile.TemporaryDirectory() as empty:
        bare = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(Path(empty, "bytecode"))}
        turns = {"warm": {}, "warm, no bytecode": bare | {"NUMBA_CACHE_DIR": str(Path(empty, "kept"))}}
        for name in ("cold", "cold, no bytecode"):
            caches = {"IONRT_CACHE": str(Path(empty, name)), "NUMBA_CACHE_DIR": str(Path(empty, name, "numba"))}
            turns[name] = caches | (bare if "no" in name else {})
        for name, environment in turns.items():
            if not wanted or name.startswith(wanted):
                if name.startswith("warm"):
                    once(f"({name}, the run before)", **environment)
                once(name, **environment)


if __name__ == "__main__":
    main(*sys.argv[1:])
