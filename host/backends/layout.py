"""Where operands lie in the accelerator's DRAM, and the command that says so."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.commands import CHANNEL_RECORD_BYTES, RUN_BYTES, CopyCommand, GemmCommand, GemmFlag, SetPointCommand
from brownout.hw.config import AcceleratorConfig

from ..operands import GemmShape, Product, ResidentWeights
from ..reload import Places
from ..twin.geometry import geometry
from .arena import PAGE_BYTES, Arena, round_up

STRIDE_LIMIT = (1 << 32) - 1
RUNS_LIMIT = (1 << 24) - 1

PlacedCopy = tuple[CopyCommand, NDArray[np.uint32]]


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

    def log_bytes(self, product: Product) -> int:
        """Room for the syndrome log of `product`: what was asked for, but no more than there can be segments."""
        if not product.options.check:
            return 0
        shape = product.shape
        segments = shape.batch * shape.m * geometry(self.config, shape.m, shape.n).segments
        return min(product.options.log_bytes, segments * self.config.log_record_bytes)

    @contextlib.contextmanager
    def place_lengths(
        self, domain: int, point: int, transition_cycles: int, rows: int, columns: int
    ) -> Iterator[SetPointCommand]:
        """Command that moves a domain with a table of settled carry lengths (rows, columns), and the table's memory.

        Raises
        ------
        DeviceMemoryError
            There is no room.
        """
        stride = self.row_bytes(columns)
        region = self.arena.allocate(rows * stride, from_top=True)
        try:
            yield SetPointCommand(
                domain=domain,
                point=point,
                transition_cycles=transition_cycles,
                lengths_addr=region[0],
                lengths_stride=stride,
                read_base=region[0],
                read_limit=region[0] + rows * stride,
            )
        finally:
            self.arena.free(region)

    @contextlib.contextmanager
    def place_copy(self, output: torch.Tensor, places: Places | None) -> Iterator[PlacedCopy]:
        """Command that copies elements of an output (B, M, N) like `output` to another, and its list of runs.

        Source, list and target have their memory until the context is left.

        Raises
        ------
        ValueError
            The output or the number of runs is more than a command can copy.
        DeviceMemoryError
            There is no room.
        """
        batch, m, n = output.shape
        stride = self.row_bytes(n * output.element_size())
        size = batch * m * stride
        if size > STRIDE_LIMIT:
            raise ValueError(f"an output of {size} bytes is too large to be copied; split its batch")
        whole = np.array([[0, size]], np.uint32)
        runs = whole if places is None else places.runs(stride, output.element_size())
        if len(runs) > RUNS_LIMIT:
            raise ValueError(
                f"a copy must have at most {RUNS_LIMIT} runs of elements, not {len(runs)}; split its batch"
            )
        memory = self.config.memory
        list_offset = round_up(size, self.config.bus_bytes)
        list_bytes = round_up(len(runs) * RUN_BYTES, self.config.bus_bytes)
        # The regions are read and written by turns: half a turn of the banks apart, so that each keeps its rows open.
        turn = memory.banks * memory.row_bytes
        target_offset = round_up(list_offset + list_bytes, PAGE_BYTES)
        target_offset += round_up((turn // 2 - target_offset) % turn, PAGE_BYTES)
        region = self.arena.allocate(target_offset + size, from_top=True)
        try:
            base = region[0]
            yield (
                CopyCommand(
                    runs=len(runs),
                    size=size,
                    source_addr=base,
                    target_addr=base + target_offset,
                    list_addr=base + list_offset,
                    read_base=base,
                    read_limit=base + list_offset + list_bytes,
                    write_base=base + target_offset,
                    write_limit=base + target_offset + round_up(size, self.config.bus_bytes),
                ),
                runs,
            )
        finally:
            self.arena.free(region)

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

        # One region, cut into A, W unless resident, channel table, log, Y: what is written comes last, so that the read
        # window never overlaps the write window.
        a_bytes = shape.batch * shape.m * lda
        w_bytes = 0 if resident else shape.batch * shape.k * ldw
        channel_bytes = self.row_bytes(shape.n * CHANNEL_RECORD_BYTES) if channels else 0
        y_bytes = shape.batch * shape.m * ldy
        log_bytes = self.log_bytes(product)
        log_room = self.row_bytes(log_bytes)
        region = self.arena.allocate(a_bytes + w_bytes + channel_bytes + log_room + y_bytes, from_top=True)
        try:
            a_addr = region[0]
            w_addr = self.resident[product.w] if isinstance(product.w, ResidentWeights) else a_addr + a_bytes
            channel_addr = a_addr + a_bytes + w_bytes
            log_addr = channel_addr + channel_bytes
            y_addr = log_addr + log_room
            options = product.options
            flags = (GemmFlag.CHANNEL if channels else 0) | (GemmFlag.REQUANT if product.requant is not None else 0)
            batched = shape.batch > 1
            yield GemmCommand(
                m=shape.m,
                n=shape.n,
                k=shape.k,
                batch=shape.batch,
                flags=int(flags | options.flags),
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
                read_limit=max(log_addr, w_addr + shape.batch * shape.k * ldw),
                write_base=log_addr,
                write_limit=y_addr + y_bytes,
                error_key=options.error_key,
                first_row=options.first_row,
                first_col=options.first_col,
                theta=options.theta,
                log_addr=log_addr if log_bytes else 0,
                log_bytes=log_bytes,
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
