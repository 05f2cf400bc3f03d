"""A time limit for foreign Python code, such as a chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TakesTooLong(Exception):
    """The code took longer than it may."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TakesTooLong within this context after that time. Only Python code is ended, not a call that runs in C."""
    thread, lock, left = threading.get_ident(), threading.Lock(), threading.Event()

    def end() -> None:
        with lock:
            if not left.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TakesTooLong))

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            left.set()
        timer.cancel()
