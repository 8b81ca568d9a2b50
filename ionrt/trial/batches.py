"""Replicates in batches: dask over independent random streams, so that the result does not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import numpy as np

from ionrt.parallel import whole_cluster
from ionrt.trial import limits

BATCHES = 16  # fixed: the same seed gives the same replicates on one core and on many


def in_batches(replicates: Callable[..., Any], n_sim: int, seed: int | Sequence[int], *arguments: Any) -> list[Any]:
    """Run `replicates(rng, size, *arguments)` in batches with spawned streams; a running distributed client is used."""
    n_sim = limits.count(n_sim, "n_sim")
    sizes = np.diff(np.linspace(0, n_sim, min(BATCHES, n_sim) + 1).round().astype(int))
    streams = np.random.SeedSequence(seed).spawn(sizes.size)
    tasks = [dask.delayed(_seeded)(replicates, s, int(m), *arguments) for s, m in zip(streams, sizes, strict=True)]
    with whole_cluster():
        return list(dask.compute(*tasks))


def _seeded(replicates, stream, size, *arguments):
    return replicates(np.random.default_rng(stream), size, *arguments)
