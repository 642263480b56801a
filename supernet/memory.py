"""Freed memory stays with the process, so that a training step need not ask the system for it anew."""

from __future__ import annotations

import ctypes
import platform

# mallopt's numbers in glibc's malloc.h, https://man7.org/linux/man-pages/man3/mallopt.3.html
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_HEAP_BLOCK = 2**30  # bytes; glibc takes more from the heap than its 32 MiB of MMAP_THRESHOLD_MAX, when told


def keep_freed_memory() -> bool:
    """Have the C library reuse what this process frees instead of handing it back; False where that is not glibc.

    By default glibc maps every large tensor anew and unmaps it when it is freed, so each step touches thousands of
    pages for the first time. It takes no more memory than the largest step did, and changes no result.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, LARGEST_HEAP_BLOCK) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
