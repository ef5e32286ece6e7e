"""Operands of attention on the chip: what `Accelerator.attention` accepts, and the message for what it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from brownout.hw.config import K_LIMIT, AcceleratorConfig
from brownout.hw.errors.state import CommandOptions
from brownout.hw.params import MAX_OUT_SCALE, MAX_OUT_SHIFT, MAX_SCORE_SHIFT, SCORE_FRACTION_BITS, SCORE_MULT_BITS
from brownout.hw.tiling import attention_rows

from .operands import BATCH_LIMIT, DIMENSION_LIMIT, GemmShape, Tally, check_output

SCORE_MULT_LIMIT = (1 << SCORE_MULT_BITS) - 1


@dataclass(frozen=True)
class SoftmaxScales:
    """Factors of attention in integers; docs/attention.md has the arithmetic.

    Attributes
    ----------
    score_mult, score_shift : int
        Scores times ``score_mult / 2^score_shift`` are logarithms to base 2, in 2^-8; 0..65535 and 1..47.
    out_scale, out_shift : int
        Weighted means times ``out_scale / 2^out_shift`` are the output; 0..127 * 2^31 - 1 and 1..62.
    """

    score_mult: int
    score_shift: int
    out_scale: int
    out_shift: int

    def __post_init__(self) -> None:
        limits = {
            "score_mult": (0, SCORE_MULT_LIMIT),
            "score_shift": (1, MAX_SCORE_SHIFT),
            "out_scale": (0, MAX_OUT_SCALE),
            "out_shift": (1, MAX_OUT_SHIFT),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"SoftmaxScales.{name} must be an integer in {low}..{high}, not {value!r}")

    @classmethod
    def from_factors(cls, scores: float, output: float) -> SoftmaxScales:
        """Closest integers to real factors.

        Parameters
        ----------
        scores : float
            Factor that makes natural logarithms of scores: scale of the attention times scales of queries and keys.
        output : float
            Scale of the values over that of the output.

        Raises
        ------
        ValueError
            A factor is not positive and finite, or beyond what the integers hold.
        """
        for name, value in (("scores", scores), ("output", output)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, not {value!r}")
        mult, score_shift = _closest(
            scores * math.log2(math.e) * 2**SCORE_FRACTION_BITS, SCORE_MULT_LIMIT, MAX_SCORE_SHIFT, "scores", scores
        )
        scale, out_shift = _closest(output, MAX_OUT_SCALE, MAX_OUT_SHIFT, "output", output)
        return cls(mult, score_shift, scale, out_shift)

    @property
    def score_factor(self) -> tuple[int, int]:
        """score_mult and score_shift."""
        return self.score_mult, self.score_shift

    @property
    def out_factor(self) -> tuple[int, int]:
        """out_scale and out_shift."""
        return self.out_scale, self.out_shift


def _closest(factor: float, limit: int, most_shift: int, name: str, given: float) -> tuple[int, int]:
    """Multiplier and shift with the most digits."""
    shift = min(most_shift, math.floor(math.log2((limit + 0.5) / factor)))
    if shift < 1:
        raise ValueError(f"{name} must be small enough for {limit} / 2, not {given!r}")
    return min(limit, round(math.ldexp(factor, shift))), shift


@dataclass(frozen=True)
class Attended:
    """What a backend tells of a call of attention.

    Attributes
    ----------
    log : bytes
        Log of the sums of values, empty without checks.
    suppressed : int
        Elements of the output that were not written.
    """

    log: bytes = b""
    suppressed: int = 0


@dataclass(frozen=True)
class Attention:
    """A validated call of attention.

    Attributes
    ----------
    q, k, v : torch.Tensor
        int8 (B, L, E), (B, S, E), (B, S, V), any strides.
    out : torch.Tensor
        int8 (B, L, V), any strides; every element is written but those that are suppressed.
    scales : SoftmaxScales
        Factors.
    causal : bool
        Whether keys after a query's own place count for nothing.
    block_rows : int
        Queries of a block.
    scores, values : CommandOptions
        What the command says about errors and checks of either product; the log is that of `values`.
    tally : Tally or None
        Where the cycles are added too.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    scales: SoftmaxScales
    causal: bool
    block_rows: int
    scores: CommandOptions
    values: CommandOptions
    tally: Tally | None = None

    @property
    def score_shape(self) -> GemmShape:
        """Extents of queries times keys."""
        heads, queries, width = self.q.shape
        return GemmShape(heads, queries, self.k.shape[1], width)

    @property
    def value_shape(self) -> GemmShape:
        """Extents of exponentials times values."""
        heads, queries, _ = self.q.shape
        return GemmShape(heads, queries, self.v.shape[2], self.k.shape[1])


def fits(config: AcceleratorConfig, queries: int, keys: int, width: int, columns: int) -> bool:
    """Whether a head of these extents, and head size and columns of values, can be attended to by a command."""
    return (
        config.attention
        and queries <= DIMENSION_LIMIT
        and width <= config.slab_k_tiles * config.rows
        and columns <= config.block_col_tiles * config.cols
        and keys <= K_LIMIT
        and attention_rows(config, queries, keys) > 0
    )


def check_operands(config: AcceleratorConfig, q: Any, k: Any, v: Any) -> None:
    """Refuse what an accelerator cannot attend to.

    Raises
    ------
    TypeError
        An operand is no tensor or not int8.
    ValueError
        The accelerator has no attention unit, shapes or devices do not fit, or an extent is out of range.
    """
    if not config.attention:
        raise ValueError(
            "attention needs an attention unit, but the accelerator has none; give AcceleratorConfig attention=True, "
            "or use two products"
        )
    for name, value in (("q", q), ("k", k), ("v", v)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
        if value.dtype != torch.int8:
            raise TypeError(f"{name} must be int8, not {value.dtype}; quantise it")
        if value.ndim != 3 or 0 in value.shape:
            raise ValueError(f"{name} must have shape (heads, rows, columns), not {tuple(value.shape)}")
        if value.device != q.device:
            raise ValueError(f"q is on {q.device} but {name} is on {value.device}; move one of them")
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(f"q, k and v must have as many heads, not {q.shape[0]}, {k.shape[0]} and {v.shape[0]}")
    if q.shape[2] != k.shape[2] or k.shape[1] != v.shape[1]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit: k must have the columns of q "
            "and the rows of v"
        )
    limits = (
        ("heads", q.shape[0], BATCH_LIMIT, "split them"),
        ("queries", q.shape[1], DIMENSION_LIMIT, "split them"),
        ("head size", q.shape[2], config.slab_k_tiles * config.rows, "raise AcceleratorConfig.slab_bytes"),
        ("columns of v", v.shape[2], config.block_col_tiles * config.cols, "raise AcceleratorConfig.block_col_tiles"),
        (
            *("keys", k.shape[1], min(K_LIMIT, config.block_rows * config.block_col_tiles * config.cols)),
            "scores of a query must fit an accumulator bank: raise AcceleratorConfig.block_col_tiles",
        ),
    )
    for name, value, most, remedy in limits:
        if value > most:
            raise ValueError(f"{name} must be at most {most}, not {value}; {remedy}, or use two products")


def make_attention(
    config: AcceleratorConfig,
    operands: tuple[Any, Any, Any],
    scales: SoftmaxScales,
    out: torch.Tensor | None,
    options: tuple[CommandOptions, CommandOptions],
    *,
    causal: bool,
    tally: Tally | None,
) -> tuple[Attention, torch.Tensor]:
    """Validate the arguments of `Accelerator.attention`; raises as `check_operands`.

    Returns
    -------
    (Attention, torch.Tensor)
        The call, and the tensor to hand to the caller: `out`, or a new one.
    """
    q, k, v = operands
    check_operands(config, q, k, v)
    wanted = (*q.shape[:2], v.shape[2])
    if out is None:
        out = torch.empty(wanted, dtype=torch.int8, device=q.device)
    else:
        check_output("out", out)
        if out.dtype != torch.int8 or tuple(out.shape) != wanted or out.device != q.device:
            raise ValueError(
                f"out must be int8 {wanted} on {q.device}, not {out.dtype} {tuple(out.shape)} on {out.device}"
            )
    block_rows = attention_rows(config, q.shape[1], k.shape[1])
    return Attention(q, k, v, out, scales, causal, block_rows, *options, tally), out
