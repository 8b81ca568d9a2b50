"""A few threads for compiled loops, which release the lock; one pool, as starting threads can cost more than the work."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

MOST = 8


def threads() -> int:
    """How many of them: the cores that the calling thread may use."""
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST))


@cache
def pool() -> ThreadPoolExecutor:
    """The pool. Work in it must not wait for more work in it."""
    return ThreadPoolExecutor(threads(), thread_name_prefix="ionrt-plan")


def pieces(n: int, least: int) -> list[slice]:
    """Parts of `n` items, a few per thread, none smaller than `least` but where there are fewer in all."""
    parts = 1 if threads() == 1 else max(1, min(4 * threads(), n // least))
    return [slice(n * k // parts, n * (k + 1) // parts) for k in range(parts)]
