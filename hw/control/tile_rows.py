"""What a row of an operand takes in all its tiles, to check strides of tiled operands."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import ACC_BITS, DIMENSION_BITS, AcceleratorConfig
from ..params import K_BITS, STRIDE_BITS
from ..split import split_size


class TileRows(wiring.Component):
    """Sums up, piece by piece, the whole beats of a row's pieces: `brownout.hw.matrix_layout.MatrixLayout.row_bytes`.

    One cycle per piece; nothing is summed along an extent whose tiles always are whole beats wide.

    Members
    -------
    start : pulse, begin with the extents
    k, n : extents, constant until `done`
    requant, int16 : outputs are bytes, or 16-bit words, otherwise 32-bit words
    lda, ldw, ldy : bytes of a row of A, W, Y in all tiles, once `done`
    done : from the cycle after `start` on: the sums are complete
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "k": In(K_BITS),
                "n": In(DIMENSION_BITS),
                "requant": In(1),
                "int16": In(1),
                "lda": Out(STRIDE_BITS),
                "ldw": Out(STRIDE_BITS),
                "ldy": Out(STRIDE_BITS),
                "done": Out(1),
            }
        )

    @property
    def walks(self) -> bool:
        """Whether there is anything to wait for."""
        return any(unit % self.config.bus_bytes for unit in (self.config.rows, self.config.cols))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        halves = Signal(STRIDE_BITS)
        words = Signal(STRIDE_BITS)
        k_done = self._sum(m, "k", self.k, config.rows, config.slab_k_tiles, ((self.lda, 1),))
        sums = ((self.ldw, 1), (halves, 2), (words, ACC_BITS // 8))
        n_done = self._sum(m, "n", self.n, config.cols, config.block_col_tiles, sums)
        scaled = Mux(self.int16, halves, self.ldw)
        m.d.comb += [self.ldy.eq(Mux(self.requant, scaled, words)), self.done.eq(k_done & n_done)]
        return m

    def _sum(
        self, m: Module, name: str, extent: Value, unit: int, largest: int, sums: tuple[tuple[Signal, int], ...]
    ) -> Value:
        """Drive each of `sums`, of pieces of so many bytes per element; returns whether they are complete."""
        bus_bytes = self.config.bus_bytes

        def whole_beats(count: Value) -> Value:
            return (count + (bus_bytes - 1)) & ~Const(bus_bytes - 1, STRIDE_BITS)

        if unit % bus_bytes == 0:
            m.d.comb += [total.eq(whole_beats(extent * item_bytes)) for total, item_bytes in sums]
            return Const(1)
        left = Signal.like(extent, name=f"{name}_left")
        size = split_size(m, left, largest=largest, unit=unit, name=f"tile_{name}")
        full = Signal(range(largest * unit + 1), name=f"{name}_full")
        piece = Signal.like(full, name=f"{name}_piece")
        m.d.comb += [full.eq(size * unit), piece.eq(Mux(left < full, left, full))]
        with m.If(self.start):
            m.d.sync += [left.eq(extent), *(total.eq(0) for total, _ in sums)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - piece)
            m.d.sync += [total.eq(total + whole_beats(piece * item_bytes)) for total, item_bytes in sums]
        return left == 0
