"""One ATTENTION command from its operands to what it writes: two products, and softmax between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState

from .gemm import reference_gemm
from .numbers import Ints

COUNTED = ("checks", "detected", "corrected", "suppressed")
"""What both products count."""


@dataclass(frozen=True, kw_only=True)
class AttentionScales:
    """Fields of these names of `brownout.hw.commands.AttentionCommand`."""

    score_mult: int
    score_shift: int
    out_scale: int
    out_shift: int


@dataclass
class AttentionResult:
    """What a command does and sees. B heads, L queries, S keys, V columns of values.

    Attributes
    ----------
    output : int8 array (B, L, V)
        What memory holds afterwards.
    exponentials : int64 array (B, L, S)
        In steps of 1/127 of the largest of each row.
    marked_scores : bool array (B, L, S)
        Scores that count for nothing because they are uncorrectable.
    uncorrectable : bool array (B, L, V)
        Likewise, of the sums of values.
    log : bytes
        Records written.
    records : list of int
        Flagged segments of the sums of values, block of queries by block.
    counters : dict of str to int
        As of `brownout.cosim.reference.result.ReferenceResult`: `COUNTED` of both products; ``log_records`` and
        ``log_dropped`` of the second.
    """

    output: NDArray[np.int8]
    exponentials: Ints
    marked_scores: NDArray[np.bool_]
    uncorrectable: NDArray[np.bool_]
    log: bytes = b""
    records: list[int] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)


def exponential(distance: int) -> int:
    """127 * 2^(-distance / 256), in integers."""
    octave, step = divmod(distance, 256)
    if octave >= 8:
        return 0
    return (round(127 * 256 * 2 ** (-step / 256)) + (1 << (octave + 7))) >> (octave + 8)


def scaled(value: int, factor: int, shift: int, least: int, most: int) -> int:
    """Value * factor / 2^shift, halves up, saturated."""
    return max(least, min(most, (value * factor + (1 << (shift - 1))) >> shift))


def row_exponentials(scores: list[int], counts: list[bool], scales: AttentionScales) -> list[int]:
    """Exponentials of a row of scores; 0 for those that do not count."""
    logarithms = [scaled(score, scales.score_mult, scales.score_shift, -(1 << 15), (1 << 15) - 1) for score in scores]
    top = max((value for value, counted in zip(logarithms, counts, strict=True) if counted), default=0)
    return [exponential(top - t) if counted else 0 for t, counted in zip(logarithms, counts, strict=True)]


def reference_attention(
    config: AcceleratorConfig,
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    v: NDArray[np.int8],
    *,
    scales: AttentionScales,
    block_rows: int,
    options: CommandOptions,
    value_error_key: int,
    value_theta: int,
    errors: ErrorState,
    causal: bool = False,
    previous: NDArray[np.int8] | None = None,
) -> AttentionResult:
    """Carry out one ATTENTION command with timing errors and checks.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator.
    q, k, v : int8 arrays (B, L, E), (B, S, E), (B, S, V)
        Operands; keys as rows.
    scales : AttentionScales
        The command's factors.
    block_rows : int
        Queries of a block.
    options : CommandOptions
        What the command says about errors and checks; `error_key` and `theta` are those of the scores.
    value_error_key, value_theta : int
        Likewise of the sums of values.
    errors : ErrorState
        What earlier commands have set.
    causal : bool
        Whether keys after a query's own place count for nothing.
    previous : int8 array (B, L, V), optional
        What memory holds before, and suppressed elements keep; zeros by default.
    """
    heads, queries, _ = q.shape
    keys, width = k.shape[1], v.shape[2]
    result = AttentionResult(
        output=np.zeros((heads, queries, width), np.int8),
        exponentials=np.zeros((heads, queries, keys), np.int64),
        marked_scores=np.zeros((heads, queries, keys), bool),
        uncorrectable=np.zeros((heads, queries, width), bool),
        counters=dict.fromkeys((*COUNTED, "log_records", "log_dropped"), 0),
    )
    room = options.log_bytes
    for head in range(heads):
        for first in range(0, queries, block_rows):
            rows = slice(first, min(first + block_rows, queries))
            place = replace(options, first_row=options.first_row + head * queries + first, log_bytes=0)
            scores = reference_gemm(config, q[head, rows], k[head].T, options=place, errors=errors)
            places = np.arange(rows.start, rows.stop)
            counts = ~scores.uncorrectable[0] & (~np.bool_(causal) | (np.arange(keys) <= places[:, None]))
            weights = [
                row_exponentials(row.tolist(), counted.tolist(), scales)
                for row, counted in zip(scores.corrected_sums[0].astype(object), counts, strict=True)
            ]
            result.exponentials[head, rows] = weights
            result.marked_scores[head, rows] = scores.uncorrectable[0]
            place = replace(place, error_key=value_error_key, theta=value_theta, log_bytes=room)
            sums = reference_gemm(
                config, np.array(weights, np.int8).reshape(-1, keys), v[head], options=place, errors=errors
            )
            room -= len(sums.log)
            result.log += sums.log
            result.records.append(sums.counters["detected"])
            for row, (row_weights, row_sums) in enumerate(zip(weights, sums.corrected_sums[0], strict=True)):
                total = sum(row_weights)
                factor = scales.out_scale // total if total else 0
                for column, value in enumerate(row_sums.tolist()):
                    y = scaled(value, factor, scales.out_shift, -128, 127)
                    if sums.uncorrectable[0, row, column]:
                        kept = 0 if previous is None else int(previous[head, first + row, column])
                        y = kept if options.flags & GemmFlag.SUPPRESS else 0 if options.flags & GemmFlag.ZERO else y
                    result.output[head, first + row, column] = y
            result.uncorrectable[head, rows] = sums.uncorrectable[0]
            for name in COUNTED:
                result.counters[name] += scores.counters[name] + sums.counters[name]
            for name in ("log_records", "log_dropped"):
                result.counters[name] += sums.counters[name]
            if config.razor:
                dropped = scores.counters["dropped"] + sums.counters["dropped"]
                result.counters["dropped"] = result.counters.get("dropped", 0) + dropped
    return result
