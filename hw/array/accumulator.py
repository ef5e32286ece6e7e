"""Accumulators below the array: two banks, one being summed into while the other is written out."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory

from ..config import ACC_BITS, AcceleratorConfig
from ..depths import SCORE_BANK
from .tag import accumulator_depth


class Accumulator(Elaboratable):
    """Sums rows of partial products over the k-tiles, in two banks of `accumulator_depth` rows.

    Accumulation: `valid` with `address`, `first` and `bank` in cycle t, `y_row` in cycle t + 1; the sum is stored
    at the end of t + 1. The same address may come again two cycles later. `first` ignores the old sum.

    Drain: `drain_enable` with `drain_address` in cycle t gives `drain_row` from t + 1 on until the next enable,
    from bank `drain_bank`. Both sides must not use one bank at the same time.

    Members
    -------
    valid, bank, first : 1 bit
    address, drain_address : index of a row in a bank
    y_row, drain_row : C * 32 bits
    total_row, stored_row : C * 32 bits
        The sum as it is in cycle t + 1, and what is stored of it: the same, unless timing errors come between.
    drain_enable, drain_bank : 1 bit
    score_enable, score_address, score_row
        Likewise of bank `SCORE_BANK`, whose scores are read while the drain reads the other, and while first sums are
        stored there, for which nothing is read; with an attention unit.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.depth = accumulator_depth(config)
        self.valid = Signal()
        self.bank = Signal()
        self.first = Signal()
        self.address = Signal(range(self.depth))
        self.y_row = Signal(ACC_BITS * config.cols)
        self.total_row = Signal(ACC_BITS * config.cols)
        self.stored_row = Signal(ACC_BITS * config.cols)
        self.drain_enable = Signal()
        self.drain_bank = Signal()
        self.drain_address = Signal(range(self.depth))
        self.drain_row = Signal(ACC_BITS * config.cols)
        self.score_enable = Signal()
        self.score_address = Signal(range(self.depth))
        self.score_row = Signal(ACC_BITS * config.cols)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cols = self.config.cols
        write_enable = Signal()
        write_first = Signal()
        write_bank = Signal()
        write_address = Signal.like(self.address)
        m.d.sync += [
            write_enable.eq(self.valid),
            write_first.eq(self.first),
            write_bank.eq(self.bank),
            write_address.eq(self.address),
        ]
        reads = []
        writes = []
        for index in range(2):
            memory = Memory(shape=ACC_BITS * cols, depth=self.depth, init=[])
            m.submodules[f"bank_{index}"] = memory
            read = memory.read_port()
            write = memory.write_port()
            summing: Value = self.valid & (self.bank == index)
            address: Value = self.drain_address
            wanted: Value = self.drain_enable & (self.drain_bank == index)
            if self.config.attention and index == SCORE_BANK:
                summing = summing & ~self.first
                address, wanted = Mux(self.score_enable, self.score_address, address), wanted | self.score_enable
                m.d.comb += self.score_row.eq(read.data)
            m.d.comb += [
                read.en.eq(summing | wanted),
                read.addr.eq(Mux(summing, self.address, address)),
                write.addr.eq(write_address),
                write.en.eq(write_enable & (write_bank == index)),
            ]
            reads.append(read)
            writes.append(write)
        old = Signal(ACC_BITS * cols)
        m.d.comb += [
            old.eq(Mux(write_bank, reads[1].data, reads[0].data)),
            self.drain_row.eq(Mux(self.drain_bank, reads[1].data, reads[0].data)),
        ]
        sums = []
        for c in range(cols):
            lane = slice(ACC_BITS * c, ACC_BITS * (c + 1))
            total = Signal(ACC_BITS, name=f"sum_{c}")
            m.d.comb += total.eq(Mux(write_first, 0, old[lane]) + self.y_row[lane])
            sums.append(total)
        m.d.comb += self.total_row.eq(Cat(sums))
        for write in writes:
            m.d.comb += write.data.eq(self.stored_row)
        return m
