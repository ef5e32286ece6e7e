"""The reference of attention does what docs/attention.md says: by hand, and against softmax in floating point."""

from __future__ import annotations

import numpy as np
import pytest

from brownout.cosim.reference.attention import (
    AttentionScales,
    exponential,
    reference_attention,
    row_exponentials,
    scaled,
)
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.state import CommandOptions, ErrorState

CONFIG = AcceleratorConfig(rows=4, cols=4, block_rows=8, block_col_tiles=2, attention=True)
ONE_TO_ONE = AttentionScales(score_mult=2, score_shift=1, out_scale=127 << 16, out_shift=16)


def attend(q, k, v, scales, config=CONFIG, options=None, errors=None, **settings):
    return reference_attention(
        *(config, q, k, v),
        scales=scales,
        block_rows=settings.pop("block_rows", 8),
        options=options or CommandOptions(),
        value_error_key=9,
        value_theta=0,
        errors=errors or ErrorState(),
        **settings,
    )


def test_by_hand():
    # Scores 256, 0 and -256: distances of 0, one and two octaves from the largest.
    q = np.array([[[16, 0]]], np.int8)
    k = np.array([[[16, 5], [0, 1], [-16, 3]]], np.int8)
    v = np.array([[[100, -100], [50, 0], [-128, 127]]], np.int8)
    result = attend(q, k, v, ONE_TO_ONE)
    assert result.exponentials.tolist() == [[[127, 64, 32]]]
    # Sums 12700 + 3200 - 4096 = 11804 and -12700 + 4064 = -8636; 127 * 2^16 // 223 = 37323.
    assert result.output.tolist() == [[[127, -128]]]
    smaller = AttentionScales(score_mult=2, score_shift=1, out_scale=127 << 9, out_shift=16)
    # 127 * 2^9 // 223 = 291: 11804 * 291 / 65536 = 52.4, -8636 * 291 / 65536 = -38.3.
    assert attend(q, k, v, smaller).output.tolist() == [[[52, -38]]]


def test_halves_go_up_and_both_ends_saturate():
    assert [scaled(value, 1, 1, -4, 4) for value in (-3, -1, 1, 3, 100, -100)] == [-1, 0, 1, 2, 4, -4]
    assert [exponential(distance) for distance in (0, 256, 7 * 256, 8 * 256, 65_535)] == [127, 64, 1, 0, 0]
    wide = AttentionScales(score_mult=65_535, score_shift=1, out_scale=1, out_shift=1)
    # Everything saturates at the same largest score.
    assert row_exponentials([2**31 - 1, 5, -5, -(2**31)], [True] * 4, wide) == [127, 127, 0, 0]


def test_rows_without_a_key_that_counts_are_zero():
    assert row_exponentials([7, 9], [False, False], ONE_TO_ONE) == [0, 0]
    assert row_exponentials([7, 900], [True, False], ONE_TO_ONE) == [127, 0]


def test_causal_rows_look_back_only():
    rng = np.random.default_rng(3)
    q, k, v = (rng.integers(-128, 128, (2, 9, 4), dtype=np.int8) for _ in range(3))
    whole = attend(q, k, v, ONE_TO_ONE, causal=True, block_rows=2)
    assert not np.triu(whole.exponentials, 1).any()
    assert (whole.exponentials.max(2) == 127).all()
    assert (whole.output == attend(q, k, v, ONE_TO_ONE, causal=True).output).all(), "blocks change nothing"


@pytest.mark.parametrize("keys", [1, 17, 300])
def test_close_to_softmax(keys):
    rng = np.random.default_rng(keys)
    q, k, v = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((2, 12, 16), (2, keys, 16), (2, keys, 8)))
    factor = 2.0**-13
    scales = AttentionScales(
        score_mult=round(256 * np.log2(np.e) * factor * 2**20), score_shift=20, out_scale=1 << 37, out_shift=37
    )
    result = attend(q, k, v, scales)
    found = result.output.astype(float)
    weights = np.exp(factor * (q.astype(float) @ k.astype(float).transpose(0, 2, 1)))
    wanted = weights / weights.sum(2, keepdims=True) @ v.astype(float)
    # Exponentials are rounded to a 127th of the largest; so is the output.
    away = np.abs(v.astype(float)[:, None] - wanted[:, :, None]).sum(2)
    assert (np.abs(found - wanted) <= 0.51 + 0.53 * away / result.exponentials.sum(2, keepdims=True)).all()


def test_uncorrectable_scores_count_for_nothing_and_marked_sums_are_zero():
    checksum = ChecksumConfig(scheme="residue", column_checks=False, segment_cols=4)
    config = AcceleratorConfig(
        rows=4, cols=4, block_rows=8, block_col_tiles=2, attention=True, timing_model="flip", checksum=checksum
    )
    rng = np.random.default_rng(1)
    q, k, v = (rng.integers(-128, 128, (1, 8, 4), dtype=np.int8) for _ in range(3))
    options = CommandOptions(flags=GemmFlag.CHECK | GemmFlag.CORRECT | GemmFlag.ZERO, error_key=4)
    errors = ErrorState(seed=2, rates=(1 << 31,))
    result = attend(q, k, v, ONE_TO_ONE, config, options, errors)
    assert result.marked_scores.any()
    assert not result.exponentials[result.marked_scores].any()
    assert result.uncorrectable.any()
    assert not result.output[result.uncorrectable].any()
    assert result.counters["suppressed"] == result.marked_scores.sum() + result.uncorrectable.sum()
    assert sum(result.records) == result.counters["log_dropped"]
