"""Row checks: sums of the check columns over K, and the syndromes of finished rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory

from ..arithmetic import residue, weighted_sum
from ..array.tag import row_tag_layout
from ..config import ACC_BITS, AcceleratorConfig
from ..depths import SCORE_BANK
from ..errors.draws import error_layout
from .check_row import is_residue, widths


def syndrome_depth(config: AcceleratorConfig) -> int:
    """Rows of syndromes in a bank: [column tile][row]."""
    return config.block_col_tiles * config.block_rows


class RowChecker(Elaboratable):
    """Accumulates the check columns like the accumulator does the array's.

    After the last k-tile a syndrome takes the sum's place. Two banks, of which the drain reads the one that is not
    being summed into.

    Members
    -------
    valid, tag : a row's tag, one cycle before its sums leave the array
    check_row : sums of the check columns, one cycle after the row's sums
    stored_row : C * 32 bits
        Accumulated sums of the row with their errors, in the cycle after the tag.
    errors, row_key, col : of the `flip` model, two cycles after the tag
    syndromes_now, now_valid : three cycles after the tag
        Syndromes of a row of data after the last k-tile, as they are stored.
    drain_enable, drain_bank, drain_address : read port
    syndromes : of all check columns, from the cycle after the enable on until the next one
    score_enable, score_address, score_syndromes
        Likewise of the bank of scores; with an attention unit.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.valid = Signal()
        self.tag = Signal(row_tag_layout(config))
        self.check_row = Signal(sum(widths(config)))
        self.stored_row = Signal(ACC_BITS * config.cols)
        self.errors = Signal(error_layout(config))
        self.row_key = Signal(32)
        self.col = Signal(32)
        self.syndromes_now = Signal(sum(widths(config)))
        self.now_valid = Signal()
        self.drain_enable = Signal()
        self.drain_bank = Signal()
        self.drain_address = Signal(range(syndrome_depth(config)))
        self.syndromes = Signal(sum(widths(config)))
        self.score_enable = Signal()
        self.score_address = Signal(range(syndrome_depth(config)))
        self.score_syndromes = Signal(sum(widths(config)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        layout = row_tag_layout(config)
        of_data = ~self.tag.digit.any() if config.group_count else 1
        stages = []
        valid, tag = self.valid & of_data, self.tag
        for stage in range(1, 4):
            valid_next = Signal(name=f"valid_{stage}")
            tag_next = Signal(layout, name=f"tag_{stage}", reset_less=True)
            m.d.sync += [valid_next.eq(valid), tag_next.eq(tag)]
            valid, tag = valid_next, tag_next
            stages.append((valid, tag))
        (read_valid, read_tag), (_, sum_tag), (write_valid, write_tag) = stages

        row_bits = sum(widths(config))
        old = Signal(row_bits)
        written = Signal(row_bits)
        reads = []
        for index in range(2):
            memory = Memory(shape=row_bits, depth=syndrome_depth(config), init=[])
            m.submodules[f"bank_{index}"] = memory
            read = memory.read_port()
            write = memory.write_port()
            summing: Value = read_valid & (read_tag.bank == index)
            address: Value = self.drain_address
            wanted: Value = self.drain_enable & (self.drain_bank == index)
            if config.attention and index == SCORE_BANK:
                summing = summing & ~read_tag.first
                address, wanted = Mux(self.score_enable, self.score_address, address), wanted | self.score_enable
                m.d.comb += self.score_syndromes.eq(read.data)
            m.d.comb += [
                read.en.eq(summing | wanted),
                read.addr.eq(Mux(summing, read_tag.address, address)),
                write.addr.eq(write_tag.address),
                write.en.eq(write_valid & (write_tag.bank == index)),
                write.data.eq(written),
            ]
            reads.append(read)
        m.d.comb += [
            old.eq(Mux(sum_tag.bank, reads[1].data, reads[0].data)),
            self.syndromes.eq(Mux(self.drain_bank, reads[1].data, reads[0].data)),
        ]
        final_row = Signal(ACC_BITS * config.cols, reset_less=True)
        with m.If(read_valid & read_tag.final):
            m.d.sync += final_row.eq(self.stored_row)

        syndromes = []
        kept = []
        at = 0
        for column, (segment, check) in enumerate(config.check_columns):
            width = widths(config)[column]
            before = Mux(sum_tag.first, 0, old[at : at + width])
            psum = self.check_row[at : at + width]
            kept_sum, syndrome = self._column(m, column, segment, check, before, psum, final_row)
            kept.append(kept_sum)
            syndromes.append(syndrome)
            at += width
        m.d.comb += [
            self.syndromes_now.eq(Cat(syndromes)),
            self.now_valid.eq(write_valid & write_tag.final),
            written.eq(Mux(write_tag.final, self.syndromes_now, Cat(kept))),
        ]
        return m

    def _column(
        self,
        m: Module,
        column: int,
        segment: int,
        check: int,
        before: Value,
        psum: Value,
        final_row: Signal,
    ) -> tuple[Signal, Signal]:
        """The accumulated sum of a check column and the syndrome that follows from it, a cycle later."""
        config, checksum = self.config, self.config.checksum
        assert checksum is not None
        width = widths(config)[column]
        folds = is_residue(config, check)
        columns = config.segments[segment]
        row_sum = weighted_sum(
            m,
            [final_row.word_select(c, ACC_BITS) for c in columns],
            checksum.weights(check)[: len(columns)],
            f"row_sum_{column}",
        )
        total = Signal(width, name=f"total_{column}")
        kept = Signal(width, name=f"kept_{column}", reset_less=True)
        expected = Signal(width, name=f"expected_{column}", reset_less=True)
        found = Signal(width, name=f"found_{column}", reset_less=True)
        syndrome = Signal(width, name=f"syndrome_{column}")
        m.d.comb += total.eq(residue(m, before + psum, f"sum_{column}") if folds else (before + psum)[:width])
        flipped: Value = total
        if config.error_model.draws:
            flipped = config.error_model.check_sum(
                *(m, config),
                total=total,
                row_key=self.row_key,
                col=self.col + columns.start,
                check=check,
                rate=self.errors.rates[config.check_domain],
                name=str(column),
            )
        m.d.sync += [
            kept.eq(total),
            expected.eq(flipped),
            found.eq(residue(m, row_sum, f"row_{column}") if folds else row_sum),
        ]
        m.d.comb += syndrome.eq(
            residue(m, (found - expected).as_signed(), f"syndrome_{column}_residue")
            if folds
            else (found - expected)[:width]
        )
        return kept, syndrome
