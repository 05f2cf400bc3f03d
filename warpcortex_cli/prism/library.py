"""The kernels' library: compiled once on a machine, by the machine's own C++ compiler, and kept in the user's cache.

A file there is called `KEY-VERSION-DIGEST.so`: what it was made of, what the compiler said of itself, and the file's
own SHA-256. It is opened only if that is right: a library that was cut short would end the process with a bus error.
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
# Whole numbers wrap: those made of what is not a number are beyond all bounds, and are used for nothing.
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-Wno-psabi")
_THREADS = "-fopenmp"
_LIMIT, _BRIEF = 300.0, 20.0  # seconds for a compiler to compile (it takes 4 to 20 here), and to say its version
_log = logging.getLogger(__name__)  # which writes warnings to stderr unless somebody has told it otherwise


def command() -> list[str]:
    """The C++ compiler that is called, with what stands before and behind it in CXX, as in `ccache g++`.

    There is no other one where this is missing.
    """
    given = os.environ.get("CXX", "").strip()
    if not given:
        return [{"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")]
    if shutil.which(given):  # a path may hold spaces
        return [given]
    try:
        return shlex.split(given)
    except ValueError:  # a quotation mark without its other one
        return [given]


def compiler() -> str:
    """The command in words."""
    return shlex.join(command())


def program() -> str:
    """The compiler itself, without a launcher such as `ccache` or `env`."""
    words = [word for word in command() if not word.startswith("-") and shutil.which(word)]
    return words[-1] if words else command()[0]


def built() -> Path:
    """The library's file, compiled if this machine has not done so yet.

    Raises:
        RunError: it cannot be compiled here, with the reason.
    """
    name, version = key(), _version()
    pattern = f"{name}-{version or '*'}-*.so"  # what was compiled is of use without the compiler, too
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
    """A copy of a library in a temporary place, where the cache is one that nothing may be run from.

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
    for threads in ((_THREADS,), ()):  # Apple's compiler knows no OpenMP: then one thread does it all
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
    """Calls the compiler: its exit code and what it said. Nothing of it outlives this, whatever happens.

    Raises:
        RunError: it is not there, or takes too long.
    """
    posix = os.name == "posix"
    with tempfile.TemporaryFile() as said:  # a pipe would be waited for as long as any of its children lives
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
            with contextlib.suppress(ProcessLookupError):  # it is a group of its own: what it started ends, too
                os.killpg(process.pid, signal.SIGKILL) if posix else process.kill()
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _failed(f"{compiler()} did not end within {limit:.0f} seconds") from error
            raise
        said.seek(0)
        return code, said.read().decode(errors="replace")


def _tell(text: str) -> None:
    """A line on stderr, where there is one; it is no warning."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def key() -> str:
    """What the compiled code depends on: its text, the compiler's command, and the CPU that it is made for."""
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
    """What the compiler says of itself, as a few letters; empty where there is none.

    Raises:
        RunError: it says nothing at all for a while: it would not compile either.
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
    """Where libraries lie if the cache takes none, for this user alone."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"warpcortex-kernels-{user}"


def _intact(folder: Path, pattern: str) -> Path | None:
    """The newest library of a folder with such a name whose bytes are those that it was kept with; others go."""
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
    """Whether a folder where others may write, too, is a real one of this user, and closed to them."""
    if os.name != "posix":
        return True
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _kept(library: bytes, path: Path) -> Path:
    """Writes a file as a whole or not at all, to outlive a loss of power. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with open(number, "wb") as file:
            file.write(library)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o755)
        os.replace(name, path)  # another process may be doing the same
    except BaseException:
        os.unlink(name)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # not every file system can
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
        "They take a C++ compiler such as g++; without --compile and --quantize bf16 or int4 nothing has to be.",
    )
