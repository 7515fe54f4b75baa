"""Building the C++ of the folder cpp with the C++ compiler of this machine."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..files.atomic_write import atomic_write

FOLDER = Path(__file__).with_name("cpp")
# 512 bits, because the kernels wait for memory and AMX more than for the clock of the processor.
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math"),
    *("-std=c++17", "-fopenmp", "-shared", "-fPIC"),
)


def build_library() -> Path:
    """Return the path of the built library; build it unless it is on disk.

    Raises:
        OSError: no C++ compiler, or the compiler fails, or the folder cannot be written.
    """
    compiler, path = cpp_compiler(), library_path()
    if compiler is None or path is None:
        raise OSError("no C++ compiler found (install g++, or set CXX)")
    if not is_built(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            sources = map(str, sorted(FOLDER.glob("*.cpp")))
            command = [compiler, *FLAGS, *sources, "-o", str(temporary)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if done.returncode != 0:
                raise OSError(f"C++ compiler {compiler} failed: {_first_error(done.stderr)}")
    return path


def library_path() -> Path | None:
    """Return where the built library is kept; None without a C++ compiler.

    Its name depends on sources, flags, compiler and processor.
    """
    compiler = cpp_compiler()
    if compiler is None:
        return None
    sources = [source.read_bytes() for source in sorted(FOLDER.iterdir()) if source.is_file()]
    parts = [*sources, " ".join((compiler, *FLAGS)).encode(), _processor()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return cache_folder() / f"cpu_kernels-{digest}.so"


def is_built(path: Path) -> bool:
    """Return whether a library is there and was written by this user: the folder may be open to others."""
    return path.is_file() and path.stat().st_uid == os.getuid()


def cpp_compiler() -> str | None:
    """Return the path of the C++ compiler, on x86 Linux: ``CXX``, or g++ or clang++; None without one."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    chosen = os.environ.get("CXX")
    names = (chosen,) if chosen else ("g++", "clang++")
    return next(filter(None, map(shutil.which, names)), None)


def cache_folder() -> Path:
    """Return our folder in inductor's cache, which ``TORCHINDUCTOR_CACHE_DIR`` sets."""
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    return folder / "reward_core"


def _processor() -> bytes:
    """Return the lines of /proc/cpuinfo that name the processor and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"".join(next((x for x in lines if x.startswith(name)), b"") for name in (b"model name", b"flags"))


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no reason given")
