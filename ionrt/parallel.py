"""Work shared among threads, for compiled loops that release the interpreter lock; dask's configuration says how many."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import cache
from multiprocessing import parent_process
from typing import Any

import dask.system

from ionrt.lazy import IonrtError

SLAB = 1 << 18  # voxels per piece of elementwise work: enough pieces to share, few enough to cost nothing
_helpers = cache(ThreadPoolExecutor)  # they stay: starting one takes as long as a small field
getattr(os, "register_at_fork", dict)(after_in_child=_helpers.cache_clear)  # a forked process has none of them


def thread_count() -> int:
    """Threads for the caller: those of its dask worker, one where dask runs synchronously, else `num_workers` or the cores."""
    with suppress(AttributeError, KeyError, ValueError):  # no task of a cluster; `distributed` may be half imported
        return int(sys.modules["distributed"].get_worker().state.nthreads)
    if dask.config.get("scheduler", None) in ("synchronous", "sync", "single-threaded", dask.get):
        return 1  # as one of several processes has one core:
    return int(dask.config.get("num_workers", None) or (1 if parent_process() else dask.system.CPU_COUNT))


def each(work: Callable[[Any], Any], parts: Iterable[Any], most: int | None = None) -> list[Any]:
    """What `work` makes of every part, in order; by the caller and helpers, `thread_count` or `most` together. Work may share
    work. After an error no other part begins, and that of the first part raises."""
    parts, count, errors = list(parts), thread_count(), dict[int, BaseException]()
    done, waiting = [None] * len(parts), iter(enumerate(parts))

    def take() -> None:
        for place, part in waiting:
            try:
                done[place] = work(part)
            except BaseException as error:
                errors[place] = error
                list(waiting)  # all parts before this one have begun

    tickets: list[tuple[list, Any]] = []  # emptied in the end: those that no helper was free to take hold nothing
    with suppress(RuntimeError):  # when the interpreter ends no helper starts
        for _ in range(min(count, most or count, len(parts)) - 1):
            ticket = [take]
            tickets.append((ticket, _helpers(count - 1).submit(copy_context().run, lambda t: t[0](), ticket)))
    try:
        take()
    finally:  # interrupts included
        for ticket, future in tickets:
            ticket.clear() if future.cancel() else future.result()
    if errors:
        raise errors.pop(min(errors))
    return done


def slabs(size: int, largest: int = SLAB) -> list[slice]:
    """`size` items in even pieces of at most `largest`."""
    return [slice(size * i // n, size * (i + 1) // n) for n in [-(-size // largest)] for i in range(n)]


def running_sum(parts: Iterable[Any]) -> Any:
    """Sum of arrays, one after the other; of lazy ones no more are held than are being made. (A tree of sums holds a part per
    branch, and dask merges plain additions into one that holds all: layers of different annotations stay apart.)"""
    total = None
    for k, part in enumerate(parts):
        with dask.annotate(running_sum=k):
            total = part if total is None else total + part
    return total


@contextmanager
def whole_cluster(kept: str = "") -> Iterator[None]:
    """A cluster that breaks (scheduler lost, workers that die one after the other) is an `IonrtError` that says what to do;
    `kept` says what the next run need not do again."""
    try:
        yield
    except BaseException as error:
        kind = type(error)
        if kind.__module__.partition(".")[0] not in ("distributed", "tornado") and kind.__name__ != "CancelledError":
            raise
        raise IonrtError(
            f"the dask cluster was lost ({kind.__name__}); start it again, with more memory per worker where workers"
            f" died, and repeat the call{kept and f': {kept}'}"
        ) from error
