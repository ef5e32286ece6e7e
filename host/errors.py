"""Exceptions of the host runtime; those of the simulator live in ``brownout.cosim.errors``."""

from __future__ import annotations

import errno
from pathlib import Path

from brownout.cosim.errors import ForkedProcessError as ForkedProcessError


class AcceleratorClosedError(RuntimeError):
    """The accelerator was used after `Accelerator.close`."""


class DeviceMemoryError(RuntimeError):
    """The accelerator's DRAM has no room for the operands of a product or for resident weights."""


class PipelineClosedError(RuntimeError):
    """The pipeline was used after `OffloadedPipeline.close`."""


class OffloadError(ValueError):
    """A model, or a layer of it, cannot be offloaded as asked; it is as before, and the message says what to do.

    Parameters
    ----------
    message : str
        What happened.
    layer : str, optional
        Dotted name of the module that is the reason.

    Attributes
    ----------
    layer
        As given.
    """

    def __init__(self, message: str, layer: str | None = None) -> None:
        super().__init__(message)
        self.layer = layer


class OffloadWarning(UserWarning):
    """A model has been offloaded, but part of it stays in float or loses much of its precision."""


class FileRefusedError(ValueError):
    """What was read is damaged, foreign, of another version, or has values that cannot be.

    Parameters
    ----------
    path : Path or str
        The file; of what was read from elsewhere, its name.
    reason : str
        What is wrong with it.

    Attributes
    ----------
    path, reason
        As given.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class FileUnwrittenError(OSError):
    """A file could not be written; what was there before is as it was, and nothing half-written is left.

    Parameters
    ----------
    path : Path
        The file.
    cause : OSError
        Why.

    Attributes
    ----------
    path
        As given.
    """

    def __init__(self, path: Path, cause: OSError) -> None:
        remedy = "choose another folder"
        if cause.errno in _FULL:
            remedy = "free space there, or choose a folder on another disk"
        elif cause.errno == errno.EFBIG:
            remedy = "raise the limit of file sizes (ulimit -f), or choose another file system"
        elif cause.errno in _FORBIDDEN:
            remedy = "allow this user to write there, or choose another folder"
        super().__init__(f"{path} cannot be written: {cause.strerror or cause}; {remedy}")
        self.errno, self.path = cause.errno, path


class CheckpointError(RuntimeError):
    """A run cannot be resumed from the folder that it was given, or not be kept there; the message says why."""


class CheckpointWarning(UserWarning):
    """A checkpoint was refused and the one before is used, or a lost simulator was replaced."""


class WeightsNotFoundError(FileNotFoundError):
    """The weights of a shipped model are not there."""


class NonFiniteError(ValueError):
    """A NaN or an infinity came to where it cannot be represented; the message names the layer and the evaluation."""


class PlanError(ValueError):
    """An image cannot be divided over a fleet as asked, or can no longer be finished on it; the message says why."""


class ExchangeError(RuntimeError):
    """A device of a fleet got nothing, or only damaged messages, from another one.

    Parameters
    ----------
    message : str
        What happened.
    sender : str
        The other device.

    Attributes
    ----------
    sender
        As given.
    """

    def __init__(self, message: str, sender: str) -> None:
        super().__init__(message)
        self.sender = sender


class FleetError(RuntimeError):
    """Devices of a fleet were lost, or failed, and the image cannot be finished; the message says why."""


class MismatchError(RuntimeError):
    """A pass that was replayed on the RTL differs from the twin, or from the product that it is a part of.

    Parameters
    ----------
    place : str
        Product and pass.
    difference : str
        The first one.
    reproducer : Path, optional
        File that replays it.
    unwritten : str
        Why there is none.

    Attributes
    ----------
    place, difference : str
        Place and kind of the difference, as given.
    reproducer : Path or None
        File that replays it, as given.
    """

    def __init__(self, place: str, difference: str, reproducer: Path | None, unwritten: str = "") -> None:
        how = f"no reproducer could be written: {unwritten}"
        if reproducer is not None:
            how = f"replay it with: python -m brownout.host.replay {reproducer}"
        super().__init__(f"{place}: {difference}; {how}")
        self.place, self.difference, self.reproducer = place, difference, reproducer
