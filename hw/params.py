"""A decoded and checked GEMM command, as the engines see it."""

from __future__ import annotations

from amaranth.lib import data

from .config import BATCH_BITS, DIMENSION_BITS, K_LIMIT, AcceleratorConfig

K_BITS = K_LIMIT.bit_length()
STRIDE_BITS = 32
THETA_BITS = 6


def params_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Fields that stay constant while a GEMM command runs."""
    address = config.address_bits
    protection: dict[str, int] = {}
    if config.checksum is not None:
        protection |= {"check": 1, "correct": 1, "suppress": 1, "zero": 1, "theta": THETA_BITS}
        protection |= {"log_addr": address, "log_bytes": 32}
    if config.checksum is not None or config.error_model.draws:
        protection |= {"error_key": 32, "first_row": 32, "first_col": 32}
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
            "a_tiled": 1,
            "w_tiled": 1,
            "y_tiled": 1,
        }
    )
