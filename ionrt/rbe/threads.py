"""Voxels shared among the cores: the caller works too, so that a core that is busy elsewhere costs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

SLAB = 1 << 18  # voxels per piece of work: enough pieces to share, few enough to cost nothing


def thread_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that stay: starting one takes as long as a small field."""
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="rbe")


if hasattr(os, "register_at_fork"):  # a forked process has none of these threads; nobody would take what is handed to them
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def in_slabs(work: Callable[[slice], Any], size: int, threads: int = 1) -> list[Any]:
    """`work` on every piece of `size` voxels, on the caller's and up to `threads` - 1 other threads (the kernels release the
    interpreter lock); the results in any order.
    """
    waiting = iter([slice(i, min(i + SLAB, size)) for i in range(0, size, SLAB)])
    done: list[Any] = []

    def take() -> None:
        for piece in waiting:
            done.append(work(piece))  # not extend: two threads may not within one list

    others = [_helpers().submit(take) for _ in range(min(threads, -(-size // SLAB)) - 1)]
    try:
        take()
    finally:
        late = [f for f in others if not f.cancel()]  # who has not begun by now need not
        for f in late:
            f.result()
    return done
