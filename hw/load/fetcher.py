"""Fetches operands: walks the product and issues the reads, ahead of the array."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from ..block_walker import BlockWalker
from ..bus.bursts import RowBursts, beats_covering
from ..bus.read_port import burst_layout
from ..commands import CHANNEL_RECORD_BYTES
from ..config import AcceleratorConfig
from ..depths import BUFFERS
from ..params import K_BITS, params_layout
from ..split import count_units, split_size
from .jobs import JobKind, job_layout, most_job_rows, most_row_bytes


class _KeyWalk:
    """Where ATTENTION is among the keys of a block: slabs of transposed keys, then, as `values`, of V."""

    def __init__(self, m: Module, config: AcceleratorConfig, params: data.View) -> None:
        most = config.block_col_tiles * config.cols
        self.values = Signal(name="values")
        self.left = Signal(K_BITS, name="keys_left")
        self.v_product = Signal(config.address_bits, name="v_product")
        self.last = Signal(name="keys_last")
        self.cols = Signal(range(most + 1), name="keys_cols")
        self.tiles = Signal(range(config.block_col_tiles + 1), name="keys_tiles")
        m.d.comb += [
            self.last.eq(self.left <= most),
            self.cols.eq(Mux(self.last, self.left, most)),
            self.tiles.eq(count_units(self.cols, config.cols, config.block_col_tiles)),
        ]


class Fetcher(wiring.Component):
    """Walks blocks and, in each, slabs of K; every slab is one job for activations and one for weights.

    ATTENTION has one slab of activations in a block, the queries; its further slabs are of weights alone: columns of
    the transposed keys, then rows of V.

    With a channel table the block's records come first. A slab waits until one of two slab buffers is free, a
    channel table until one of two channel buffers is.

    With KEEP_ACTIVATIONS slabs after the first block of a row of blocks are of weights alone. Slab buffers are then
    those of weights, and a slab of activations waits until there is room for its vectors.

    Members
    -------
    start : pulse, begin the product in `params`
    slab_freed, channel_freed : pulse, a buffer may be overwritten
    vectors_freed : vectors of kept activations that may be overwritten; where activations can be kept
    request : stream of read bursts
    job : stream of jobs, in the order of the requests
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        kept: dict[str, object] = {}
        if config.keeps_activations:
            kept = {"vectors_freed": In(range(config.activation_vectors + 1))}
        super().__init__(
            {
                **kept,
                "params": In(params_layout(config)),
                "start": In(1),
                "slab_freed": In(1),
                "channel_freed": In(1),
                "request": Out(stream.Signature(burst_layout(config))),
                "job": Out(stream.Signature(job_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, params = self.config, self.params
        bus_bits = exact_log2(config.bus_bytes)
        most_slab_k = config.slab_k_tiles * config.rows
        m.submodules.walker = walker = BlockWalker(config)
        m.submodules.bursts = bursts = RowBursts(
            config, most_rows=most_job_rows(config), most_row_bytes=most_row_bytes(config)
        )
        connect(m, bursts.request, flipped(self.request))
        walker.walk(m, params)
        m.d.comb += walker.start.eq(self.start)

        slabs_free = Signal(range(BUFFERS + 1), init=BUFFERS)
        channels_free = Signal(range(BUFFERS + 1), init=BUFFERS)
        slab_taken = Signal()
        channel_taken = Signal()
        m.d.sync += [
            slabs_free.eq(slabs_free + self.slab_freed - slab_taken),
            channels_free.eq(channels_free + self.channel_freed - channel_taken),
        ]

        a_product = Signal(config.address_bits)  # A of the current product of the batch
        w_product = Signal(config.address_bits)
        a_block = Signal(config.address_bits)  # first row of the block, k = 0
        w_block = Signal(config.address_bits)  # k = 0, first column of the block
        channel_block = Signal(config.address_bits)
        a_slab = Signal(config.address_bits)
        w_slab = Signal(config.address_bits)
        k_left = Signal(K_BITS)

        slab_tiles = split_size(m, k_left, largest=config.slab_k_tiles, unit=config.rows, name="slab")
        slab_k = Signal(range(most_slab_k + 1))  # rows of W in the slab's k-tiles, and of those the valid ones
        slab_rows = Signal(range(most_slab_k + 1))
        zero_rows = Signal(range(config.rows + 1))
        last_slab = Signal()
        m.d.comb += [
            slab_k.eq(slab_tiles * config.rows),
            last_slab.eq(k_left <= slab_k),
            slab_rows.eq(Mux(last_slab, k_left, slab_k)),
            zero_rows.eq(slab_k - slab_rows),
        ]

        job = self.job.payload
        addr = Signal(config.address_bits)
        issue = Signal()
        m.d.comb += [
            job.offset.eq(addr[:bus_bits]),
            job.beats.eq(beats_covering(job.offset, job.row_bytes, config.bus_bytes)),
            bursts.addr.eq(addr),
            bursts.rows.eq(job.rows),
            bursts.beats.eq(job.beats),
            # A tile's rows follow each other.
            bursts.stride.eq(job.beats << bus_bits),
            bursts.start.eq(issue & self.job.ready),
            self.job.valid.eq(issue),
        ]

        may_load: Value | None = None
        if config.keeps_activations:
            room = Signal(range(config.activation_vectors + 1), init=config.activation_vectors)
            vectors = Signal(range(config.slab_k_tiles * config.block_rows + 1), name="slab_vectors")
            may_load = ~params.keep_activations | (room >= vectors)
            kept = params.keep_activations & ~walker.first_in_row
            room_taken = Mux(slab_taken & params.keep_activations & ~kept, vectors, 0)
            m.d.comb += vectors.eq(slab_tiles * walker.rows)
            m.d.sync += room.eq(room + self.vectors_freed - room_taken)

        keys = _KeyWalk(m, config, params) if config.attention else None
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                if keys is not None:
                    m.d.sync += keys.v_product.eq(params.v_addr)
                m.d.sync += [
                    a_product.eq(params.a_addr),
                    w_product.eq(params.w_addr),
                    a_block.eq(params.a_addr),
                    w_block.eq(params.w_addr),
                    channel_block.eq(params.channel_addr),
                ]
                m.next = "BLOCK"
            with m.State("BLOCK"):
                m.d.sync += [a_slab.eq(a_block), w_slab.eq(w_block), k_left.eq(params.k)]
                if keys is not None:
                    m.d.sync += [keys.left.eq(params.keys), keys.values.eq(0)]
                with m.If(params.channel):
                    m.d.comb += [
                        addr.eq(channel_block),
                        job.kind.eq(JobKind.CHANNELS),
                        job.rows.eq(1),
                        job.elements.eq(walker.cols),
                        job.row_bytes.eq(walker.cols * CHANNEL_RECORD_BYTES),
                        issue.eq(channels_free != 0),
                        channel_taken.eq(issue & self.job.ready),
                    ]
                    with m.If(channel_taken):
                        m.next = "CHANNEL_REQUESTS"
                with m.Else():
                    m.next = "ACTIVATIONS"
            with m.State("CHANNEL_REQUESTS"), m.If(~bursts.busy):
                m.next = "ACTIVATIONS"
            with m.State("ACTIVATIONS"):
                m.d.comb += [
                    addr.eq(a_slab),
                    job.kind.eq(JobKind.ACTIVATIONS),
                    job.rows.eq(walker.rows),
                    job.elements.eq(slab_tiles),
                    job.row_bytes.eq(slab_rows),
                    issue.eq((slabs_free != 0) if may_load is None else (slabs_free != 0) & may_load),
                    slab_taken.eq(issue & self.job.ready),
                ]
                with m.If(~params.a_tiled):
                    m.d.comb += bursts.stride.eq(params.lda)
                with m.If(slab_taken):
                    m.next = "ACTIVATION_REQUESTS"
                if config.keeps_activations:
                    with m.If(kept):
                        m.d.comb += [issue.eq(0), slab_taken.eq(slabs_free != 0)]
                        with m.If(slab_taken):
                            m.next = "WEIGHTS"
            with m.State("ACTIVATION_REQUESTS"), m.If(~bursts.busy):
                m.d.sync += a_slab.eq(Mux(params.a_tiled, bursts.next_row, a_slab + slab_k))
                m.next = "WEIGHTS"
            with m.State("WEIGHTS"):
                m.d.comb += [
                    addr.eq(w_slab),
                    job.kind.eq(JobKind.WEIGHTS),
                    job.rows.eq(slab_rows),
                    job.zero_rows.eq(zero_rows),
                    job.elements.eq(walker.col_tiles),
                    job.row_bytes.eq(walker.cols),
                    issue.eq(1),
                ]
                with m.If(~params.w_tiled):
                    m.d.comb += bursts.stride.eq(params.ldw)
                if keys is not None:
                    with m.If(params.attention & keys.values):
                        m.d.comb += bursts.stride.eq(params.ldv)
                    with m.Elif(params.attention):
                        m.d.comb += [job.elements.eq(keys.tiles), job.row_bytes.eq(keys.cols)]
                with m.If(self.job.ready):
                    m.next = "WEIGHT_REQUESTS"
            with m.State("WEIGHT_REQUESTS"), m.If(~bursts.busy):
                m.d.sync += [
                    w_slab.eq(bursts.next_row),
                    k_left.eq(k_left - slab_k),
                ]
                m.next = "ACTIVATIONS"
                with m.If(last_slab):
                    m.next = "NEXT_BLOCK"
                if keys is not None:
                    with m.If(params.attention & ~(keys.values & last_slab)):
                        m.next = "WEIGHT_SLAB"
                    with m.If(params.attention & ~keys.values):
                        m.d.sync += [
                            w_slab.eq(w_slab + keys.cols),
                            k_left.eq(params.k),
                            keys.left.eq(keys.left - keys.cols),
                        ]
                        with m.If(keys.last):
                            m.d.sync += [w_slab.eq(keys.v_product), k_left.eq(params.keys), keys.values.eq(1)]
            if keys is not None:
                with m.State("WEIGHT_SLAB"):
                    m.d.comb += slab_taken.eq(slabs_free != 0)
                    with m.If(slab_taken):
                        m.next = "WEIGHTS"
            with m.State("NEXT_BLOCK"):
                a_next = Signal(config.address_bits)
                a_product_next = Signal(config.address_bits)
                w_product_next = Signal(config.address_bits)
                m.d.comb += [
                    walker.advance.eq(1),
                    a_next.eq(a_block + walker.rows * params.lda),
                    a_product_next.eq(a_product + params.a_batch_stride),
                    w_product_next.eq(w_product + params.w_batch_stride),
                ]
                m.d.sync += [
                    w_block.eq(Mux(params.w_tiled, w_slab, w_block + walker.cols)),
                    channel_block.eq(channel_block + walker.cols * CHANNEL_RECORD_BYTES),
                ]
                with m.If(walker.last_in_row):
                    m.d.sync += [
                        a_block.eq(a_next),
                        w_block.eq(w_product),
                        channel_block.eq(params.channel_addr),
                    ]
                with m.If(walker.last_in_product):
                    m.d.sync += [
                        a_product.eq(a_product_next),
                        w_product.eq(w_product_next),
                        a_block.eq(a_product_next),
                        w_block.eq(w_product_next),
                    ]
                    if keys is not None:
                        m.d.sync += keys.v_product.eq(keys.v_product + params.v_batch_stride)
                m.next = "BLOCK"
                with m.If(walker.last):
                    m.next = "IDLE"
        return m
