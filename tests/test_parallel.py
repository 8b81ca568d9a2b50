"""Work shared among threads: every part once, whoever is free, as many threads as dask's configuration says."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest

from ionrt.parallel import SLAB, each, slabs, thread_count


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    with dask.config.set(num_workers=request.param):
        yield request.param


@pytest.fixture
def two():
    with dask.config.set(num_workers=2):
        yield threading.Barrier(2, timeout=20)  # broken, and raises, unless two are there at once


def seen(most=None) -> set[int]:
    """The threads that take part in work of which each piece waits for a moment."""
    pause = threading.Event()
    return set(each(lambda _: pause.wait(0.02) or threading.get_ident(), range(12), most))


@pytest.mark.parametrize("size", [0, 1, SLAB, 7 * SLAB + 5])
def test_every_voxel_once(threads, size):
    times = np.zeros(size, np.uint8)

    def work(piece):
        times[piece] += 1
        return piece.stop - piece.start

    assert sum(each(work, slabs(size))) == size
    assert (times == 1).all()


def test_dask_says_how_many(threads):
    assert thread_count() == threads == len(seen())
    assert seen(1) == {threading.get_ident()}
    with dask.config.set(scheduler="synchronous"):
        assert thread_count() == 1 and seen() == {threading.get_ident()}


@pytest.mark.parametrize("own", [1, 2])
def test_tasks_of_a_cluster_use_the_threads_of_their_worker(own):
    from distributed import Client, LocalCluster

    options = {"processes": False, "dashboard_address": None, "host": "127.0.0.1", "protocol": "tcp"}
    with LocalCluster(n_workers=1, threads_per_worker=own, **options) as cluster, Client(cluster) as client:
        assert client.submit(thread_count, pure=False).result() == own
        assert len(client.submit(seen, pure=False).result()) == own
        assert client.submit(lambda: each(lambda _: thread_count(), range(3)), pure=False).result() == [own] * 3  # inside, too


def test_one_of_several_processes_has_one_thread():
    assert dask.delayed(thread_count)().compute(scheduler="processes", num_workers=2) == 1


def test_both_threads_work(two):
    assert sorted(each(lambda p: two.wait(), slabs(2 * SLAB))) == [0, 1]


def test_helper_that_is_busy_is_not_waited_for(two):
    """Callers more than there are helpers, each holding the helpers up: the callers do the work."""
    with ThreadPoolExecutor(4) as callers:
        done = list(callers.map(lambda _: len(each(lambda p: p, slabs(4 * SLAB))), range(20)))
    assert done == [4] * 20


def test_error_of_a_piece_reaches_the_caller(threads):
    def work(piece):
        if piece.start == SLAB:
            raise ValueError("second piece")

    with pytest.raises(ValueError, match="second piece"):
        each(work, slabs(4 * SLAB))
    assert len(each(lambda p: p, slabs(4 * SLAB))) == 4


def test_results_keep_the_order_and_work_may_share_work(threads):
    def outer(k):
        return [k, *each(lambda j: 10 * k + j, range(4))]

    assert each(outer, range(6)) == [[k, *(10 * k + j for j in range(4))] for k in range(6)]
    assert each(outer, []) == []


def test_a_busy_helper_holds_nothing_of_what_is_done(two):
    """Work that shares work while the helpers are busy: what it made is given free with the caller's last reference."""

    class Large:
        pass

    def outer(_):
        two.wait()  # all threads are in the outer work from here on
        inner = each(lambda _: Large(), range(3))
        left = [weakref.ref(x) for x in inner]
        del inner
        gc.collect()
        alive = sum(r() is not None for r in left)
        two.wait()
        return alive

    assert each(outer, range(2)) == [0, 0]


def test_the_first_part_s_error_raises_and_no_part_begins_after(threads):
    begun, late = [], threading.Event()

    def work(k):
        begun.append(k)
        if k == 0 and threads > 1:
            assert late.wait(20)  # a later part's error is there before this one
        late.set()
        raise ValueError(f"part {k}")

    with pytest.raises(ValueError, match="part 0"):
        each(work, range(100))
    assert set(begun) <= set(range(threads))


def test_the_caller_works_alone_where_no_helper_can_start():
    """At the interpreter's end no thread starts any more."""
    script = (
        "import atexit, dask\nfrom ionrt import parallel\ndask.config.set(num_workers=2)\n"
        "atexit.register(lambda: print(parallel.each(lambda k: k * k, range(4))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[0, 1, 4, 9]"
