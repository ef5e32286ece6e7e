"""Checks that the operands of a product stay in their windows."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..commands import CAUSE_BITS, CHANNEL_RECORD_BYTES, ErrorCause, GemmFlag, Opcode
from ..config import AcceleratorConfig
from .field_checks import fields_of, stored_bytes
from .tile_rows import TileRows


class Extents(wiring.Component):
    """Compares the last byte of each operand with its window, with one multiplier over several cycles.

    Before, of tiled operands, the stride with what a row takes in all tiles. 21 cycles, and with tiles those of
    `TileRows`; 26 for ATTENTION.

    Members
    -------
    command : bits of a command whose fields are legal, constant until `done`
    start : pulse
    hurry : be done within 25 cycles, whatever comes of it
    done : pulse
    cause : with `done`, the first cause to refuse the command, or NONE
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(8 * stored_bytes(config)),
                "start": In(1),
                "hurry": In(1),
                "done": Out(1),
                "cause": Out(CAUSE_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes = self.config.bus_bytes
        fields = fields_of(self.command, Opcode.GEMM)
        factor = Signal(32)
        stride = Signal(32)
        product = Signal(64)
        end = Signal(64)
        requant: Value = (fields["flags"] & GemmFlag.REQUANT) != 0
        int16 = (fields["flags"] & GemmFlag.INT16) != 0
        w_cols = fields["n"]
        attention: Value = Const(0)
        if self.config.attention:
            own = fields_of(self.command, Opcode.ATTENTION)
            attention = fields["opcode"] == Opcode.ATTENTION
            requant = requant | attention
            w_cols = Mux(attention, own["keys"], fields["n"])
            fields = own | fields
        channel = (fields["flags"] & GemmFlag.CHANNEL) != 0

        def whole_beats(count: Value) -> Value:
            return (count + bus_bytes - 1) & ~Const(bus_bytes - 1, 32)

        m.submodules.tile_rows = tile_rows = TileRows(self.config)
        m.d.comb += [
            tile_rows.start.eq(self.start),
            tile_rows.k.eq(fields["k"]),
            tile_rows.n.eq(fields["n"]),
            tile_rows.requant.eq(requant),
            tile_rows.int16.eq(int16),
        ]
        a_tiled, w_tiled, y_tiled = (
            (fields["flags"] & flag) != 0 for flag in (GemmFlag.A_TILED, GemmFlag.W_TILED, GemmFlag.Y_TILED)
        )
        wrong_strides = (
            (ErrorCause.LDA, a_tiled & (fields["lda"] != tile_rows.lda)),
            (ErrorCause.LDW, w_tiled & (fields["ldw"] != tile_rows.ldw)),
            (ErrorCause.LDY, y_tiled & (fields["ldy"] != tile_rows.ldy)),
        )

        read = ("read_base", "read_limit")
        write = ("write_base", "write_limit")
        one = Const(1, 32)
        # Tiles are full up to the stride.
        a_row = Mux(a_tiled, fields["lda"], whole_beats(fields["k"]))
        w_row = Mux(w_tiled, fields["ldw"], whole_beats(w_cols))
        y_row = Mux(y_tiled, fields["ldy"], whole_beats(fields["n"] << Mux(requant, int16, 2)))
        operands = [
            (ErrorCause.A_WINDOW, "a_addr", fields["m"], "lda", "a_batch_stride", a_row, read),
            (ErrorCause.W_WINDOW, "w_addr", fields["k"], "ldw", "w_batch_stride", w_row, read),
            (ErrorCause.Y_WINDOW, "y_addr", fields["m"], "ldy", "y_batch_stride", y_row, write),
            (
                ErrorCause.CHANNEL_WINDOW,
                "channel_addr",
                one,
                "ldy",
                "y_batch_stride",
                whole_beats(fields["n"] * CHANNEL_RECORD_BYTES),
                read,
            ),
        ]
        if self.config.attention:
            v_row = whole_beats(fields["n"])
            operands.append((ErrorCause.V_WINDOW, "v_addr", fields["keys"], "ldv", "v_batch_stride", v_row, read))
        m.d.sync += product.eq(factor * stride)
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += self.cause.eq(ErrorCause.NONE)
                m.next = "A_WINDOW_ROWS"
                if tile_rows.walks:
                    with m.If(a_tiled | w_tiled | y_tiled):
                        m.next = "TILE_ROWS"
            if tile_rows.walks:
                with m.State("TILE_ROWS"), m.If(tile_rows.done | self.hurry):
                    m.next = "A_WINDOW_ROWS"
            for index, (error, base, rows, row_stride, batch_stride, row_bytes, (low, high)) in enumerate(operands):
                following = f"{operands[index + 1][0].name}_ROWS" if index + 1 < len(operands) else "DONE"
                is_channel = error is ErrorCause.CHANNEL_WINDOW
                with m.State(f"{error.name}_ROWS"):
                    m.d.sync += [factor.eq(rows - 1), stride.eq(fields[row_stride])]
                    m.next = f"{error.name}_BATCH"
                    if index == 0:
                        for stride_cause, wrong in reversed(wrong_strides):
                            with m.If(wrong):
                                m.d.sync += self.cause.eq(stride_cause)
                with m.State(f"{error.name}_BATCH"):
                    m.d.sync += [
                        factor.eq(0 if is_channel else fields["batch"] - 1),
                        stride.eq(fields[batch_stride]),
                        end.eq(fields[base] + row_bytes),
                    ]
                    m.next = f"{error.name}_SUM"
                with m.State(f"{error.name}_SUM"):
                    m.d.sync += end.eq(end + product)
                    m.next = f"{error.name}_SUM_BATCH"
                with m.State(f"{error.name}_SUM_BATCH"):
                    m.d.sync += end.eq(end + product)
                    m.next = f"{error.name}_COMPARE"
                with m.State(f"{error.name}_COMPARE"):
                    # An address that is itself outside would make the sum meaningless, so it is compared as well.
                    outside = (fields[base] < fields[low]) | (fields[base] >= fields[high]) | (end > fields[high])
                    with m.If(outside & (channel if is_channel else 1) & (self.cause == ErrorCause.NONE)):
                        m.d.sync += self.cause.eq(error)
                    m.next = following
                    if is_channel and self.config.attention:
                        with m.If(~attention):
                            m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
