"""What a model of timing errors is, and which there are."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar

from ..registry import Registry, require_members

if TYPE_CHECKING:
    from amaranth.hdl import Elaboratable, Module, Signal, Value


class TimingErrorModel(abc.ABC):
    """A model of timing errors, built into array and checksum units for simulation.

    There are two ways to err, and a model may have each: `draws` errs in final sums, by chance; `settles` errs in every
    element, by what it adds. Reference and twin have entries of their own under the same name
    (`brownout.cosim.reference.error_models`, `brownout.host.device.twin.error_models`).
    """

    name: ClassVar[str]
    """Value of `AcceleratorConfig.timing_model`."""

    draws: ClassVar[bool] = False
    """Whether final sums err by draws: SET_ERRORS gives operating points their rates, and tags carry the global place
    of a row, of which draws are a function. `injector` and `check_sum` are what errs."""

    settles: ClassVar[bool] = False
    """Whether elements have settled carry lengths, which SET_POINT reads. `element_sum` is what errs."""

    def __init_subclass__(cls) -> None:
        if cls.draws:
            require_members(cls, TimingErrorModel, "injector", "check_sum")
        if cls.settles:
            require_members(cls, TimingErrorModel, "element_sum")

    @property
    def errs(self) -> bool:
        """Whether anything can err: then there are operating points."""
        return self.draws or self.settles

    def injector(self, config: Any) -> Elaboratable:
        """Unit between sums and accumulators, with the members of `brownout.hw.errors.draws.SumInjector` (`draws`).

        Parameters
        ----------
        config : AcceleratorConfig
            Accelerator that it is part of.
        """
        raise NotImplementedError(f"{self.name!r} draws no errors of final sums")

    def check_sum(
        self,
        m: Module,
        config: Any,
        *,
        total: Signal,
        row_key: Value,
        col: Value,
        check: int,
        rate: Value,
        name: str,
    ) -> Value:
        """Final sum of a row check with its error, of the same width (`draws`).

        Parameters
        ----------
        config : AcceleratorConfig
            Accelerator that the checks are part of.
        total : Signal
            Sum of the row check without its error.
        row_key, col : Value
            32 bits: key of the row from the injector, and global column of the segment's first column.
        check : int
            Row check of the segment.
        rate : Value
            32 bits: rate of the check domain.
        name : str
            Name of the check column, for signals.
        """
        raise NotImplementedError(f"{self.name!r} draws no errors of final sums")

    def element_sum(
        self, m: Module, *, x: Value, y: Value, width: int, length: Value, first: Value, name: str
    ) -> tuple[Signal, Signal]:
        """What an element's register captures of x + y, and the settled sum (`settles`).

        Parameters
        ----------
        x, y : Value
            Partial sum and addend, `width` bits each.
        length : Value
            Settled carry length of the element.
        first : Value
            Whether it is the first row of a pass.
        name : str
            Name of the element, for signals.
        """
        raise NotImplementedError(f"{self.name!r} has no settled carry lengths")


TIMING_ERROR_MODELS: Registry[TimingErrorModel] = Registry(
    "model of timing errors",
    "brownout.timing_error_models",
    {
        "none": "brownout.hw.errors.none",
        "flip": "brownout.hw.errors.flip",
        "carry": "brownout.hw.errors.carry",
    },
)

ERROR_FREE = "none"
"""Model of an accelerator that is built without errors."""

BY_RATE = "flip"
"""Model that errs by published rates: what is chosen where a policy needs one and none is given."""


def erring_models(*ways: str) -> str:
    """Names of models in which something errs, for messages: ``'flip' or 'carry'``.

    Parameters
    ----------
    ways : str
        ``"draws"`` or ``"settles"``: those that err so; by default all that err.
    """
    models = [TIMING_ERROR_MODELS.get(name) for name in TIMING_ERROR_MODELS.names()]
    return " or ".join(repr(each.name) for each in models if any(getattr(each, way) for way in ways or ("errs",)))
