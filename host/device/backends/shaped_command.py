"""The GEMM command of a product of some shape, before its operands have a place."""

from __future__ import annotations

from dataclasses import dataclass

from brownout.hw.commands import GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.matrix_layout import MatrixLayout, row_major, tiled_activations, tiled_output, tiled_weights
from brownout.hw.tiling import with_block_rows

from ..product.operands import GemmShape
from .arena import round_up

UNPLACED = dict.fromkeys(("a_addr", "w_addr", "y_addr", "read_base", "read_limit", "write_base", "write_limit"), 0)
"""Addresses of a command whose operands have no memory yet."""

TILED = GemmFlag.A_TILED | GemmFlag.W_TILED | GemmFlag.Y_TILED


@dataclass(frozen=True)
class LoopOrder:
    """In which blocks a product is computed, and how often its activations are read.

    Attributes
    ----------
    block_rows : int
        Most rows of a block; 0 for the configuration's.
    keep : bool
        Whether the activations of a row of blocks are read once and kept, or for every block.
    """

    block_rows: int = 0
    keep: bool = False


@dataclass(frozen=True)
class Matrices:
    """How the matrices of a product lie in memory.

    Attributes
    ----------
    config : AcceleratorConfig
        Accelerator that gives alignment and tiles.
    tiled : bool
        Whether they lie in tiles, or row-major.
    """

    config: AcceleratorConfig
    tiled: bool

    def of_order(self, order: LoopOrder) -> Matrices:
        """Those of products that are computed in this order."""
        return Matrices(with_block_rows(self.config, order.block_rows), self.tiled)

    def activations(self, m: int, k: int) -> MatrixLayout:
        """How A (m, k) lies."""
        return tiled_activations(self.config, m, k) if self.tiled else self._row_major(m, k, 1)

    def weights(self, k: int, n: int) -> MatrixLayout:
        """How W (k, n) lies, whatever the order."""
        return tiled_weights(self.config, k, n) if self.tiled else self._row_major(k, n, 1)

    def output(self, m: int, n: int, item_bytes: int) -> MatrixLayout:
        """How Y (m, n) lies."""
        return tiled_output(self.config, m, n, item_bytes) if self.tiled else self._row_major(m, n, item_bytes)

    def _row_major(self, rows: int, cols: int, item_bytes: int) -> MatrixLayout:
        return row_major(rows, cols, round_up(cols * item_bytes, self.config.bus_bytes), item_bytes)


def shaped_command(
    matrices: Matrices, order: LoopOrder, shape: GemmShape, item_bytes: int, flags: int, log_bytes: int = 0
) -> GemmCommand:
    """Command without addresses.

    Parameters
    ----------
    matrices : Matrices
        How matrices lie, in the configuration's own blocks.
    order : LoopOrder
        Blocks of the product.
    shape : GemmShape
        Extents.
    item_bytes : int
        Bytes of an element of the output.
    flags : int
        `GemmFlag` bits other than those of layout and order.
    log_bytes : int
        Room in the log.
    """
    own = matrices.of_order(order)
    lda, ldw = own.activations(shape.m, shape.k).row_bytes, own.weights(shape.k, shape.n).row_bytes
    ldy = own.output(shape.m, shape.n, item_bytes).row_bytes
    if matrices.tiled:
        flags |= TILED
    if order.keep:
        flags |= GemmFlag.KEEP_ACTIVATIONS
    batched = shape.batch > 1
    return GemmCommand(
        m=shape.m,
        n=shape.n,
        k=shape.k,
        batch=shape.batch,
        flags=int(flags),
        block_rows=order.block_rows,
        lda=lda,
        ldw=ldw,
        ldy=ldy,
        a_batch_stride=shape.m * lda if batched else 0,
        w_batch_stride=shape.k * ldw if batched else 0,
        y_batch_stride=shape.m * ldy if batched else 0,
        log_bytes=log_bytes,
        **UNPLACED,
    )
