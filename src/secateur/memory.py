"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Have the C library return what it keeps of freed memory: a gigabyte and more, after a large network was traced or
    ranked. Does nothing where that library is not glibc."""
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, TypeError, OSError):
        return
    trim(0)
