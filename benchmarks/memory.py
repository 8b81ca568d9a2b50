"""What benchmarks have in common about memory."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> str:
    """Let the process keep what it frees, so that nobody's time is the first touch of new memory; says whether it does."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    mmap_threshold, trim_threshold, most = -3, -1, (1 << 31) - 1
    kept = mallopt is not None and mallopt(mmap_threshold, most) and mallopt(trim_threshold, most)
    return "kept for the next call, of all alike" if kept else "returned to the system: new memory costs all alike"
