"""The ring engine: what it starts was legal, what it refuses is reported, and after an error it rests."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Mux, Signal

from brownout.hw.commands import COMMAND_BYTES, COMMAND_VERSION, GEMM_FIELDS
from brownout.hw.config import AcceleratorConfig
from brownout.hw.control import field_checks
from brownout.hw.control.command_processor import CommandProcessor

from ..prover import ProofFailedError, Spec, prove

BUS_BYTES = 128
# Tiles of whole beats, whose rows need no summing up.
CONFIG = AcceleratorConfig(rows=128, cols=128, bus_bytes=BUS_BYTES, address_bits=32)
LAST_CYCLE = 30
"""By then a product has started: doorbell, fetch, fields, four operands in five cycles each."""


def at_once_spec():
    """One command of any bytes, on a bus that answers in every cycle."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = CommandProcessor(CONFIG)
    spec.inputs.append(unit.beat.payload)
    cycle, command = Signal(8), Signal(8 * COMMAND_BYTES)
    beats = Signal()
    m.d.sync += cycle.eq(cycle + 1)
    m.d.comb += [
        unit.doorbell.eq(cycle == 0),
        unit.ring_entries.eq(2),
        unit.tail.eq(1),
        unit.beat.valid.eq(1),
        unit.request.ready.eq(1),
        unit.bus_idle.eq(1),
    ]
    with m.If(unit.fetching & unit.beat.ready):
        m.d.sync += [beats.eq(1), command.word_select(beats, 8 * BUS_BYTES).eq(unit.beat.payload)]
    fields = {field.name: command[8 * field.offset : 8 * field.offset + field.bits] for field in GEMM_FIELDS}
    return spec, unit, cycle, fields


def test_every_command_is_started_or_done_or_refused():
    spec, unit, cycle, _ = at_once_spec()
    m = spec.module
    ended = Signal(2)
    now = unit.start + unit.failed + unit.command_done
    m.d.sync += ended.eq(ended + now)
    m.d.comb += Assert(spec.so_far(now + ended <= 1) & ((cycle < LAST_CYCLE) | (now + ended == 1)))
    prove(spec, "commands-end", depth=LAST_CYCLE + 1, first=LAST_CYCLE)


def legal_fields_spec():
    spec, unit, _, fields = at_once_spec()
    flags = fields["flags"]
    int16, requant, channel = flags[10], flags[1], flags[0]

    def aligned(*names):
        return Cat(fields[name][:7] == 0 for name in names).all()

    spec.module.d.comb += [
        Assert(spec.so_far(~unit.start | legal))
        for legal in (
            (fields["opcode"] == 1) & (fields["version"] == COMMAND_VERSION),
            (fields["batch"] >= 1) & (fields["batch"] <= 65535),
            (fields["m"] >= 1) & (fields["m"] < 1 << 24) & (fields["n"] >= 1) & (fields["n"] < 1 << 24),
            (fields["k"] >= 1) & (fields["k"] <= 131071),
            aligned("lda", "ldw", "ldy", "a_addr", "w_addr", "y_addr"),
            aligned("a_batch_stride", "w_batch_stride", "y_batch_stride", "read_base", "read_limit"),
            aligned("write_base", "write_limit"),
            fields["ldy"] >= fields["n"] << Mux(requant, int16, 2),
            ~requant | channel,
            ~int16 | requant,
            Mux(channel, aligned("channel_addr"), fields["channel_addr"] == 0),
            # No checksum units: neither their flags nor their fields.
            (flags & 0xFA3C) == 0,
            (fields["theta"] == 0) & (fields["log_addr"] == 0) & (fields["log_bytes"] == 0),
            (fields["read_base"] < fields["read_limit"]) & (fields["read_limit"] <= 1 << 32),
            (fields["write_base"] < fields["write_limit"]) & (fields["write_limit"] <= 1 << 32),
        )
    ]
    return spec


def test_products_that_start_have_legal_fields():
    prove(legal_fields_spec(), "commands-fields", depth=LAST_CYCLE + 1, first=LAST_CYCLE)


def test_a_longer_k_is_found(monkeypatch):
    monkeypatch.setattr(field_checks, "K_LIMIT", 131072)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(legal_fields_spec(), "commands-mutant", depth=LAST_CYCLE + 1, first=LAST_CYCLE)


def any_time_spec():
    """Whatever the host, the bus and the engines do; only where the ring lies stays while it is in use."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = CommandProcessor(CONFIG)
    spec.free(unit)
    place = Cat(unit.ring_base, unit.ring_entries)
    busy, before = Signal(), Signal.like(place)
    m.d.sync += [busy.eq(unit.busy), before.eq(place)]
    m.d.comb += Assume(~busy | (place == before))
    return spec, unit


def test_after_an_error_nothing_moves_until_the_host_has_acknowledged_it():
    spec, unit = any_time_spec()
    m = spec.module
    rests, before, moved = Signal(), Signal(16), Signal()
    # A command that failed is stepped over in the ring in which it was, whatever the registers say by then.
    entries, used = Signal(32), Signal(32)
    head = Mux((unit.head + 1)[:17] == used, 0, unit.head + 1)
    following, resetting = Signal(16), Signal()
    m.d.comb += [used.eq(Mux(unit.busy, unit.ring_entries, entries)), following.eq(head)]
    m.d.sync += entries.eq(used)
    m.d.sync += [before.eq(unit.head), moved.eq(unit.command_done | (unit.acknowledge & unit.stopped))]
    m.d.sync += resetting.eq(resetting | unit.soft_reset)
    with m.If(unit.failed):
        m.d.sync += rests.eq(1)
    with m.Elif(unit.acknowledge):
        m.d.sync += rests.eq(0)
    expected = Signal(16)
    m.d.sync += expected.eq(following)
    m.d.comb += [
        Assert(unit.start + unit.failed + unit.command_done <= 1),
        Assert(resetting | (unit.stopped == rests)),
        Assert(~(rests & ~resetting) | ~(unit.request.valid | unit.start | unit.running | unit.failed)),
        Assume(~unit.fault | (unit.fault_cause != 0)),
        Assert(~unit.failed | (unit.cause != 0)),
        Assert(resetting | moved | (unit.head == before)),
        Assert(resetting | (unit.head == before) | (unit.head == expected)),
        Assert(~unit.request.valid | (unit.request.payload.addr == (unit.ring_base + (unit.head << 8))[:32])),
        Assert(~unit.request.valid | (unit.ring_base[:8] == 0)),
        Assert(~unit.request.valid | (unit.ring_base + (unit.ring_entries << 8) <= 1 << 32)),
        Assert(~unit.request.valid | ((unit.ring_entries >= 2) & (unit.ring_entries < 1 << 16))),
        Assert(~unit.request.valid | (unit.head < unit.ring_entries)),
        Assert(~unit.datapath_reset | unit.stop),
        Assert(~unit.start | unit.busy),
    ]
    prove(spec, "commands-rest", depth=14)


def test_an_abort_lasts_until_nothing_is_outstanding():
    spec, unit = any_time_spec()
    m = spec.module
    aborted = Signal()
    m.d.sync += aborted.eq(unit.stop & ~unit.bus_idle)
    m.d.comb += [
        Assert(~aborted | unit.stop),
        Assert(~(unit.draining & ~unit.stop)),
        # Nothing is asked of the bus before: the late answers could be taken for the new ones.
        Assert(~aborted | ~unit.request.valid),
    ]
    prove(spec, "commands-abort", depth=14)
