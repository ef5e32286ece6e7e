"""The `carry` model of timing errors: carries that are longer than an element has time for come late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import TIMING_ERROR_MODELS, TimingErrorModel

if TYPE_CHECKING:
    from amaranth.hdl import Module, Signal, Value


@TIMING_ERROR_MODELS.register
class CarryModel(TimingErrorModel):
    """Carries that are longer than an element's settled length come late."""

    name = "carry"
    settles = True

    def element_sum(
        self, m: Module, *, x: Value, y: Value, width: int, length: Value, first: Value, name: str
    ) -> tuple[Signal, Signal]:
        # As in the `flip` model, Amaranth is imported where hardware is made.
        from .late_carries import registered_sum

        return registered_sum(m, x=x, y=y, width=width, length=length, first=first, name=name)
