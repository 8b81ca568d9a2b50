"""Voxels shared among threads: every voxel once, whoever is free, also after an error and from many callers."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ionrt.threads import SLAB, each, slabs


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, SLAB, 7 * SLAB + 5])
def test_every_voxel_once(threads, size):
    times = np.zeros(size, np.uint8)

    def work(piece):
        times[piece] += 1
        return piece.stop - piece.start

    assert sum(each(work, slabs(size), threads)) == size
    assert (times == 1).all()


def test_both_threads_work():
    both = threading.Barrier(2, timeout=20)  # broken, and raises, unless two are inside at once
    assert sorted(each(lambda p: both.wait(), slabs(2 * SLAB), threads=2)) == [0, 1]


def test_helper_that_is_busy_is_not_waited_for():
    """Callers more than there are helpers, each holding the helpers up: the callers do the work."""
    with ThreadPoolExecutor(4) as callers:
        done = list(callers.map(lambda _: len(each(lambda p: p, slabs(4 * SLAB), threads=2)), range(20)))
    assert done == [4] * 20


def test_error_of_a_piece_reaches_the_caller():
    def work(piece):
        if piece.start == SLAB:
            raise ValueError("second piece")

    for threads in (1, 2):
        with pytest.raises(ValueError, match="second piece"):
            each(work, slabs(4 * SLAB), threads)
    assert len(each(lambda p: p, slabs(4 * SLAB), 2)) == 4


def test_results_keep_the_order_and_work_may_share_work():
    def outer(k):
        return [k, *each(lambda j: 10 * k + j, range(4), threads=2)]

    assert each(outer, range(6), threads=2) == [[k, *(10 * k + j for j in range(4))] for k in range(6)]
    assert each(outer, [], threads=2) == []


def test_a_busy_helper_holds_nothing_of_what_is_done():
    """Work that shares work while the helpers are busy: what it made is given free with the caller's last reference."""

    class Large:
        pass

    def outer(_):
        both.wait()  # all threads are in the outer work from here on
        inner = each(lambda _: Large(), range(3))
        left = [weakref.ref(x) for x in inner]
        del inner
        gc.collect()
        alive = sum(r() is not None for r in left)
        both.wait()
        return alive

    both = threading.Barrier(2, timeout=20)
    assert each(outer, range(2), threads=2) == [0, 0]


def test_who_waits_takes_part_in_what_the_others_share():
    """The helper shares work of its own, which none but the waiting caller can help with."""
    both, inside = (threading.Barrier(2, timeout=20) for _ in range(2))  # broken, and raise, unless two are there at once
    caller = threading.get_ident()

    def outer(_):
        both.wait()
        if threading.get_ident() == caller:
            return []
        return sorted(each(lambda _: inside.wait(), range(2), threads=2))

    assert sorted(each(outer, range(2), threads=2)) == [[], [0, 1]]


def test_who_waits_takes_part_in_nothing_else():
    """A caller may hold a lock that foreign work needs; only what its own work shares is safe to take."""
    began, finish, ran_in = threading.Event(), threading.Event(), []

    def foreign(_):
        ran_in.append(threading.get_ident())
        began.set()
        finish.wait(20)

    def work(k):
        if k == 0:  # here, and then wait for the other part while the foreign ones are on offer
            other.start()
            assert began.wait(20)
        else:
            assert began.wait(20)
            time.sleep(0.1)

    other = threading.Thread(target=lambda: each(foreign, range(8), threads=8))
    try:
        each(work, range(2), threads=2)
    finally:
        finish.set()
        other.join(20)
    assert ran_in and threading.get_ident() not in ran_in


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_part_s_error_raises_and_no_part_begins_after(threads):
    begun, late = [], threading.Event()

    def work(k):
        begun.append(k)
        if k == 0 and threads == 2:
            assert late.wait(20)  # the second part's error is there before this one
        late.set()
        raise ValueError(f"part {k}")

    with pytest.raises(ValueError, match="part 0"):
        each(work, range(100), threads=threads)
    assert begun in ([0], [0, 1], [1, 0])


def test_the_caller_works_alone_where_no_helper_can_start():
    """At the interpreter's end no thread starts any more; and a call that failed to start leaves nothing to others."""
    script = (
        "import atexit\nfrom ionrt import threads\n"
        "atexit.register(lambda: print(threads.each(lambda k: k * k, range(4), threads=2), len(threads._open), threads._awake))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[0, 1, 4, 9] 0 0"
