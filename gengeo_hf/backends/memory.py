"""Memory that a large model on a CPU gives back and asks for again in every pass: it is kept instead.

glibc returns what was freed at the end of its heap at once, and takes every block above a moving bound from the system
anew; both cost a page fault for each 4 KB. `python benchmarks/extraction.py --memory` measures the gain: a fifth in
float32, a tenth in bfloat16, for one image of a ViT-B/14.
"""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
KEPT = 512 * 2**20  # bytes at the end of the heap that stay with the process
LARGEST = 32 * 2**20  # the most that glibc takes: larger blocks still come from the system
SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Ask the allocator to keep up to half a gigabyte of freed memory for the next pass, in this whole process.

    Returns:
        Whether it was asked: not where there is no glibc, nor where the user's environment sets its thresholds.
    """
    if any(name in os.environ for name in SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS lack the function, Windows the handle
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
