"""A few threads for compiled loops, which release the lock; one pool, as starting threads can cost more than the work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

MOST = 8
NAME = "ionrt-plan"


def threads() -> int:
    """How many of them: the cores that the calling thread may use."""
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST))


def each(work: Callable[[Any], Any], parts: Iterable[Any]) -> list[Any]:
    """What `work` makes of every part, side by side; one after the other where this already is work side by side."""
    parts = list(parts)
    if len(parts) < 2 or threads() == 1 or threading.current_thread().name.startswith(NAME):
        return [work(part) for part in parts]
    return list(_pool().map(work, parts))


def pieces(n: int, least: int) -> list[slice]:
    """Parts of `n` items, a few per thread, none smaller than `least` but where there are fewer in all."""
    parts = 1 if threads() == 1 else max(1, min(4 * threads(), n // least))
    return [slice(n * k // parts, n * (k + 1) // parts) for k in range(parts)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix=NAME)
