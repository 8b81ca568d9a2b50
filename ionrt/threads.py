"""Work shared among the cores, for compiled loops that release the interpreter lock.

The caller works too, so that a core that is busy elsewhere costs nothing, and work may itself share work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import Any

SLAB = 1 << 18  # voxels per piece of elementwise work: enough pieces to share, few enough to cost nothing


def thread_count() -> int:
    """Cores that the calling thread may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that stay: starting one takes as long as a small field."""
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="ionrt")


if hasattr(os, "register_at_fork"):  # a forked process has none of these threads; nobody would take what is handed to them
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def each(work: Callable[[Any], Any], parts: Iterable[Any], threads: int | None = None) -> list[Any]:
    """What `work` makes of every part, in their order; by the caller and up to `threads` - 1 others (None: one a core)."""
    parts = list(parts)
    done: list[Any] = [None] * len(parts)
    waiting = iter(enumerate(parts))

    def take() -> None:
        for place, part in waiting:
            done[place] = work(part)

    shared = [take]  # all that helpers are handed: what is cancelled stays in the queue of a busy one, and must hold nothing
    others = [
        _helpers().submit(copy_context().run, _help, shared) for _ in range(min(threads or thread_count(), len(parts)) - 1)
    ]
    try:
        take()
    finally:
        shared.clear()
        late = [f for f in others if not f.cancel()]  # who has not begun by now need not
        for f in late:
            f.result()
    return done


def _help(shared: list[Callable[[], None]]) -> None:
    for take in tuple(shared):
        take()


def slabs(size: int, largest: int = SLAB) -> list[slice]:
    """`size` items in pieces of at most `largest`."""
    return [slice(i, min(i + largest, size)) for i in range(0, size, largest)]
