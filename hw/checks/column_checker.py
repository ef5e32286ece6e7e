"""Column checks: what the rows of digits say about the columns of a group of rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory

from ..arithmetic import large
from ..array.tag import row_tag_layout
from ..config import ACC_BITS, AcceleratorConfig
from ..params import THETA_BITS
from .check_row import widths


def group_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What is kept of a group of rows in a column tile.

    `matched` compares values: the column syndromes `q`, and for each row of each segment whether another row of the
    group has the same plain syndrome (`repeated`). The others need to know which columns are `flagged`, and with
    locators which are `wrong`, that is not zero.
    """
    checksum = config.checksum
    assert checksum is not None
    if checksum.check_scheme.matches:
        rows = data.ArrayLayout(checksum.group_rows, len(config.segments))
        return data.StructLayout({"q": ACC_BITS * config.cols, "repeated": rows})
    members = {"flagged": config.cols}
    if checksum.locators:
        members["wrong"] = config.cols
    return data.StructLayout(members)


class ColumnChecker(Elaboratable):
    """Sums finished rows of a group up, subtracts its digit rows, and keeps the result for the drain.

    Members
    -------
    theta : threshold of flags, constant while a command runs
    valid, tag : a row's tag, one cycle before its sums leave the array
    stored_row : C * 32 bits
        Accumulated sums of the row with their errors, in the cycle after the tag.
    syndromes_now, now_valid : from the row checker, three cycles after the tag
    drain_enable, drain_bank, drain_tile, drain_group : read port
    group : `group_layout`, from the cycle after the enable on until the next one
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.theta = Signal(THETA_BITS)
        self.valid = Signal()
        self.tag = Signal(row_tag_layout(config))
        self.stored_row = Signal(ACC_BITS * config.cols)
        self.syndromes_now = Signal(sum(widths(config)))
        self.now_valid = Signal()
        self.drain_enable = Signal()
        self.drain_bank = Signal()
        self.drain_tile = Signal(range(config.block_col_tiles))
        self.drain_group = Signal(range(config.group_count))
        self.group = Signal(group_layout(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, checksum = self.config, self.config.checksum
        assert checksum is not None
        tags = []
        valid, tag = self.valid, self.tag
        for stage in range(1, 4):
            valid_next = Signal(name=f"valid_{stage}")
            tag_next = Signal(row_tag_layout(config), name=f"tag_{stage}", reset_less=True)
            m.d.sync += [valid_next.eq(valid), tag_next.eq(tag)]
            valid, tag = valid_next, tag_next
            tags.append((valid, tag))
        (stored_valid, stored_tag), (add_valid, add_tag), (_, syndrome_tag) = tags

        row = Signal(ACC_BITS * config.cols, reset_less=True)
        with m.If(stored_valid & stored_tag.final):
            m.d.sync += row.eq(self.stored_row)
        columns = []
        for c in range(config.cols):
            q = Signal(ACC_BITS, name=f"q_{c}", reset_less=True)
            q_next = Signal(ACC_BITS, name=f"q_next_{c}")
            value = row.word_select(c, ACC_BITS)
            with m.Switch(add_tag.digit):
                with m.Case(0):
                    m.d.comb += q_next.eq(Mux(add_tag.group_first, 0, q) + value)
                for digit in range(checksum.digits):
                    with m.Case(digit + 1):
                        m.d.comb += q_next.eq(q - (value << (8 * digit)))
            with m.If(add_valid & add_tag.final):
                m.d.sync += q.eq(q_next)
            columns.append(q_next)

        layout = group_layout(config)
        record = Signal(layout)
        if checksum.check_scheme.matches:
            m.d.comb += record.q.eq(Cat(columns))
            for segment in range(len(config.segments)):
                m.d.comb += record.repeated[segment].eq(self._repetitions(m, segment, syndrome_tag.group_first))
        else:
            m.d.comb += record.flagged.eq(Cat(large(q, self.theta) for q in columns))
            if checksum.locators:
                m.d.comb += record.wrong.eq(Cat(q.any() for q in columns))
        # [bank][column tile][group]
        bank_size = config.block_col_tiles * config.group_count
        m.submodules.groups = memory = Memory(shape=layout.size, depth=2 * bank_size, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(Mux(add_tag.bank, bank_size, 0) + add_tag.tile * config.group_count + add_tag.group),
            write.data.eq(record),
            write.en.eq(add_valid & add_tag.final & add_tag.group_end),
            read.addr.eq(Mux(self.drain_bank, bank_size, 0) + self.drain_tile * config.group_count + self.drain_group),
            read.en.eq(self.drain_enable),
            self.group.eq(read.data),
        ]
        return m

    def _repetitions(self, m: Module, segment: int, group_first: Signal) -> Signal:
        """Compare each plain syndrome with those of the group's rows before it.

        Digit rows give the last row's comparison the time it needs before the group's record is written.
        """
        config, checksum = self.config, self.config.checksum
        assert checksum is not None
        at = sum(widths(config)[: segment * checksum.checks])
        syndrome = self.syndromes_now[at : at + ACC_BITS]
        seen = Signal(checksum.group_rows, name=f"seen_{segment}", reset_less=True)
        place = Signal(checksum.group_rows, name=f"place_{segment}", reset_less=True)
        repeated = Signal(checksum.group_rows, name=f"repeated_{segment}", reset_less=True)
        equal = Signal(checksum.group_rows, name=f"equal_{segment}")
        here = Signal(checksum.group_rows, name=f"here_{segment}")
        m.d.comb += here.eq(Mux(group_first, 1, place))
        for row in range(checksum.group_rows):
            kept = Signal(ACC_BITS, name=f"kept_{segment}_{row}", reset_less=True)
            m.d.comb += equal[row].eq(seen[row] & ~group_first & (kept == syndrome))
            with m.If(self.now_valid & here[row]):
                m.d.sync += kept.eq(syndrome)
        with m.If(self.now_valid):
            m.d.sync += [
                seen.eq(Mux(group_first, 1, seen | here)),
                place.eq(here << 1),
                repeated.eq(Mux(group_first, 0, repeated | equal | Mux(equal.any(), here, 0))),
            ]
        return repeated
