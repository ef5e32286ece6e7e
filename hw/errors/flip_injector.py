"""Hardware of the `flip` model: one bit of a final sum, drawn by a counter-based hash."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from ..arithmetic import mix
from ..config import ACC_BITS
from .constants import BIT_THRESHOLDS, DIGIT_STEP, ROW_STEP
from .draws import SumInjector, draw
from .razor import total_of


class FlipInjector(SumInjector):
    """Inverts bits of the final sums on their way into the accumulators; with ``razor``, drops these sums instead."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, errors, tag = self.config, self.errors, self.tag
        digit = tag.digit * DIGIT_STEP if config.group_count else 0
        base: Value = errors.base
        if config.attention:
            base = Mux(tag.of_values, errors.value_base, errors.base)
        key = mix(m, base + tag.row * ROW_STEP + digit, "key")
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


def flipped_check_sum(
    m: Module, *, total: Signal, row_key: Value, col: Value, check: int, rate: Value, name: str
) -> Value:
    """Sum of a row check with its error; parameters as of `TimingErrorModel.check_sum`."""
    width = len(total)
    hit, pick = draw(m, row_key, col, 1 + check, rate, f"check_{name}")
    bit = Signal(range(width), name=f"bit_{name}")
    m.d.comb += bit.eq((pick * width)[32:])
    return total ^ Mux(hit, (1 << bit)[:width], 0)
