"""A decoded and checked GEMM command, as the engines see it."""

from __future__ import annotations

from amaranth.lib import data

from .config import BATCH_BITS, DIMENSION_BITS, K_LIMIT, AcceleratorConfig

K_BITS = K_LIMIT.bit_length()
STRIDE_BITS = 32
THETA_BITS = 6

SCORE_MULT_BITS = 16
SCORE_SHIFT_BITS = 6
MAX_SCORE_SHIFT = 47
OUT_SCALE_BITS = 38
OUT_SHIFT_BITS = 6
MAX_OUT_SHIFT = 62

EXPONENT_STEPS = 127
"""The largest exponential of a row, in steps."""

MAX_OUT_SCALE = EXPONENT_STEPS * 2**31 - 1
"""Divided by the least sum of a row with anything in it, it is a multiplier of 31 bits."""

SCORE_FRACTION_BITS = 8
"""Scores are logarithms to base 2 with so many bits after the point."""

SCORE_BITS = 16
"""Width of such a score, which saturates."""


def params_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Fields that stay constant while a GEMM command runs."""
    address = config.address_bits
    protection: dict[str, int | range] = {}
    if config.checksum is not None:
        protection |= {"check": 1, "correct": 1, "suppress": 1, "zero": 1, "theta": THETA_BITS}
        protection |= {"log_addr": address, "log_bytes": 32}
    if config.checksum is not None or config.error_model.draws:
        protection |= {"error_key": 32, "first_row": 32, "first_col": 32}
    if config.keeps_activations:
        protection |= {"keep_activations": 1, "block_rows": range(config.block_rows + 1)}
    if config.attention:
        protection |= {
            "attention": 1,
            "causal": 1,
            "keys": K_BITS,
            "v_addr": address,
            "ldv": STRIDE_BITS,
            "v_batch_stride": STRIDE_BITS,
            "block_rows": range(config.block_rows + 1),
            "score_mult": SCORE_MULT_BITS,
            "score_shift": SCORE_SHIFT_BITS,
            "out_scale": OUT_SCALE_BITS,
            "out_shift": OUT_SHIFT_BITS,
        }
        if config.checksum is not None:
            protection |= {"value_theta": THETA_BITS}
    return data.StructLayout(
        {
            **protection,
            "batch": BATCH_BITS,
            "m": DIMENSION_BITS,
            "n": DIMENSION_BITS,
            "k": K_BITS,
            "lda": STRIDE_BITS,
            "ldw": STRIDE_BITS,
            "ldy": STRIDE_BITS,
            "a_addr": address,
            "w_addr": address,
            "y_addr": address,
            "channel_addr": address,
            "a_batch_stride": STRIDE_BITS,
            "w_batch_stride": STRIDE_BITS,
            "y_batch_stride": STRIDE_BITS,
            "channel": 1,
            "requant": 1,
            "int16": 1,
            "a_tiled": 1,
            "w_tiled": 1,
            "y_tiled": 1,
        }
    )
