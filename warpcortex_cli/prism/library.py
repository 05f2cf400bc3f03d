"""The kernels' library: compiled once on a machine by its own C++ compiler, and kept in the user's cache.

The file is named `KEY-VERSION-DIGEST.so`: a hash of its sources and flags, the compiler's version, and the file's own
SHA-256. It is loaded only if the digest is right: a truncated library would end the process with a bus error.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from warpcortex_cli.errors import RunError
from warpcortex_cli.phases import phase

_FOLDER = Path(__file__).with_name("kernels")
# -fwrapv: NaN-to-int conversions overflow, and their results are discarded.
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-Wno-psabi")
_THREADS = "-fopenmp"
_LIMIT, _BRIEF = 300.0, 20.0  # seconds for the compiler to compile (it takes 4 to 20 here), and to print its version
_log = logging.getLogger(__name__)  # writes warnings to stderr by default


def command() -> list[str]:
    """The command of the C++ compiler, from CXX with its launcher and flags, as in `ccache g++`.

    If it is missing, no other compiler is tried.
    """
    given = os.environ.get("CXX", "").strip()
    if not given:
        return [{"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")]
    if shutil.which(given):  # a path may contain spaces
        return [given]
    try:
        return shlex.split(given)
    except ValueError:  # an unclosed quotation mark
        return [given]


def compiler() -> str:
    """The command as text."""
    return shlex.join(command())


def program() -> str:
    """The compiler itself, without a launcher such as `ccache` or `env`."""
    words = [word for word in command() if not word.startswith("-") and shutil.which(word)]
    return words[-1] if words else command()[0]


def built() -> Path:
    """The library's file. It is compiled if this machine has not done so yet.

    Raises:
        RunError: it cannot be compiled here, with the reason.
    """
    name, version = key(), _version()
    pattern = f"{name}-{version or '*'}-*.so"  # the library works without the compiler, too
    cache = _cache()
    found = _intact(cache, pattern) or _intact(_temporary(), pattern)
    if found is None:
        _tell("warpcortex: compiling kernels for this CPU, once; that takes some seconds.")
        try:
            with phase("compiling kernels"), tempfile.TemporaryDirectory(prefix="warpcortex-") as work:
                build(Path(work) / "kernels.so")
                library = (Path(work) / "kernels.so").read_bytes()
        except OSError as error:
            raise _failed(str(error.strerror or error)) from error
        name = f"{name}-{version}-{_digest(library)}.so"
        try:
            return _kept(library, cache / name)
        except OSError as error:
            found = _kept_elsewhere(library, name)
            _log.warning(
                "warpcortex: compiled kernels cannot be kept in %s (%s); they lie in %s.",
                cache, error.strerror or error, found.parent,
            )  # fmt: skip
    return found


def elsewhere(path: Path) -> Path:
    """A copy of a library in a temporary folder, for a cache on a file system that forbids execution.

    Raises:
        RunError: it cannot be written there.
    """
    found = _kept_elsewhere(path.read_bytes(), path.name)
    _log.warning("warpcortex: nothing may be run from %s; the kernels run from %s.", path.parent, found.parent)
    return found


def build(path: Path, tune: Sequence[str] = ()) -> None:
    """Compiles the kernels into a file, for this machine's CPU or, with flags, for another one.

    Raises:
        RunError: it failed, with the reason.
    """
    tune = tune or ("-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",)
    reason = ""
    for threads in ((_THREADS,), ()):  # Apple's compiler has no OpenMP: then there is one thread
        code, said = _run([*_FLAGS, *tune, *threads, str(_FOLDER / "kernels.cpp"), "-o", str(path)], _LIMIT)
        if code == 0 and path.exists():
            if not threads:
                _log.warning(
                    "warpcortex: %s cannot compile with OpenMP (%s): the kernels run in one thread.", compiler(), reason
                )
            return
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line), lines[0] if lines else "it wrote nothing")
        reason = reason or first.rstrip(".")
    raise _failed(reason)


def _run(arguments: Sequence[str], limit: float) -> tuple[int, str]:
    """Runs the compiler. Returns its exit code and output. None of its processes outlives this call.

    Raises:
        RunError: it is missing, or takes too long.
    """
    posix = os.name == "posix"
    with tempfile.TemporaryFile() as said:  # a pipe would stay open as long as any of its children lives
        try:
            process = subprocess.Popen(
                [*command(), *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"}, start_new_session=posix,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise _failed(f"there is no C++ compiler {compiler()}") from error
        except OSError as error:
            raise _failed(f"{compiler()} cannot be run ({error.strerror or error})") from error
        try:
            code = process.wait(limit)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):  # it leads a process group, so its children end, too
                os.killpg(process.pid, signal.SIGKILL) if posix else process.kill()
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _failed(f"{compiler()} did not end within {limit:.0f} seconds") from error
            raise
        said.seek(0)
        return code, said.read().decode(errors="replace")


def _tell(text: str) -> None:
    """Prints a line on stderr, if there is one. It is not a warning."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def key() -> str:
    """A hash of what compiled code depends on: the sources, the compiler's command, and the CPU."""
    cpu = platform.machine() + platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu += next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    parts = (
        *(p.read_text(encoding="utf-8") for p in sorted(_FOLDER.iterdir()) if p.suffix in (".h", ".cpp")),
        compiler(),
        " ".join(_FLAGS),
        cpu,
    )
    return _digest("\0".join(parts).encode())


def _version() -> str:
    """A short hash of the compiler's version; empty if there is no compiler.

    Raises:
        RunError: it does not answer in time, so it would not compile either.
    """
    if shutil.which(command()[0]) is None:
        return ""
    return _digest(_run(["--version"], _BRIEF)[1].encode())[:8]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


# -- where libraries are kept ---------------------------------------------------------------------------------


def _cache() -> Path:
    return platformdirs.user_cache_path("warpcortex") / "kernels"


def _temporary() -> Path:
    """The folder for libraries if the cache cannot be used, private to this user."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"warpcortex-kernels-{user}"


def _intact(folder: Path, pattern: str) -> Path | None:
    """The newest library with such a name whose digest is right. Others are deleted."""
    with contextlib.suppress(OSError):
        if folder == _temporary() and not _own(folder):
            return None
        for path in sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
            if path.stem.rpartition("-")[2] == _digest(path.read_bytes()):
                return path
            _log.warning("warpcortex: the kernels in %s are damaged, and are made anew.", path)
            path.unlink()
    return None


def _own(folder: Path) -> bool:
    """Whether a folder in a shared place belongs to this user and is closed to others."""
    if os.name != "posix":
        return True
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _kept(library: bytes, path: Path) -> Path:
    """Writes a file atomically and durably. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with open(number, "wb") as file:
            file.write(library)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o755)
        os.replace(name, path)  # atomically: another process may do the same
    except BaseException:
        os.unlink(name)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # not every file system can do this
            os.fsync(folder)
        os.close(folder)
    return path


def _kept_elsewhere(library: bytes, name: str) -> Path:
    folder = _temporary()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _own(folder):
            raise PermissionError(0, f"{folder} belongs to somebody else")
        return _kept(library, folder / name)
    except OSError as error:
        raise _failed(str(error.strerror or error)) from error


def _failed(reason: str) -> RunError:
    return RunError(
        f"warpcortex's kernels could not be compiled: {reason}.",
        "Install g++ or set CXX, or use --quantize none without --compile.",
    )
