"""The slow reference of timing errors and checks does what the specification says, case by case."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from brownout.cosim.reference import (
    SegmentOutcome,
    carry_pass,
    digits_of,
    draw,
    late_bits,
    mix,
    pick,
    reference_gemm,
    wrap,
)
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.state import CommandOptions, ErrorState, check_columns

CHECK, CORRECT, SUPPRESS, ZERO = GemmFlag.CHECK, GemmFlag.CORRECT, GemmFlag.SUPPRESS, GemmFlag.ZERO
ALWAYS = (1 << 32) - 1


def small_config(model="flip", scheme="residue", **changes):
    fields = {"column_checks": scheme in ("classic", "matched"), "group_rows": 2, "segment_cols": 4}
    checksum = ChecksumConfig(**{"scheme": scheme, **fields, **changes})
    return AcceleratorConfig(
        rows=4, cols=4, block_rows=4, block_col_tiles=2, slab_bytes=8, timing_model=model, checksum=checksum
    )


def operands(m=4, k=9, n=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (m, k)).astype(np.int8), rng.integers(-128, 128, (k, n)).astype(np.int8)


def errors_at(config, a, w, wanted, options, rate=1 << 24, limit=200_000):
    """An error state whose seed gives exactly the wanted places (m, n) among the outputs."""
    m, n = a.shape[0], w.shape[1]
    for seed in range(limit):
        hits = [(i, j) for i in range(m) for j in range(n) if draw(seed, options.error_key, i, j) < rate]
        if hits == wanted:
            return ErrorState(seed=seed, rates=(rate,))
    raise AssertionError("no such seed")


def test_hash_is_a_bijection_with_the_documented_steps():
    """Values worked out by hand-written steps in another form."""
    for x in (0, 1, 0xFFFFFFFF, 0x12345678, 1 << 31):
        value = x
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            value = ((value ^ value >> shift) * factor) & 0xFFFFFFFF
        assert mix(x) == value ^ value >> 16
    assert len({mix(x) for x in range(100_000)}) == 100_000


@pytest.mark.parametrize("length", [0, 1, 2, 5, 31, 63])
def test_late_bits_are_carries_from_too_far(length):
    """Against a carry chain walked bit by bit, which counts how far each carry has come."""
    rng = np.random.default_rng(length)
    pairs = rng.integers(0, 1 << 32, (300, 2), dtype=np.uint64)
    pairs[::3, 1] = (~pairs[::3, 0] & np.uint64(0xFFFFFFFF)) ^ (np.uint64(1) << rng.integers(0, 32, 100, np.uint64))
    for x, y in pairs:
        late, travelled = 0, None
        for i in range(31):
            generate, propagate = int(x & y) >> i & 1, int(x ^ y) >> i & 1
            travelled = 0 if generate else travelled + 1 if propagate and travelled is not None else None
            # A carry generated at bit i - L or below has run through L bits at least.
            late |= (travelled is not None and travelled >= length) << (i + 1)
        settled = np.array([[(int(x) + int(y)) % (1 << 32)]], np.uint64)
        got = late_bits(settled, np.array([[x ^ y]]), np.array([length]), np.array([32]))
        assert int(got[0, 0]) == late, (hex(x), hex(y))


def test_carry_pass_without_late_bits_is_a_product():
    a, w = operands(6, 4, 5)
    out, wrong, dropped = carry_pass(
        a.astype(np.int64),
        w.astype(np.int64),
        np.full((4, 5), 31),
        np.full(5, 32),
        np.zeros(5, bool),
        np.zeros(5, bool),
    )
    assert not wrong.any()
    assert not dropped.any()
    assert np.array_equal(out, a.astype(np.int64) @ w.astype(np.int64))


def test_a_late_carry_leaves_the_bits_of_the_row_before():
    """255 + 1 with carries that reach two bits: bits 3..8 keep what the row before left, here 0xA5 << 3."""
    a = np.array([[85, 15], [1, 1]], np.int64)
    w = np.array([[15], [0]], np.int64)
    # First row: 1275 settles. Second: 15 + 0, no carries at all.
    elements = np.full((2, 1), 2), np.array([32]), np.array([False])
    out, wrong, _ = carry_pass(a, w, *elements, np.array([False]))
    assert (out[:, 0].tolist(), wrong.tolist()) == ([1275, 15], [0])
    a = np.array([[100, 100], [127, 1]], np.int64)
    w = np.array([[1], [1]], np.int64)
    out, wrong, _ = carry_pass(a, w, *elements, np.array([False]))
    # 127 + 1: generated at bit 0; bits 1 and 2 in time, bits 3..7 from 200 = 0b11001000 instead of 0b10000000.
    assert (out[:, 0].tolist(), wrong.tolist()) == ([200, 0b11001000], [1])
    # With Razor flip-flops the sum is finished, and if there is an element below, its product, here 7, is dropped.
    out, wrong, dropped = carry_pass(a, w, *elements, np.array([True]))
    assert (out[:, 0].tolist(), wrong.tolist(), dropped.tolist()) == ([200, 128], [1], [0])
    a, w = np.hstack([a, [[5], [7]]]), np.ones((3, 1), np.int64)
    out, wrong, dropped = carry_pass(a, w, np.full((3, 1), 2), *elements[1:], np.array([True]))
    assert (out[:, 0].tolist(), wrong.tolist(), dropped.tolist()) == ([205, 128], [1], [1])


def test_digits_are_balanced_and_add_up():
    totals = np.array([0, 1, -1, 127, 128, -128, -129, 32512, -32768, 255, 256])
    digits = digits_of(totals, 2)
    assert ((digits >= -128) & (digits <= 127)).all()
    assert np.array_equal(digits[0] + 256 * digits[1], totals)
    assert digits_of(np.array([4096 * 127, -4096 * 128]), 3).shape == (3, 2)


@pytest.mark.parametrize("model", ["none", "flip", "carry"])
@pytest.mark.parametrize(
    ("scheme", "changes"),
    [
        ("classic", {}),
        ("matched", {}),
        ("weighted", {}),
        ("weighted", {"locators": 2, "column_checks": True}),
        ("residue", {"locators": 2}),
        ("residue", {"column_checks": True}),
    ],
)
def test_without_errors_nothing_is_flagged(model, scheme, changes):
    config = small_config(model, scheme, **changes)
    a, w = operands(7, 9, 9)
    a[0], w[:, 0] = -128, -128
    got = reference_gemm(config, a, w, options=CommandOptions(flags=CHECK | CORRECT), errors=ErrorState())
    assert np.array_equal(got.output[0], a.astype(np.int64) @ w)
    assert not got.row_syndromes.any()
    assert not got.column_syndromes.any()
    assert got.counters == {**dict.fromkeys(got.counters, 0), "checks": 7 * 3}


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [("matched", {}), ("weighted", {}), ("weighted", {"locators": 2}), ("residue", {}), ("residue", {"locators": 2})],
)
def test_a_single_error_is_corrected_and_logged(scheme, changes):
    config = small_config("flip", scheme, **changes)
    a, w = operands()
    options = CommandOptions(flags=CHECK | CORRECT, error_key=7, log_bytes=64)
    errors = errors_at(config, a, w, [(2, 5)], options)
    clean = a.astype(np.int64) @ w
    got = reference_gemm(config, a, w, options=options, errors=errors)
    bit = sum(pick(draw(errors.seed, 7, 2, 5)) >= threshold for threshold in errors.bits)
    if got.counters["injected"] == 1:
        assert np.array_equal(got.output[0], clean)
    delta = int(got.sums[0, 2, 5]) - int(clean[2, 5])
    assert abs(delta) == 1 << bit
    assert got.row_syndromes[0, 2, 1, 0, 0] == delta
    assert got.outcome[0, 2, 1, 0] == SegmentOutcome.CORRECTED
    record = struct.unpack_from("<4I", got.log)
    assert record == (2, 4, delta % (1 << 32), 1 << 8 | SegmentOutcome.CORRECTED << 16 | (delta < 0) << 31)


def test_two_errors_in_a_segment_are_rolled_back_as_a_whole():
    config = small_config("flip", "weighted")
    a, w = operands()
    options = CommandOptions(flags=CHECK | CORRECT | SUPPRESS)
    errors = errors_at(config, a, w, [(1, 0), (1, 2)], options, rate=1 << 27)
    previous = np.arange(28, dtype=np.int32).reshape(4, 7)
    got = reference_gemm(config, a, w, options=options, errors=errors, previous=previous)
    expected = a.astype(np.int64) @ w
    expected[1, :4] = previous[1, :4]
    assert np.array_equal(got.output[0], expected)
    assert got.counters["suppressed"] == 4
    assert (got.counters["missed"], got.counters["wrong"]) == (0, 0)
    zeroed = reference_gemm(
        config, a, w, options=CommandOptions(flags=CHECK | CORRECT | ZERO), errors=errors, previous=previous
    )
    assert not zeroed.output[0, 1, :4].any()


@pytest.mark.parametrize("check", [0, 1])
def test_an_error_of_a_check_alone_changes_nothing(check):
    config = small_config("flip", "residue", locators=2)
    a, w = operands(1, 9, 4)
    options = CommandOptions(flags=CHECK | CORRECT | SUPPRESS)
    for seed in range(2000):
        if [draw(seed, 0, 0, 0, check=1 + j) < 1 << 28 for j in range(3)] == [j == check for j in range(3)]:
            break
    errors = ErrorState(seed=seed, rates=(0, 1 << 28), points=(0, 1))
    got = reference_gemm(config, a, w, options=options, errors=errors)
    assert np.array_equal(got.output[0], a.astype(np.int64) @ w)
    assert got.outcome.tolist() == [[[[SegmentOutcome.IGNORED]]]]
    assert (got.counters["injected"], got.counters["detected"], got.counters["suppressed"]) == (1, 1, 0)


def test_log_keeps_the_first_records_of_each_block_up_to_its_room():
    config = AcceleratorConfig(
        rows=2,
        cols=2,
        block_rows=40,
        block_col_tiles=1,
        timing_model="flip",
        checksum=ChecksumConfig(scheme="residue", column_checks=False, segment_cols=2),
    )
    config = AcceleratorConfig.from_dict(
        {
            **config.to_dict(),
            "drain_lanes": 1,
            "checksum": {"scheme": "residue", "column_checks": False, "segment_cols": 1, "group_rows": 1},
        }
    )
    a, w = operands(40, 2, 3)
    options = CommandOptions(flags=CHECK, log_bytes=16 * 100)
    got = reference_gemm(config, a, w, options=options, errors=ErrorState(rates=(ALWAYS,), points=(0, 1)))
    assert got.counters["detected"] == 40 * 3
    # 80 flagged in the first block, 64 kept; 40 in the second, 36 of which still fit.
    assert (got.counters["log_records"], got.counters["log_dropped"]) == (100, 20)
    columns = [struct.unpack_from("<4I", got.log, 16 * i)[:2] for i in range(100)]
    assert columns == [(m, n) for m in range(32) for n in range(2)] + [(m, 2) for m in range(36)]


def test_wrap_is_twos_complement():
    assert [wrap(x, 8) for x in (127, 128, -129, 256)] == [127, -128, 127, 0]


def test_check_columns_are_counted_by_segment_and_check():
    assert check_columns(small_config(scheme="residue", locators=2)) == 3
    assert check_columns(AcceleratorConfig()) == 0


def test_checks_without_units_are_refused():
    a, w = operands()
    with pytest.raises(ValueError, match=r"^CHECK needs an AcceleratorConfig with checksum units$"):
        reference_gemm(AcceleratorConfig(), a, w, options=CommandOptions(flags=CHECK), errors=ErrorState())
