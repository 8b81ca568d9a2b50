"""One thread of BLAS while a solver runs: its matrices are of the size of its history, and more threads would only wait at full
speed, in the way of the products; sums over spots would depend on their number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_running: list[threadpool_limits] = []  # one limit for all solvers that run now, and an entry for each


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Also for several solvers side by side: the last to leave gives the threads back."""
    with _lock:
        _running.append(_running[0] if _running else threadpool_limits(1, "blas"))
    try:
        yield
    finally:
        with _lock:
            limit = _running.pop()
            if not _running:
                limit.restore_original_limits()
