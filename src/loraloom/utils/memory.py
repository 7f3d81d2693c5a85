"""How much memory this machine has, or this container may use.

Out: bytes. What a file from elsewhere asks for is compared with it before anything is allocated.
"""

import os
import sys
from pathlib import Path


def total_memory_bytes() -> int | None:
    """RAM of this machine, or the container's limit if that is lower; None if unknown."""
    if os.name == "nt":
        return _windows_memory_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _windows_memory_bytes() -> int | None:
    if sys.platform != "win32":
        return None
    import ctypes

    class MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "p_total", "p_free", "v_total", "v_free", "x")),
        )

    status = MemoryStatus()
    status.length = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.total)
