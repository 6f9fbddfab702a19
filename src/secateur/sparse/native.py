"""The kernel in C, compiled when it is first needed by the machine's own compiler and kept for the next time."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("block_sparse.c")
FLAGS = ("-O3", "-shared", "-fPIC")
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


@cache
def library() -> ctypes.CDLL | None:
    """The kernel's functions; None where there is no C compiler, or it fails: networks then stay dense."""
    try:
        place = _home() / f"block_sparse_{_digest()}.so"
        if not place.exists():
            _compile(place)
        found = ctypes.CDLL(str(place))
    except (OSError, RuntimeError, subprocess.CalledProcessError):  # RuntimeError: a user without a home
        return None
    multiply = found.secateur_block_sparse
    multiply.argtypes = [*[_POINTER] * 4, *[_SIZE] * 7, _POINTER, *[_SIZE] * 2, _POINTER, *[_SIZE] * 2, ctypes.c_int]
    multiply.restype = ctypes.c_int
    return found


def lanes() -> int:
    """Floats in the widest vector that the kernel uses here; 0 without it."""
    found = library()
    return 0 if found is None else int(found.secateur_lanes(0))


def _home() -> Path:
    """Where compiled kernels are kept: a folder of the user's own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


def _digest() -> str:
    return hashlib.sha256(SOURCE.read_bytes() + platform.machine().encode() + repr(FLAGS).encode()).hexdigest()[:16]


def _compile(place: Path) -> None:
    """Raises OSError where there is no compiler, CalledProcessError where it fails."""
    named = shlex.split(os.environ.get("CC", ""))
    compiler = named or [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))][:1]
    if not compiler:
        raise FileNotFoundError("no C compiler")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = Path(folder) / place.name
        subprocess.run([*compiler, *FLAGS, "-o", str(made), str(SOURCE)], check=True, capture_output=True)
        made.replace(place)  # whole or not at all: another process may be doing the same
