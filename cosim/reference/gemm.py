"""One GEMM command from its operands to what it writes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.cosim.reference.golden import ChannelTable
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK
from brownout.hw.tiling import blocks

from .checks import check_block
from .command import Command
from .error_models import REFERENCE_ERROR_MODELS
from .numbers import Ints, wrap
from .result import ReferenceResult, SegmentOutcome


def _finish(sums: Ints, channels: ChannelTable | None, requantise: bool, bits: int) -> NDArray[Any]:
    """Bias and requantisation."""
    total = wrap(sums.astype(np.int64) + (0 if channels is None else channels.bias), 32)
    if not requantise:
        return total.astype(np.int32)
    if channels is None:
        raise ValueError("requantisation needs a channel table")
    scaled = (total * channels.mult + (np.int64(1) << (channels.shift - 1))) >> channels.shift
    limit = 2 ** (bits - 1)
    return np.clip(scaled, -limit, limit - 1).astype(f"int{bits}")


def reference_gemm(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    *,
    options: CommandOptions,
    errors: ErrorState,
    channels: ChannelTable | None = None,
    requantise: bool = False,
    bits: int = 8,
    previous: NDArray[Any] | None = None,
) -> ReferenceResult:
    """Carry out one GEMM command with timing errors and checks.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator.
    a, w : int8 arrays (B, M, K) and (B, K, N), or (M, K) and (K, N)
        Operands; without a batch, results have B = 1.
    options : CommandOptions
        What the command says about errors and checks.
    errors : ErrorState
        What earlier commands have set.
    channels : brownout.cosim.reference.golden.ChannelTable, optional
        The command's channel table.
    requantise : bool
        Whether the output is requantised.
    bits : int
        Of requantised outputs: 8 or 16.
    previous : array like the output, optional
        What memory holds before, and suppressed elements keep; zeros by default.

    Returns
    -------
    ReferenceResult

    Raises
    ------
    ValueError
        CHECK is set without checksum units, or requantisation without a channel table.
    """
    if options.check and config.checksum is None:
        raise ValueError("CHECK needs an AcceleratorConfig with checksum units")
    left = (a if a.ndim == 3 else a[None]).astype(np.int64)
    right = (w if w.ndim == 3 else w[None]).astype(np.int64)
    cmd = Command(config, left, right, options, errors)
    shape = (cmd.batch, cmd.m, cmd.n)
    segments = (cmd.batch, cmd.m, -(-cmd.n // config.cols), len(config.segments))
    names = ("checks", "detected", "corrected", "suppressed", "log_records", "log_dropped")
    checks = 1 if config.checksum is None else config.checksum.checks
    result = ReferenceResult(
        output=np.zeros(0),
        sums=np.zeros(shape, np.int32),
        corrected_sums=np.zeros(shape, np.int32),
        row_syndromes=np.zeros((*segments, checks), np.int64),
        column_syndromes=np.zeros(shape, np.int64),
        outcome=np.full(segments, SegmentOutcome.NOT_FLAGGED, np.int8),
        fit=np.full(segments, -1, np.int64),
        corrected=np.zeros(shape, bool),
        uncorrectable=np.zeros(shape, bool),
        counters=dict.fromkeys((*names, "injected", "missed", "wrong"), 0),
    )
    room = options.log_bytes // config.log_record_bytes
    model = REFERENCE_ERROR_MODELS.get(config.timing_model)
    for block in blocks(config, cmd.m, cmd.n, cmd.batch):
        sums = model.sums(cmd, block)
        for (m, n), value in sums.data.items():
            result.sums[block.batch, m, n] = result.corrected_sums[block.batch, m, n] = value
        if cmd.checksum is None:
            continue
        records = check_block(cmd, block, sums, result)
        written = records[: min(LOG_RECORDS_PER_BLOCK, room - result.counters["log_records"])]
        result.log += b"".join(written)
        result.counters["detected"] += len(records)
        result.counters["log_records"] += len(written)
        result.counters["log_dropped"] += len(records) - len(written)

    clean = np.matmul(left, right)
    wrong = result.corrected_sums != clean
    result.counters["suppressed"] = int(result.uncorrectable.sum())
    result.counters["injected"] = cmd.injected
    if config.razor:
        result.counters["dropped"] = cmd.dropped
    result.counters["missed"] = int((wrong & ~result.uncorrectable & ~result.corrected).sum())
    result.counters["wrong"] = int((wrong & result.corrected).sum())

    output = _finish(result.corrected_sums, channels, requantise, bits)
    if options.flags & GemmFlag.SUPPRESS:
        kept = np.zeros_like(output) if previous is None else previous.reshape(output.shape)
        output = np.where(result.uncorrectable, kept, output)
    elif options.flags & GemmFlag.ZERO:
        output = np.where(result.uncorrectable, np.zeros_like(output), output)
    result.output = output
    return result
