"""Models of timing errors in the reference, by the names of those in hardware."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from brownout.hw.registry import Registry
from brownout.hw.tiling import Block

from .command import Command


@dataclass
class Sums:
    """Final sums of one block: of its rows, its digit rows (by group) and its row checks."""

    data: dict[tuple[int, int], int]
    digits: dict[tuple[int, int, int], int]
    checks: dict[tuple[int, int, int, int], int]


class ReferenceErrorModel(abc.ABC):
    """What errs in the sums of a block, written down without regard to speed."""

    name: ClassVar[str]
    """Name of the hardware model (`brownout.hw.errors`)."""

    @abc.abstractmethod
    def sums(self, cmd: Command, block: Block) -> Sums:
        """Final sums of a block, with their errors."""


REFERENCE_ERROR_MODELS: Registry[ReferenceErrorModel] = Registry(
    "model of timing errors of the reference",
    "brownout.reference_error_models",
    {
        "none": "brownout.cosim.reference.sums",
        "flip": "brownout.cosim.reference.flips",
        "carry": "brownout.cosim.reference.carries",
    },
)
