"""Draws of errors of final sums: what models that draw have in common."""

from __future__ import annotations

from amaranth.hdl import Elaboratable, Module, Signal, Value
from amaranth.lib import data

from ..arithmetic import mix
from ..array.tag import row_tag_layout
from ..config import ACC_BITS, AcceleratorConfig
from .constants import BIT_THRESHOLDS, CHECK_STEP, COLUMN_STEP, PICK_KEY

RATE_BITS = 32


def error_layout(config: AcceleratorConfig) -> data.StructLayout:
    """State of the model while a command runs: its key, the rate of every domain, thresholds of the bits.

    With an attention unit also the key of the product of exponentials and values.
    """
    second = {"value_base": 32} if config.attention else {}
    return data.StructLayout(
        {
            "base": 32,
            "rates": data.ArrayLayout(RATE_BITS, config.domains),
            "bits": data.ArrayLayout(32, BIT_THRESHOLDS),
            **second,
        }
    )


def draw(m: Module, row_key: Value, col: Value, check: int, rate: Value, name: str) -> tuple[Signal, Signal]:
    """(There is an error, hash that picks its bit)."""
    hashed = mix(m, row_key + col * COLUMN_STEP + (check * CHECK_STEP & 0xFFFFFFFF), f"draw_{name}")
    pick = mix(m, hashed ^ PICK_KEY, f"pick_{name}")
    hit = Signal(name=f"hit_{name}")
    m.d.comb += hit.eq(hashed < rate)
    return hit, pick


class SumInjector(Elaboratable):
    """Lets final sums err on their way into the accumulators; with ``razor``, drops these sums instead.

    Members
    -------
    errors : `error_layout`
        Constant while a command runs.
    valid, tag : a row's tag, one cycle before its sums
    total_row, stored_row : C * 32 bits
        Sums without and with errors, in the same cycle.
    row_key, col : 32 bits
        Key and first column of the row, one cycle after its sums, for draws of its checks.
    dropped : 0 .. C
        Sums dropped in the cycle before; only with ``razor``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.errors = Signal(error_layout(config))
        self.valid = Signal()
        self.tag = Signal(row_tag_layout(config))
        self.total_row = Signal(ACC_BITS * config.cols)
        self.stored_row = Signal(ACC_BITS * config.cols)
        self.row_key = Signal(32, reset_less=True)
        self.col = Signal(32, reset_less=True)
        self.dropped = Signal(range(config.cols + 1))

    def elaborate(self, platform: object) -> Module:
        raise NotImplementedError("a model of errors has an injector of its own")
