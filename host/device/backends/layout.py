"""Where operands lie in the accelerator's DRAM, and the command that says so."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.commands import (
    CHANNEL_RECORD_BYTES,
    RUN_BYTES,
    AttentionCommand,
    CopyCommand,
    GemmCommand,
    GemmFlag,
    SetPointCommand,
)
from brownout.hw.config import AcceleratorConfig
from brownout.hw.matrix_layout import MatrixLayout
from brownout.hw.tiling import with_block_rows

from ..product.attention import Attention
from ..product.operands import GemmShape, Product, ResidentWeights
from ..product.reload import Places
from ..twin.geometry import geometry
from .arena import PAGE_BYTES, Arena, round_up
from .banks import OutputPlaces
from .loop_orders import AS_CONFIGURED, LOOP_ORDERS, LoopOrders
from .shaped_command import LoopOrder, Matrices, shaped_command

LAYOUTS = ("row-major", "tiled")
"""How matrices lie in memory."""

STRIDE_LIMIT = (1 << 32) - 1
RUNS_LIMIT = (1 << 24) - 1

MOST_PLANS = 1024
"""Shapes of products that are remembered; a model has a few dozen."""

PlacedCopy = tuple[CopyCommand, NDArray[np.uint32]]


@dataclass(frozen=True)
class _ProductPlan:
    """What products of one shape have in common, wherever their memory is.

    It is one region, cut into A, W unless resident, channel table, log, Y: what is written comes last, so that the read
    window never overlaps the write window.

    Attributes
    ----------
    command : GemmCommand
        Without addresses and without what is the call's own.
    channels : bool
        Whether there is a channel table.
    size_bytes : int
        Of the region.
    a_bytes, w_bytes, channel_bytes, log_room, y_bytes : int
        Of its parts; W has as many elsewhere if it is resident.
    distance : int
        As `OutputPlaces.distance`; 0 for row-major matrices.
    """

    command: GemmCommand
    channels: bool
    size_bytes: int
    a_bytes: int
    w_bytes: int
    channel_bytes: int
    log_room: int
    y_bytes: int
    distance: int


class Layout:
    """Places weights and products in memory.

    Bursts and row activations depend on addresses, so backends that count the same place the same: by this class, at
    the same points of a call.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration that gives the alignment.
    usable_bytes : int
        Addresses are ``0 .. usable_bytes-1``.
    layout : {"row-major", "tiled"}
        How matrices lie in memory.
    loop_order : {"searched", "fixed"}
        In which loop order products are computed.

    Raises
    ------
    ValueError
        `layout` or `loop_order` is unknown.

    Attributes
    ----------
    arena : Arena
        Device memory that is free.
    resident : mapping of ResidentWeights to int
        First address of the weights that are alive.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        usable_bytes: int,
        layout: str = "row-major",
        loop_order: str = "searched",
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, not {layout!r}")
        if loop_order not in LOOP_ORDERS:
            raise ValueError(f"loop_order must be one of {', '.join(map(repr, LOOP_ORDERS))}, not {loop_order!r}")
        self.config = config
        self.tiled = layout == "tiled"
        self._matrices = Matrices(config, self.tiled)
        self._orders = LoopOrders(self._matrices, search=loop_order == "searched")
        self._output_places = OutputPlaces(config) if self.tiled else None
        self.arena = Arena(usable_bytes)
        self.resident: weakref.WeakKeyDictionary[ResidentWeights, int] = weakref.WeakKeyDictionary()
        self._plans: dict[tuple[GemmShape, int, bool, bool, bool, int, int], _ProductPlan] = {}

    def row_bytes(self, length: int) -> int:
        """Bytes from a row of `length` bytes to the next."""
        return round_up(length, self.config.bus_bytes)

    def order_of(self, product: Product) -> LoopOrder:
        """In which order a product is computed."""
        channels = product.bias is not None or product.requant is not None
        flags = int(product.options.flags) | _channel_flags(
            channels, product.requant is not None, product.out.element_size()
        )
        return self._orders.of(product.shape, product.out.element_size(), flags)

    def blocks_of(self, product: Product) -> AcceleratorConfig:
        """The accelerator with the blocks in which a product is computed."""
        return with_block_rows(self.config, self.order_of(product).block_rows)

    def activations(self, m: int, k: int, order: LoopOrder = AS_CONFIGURED) -> MatrixLayout:
        """How A (m, k) lies."""
        return self._matrices.of_order(order).activations(m, k)

    def weights(self, k: int, n: int) -> MatrixLayout:
        """How W (k, n) lies."""
        return self._matrices.weights(k, n)

    def output(self, m: int, n: int, item_bytes: int, order: LoopOrder = AS_CONFIGURED) -> MatrixLayout:
        """How Y (m, n) lies."""
        return self._matrices.of_order(order).output(m, n, item_bytes)

    @property
    def _turn_bytes(self) -> int:
        """Bytes after which the banks of the memory come again."""
        return self.config.memory.banks * self.config.memory.row_bytes

    def _far_from(self, other: int, address: int, distance: int) -> int:
        """First page at or behind `address` that is `distance` bytes, modulo a turn of the banks, behind `other`.

        Tiles that are read in turn, or read while others are written, keep closing each other's row if they are in the
        same bank. Of row-major matrices every row opens another one anyway.
        """
        if not self.tiled:
            return address
        address += -address % PAGE_BYTES
        gap = (other + distance - address) % self._turn_bytes
        return address + gap + -gap % PAGE_BYTES

    def place_weights(self, weights: ResidentWeights) -> int:
        """Give `weights` memory for as long as they live; returns its first address.

        Raises
        ------
        DeviceMemoryError
            There is no room.
        """
        batch, k, n = weights.values.shape
        region = self.arena.allocate(batch * self.weights(k, n).size_bytes)
        weakref.finalize(weights, self.arena.free, region).atexit = False
        self.resident[weights] = region[0]
        return region[0]

    def log_bytes(self, shape: GemmShape, limit: int) -> int:
        """Room for the syndrome log of a checked product: `limit`, but no more than there can be segments."""
        segments = shape.batch * shape.m * geometry(self.config, shape.m, shape.n).segments
        return min(limit, segments * self.config.log_record_bytes)

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
        matrix = self.output(m, n, output.element_size())
        size = batch * matrix.size_bytes
        if size > STRIDE_LIMIT:
            raise ValueError(f"an output of {size} bytes is too large to be copied; split its batch")
        whole = np.array([[0, size]], np.uint32)
        runs = whole if places is None else places.runs(matrix)
        if len(runs) > RUNS_LIMIT:
            raise ValueError(
                f"a copy must have at most {RUNS_LIMIT} runs of elements, not {len(runs)}; split its batch"
            )
        list_offset = round_up(size, self.config.bus_bytes)
        list_bytes = round_up(len(runs) * RUN_BYTES, self.config.bus_bytes)
        # The regions are read and written by turns: half a turn of the banks apart, so that each keeps its rows open.
        turn = self._turn_bytes
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
        plan = self._plan_of(product)
        region = self.arena.allocate(plan.size_bytes, from_top=True)
        try:
            yield self._command(plan, product, region[0])
        finally:
            self.arena.free(region)

    def command(self, product: Product) -> GemmCommand:
        """Command of `product` as `place_product` would give it now, for whoever leaves nothing in that memory.

        Raises
        ------
        ValueError, DeviceMemoryError
            As there.
        """
        plan = self._plan_of(product)
        return self._command(plan, product, self.arena.top_place(plan.size_bytes))

    @contextlib.contextmanager
    def place_attention(self, attention: Attention) -> Iterator[AttentionCommand]:
        """Command of `attention`, whose operands, row-major, have their memory until the context is left.

        Raises
        ------
        ValueError, DeviceMemoryError
            As `place_product`.
        """
        region = self.arena.allocate(self._attention(attention, 0).write_limit, from_top=True)
        try:
            yield self._attention(attention, region[0])
        finally:
            self.arena.free(region)

    def attention_command(self, attention: Attention) -> AttentionCommand:
        """Command of `attention` as `place_attention` would give it now."""
        size = self._attention(attention, 0).write_limit
        return self._attention(attention, self.arena.top_place(size))

    def _attention(self, attention: Attention, base: int) -> AttentionCommand:
        """Command of an attention whose region, Q, transposed K, V, log and Y, begins at `base`."""
        scores, values = attention.score_shape, attention.value_shape
        heads = scores.batch
        matrices = {"a": (scores.m, scores.k), "w": (scores.k, scores.n), "v": (values.k, values.n)}
        fields: dict[str, int] = {}
        address = base
        log_bytes = 0
        if attention.values.check:
            log_bytes = self.log_bytes(values, attention.values.log_bytes)
        for name, (rows, cols) in {**matrices, "y": (values.m, values.n)}.items():
            if name == "y":
                fields |= {"read_limit": address, "log_addr": address if log_bytes else 0}
                fields["write_base"] = address
                address += self.row_bytes(log_bytes)
            stride = self.row_bytes(cols)
            batch_stride = rows * stride if heads > 1 else 0
            for field, value in ((f"ld{name}", stride), (f"{name}_batch_stride", batch_stride)):
                if value > STRIDE_LIMIT:
                    raise ValueError(f"{field} must fit 32 bits, not {value}; split the heads")
                fields[field] = value
            fields[f"{name}_addr"] = address
            address += heads * rows * stride
        flags = attention.values.flags | (GemmFlag.CAUSAL if attention.causal else 0)
        return AttentionCommand(
            **fields,
            batch=heads,
            m=scores.m,
            k=scores.k,
            n=values.n,
            keys=scores.n,
            block_rows=attention.block_rows,
            flags=int(flags),
            error_key=attention.scores.error_key,
            value_error_key=attention.values.error_key,
            first_row=attention.scores.first_row,
            theta=attention.scores.theta,
            value_theta=attention.values.theta,
            score_mult=attention.scales.score_mult,
            score_shift=attention.scales.score_shift,
            out_scale=attention.scales.out_scale,
            out_shift=attention.scales.out_shift,
            log_bytes=log_bytes,
            read_base=base,
            write_limit=address,
        )

    def _plan_of(self, product: Product) -> _ProductPlan:
        options = product.options
        key = (
            product.shape,
            product.out.element_size(),
            product.bias is not None,
            product.requant is not None,
            isinstance(product.w, ResidentWeights),
            int(options.flags),
            options.log_bytes,
        )
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) == MOST_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make_plan(*key)
        return plan

    def _make_plan(
        self,
        shape: GemmShape,
        item_bytes: int,
        biased: bool,
        requantised: bool,
        resident: bool,
        option_flags: int,
        log_limit: int,
    ) -> _ProductPlan:
        lda, ldw = self.activations(shape.m, shape.k).row_bytes, self.weights(shape.k, shape.n).row_bytes
        ldy = self.output(shape.m, shape.n, item_bytes).row_bytes
        _check_strides(shape, lda, ldw, ldy)
        channels = biased or requantised
        flags = option_flags | _channel_flags(channels, requantised, item_bytes)
        order = self._orders.of(shape, item_bytes, flags)
        log_bytes = self.log_bytes(shape, log_limit) if option_flags & GemmFlag.CHECK else 0
        command = shaped_command(self._matrices, order, shape, item_bytes, flags, log_bytes)
        a_bytes, w_bytes = shape.batch * shape.m * lda, shape.batch * shape.k * ldw
        channel_bytes = self.row_bytes(shape.n * CHANNEL_RECORD_BYTES) if channels else 0
        log_room, y_bytes = self.row_bytes(log_bytes), shape.batch * shape.m * ldy
        slack = 2 * (self._turn_bytes + 2 * PAGE_BYTES) if self.tiled else 0
        return _ProductPlan(
            command=command,
            channels=channels,
            size_bytes=a_bytes + (0 if resident else w_bytes) + channel_bytes + log_room + y_bytes + slack,
            a_bytes=a_bytes,
            w_bytes=w_bytes,
            channel_bytes=channel_bytes,
            log_room=log_room,
            y_bytes=y_bytes,
            distance=self._output_places.distance(command) if self._output_places is not None else 0,
        )

    def _command(self, plan: _ProductPlan, product: Product, base: int) -> GemmCommand:
        """Command of a product whose region begins at `base`."""
        half = self._turn_bytes // 2
        if isinstance(product.w, ResidentWeights):
            w_addr = self.resident[product.w]
            a_addr = self._far_from(w_addr, base, half)
            channel_addr = a_addr + plan.a_bytes
        else:
            a_addr = base
            w_addr = self._far_from(a_addr, a_addr + plan.a_bytes, half)
            channel_addr = w_addr + plan.w_bytes
        log_addr = channel_addr + plan.channel_bytes
        y_addr = self._far_from(a_addr, log_addr + plan.log_room, plan.distance)
        options = product.options
        return replace(
            plan.command,
            error_key=options.error_key,
            first_row=options.first_row,
            first_col=options.first_col,
            theta=options.theta,
            a_addr=a_addr,
            w_addr=w_addr,
            y_addr=y_addr,
            channel_addr=channel_addr if plan.channels else 0,
            read_base=min(a_addr, w_addr),
            read_limit=max(log_addr, w_addr + plan.w_bytes),
            write_base=log_addr,
            write_limit=y_addr + plan.y_bytes,
            log_addr=log_addr if plan.command.log_bytes else 0,
        )


def _channel_flags(channels: bool, requantised: bool, item_bytes: int) -> int:
    flags = GemmFlag.CHANNEL if channels else GemmFlag(0)
    if requantised:
        flags |= GemmFlag.REQUANT | (GemmFlag.INT16 if item_bytes == 2 else 0)
    return int(flags)


def _check_strides(shape: GemmShape, lda: int, ldw: int, ldy: int) -> None:
    strides = {"lda": lda, "ldw": ldw, "ldy": ldy}
    if shape.batch > 1:
        strides |= {"a_batch_stride": shape.m * lda, "w_batch_stride": shape.k * ldw}
        strides |= {"y_batch_stride": shape.m * ldy}
    for name, value in strides.items():
        if value > STRIDE_LIMIT:
            raise ValueError(f"{name} must fit 32 bits, not {value}; split the product or its batch")
