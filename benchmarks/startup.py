"""How long `ionrt report compare_ions` takes, warm and cold, with and without bytecode: python benchmarks/startup.py [warm]

Warm: caches as they are after a run before. Cold: no base data, no compiled kernel. Without bytecode: an empty folder for it
and PYTHONDONTWRITEBYTECODE, as in a read-only install, so that every process reads its Python again; kernels stay compiled.
Each line has the seconds by the clock and of the processors (kernel included); run it on an idle machine.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def once(label: str, **environment: str) -> None:
    """One report in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ionrt", "report", "compare_ions", "--out", folder]
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{label:<24} {wall:6.1f} s, {cpu:6.1f} s of processors, load {os.getloadavg()[0]:.1f}", flush=True)


def main(*wanted: str) -> None:
    """All four, or only those whose name begins as asked for; the first fills what the warm ones find."""
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
