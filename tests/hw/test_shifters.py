"""Shifters give what shifting whole numbers gives, cut to their width."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from brownout.hw.shifters import shifted_down, shifted_up


@pytest.mark.parametrize(
    ("value_bits", "distance_bits", "unit", "width"),
    [(1, 1, 1, 1), (5, 3, 1, 5), (5, 3, 1, 9), (9, 2, 3, 4), (8, 4, 8, 24), (16, 0, 4, 16), (7, 3, 5, 30)],
)
def test_every_distance(value_bits: int, distance_bits: int, unit: int, width: int) -> None:
    m = Module()
    value, distance = Signal(value_bits), Signal(distance_bits)
    up, down = Signal(width + 4), Signal(value_bits + 4)
    moved_up = shifted_up(m, value, distance, unit=unit, width=width)
    moved_down = shifted_down(m, value, distance, unit=unit)
    m.d.comb += [up.eq(moved_up), down.eq(moved_down)]
    assert (len(moved_up), len(moved_down)) == (width, value_bits)
    rng = random.Random(value_bits)
    values = sorted({0, 1, (1 << value_bits) - 1, *(rng.randrange(1 << value_bits) for _ in range(20))})

    async def bench(ctx):
        for number in values:
            for far in range(1 << distance_bits):
                ctx.set(value, number)
                ctx.set(distance, far)
                await ctx.delay(1e-9)
                assert ctx.get(up) == (number << (far * unit)) % (1 << width), (number, far)
                assert ctx.get(down) == number >> (far * unit), (number, far)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
