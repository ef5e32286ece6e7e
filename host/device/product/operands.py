"""Operands of a product: what `Accelerator.gemm` accepts, and the exact message for what it does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from brownout.hw.commands import CHANNEL_RECORD_BYTES
from brownout.hw.config import BATCH_BITS, DIMENSION_BITS, K_LIMIT
from brownout.hw.errors.state import CommandOptions

DIMENSION_LIMIT = (1 << DIMENSION_BITS) - 1
"""Largest M and N."""

BATCH_LIMIT = (1 << BATCH_BITS) - 1
"""Largest number of products in one call."""

MULT_LIMIT = (1 << 31) - 1
SHIFT_LIMIT = 62

NARROW_DTYPES = {8: torch.int8, 16: torch.int16}
"""Of requantised outputs, by their bits."""

OUTPUT_DTYPES = (torch.int32, *NARROW_DTYPES.values())
"""Of what a product writes."""

_INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class GemmShape:
    """Extents of ``batch`` products of (m, k) by (k, n)."""

    batch: int
    m: int
    n: int
    k: int

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates."""
        return self.batch * self.m * self.n * self.k


class ResidentWeights:
    """Weights on an accelerator, made by `Accelerator.upload`; pass them to `gemm` in place of a tensor.

    They hold a copy of the tensor that they were made from. Their device memory is freed with them.

    Attributes
    ----------
    backend : object
        Backend whose memory they are in.
    values : torch.Tensor
        int8 (B, K, N): the copy, from which a restarted device is loaded again.
    shape : tuple of int
        (K, N), or (B, K, N).
    device : torch.device
        Where the tensor was, and activations must be.
    """

    def __init__(self, backend: object, values: torch.Tensor, shape: tuple[int, ...]) -> None:
        self.backend = backend
        self.values = values
        self.shape = shape
        self.device = values.device


class Requantisation:
    """Per-channel fixed-point scaling of int32 sums to int8 or int16.

    The hardware computes ``clamp((sum * mult + 2^(shift-1)) >> shift, -2^(bits-1), 2^(bits-1) - 1)`` in 64 bits, with
    an arithmetic shift: ties round towards plus infinity.

    Parameters
    ----------
    mult : torch.Tensor
        Integers (N,) in 0..2^31-1.
    shift : torch.Tensor
        Integers (N,) in 1..62.
    bits : {8, 16}
        Width of the outputs.

    Raises
    ------
    TypeError
        `mult` or `shift` is not an integer tensor.
    ValueError
        They differ in shape, are not 1-D, or a value is out of range; `bits` is neither 8 nor 16.
    """

    def __init__(self, mult: torch.Tensor, shift: torch.Tensor, bits: int = 8) -> None:
        if bits not in NARROW_DTYPES:
            raise ValueError(f"bits must be 8 or 16, not {bits!r}; leave requant out for the int32 sums")
        self.bits = bits
        for name, value in (("mult", mult), ("shift", shift)):
            _require_tensor(name, value)
            if value.dtype not in _INTEGER_DTYPES:
                raise TypeError(
                    f"{name} must be an integer tensor, not {value.dtype}; convert it with .to(torch.int64)"
                )
            if value.ndim != 1:
                raise ValueError(f"{name} must have shape (N,), one value per output channel, not {tuple(value.shape)}")
        if mult.shape != shift.shape:
            raise ValueError(f"mult {tuple(mult.shape)} and shift {tuple(shift.shape)} must have the same shape")
        _require_range("mult", mult, 0, MULT_LIMIT)
        _require_range("shift", shift, 1, SHIFT_LIMIT)
        self.mult = mult.to(torch.int64, copy=True)
        self.shift = shift.to(torch.int64, copy=True)

    @property
    def dtype(self) -> torch.dtype:
        """Of the outputs."""
        return NARROW_DTYPES[self.bits]

    def of_columns(self, columns: slice) -> Requantisation:
        """That of some columns of the product."""
        return Requantisation(self.mult[columns], self.shift[columns], self.bits)

    @classmethod
    def from_scale(cls, scale: torch.Tensor, bits: int = 8) -> Requantisation:
        """Closest fixed-point form of real factors.

        Parameters
        ----------
        scale : torch.Tensor
            Floating-point (N,), from 2^-31 up to, but not including, 2^30; the relative error of the
            result is at most 2^-31.
        bits : {8, 16}
            Width of the outputs.

        Raises
        ------
        ValueError
            A factor is outside that range.
        """
        if not bool(((scale >= 2.0**-31) & (scale < 2.0**30)).all()):
            raise ValueError("scale must be in 2^-31..2^30 (exclusive) for every channel")
        mantissa, exponent = torch.frexp(scale.to(torch.float64))
        # A mantissa that rounds up to 1 would need 32 bits.
        mult = torch.round(mantissa * 2.0**31).to(torch.int64).clamp_(max=MULT_LIMIT)
        return cls(mult, 31 - exponent.to(torch.int64), bits)


@dataclass
class Tally:
    """Cycles of some products, which a backend counts when it is asked for any count.

    Attributes
    ----------
    cycles : int
        Of those that have been counted.
    """

    cycles: int = 0


@dataclass(frozen=True)
class Product:
    """A validated call: ``out[b] = a[b] @ w[b]`` plus bias, requantised when `requant` is given.

    Attributes
    ----------
    shape : GemmShape
        Extents of the product.
    a : torch.Tensor
        int8 (batch, m, k), any strides.
    w : torch.Tensor or ResidentWeights
        int8 (batch, k, n), any strides, or weights already on the device.
    bias : torch.Tensor or None
        int32 (n,).
    requant : Requantisation or None
        Scales of int8 or int16 output; None for raw int32.
    out : torch.Tensor
        int32, int16 or int8 (batch, m, n), any strides; every element is written but those that are suppressed.
    options : CommandOptions
        What the command says about timing errors and checksums.
    tally : Tally or None
        Where the cycles of this product are added too.
    """

    shape: GemmShape
    a: torch.Tensor
    w: torch.Tensor | ResidentWeights
    bias: torch.Tensor | None
    requant: Requantisation | None
    out: torch.Tensor
    options: CommandOptions = field(default_factory=CommandOptions)
    tally: Tally | None = None


def interface_bytes(
    batch: int, m: int, n: int, k: int, element_bytes: int, *, resident: bool = False, channels: bool = False
) -> int:
    """Bytes of operands that the host writes to the device's memory for a product, and of outputs that it reads there.

    Parameters
    ----------
    batch, m, n, k : int
        Extents.
    element_bytes : int
        Bytes of an element of the output.
    resident : bool
        Whether weights are there already.
    channels : bool
        Whether there is a bias or a requantisation.
    """
    weights = 0 if resident else batch * k * n
    return batch * m * k + weights + channels * CHANNEL_RECORD_BYTES * n + batch * m * n * element_bytes


def _require_tensor(name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}; convert it with torch.as_tensor")


def _require_range(name: str, value: torch.Tensor, low: int, high: int) -> None:
    if value.is_meta:
        return
    outside = (value < low) | (value > high)
    if bool(outside.any()):
        index = int(outside.nonzero()[0])
        raise ValueError(f"{name} must be in {low}..{high}, not {int(value[index])} (channel {index})")


def _require_matrix(name: str, value: Any) -> None:
    _require_tensor(name, value)
    if value.dtype != torch.int8:
        raise TypeError(f"{name} must be int8, not {value.dtype}; quantise it, or convert it with .to(torch.int8)")
    if value.ndim not in (2, 3):
        raise ValueError(
            f"{name} must have 2 dimensions, or 3 for a batch, not {value.ndim} (shape {tuple(value.shape)}); "
            "flatten the leading ones with .flatten(0, -2)"
        )
    if 0 in value.shape:
        raise ValueError(f"{name} must not be empty, but has shape {tuple(value.shape)}")


def check_weights(w: Any) -> None:
    """Refuse weights that no product can use.

    Raises
    ------
    TypeError
        Not a tensor, or not int8.
    ValueError
        Not (K, N) or (B, K, N), or a dimension is zero or too large.
    """
    _require_matrix("w", w)
    k, n = w.shape[-2:]
    _check_extents(GemmShape(w.shape[0] if w.ndim == 3 else 1, 1, n, k))


def _check_extents(shape: GemmShape) -> None:
    if shape.k > K_LIMIT:
        raise ValueError(
            f"K must be at most {K_LIMIT}, not {shape.k}: a longer sum of int8 products could overflow 32 bits; "
            "split K and add the partial products"
        )
    for name, value in (("M", shape.m), ("N", shape.n)):
        if value > DIMENSION_LIMIT:
            raise ValueError(f"{name} must be at most {DIMENSION_LIMIT}, not {value}; split the product along {name}")
    if shape.batch > BATCH_LIMIT:
        raise ValueError(f"a batch must hold at most {BATCH_LIMIT} products, not {shape.batch}; split it")


def as_batch(tensor: torch.Tensor) -> torch.Tensor:
    """(M, N) as (1, M, N), and (B, M, N) as it is."""
    return tensor if tensor.ndim == 3 else tensor.unsqueeze(0)


def check_output(name: str, value: Any) -> None:
    """Refuse what cannot be the output of a product.

    Raises
    ------
    TypeError
        Not a tensor, or not int32, int16 or int8.
    ValueError
        Not (M, N) or (B, M, N), or empty.
    """
    _require_tensor(name, value)
    if value.dtype not in OUTPUT_DTYPES:
        raise TypeError(f"{name} must be int32, int16 or int8, not {value.dtype}")
    if value.ndim not in (2, 3) or 0 in value.shape:
        raise ValueError(f"{name} must have shape (M, N) or (B, M, N), not {tuple(value.shape)}")


def check_like(name: str, value: Any, other_name: str, other: torch.Tensor) -> None:
    """Refuse `value` unless it has dtype, shape and device of `other`, and is another tensor.

    Raises
    ------
    TypeError
        Not a tensor, or the dtype differs.
    ValueError
        Shape or device differ, or they share memory.
    """
    _require_tensor(name, value)
    if value.dtype != other.dtype:
        raise TypeError(f"{name} must be {other.dtype} like {other_name}, not {value.dtype}")
    if value.shape != other.shape:
        raise ValueError(f"{name} must have shape {tuple(other.shape)} like {other_name}, not {tuple(value.shape)}")
    if value.device != other.device:
        raise ValueError(f"{name} must be on {other.device} like {other_name}, not on {value.device}")
    # On the meta device no tensor has memory.
    same = value is other if value.device.type == "meta" else value.data_ptr() == other.data_ptr()
    if same:
        raise ValueError(f"{name} must not be {other_name} itself; make another tensor with new_slot")


def make_product(
    a: Any,
    w: Any,
    bias: Any,
    requant: Requantisation | None,
    out: torch.Tensor | None,
    options: CommandOptions | None = None,
    tally: Tally | None = None,
) -> tuple[Product, torch.Tensor]:
    """Validate the arguments of `Accelerator.gemm`.

    Returns
    -------
    (Product, torch.Tensor)
        The product, and the tensor to hand to the caller: `out`, or a new one.

    Raises
    ------
    TypeError
        An operand is no tensor or has the wrong dtype.
    ValueError
        Shapes or devices do not fit together, or an extent is out of range.
    """
    _require_matrix("a", a)
    if not isinstance(w, ResidentWeights):
        _require_matrix("w", w)
    if a.ndim != len(w.shape):
        raise ValueError(
            f"a {tuple(a.shape)} and w {tuple(w.shape)} must both have 2 or both have 3 dimensions; "
            "flatten a with .flatten(0, 1), or expand w over the batch"
        )
    if a.shape[-1] != w.shape[-2]:
        raise ValueError(
            f"a {tuple(a.shape)} and w {tuple(w.shape)} do not fit: "
            f"a has {a.shape[-1]} columns, w has {w.shape[-2]} rows; transpose one with .mT"
        )
    if a.ndim == 3 and a.shape[0] != w.shape[0]:
        raise ValueError(
            f"a {tuple(a.shape)} and w {tuple(w.shape)} do not fit: batches of {a.shape[0]} and {w.shape[0]} products"
        )
    shape = GemmShape(a.shape[0] if a.ndim == 3 else 1, a.shape[-2], w.shape[-1], a.shape[-1])
    _check_extents(shape)
    _require_same_device(a, "w", w)
    if bias is not None:
        _require_tensor("bias", bias)
        if bias.dtype != torch.int32:
            raise TypeError(f"bias must be int32, not {bias.dtype}; convert it with .to(torch.int32)")
        if tuple(bias.shape) != (shape.n,):
            raise ValueError(f"bias must have shape ({shape.n},), one value per column of w, not {tuple(bias.shape)}")
        _require_same_device(a, "bias", bias)
    if requant is not None:
        if not isinstance(requant, Requantisation):
            raise TypeError(f"requant must be a Requantisation, not {type(requant).__name__}")
        if requant.mult.shape[0] != shape.n:
            raise ValueError(f"requant must have {shape.n} channels, one per column of w, not {requant.mult.shape[0]}")
        _require_same_device(a, "requant.mult", requant.mult)
    dtype = torch.int32 if requant is None else requant.dtype
    wanted = (*a.shape[:-1], shape.n)
    if out is None:
        out = torch.empty(wanted, dtype=dtype, device=a.device)
    else:
        _require_tensor("out", out)
        if out.dtype != dtype:
            raise TypeError(f"out must be {dtype}, not {out.dtype}")
        if tuple(out.shape) != wanted:
            raise ValueError(f"out must have shape {wanted}, not {tuple(out.shape)}")
        _require_same_device(a, "out", out)
    operand = as_batch(w) if isinstance(w, torch.Tensor) else w
    options = CommandOptions() if options is None else options
    return Product(shape, as_batch(a), operand, bias, requant, as_batch(out), options, tally), out


def _require_same_device(a: torch.Tensor, name: str, other: Any) -> None:
    if a.device != other.device:
        raise ValueError(
            f"a is on {a.device} but {name} is on {other.device}; move one of them with .to({str(a.device)!r})"
        )
