import random

import pytest
from amaranth.hdl import Fragment, Module, Shape, Signal

from brownout.hw.arithmetic import large, mix, residue, weighted_sum
from brownout.hw.checks.check_weights import CheckWeights
from brownout.hw.checks.row_checker import RowChecker
from brownout.hw.checks.weighted import ODD_WEIGHTS
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
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


@pytest.mark.parametrize("locator", [1, 2])
def test_weighted_sums_and_their_residues_are_exact_for_the_widest_segments(locator):
    columns, bits = 128, 32
    weights = ChecksumConfig(locators=2, segment_cols=columns).weights(locator)
    generator = random.Random(locator)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    rows = [[value] * columns for value in (low, high, -1, 0)]
    rows += [[generator.randint(low, high) for _ in range(columns)] for _ in range(10)]
    packed = [sum((value & 0xFFFFFFFF) << bits * c for c, value in enumerate(row)) for row in rows]
    exact = [sum(value * weight for value, weight in zip(row, weights, strict=True)) for row in rows]

    def total(m, argument):
        return weighted_sum(m, [argument.word_select(c, bits) for c in range(columns)], weights, "total")

    assert evaluate(bits * columns, total, packed) == [value % (1 << 64) for value in exact]
    found = evaluate(bits * columns, lambda m, argument: residue(m, total(m, argument), "r"), packed)
    assert found == [value % RESIDUE_MODULUS for value in exact]


def test_units_of_the_widest_segments_can_be_generated():
    """Sums of 128 columns were too wide for their reduction, from 33 columns on."""
    checksum = ChecksumConfig(column_checks=False, segment_cols=128, locators=2)
    config = AcceleratorConfig(rows=1, cols=128, checksum=checksum)
    for unit in (RowChecker, CheckWeights):
        Fragment.get(unit(config), None)


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
