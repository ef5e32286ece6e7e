"""Exceptions of the host runtime; those of the simulator live in ``brownout.cosim.errors``."""

from __future__ import annotations

from pathlib import Path


class AcceleratorClosedError(RuntimeError):
    """The accelerator was used after `Accelerator.close`."""


class DeviceMemoryError(RuntimeError):
    """The accelerator's DRAM has no room for the operands of a product or for resident weights."""


class PipelineClosedError(RuntimeError):
    """The pipeline was used after `OffloadedPipeline.close`."""


class FileRefusedError(ValueError):
    """A file of tensors is damaged, foreign, or of another version.

    Parameters
    ----------
    path : Path
        The file.
    reason : str
        What is wrong with it.

    Attributes
    ----------
    path, reason
        As given.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


class CheckpointError(RuntimeError):
    """A run cannot be resumed from the folder that it was given, or the folder is in use; the message says why."""


class CheckpointWarning(UserWarning):
    """A checkpoint was refused and the one before is used, or a lost simulator was replaced."""


class WeightsNotFoundError(FileNotFoundError):
    """The weights of a shipped model are not there."""


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
        As given.
    reproducer : Path or None
        As given.
    """

    def __init__(self, place: str, difference: str, reproducer: Path | None, unwritten: str = "") -> None:
        how = f"no reproducer could be written: {unwritten}"
        if reproducer is not None:
            how = f"replay it with: python -m brownout.host.replay {reproducer}"
        super().__init__(f"{place}: {difference}; {how}")
        self.place, self.difference, self.reproducer = place, difference, reproducer
