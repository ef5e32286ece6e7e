"""The `flip` model of timing errors: one bit of a final sum, by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .model import TIMING_ERROR_MODELS, TimingErrorModel

if TYPE_CHECKING:
    from amaranth.hdl import Elaboratable, Module, Signal, Value


# Amaranth is imported where hardware is made: whoever asks a configuration for its model need not wait for it.
@TIMING_ERROR_MODELS.register
class FlipModel(TimingErrorModel):
    """Errors per sum at the rate of an operating point, as published for DRIFT."""

    name = "flip"
    draws = True

    def injector(self, config: Any) -> Elaboratable:
        from .flip_injector import FlipInjector

        return FlipInjector(config)

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
        from .flip_injector import flipped_check_sum

        return flipped_check_sum(m, total=total, row_key=row_key, col=col, check=check, rate=rate, name=name)
