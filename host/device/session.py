"""A device that is open: which process and thread has it, and what becomes of calls when it is closed."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import NoReturn, Self, SupportsIndex

import torch

from ..errors import AcceleratorClosedError, MismatchError
from .backends.base import Backend, closed_error, device_lock


class _Call:
    """Context of a call: no other thread has the device, which is not closed at its beginning."""

    def __init__(self, session: DeviceSession) -> None:
        self._session = session

    def __enter__(self) -> Backend:
        lock = self._session._lock
        lock.__enter__()
        device = self._session._device
        if device is None:
            lock.__exit__(None, None, None)
            raise closed_error()
        return device

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session._lock.__exit__(kind, error, trace)
        if self._session._device is not None or isinstance(error, (AcceleratorClosedError, MismatchError)):
            return
        if isinstance(error, Exception):
            raise AcceleratorClosedError("this accelerator was closed while a call was under way") from error


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


class DeviceSession:
    """An open device, whose calls are served one after another: a context manager that closes it.

    Parameters
    ----------
    device : Backend
        Open device, which the session closes.
    """

    def __init__(self, device: Backend) -> None:
        if _forked and torch.get_num_threads() > 1:
            # Threads of OpenMP do not outlive a fork, but are waited for.
            torch.set_num_threads(1)
        self._lock = device_lock(closed=False)
        self._call = _Call(self)
        self._device: Backend | None = device
        self.backend = device.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "an Accelerator cannot be copied or pickled, because it has a device of its own; open another one with "
            "Accelerator(accelerator.config, backend=...), and carry over what it remembers with state and load_state"
        )

    def _open(self) -> Backend:
        self._lock.check()
        if self._device is None:
            raise closed_error()
        return self._device

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        """``with accelerator.exclusive():`` lets no other thread use it: for calls that belong together.

        Raises
        ------
        ForkedProcessError
            From the ``with`` statement: another process has opened it.
        """
        return self._lock

    def _using(self) -> _Call:
        """The device, for one call."""
        return self._call

    def close(self) -> None:
        """Free the device. Closing twice does no harm, and nor does closing in a forked child, which does nothing.

        A call of another thread may end within a few seconds; after that a simulator is ended, and the call raises
        `AcceleratorClosedError`. Products of the twin end as ever.

        Raises
        ------
        MismatchError, brownout.cosim.errors.SimulatorError
            What the last replays have found (``"mixed"`` only); the device is free all the same.
        """
        if self._lock.foreign:
            return
        device, self._device = self._device, None
        if device is not None:
            device.close()
