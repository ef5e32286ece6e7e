import random

import pytest
from amaranth.hdl import Module, Shape, Signal

from brownout.hw.config import ODD_WEIGHTS, ChecksumConfig
from brownout.hw.protect.arithmetic import large, mix, residue
from brownout.hw.residues import RESIDUE_MODULUS

from .amaranth_bench import simulate


def evaluate(shape, function, values, **inputs):
    """Outputs of a combinational function for each value of its argument."""
    m = Module()
    argument = Signal(shape)
    result = Signal(64)
    m.d.comb += result.eq(function(m, argument))
    tick = Signal()
    m.d.sync += tick.eq(~tick)
    found = []

    async def bench(ctx):
        for value in values:
            ctx.set(argument, value)
            await ctx.delay(1e-9)
            found.append(ctx.get(result))

    simulate(m, bench)
    return found


def extremes(shape):
    shape = Shape.cast(shape)
    low, high = (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (0, (1 << shape.width) - 1)
    generator = random.Random(shape.width)
    around = [k * RESIDUE_MODULUS + d for k in (-3, -1, 0, 1, 2, 5) for d in (-1, 0, 1)]
    drawn = [generator.randint(low, high) for _ in range(300)]
    return (
        [low, low + 1, -1, 0, 1, high - 1, high, *(v for v in around if low <= v <= high), *drawn]
        if shape.signed
        else [*(v for v in (0, 1, high - 1, high, *around, *drawn) if low <= v <= high)]
    )


@pytest.mark.parametrize(
    ("width", "signed"), [(8, True), (13, False), (14, False), (22, True), (26, False), (50, True)]
)
def test_residues_are_those_of_integer_division(width, signed):
    shape = Shape(width, signed)
    values = extremes(shape)
    found = evaluate(shape, lambda m, value: residue(m, value, "r"), values)
    assert found == [value % RESIDUE_MODULUS for value in values]


def test_the_hash_is_the_published_one():
    def lowbias32(x):
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    values = [0, 1, 0xFFFFFFFF, 0x80000000, *(random.Random(1).getrandbits(32) for _ in range(200))]
    assert evaluate(32, lambda m, value: mix(m, value, "h"), values) == [lowbias32(value) for value in values]


@pytest.mark.parametrize("theta", [0, 1, 5, 31, 32, 33, 63])
def test_large_is_about_magnitudes(theta):
    values = [0, 1, -1, 31, 32, -31, -32, -33, (1 << 31) - 1, -(1 << 31), -(1 << 32), (1 << 32) - 1]
    found = evaluate(Shape(33, True), lambda m, value: large(value, Signal(6, init=theta)), values)
    assert found == [int(value != 0 and abs(value) >= 1 << theta) for value in values]


@pytest.mark.parametrize("scheme", ["weighted", "residue"])
def test_weights_of_a_segment_differ(scheme):
    checksum = ChecksumConfig(scheme=scheme, locators=2, segment_cols=128)
    for check in (1, 2):
        weights = checksum.weights(check)
        assert len(set(weights)) == 128
        assert 0 not in weights
    assert checksum.weights(1) != checksum.weights(2)


def test_cheap_weights_come_first():
    def digits(value):
        return bin(value ^ 3 * value).count("1")

    assert sorted(ODD_WEIGHTS) == list(range(1, 128, 2))
    assert [digits(weight) for weight in ODD_WEIGHTS] == sorted(digits(weight) for weight in ODD_WEIGHTS)
    assert all(digits(weight) <= 2 for weight in ODD_WEIGHTS[:12])
