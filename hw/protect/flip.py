"""The `flip` model of timing errors: one bit of a final sum, drawn by a counter-based hash."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import data

from ..array.tag import row_tag_layout
from ..config import ACC_BITS, AcceleratorConfig
from ..error_model import BIT_THRESHOLDS, CHECK_STEP, COLUMN_STEP, DIGIT_STEP, PICK_KEY, ROW_STEP
from .arithmetic import mix
from .razor import total_of

RATE_BITS = 32


def error_layout(config: AcceleratorConfig) -> data.StructLayout:
    """State of the model while a command runs: its key, the rate of every domain, thresholds of the bits."""
    return data.StructLayout(
        {"base": 32, "rates": data.ArrayLayout(RATE_BITS, config.domains), "bits": data.ArrayLayout(32, BIT_THRESHOLDS)}
    )


def draw(m: Module, row_key: Value, col: Value, check: int, rate: Value, name: str) -> tuple[Signal, Signal]:
    """(There is an error, hash that picks its bit)."""
    hashed = mix(m, row_key + col * COLUMN_STEP + (check * CHECK_STEP & 0xFFFFFFFF), f"draw_{name}")
    pick = mix(m, hashed ^ PICK_KEY, f"pick_{name}")
    hit = Signal(name=f"hit_{name}")
    m.d.comb += hit.eq(hashed < rate)
    return hit, pick


class FlipInjector(Elaboratable):
    """Inverts bits of the final sums on their way into the accumulators; with ``razor``, drops these sums instead.

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
        m = Module()
        config, errors, tag = self.config, self.errors, self.tag
        digit = tag.digit * DIGIT_STEP if config.group_count else 0
        key = mix(m, errors.base + tag.row * ROW_STEP + digit, "key")
        row_key = Signal(32, name="row_key_now", reset_less=True)
        col = Signal(32, name="col_now", reset_less=True)
        cols = Signal(range(config.cols + 1), reset_less=True)
        final = Signal()
        m.d.sync += [
            row_key.eq(key),
            col.eq(tag.col),
            cols.eq(tag.cols),
            final.eq(self.valid & tag.final),
            self.row_key.eq(row_key),
            self.col.eq(col),
        ]
        wrong = Signal(config.cols)
        stored = []
        for c in range(config.cols):
            hit, pick = draw(m, row_key, col + c, 0, errors.rates[config.domain_of_column(c)], str(c))
            m.d.comb += wrong[c].eq(final & hit & (cols > c))
            total = self.total_row.word_select(c, ACC_BITS)
            if config.razor:
                stored.append(Mux(wrong[c], 0, total))
                continue
            bit = Signal(range(BIT_THRESHOLDS + 1), name=f"bit_{c}")
            mask = Signal(ACC_BITS, name=f"mask_{c}")
            m.d.comb += [
                bit.eq(sum((pick >= errors.bits[i] for i in range(BIT_THRESHOLDS)), start=Cat())),
                mask.eq(Mux(wrong[c], 1 << bit, 0)),
            ]
            stored.append(total ^ mask)
        m.d.comb += self.stored_row.eq(Cat(stored))
        if config.razor:
            m.d.sync += self.dropped.eq(total_of(list(wrong)))
        return m
