"""Who may use a handle: one thread at a time, and only threads of the process that opened it.

A forked child has copies of all its parent's handles: of sockets on which the parent waits for an answer, and of memory
that both write to. It may use none of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from .errors import ForkedProcessError

CLOSE_GRACE_S = 5.0
"""How long `ProcessLock.close` waits for a call of another thread, before it is interrupted and again after that."""


class ProcessLock:
    """A lock that only the process that made it can take; a thread may take it several times.

    What another thread held when the process was forked is held for ever in the child, so there the process is looked
    at first: nothing in a child waits for this lock.

    Parameters
    ----------
    what : str
        What is protected, as in "this simulator".
    remedy : str
        What to do in another process.
    closed_error : callable, optional
        Makes the error of those who come after `close`; by default they may come.
    """

    def __init__(self, what: str, remedy: str, closed_error: Callable[[], Exception] | None = None) -> None:
        self._what, self._remedy, self._closed_error = what, remedy, closed_error
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._depth = 0
        self._closed = False
        self._last: Callable[[], None] | None = None

    @property
    def foreign(self) -> bool:
        """Whether this is another process than the one that made it."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Refuse another process.

        Raises
        ------
        ForkedProcessError
        """
        if (pid := os.getpid()) != self._pid:
            raise ForkedProcessError(self._what, self._pid, pid, self._remedy)

    def __enter__(self) -> Self:
        if os.getpid() != self._pid:
            self.check()
        self._lock.acquire()
        if self._closed and self._depth == 0 and self._closed_error is not None:
            self._lock.release()
            raise self._closed_error()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._last is None:
            self._lock.release()
            return
        try:
            if self._depth == 0:
                self._finish()
        finally:
            self._lock.release()

    def close(self, finish: Callable[[], None], interrupt: Callable[[], None]) -> None:
        """Let nobody in any more, and tidy up when the last one is out; in another process do nothing.

        Parameters
        ----------
        finish : callable
            Tidies up. It is called here, or by a thread that is still inside after twice `CLOSE_GRACE_S`.
        interrupt : callable
            Makes calls that have not ended after `CLOSE_GRACE_S` fail.
        """
        if self.foreign:
            return
        self._closed = True
        if not self._lock.acquire(timeout=CLOSE_GRACE_S):
            interrupt()
            if not self._lock.acquire(timeout=CLOSE_GRACE_S):
                self._last = finish
                # Perhaps the last one has left meanwhile.
                if not self._lock.acquire(blocking=False):
                    return
        try:
            self._last = finish
            # At once, even if this thread is inside: an interrupt from the keyboard may have left it there.
            self._finish()
        finally:
            self._lock.release()

    def _finish(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last()


class Shared(Protocol):
    """Something that a process and a forked child would share."""

    def cut_off(self) -> None:
        """Called in the child: let go of it, so that whatever is done here does not reach the parent."""


_shared: weakref.WeakSet[Shared] = weakref.WeakSet()


def cut_off_in_children(handle: Shared) -> None:
    """Let `handle.cut_off` be called in every child that is forked while it lives."""
    _shared.add(handle)


def _cut_off_all() -> None:
    for handle in list(_shared):
        with contextlib.suppress(OSError):
            handle.cut_off()


os.register_at_fork(after_in_child=_cut_off_all)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)

_MAP_FIXED = 0x10


def address_of(memory: mmap.mmap) -> int:
    """Where a writable mapping begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def make_private(address: int, size: int, descriptor: int) -> None:
    """Replace a shared mapping of a file by a private one: it shows the file, and what is written stays here.

    Arrays that use the mapping go on to do so.

    Parameters
    ----------
    address, size : int
        Address and size of the mapping, in bytes.
    descriptor : int
        Descriptor of the file that is mapped.

    Raises
    ------
    OSError
        The system refused.
    """
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    if _libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0) != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
