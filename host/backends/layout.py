"""Where operands lie in the accelerator's DRAM, and the command that says so."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

from brownout.hw.commands import CHANNEL_RECORD_BYTES, GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig

from ..operands import GemmShape, Product, ResidentWeights
from .arena import Arena, round_up

STRIDE_LIMIT = (1 << 32) - 1


class Layout:
    """Places weights and products in memory.

    Bursts and row activations depend on addresses, so backends that count the same place the same: by this class, at
    the same points of a call.

    Parameters
    ----------
    config : AcceleratorConfig
        Gives the alignment.
    usable_bytes : int
        Addresses are ``0 .. usable_bytes-1``.

    Attributes
    ----------
    arena : Arena
        What is free.
    resident : mapping of ResidentWeights to int
        First address of the weights that are alive.
    """

    def __init__(self, config: AcceleratorConfig, usable_bytes: int) -> None:
        self.config = config
        self.arena = Arena(usable_bytes)
        self.resident: weakref.WeakKeyDictionary[ResidentWeights, int] = weakref.WeakKeyDictionary()

    def row_bytes(self, length: int) -> int:
        """Bytes from a row of `length` bytes to the next."""
        return round_up(length, self.config.bus_bytes)

    def place_weights(self, weights: ResidentWeights) -> int:
        """Give `weights` memory for as long as they live; returns its first address.

        Raises
        ------
        DeviceMemoryError
            There is no room.
        """
        batch, k, n = weights.values.shape
        region = self.arena.allocate(batch * k * self.row_bytes(n))
        weakref.finalize(weights, self.arena.free, region).atexit = False
        self.resident[weights] = region[0]
        return region[0]

    @contextlib.contextmanager
    def place_product(self, product: Product) -> Iterator[GemmCommand]:
        """Command of `product`; its operands have their memory until the context is left.

        Raises
        ------
        ValueError
            A stride does not fit its field.
        DeviceMemoryError
            There is no room.
        """
        shape = product.shape
        lda, ldw = self.row_bytes(shape.k), self.row_bytes(shape.n)
        ldy = self.row_bytes(shape.n * product.out.element_size())
        _check_strides(shape, lda, ldw, ldy)
        channels = product.bias is not None or product.requant is not None
        resident = isinstance(product.w, ResidentWeights)

        # One region, cut into A, W unless resident, channel table, Y: the output comes last, so that the read window
        # never overlaps the write window.
        a_bytes = shape.batch * shape.m * lda
        w_bytes = 0 if resident else shape.batch * shape.k * ldw
        channel_bytes = self.row_bytes(shape.n * CHANNEL_RECORD_BYTES) if channels else 0
        y_bytes = shape.batch * shape.m * ldy
        region = self.arena.allocate(a_bytes + w_bytes + channel_bytes + y_bytes, from_top=True)
        try:
            a_addr = region[0]
            w_addr = self.resident[product.w] if isinstance(product.w, ResidentWeights) else a_addr + a_bytes
            channel_addr = a_addr + a_bytes + w_bytes
            y_addr = channel_addr + channel_bytes
            flags = (GemmFlag.CHANNEL if channels else 0) | (GemmFlag.REQUANT if product.requant is not None else 0)
            batched = shape.batch > 1
            yield GemmCommand(
                m=shape.m,
                n=shape.n,
                k=shape.k,
                batch=shape.batch,
                flags=int(flags),
                a_addr=a_addr,
                w_addr=w_addr,
                y_addr=y_addr,
                channel_addr=channel_addr if channels else 0,
                lda=lda,
                ldw=ldw,
                ldy=ldy,
                a_batch_stride=shape.m * lda if batched else 0,
                w_batch_stride=shape.k * ldw if batched else 0,
                y_batch_stride=shape.m * ldy if batched else 0,
                read_base=min(a_addr, w_addr),
                read_limit=max(y_addr, w_addr + shape.batch * shape.k * ldw),
                write_base=y_addr,
                write_limit=y_addr + y_bytes,
            )
        finally:
            self.arena.free(region)


def _check_strides(shape: GemmShape, lda: int, ldw: int, ldy: int) -> None:
    strides = {"lda": lda, "ldw": ldw, "ldy": ldy}
    if shape.batch > 1:
        strides |= {"a_batch_stride": shape.m * lda, "w_batch_stride": shape.k * ldw}
        strides |= {"y_batch_stride": shape.m * ldy}
    for name, value in strides.items():
        if value > STRIDE_LIMIT:
            raise ValueError(f"{name} must fit 32 bits, not {value}; split the product or its batch")
