"""One thread for scipy's OpenBLAS while a solver runs: its matrices are of the size of its history, and more threads would only
wait at full speed, in the way of the products."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scipy.linalg import cython_blas

_LOCK = threading.Lock()
_inside: list[int] = []  # how many threads there were before each of the solvers that run now


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Also for several solvers side by side: the last to leave gives the threads back. Nothing happens with another BLAS."""
    found = _openblas()
    if found is None:
        yield
        return
    get, limit = found
    with _LOCK:
        _inside.append(_inside[0] if _inside else get())
        limit(1)
    try:
        yield
    finally:
        with _LOCK:
            before = _inside.pop()
            if not _inside:
                limit(before)


def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What reads and what sets the number of threads of scipy's OpenBLAS."""
    library = ctypes.CDLL(cython_blas.__file__)
    prefix = next((p for p in ("scipy_openblas", "openblas") if hasattr(library, f"{p}_set_num_threads")), None)
    return prefix and (getattr(library, f"{prefix}_get_num_threads"), getattr(library, f"{prefix}_set_num_threads"))  # type: ignore[return-value]
