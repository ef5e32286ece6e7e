"""Exceptions of the host runtime; those of the simulator live in ``brownout.cosim.errors``."""

from __future__ import annotations


class AcceleratorClosedError(RuntimeError):
    """The accelerator was used after `Accelerator.close`."""


class DeviceMemoryError(RuntimeError):
    """The accelerator's DRAM has no room for the operands of a product or for resident weights."""


class PipelineClosedError(RuntimeError):
    """The pipeline was used after `OffloadedPipeline.close`."""


class WeightsNotFoundError(FileNotFoundError):
    """The weights of a shipped model are not there."""
