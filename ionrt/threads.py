"""Work shared among the cores, for compiled loops that release the interpreter lock.

The caller works too, so that a core that is busy elsewhere costs nothing. Work may itself share work: who has nothing left to
do and waits for others takes part in what those share.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import cache
from typing import Any

SLAB = 1 << 18  # voxels per piece of elementwise work: enough pieces to share, few enough to cost nothing


def thread_count() -> int:
    """Cores that the calling thread may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[Any], Any], parts: Iterable[Any], threads: int | None = None) -> list[Any]:
    """What `work` makes of every part, in their order; by the caller and up to `threads` - 1 others (None: one a core).

    After an error no other part begins, and that of the first part raises, whoever was faster.
    """
    parts = list(parts)
    done: list[Any] = [None] * len(parts)
    waiting = iter(enumerate(parts))
    errors: dict[int, Exception] = {}

    def take() -> None:
        for place, part in waiting:
            try:
                done[place] = work(part)
            except BaseException as error:
                for _ in waiting:  # nobody need begin another part; all parts before this one have begun
                    pass
                if not isinstance(error, Exception):  # an interrupt
                    raise
                errors[place] = error

    others = min(threads or thread_count(), len(parts)) - 1
    if others > 0:
        _Call(take, others, _calls.get()).run()
    else:
        take()
    if errors:
        first = errors[min(errors)]
        errors.clear()  # errors hold the frames they went through, and this one would hold them
        try:
            raise first
        finally:
            del first
    return done


def slabs(size: int, largest: int = SLAB) -> list[slice]:
    """`size` items in even pieces of at most `largest`."""
    n = -(-size // largest)
    return [slice(size * i // n, size * (i + 1) // n) for i in range(n)]


@dataclass(eq=False)
class _Call:
    """A call of `each` that `wanted` more threads may join, made `within` other calls; `joined` are those who did."""

    take: Callable[[], None] | None
    wanted: int
    within: tuple[_Call, ...]
    joined: int = 0
    context: Context | None = None
    error: BaseException | None = None

    def run(self) -> None:
        """Work, and wait for those who joined."""
        around = None
        try:
            around = _calls.set((*self.within, self))
            self.context = copy_context()
            _offer(self)
            assert self.take is not None
            self.take()
        finally:
            if around is not None:
                _calls.reset(around)
            self.close()
            self.context = self.take = None  # a context knows of this call: what it made would stay until the next collection
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Nobody else may join; those who did are helped to their end."""
        with _lock:
            if self in _open:
                _open.remove(self)
        while True:
            with _lock:
                inner = None
                while self.joined and (inner := _joined(self)) is None:
                    _change.wait()
            if inner is None:
                return
            inner.help()

    def help(self) -> None:
        """Work as one who joined, in the caller's context."""
        try:
            assert self.context is not None and self.take is not None
            self.context.copy().run(self.take)
        except BaseException as error:  # the caller's to raise
            self.error = error
        finally:
            with _lock:
                self.joined -= 1
                _change.notify_all()


_calls: ContextVar[tuple[_Call, ...]] = ContextVar("calls", default=())  # that the running code is part of
_open: list[_Call] = []
_awake = 0  # helpers at work or on their way
_lock = threading.Lock()  # entered as it is: an interrupt within the Python code of a Condition would leave it locked for good
_change = threading.Condition(_lock)


def _joined(outer: _Call | None) -> _Call | None:
    """Join an open call made within `outer` (None: any); `_lock` is held."""
    for call in _open:
        if outer is None or outer in call.within:
            call.wanted, call.joined = call.wanted - 1, call.joined + 1
            if call.wanted == 0:
                _open.remove(call)
            return call
    return None


def _offer(call: _Call) -> None:
    """Open a call, and wake as many helpers as it wants, of those that are neither at work nor on their way."""
    global _awake
    with _lock:
        _open.append(call)
        _change.notify_all()
        asleep = min(call.wanted, _most() - _awake)
        _awake += asleep
    while asleep:
        try:
            _helpers().submit(_help)
            asleep -= 1
        except BaseException as error:
            with _lock:
                _awake -= asleep
            if isinstance(error, RuntimeError):  # no more threads, or the interpreter ends: the caller works alone
                return
            raise


def _help() -> None:
    global _awake
    while True:
        with _lock:
            call = _joined(None)
            if call is None:
                _awake -= 1
                return
        call.help()


@cache
def _most() -> int:
    """Number of helpers."""
    return max(1, thread_count() - 1)


@cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that stay: starting one takes as long as a small field."""
    return ThreadPoolExecutor(_most(), thread_name_prefix="ionrt")


def _after_fork() -> None:
    """A forked process has none of the threads, and may have been made while one held the lock."""
    global _awake, _lock, _change
    _awake, _lock = 0, threading.Lock()
    _change = threading.Condition(_lock)
    _open.clear()
    _most.cache_clear()
    _helpers.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
