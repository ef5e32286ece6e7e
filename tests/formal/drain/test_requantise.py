"""Chunks pass the requantiser in their order, whatever waits behind it."""

from amaranth.hdl import Assert, Signal, Value

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.drain.requantise import Requantiser

from ..prover import Spec, prove

CHECKSUM = ChecksumConfig(segment_cols=1, column_checks=False)
CONFIG = AcceleratorConfig(rows=1, cols=1, drain_lanes=1, checksum=CHECKSUM)


def test_chunks_keep_their_order_under_back_pressure():
    """Any one chunk is watched; what else a chunk carries goes the same way as its end of a row."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = Requantiser(CONFIG)
    spec.free(unit, driven=(unit.channel, unit.requant, unit.int16, unit.zero))
    watched = spec.constant(4, name="watched")
    came, left = Signal(4), Signal(4)
    chunk = Signal.like(Value.cast(unit.chunk.payload))
    with m.If(unit.chunk.valid & unit.chunk.ready):
        m.d.sync += came.eq(came + 1)
        with m.If(came == watched):
            m.d.sync += chunk.eq(unit.chunk.payload)
    with m.If(unit.out.valid & unit.out.ready):
        m.d.sync += left.eq(left + 1)
    waited, before = Signal(), Signal.like(chunk)
    m.d.sync += [waited.eq(unit.out.valid & ~unit.out.ready), before.eq(unit.out.payload)]
    m.d.comb += [
        Assert(~unit.out.valid | (left != came)),
        Assert(unit.empty == (left == came)),
        Assert((came - left)[:4] <= 3),
        Assert(~(unit.out.valid & (left == watched)) | (Value.cast(unit.out.payload) == chunk)),
        Assert(~waited | (unit.out.valid & (Value.cast(unit.out.payload) == before))),
    ]
    prove(spec, "requantise-order", depth=10)
