"""The two products of attention on an accelerator, wherever a module calls ``F.scaled_dot_product_attention``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ..device.product.attention import SoftmaxScales
from ..device.product.operands import GemmShape
from . import kernels
from .copies import NotCopied
from .execution import AttentionProducts
from .layer_calibration import LayerCalibration
from .nonfinite import Met, bad_queries, bad_rows
from .products import OffloadedModel, OffloadedProduct, check_attention, find, in_turn, register

ROWS_AT_ONCE = 512
"""Query rows of a block: what is between the two products of more of them fits no cache."""

SUBMODULE = "offloaded_attention"
"""Name under which the owner of attention calls gets an `OffloadedAttention`."""

Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], None]
"""``multiply(a, b, out, first_row)``: int8 (B, M, K) and (B, K, N) to int32 (B, M, N)."""


Gather = Callable[[torch.Tensor, torch.Tensor, tuple[float, float], bool], tuple[torch.Tensor, torch.Tensor, bool]]
"""``gather(key, value, scales, bad)``: int8 (B, H, S, E) and (B, H, S, V) of some tokens, in memory that is used again,
their scales, and whether a key or value is NaN or infinite, to those of all tokens."""

Look = Callable[[tuple[Met, Met, Met]], bool]
"""Gets what quantising query, key and value has met, and tells whether some of them are NaN or infinite."""


RULED_OUT = -1e4
"""What is added to the score of a key that does not count: so much or less. Models of diffusers add exactly that."""


class Scratch(Protocol):
    """As `OffloadedModel.scratch`."""

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor: ...


@dataclass(frozen=True)
class Heads:
    """Operands of an attention call, with 4 dimensions.

    Attributes
    ----------
    query, key, value : torch.Tensor
        (B, H, L, E), (B, H, S, E), (B, H, S, V); broadcast, repeated for grouped heads.
    mask : torch.Tensor or None
        float32 (B, H, L, S), -inf where a key is masked.
    shape : tuple of int
        Shape of the result as the caller expects it.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    shape: tuple[int, ...]


def _four(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim > 4:
        return tensor.flatten(0, -4)
    return tensor.unsqueeze(-3) if tensor.ndim == 3 else tensor[(None,) * (4 - tensor.ndim)]


def _additive(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
    return mask.to(torch.float32)


def split_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, enable_gqa: bool
) -> Heads:
    """Operands of ``F.scaled_dot_product_attention``, broadcast to each other."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    rows, keys = query.shape[-2], key.shape[-2]
    q, k, v = (_four(x.expand(*lead, *x.shape[-2:])) for x in (query, key, value))
    added = None if mask is None else _four(_additive(mask).expand(*lead, rows, keys))
    return Heads(q, k, v, added, (*lead, rows, value.shape[-1]))


def causal_mask(start: int, rows: int, keys: int, device: torch.device) -> torch.Tensor:
    """float32 (rows, keys) for query rows from `start` on: -inf for keys after the row's own place."""
    places = torch.arange(start, start + rows, device=device)
    return _additive(torch.arange(keys, device=device) <= places[:, None])


def kept_keys(mask: torch.Tensor) -> torch.Tensor | None:
    """Keys that a mask keeps, where it does nothing but keep some keys of an image and rule out the others.

    Parameters
    ----------
    mask : torch.Tensor
        float32 (B, H, L, S), added to scores.

    Returns
    -------
    torch.Tensor or None
        bool (B, S), at least one of each image; None of a mask that says more, or that was not broadcast to queries:
        what a call costs is to follow from shapes.
    """
    if mask.shape[2] > 1 and mask.stride(2) != 0:
        return None
    of_heads = mask[:, :, 0]
    first = of_heads[:, 0]
    kept = first == 0
    if not bool((kept | (first <= RULED_OUT)).all() & (of_heads == first[:, None]).all() & kept.any(-1).all()):
        return None
    return kept


def pieces_of(kept: torch.Tensor | None, batch: int) -> list[tuple[slice, torch.Tensor | None]]:
    """Images one behind the other that attend to the same keys, and those keys (int64); None for all of them."""
    if kept is None or bool(kept.all()):
        return [(slice(0, batch), None)]
    starts = [0, *(index for index in range(1, batch) if not torch.equal(kept[index], kept[index - 1])), batch]
    return [
        (slice(first, end), None if bool(kept[first].all()) else kept[first].nonzero()[:, 0])
        for first, end in pairwise(starts)
    ]


def quantised(heads: Heads, input_scales: list[float], scratch: Scratch) -> tuple[list[torch.Tensor], list[Met]]:
    """Query, key and value in int8, in memory that is used again, and what quantising them has met."""
    operands, met = [], []
    for name, input_scale in zip(("query", "key", "value"), input_scales, strict=True):
        values = getattr(heads, name)
        integers = scratch(name, tuple(values.shape), torch.int8, values.device)
        multiplier = torch.tensor([1 / input_scale], dtype=torch.float32, device=values.device)
        met.append(kernels.quantise(values, multiplier, integers))
        operands.append(integers)
    return operands, met


def attend(
    heads: Heads,
    input_scales: list[float],
    scale: float,
    is_causal: bool,
    multiply: tuple[Multiply, Multiply],
    scratch: Scratch,
    gather: Gather | None = None,
    look: Look | None = None,
    refuse_mask: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Attention in int8.

    Exponentials are quantised before they are divided by their sum, because most probabilities over many keys are below
    half a step of 1/127. The sum is that of the quantised exponentials: weights that add up to one leave a mean where
    it is, and a sum of integers does not depend on its order.

    Parameters
    ----------
    heads : Heads
        Operands.
    input_scales : list of 3 float
        Scales of query, key and value.
    scale : float
        Scale of the scores.
    is_causal : bool
        Mask keys after the query's place.
    multiply : (callable, callable)
        The products of queries and keys, and of exponentials and values.
    scratch : callable
        Gives memory that is used again.
    gather : callable, optional
        Adds the keys and values of tokens that are elsewhere; without mask and `is_causal` only.
    look : callable, optional
        Looks at NaN and infinity; by default there are none.
    refuse_mask : callable, optional
        Called where the mask has NaN or plus infinity.

    Returns
    -------
    torch.Tensor
        float32 (B, H, L, V), (B, L, H, V) in memory; NaN in rows that are NaN or infinite, or attend to such keys or
        values.
    """
    query, key, value = heads.query, heads.key, heads.value
    device = query.device
    operands, met = quantised(heads, input_scales, scratch)
    bad_keys = None
    if look is not None and look((met[0], met[1], met[2])):
        bad_keys = bad_rows(key) | bad_rows(value)
    if gather is not None:
        own = bad_keys is not None and bool(bad_keys.any())
        operands[1], operands[2], bad = gather(operands[1], operands[2], (input_scales[1], input_scales[2]), own)
        if bad or own:
            # There is no mask: every row attends to all of them.
            bad_keys = torch.ones((*query.shape[:2], 1), dtype=torch.bool, device=device)
    q, k, v = (operand.flatten(0, 1) for operand in operands)
    batch, count, length, _ = query.shape
    keys, width = v.shape[1:]
    factor = scale * input_scales[0] * input_scales[1]
    out = torch.empty((batch, length, count, width), device=device).transpose(1, 2)
    for start in range(0, length, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, length - start)
        place = slice(start, start + rows)
        scores = scratch("scores", (batch * count, rows, keys), torch.int32, device)
        multiply[0](q[:, place], k.mT, scores, start * batch * count)
        mask = None if heads.mask is None else heads.mask[:, :, place]
        if is_causal:
            mask = causal_mask(start, rows, keys, device)
        masked = mask is not None and not is_causal
        weights = scratch("weights", (batch * count, rows, keys), torch.int8, device)
        shape = (batch, count, rows)
        totals = kernels.exponentials(scores.view(*shape, keys), factor, mask, weights.view(*shape, keys))
        sums = scratch("sums", (batch * count, rows, width), torch.int32, device)
        if masked and refuse_mask is not None and bool((totals < 0).any()):
            refuse_mask()
        multiply[1](weights, v, sums, start * batch * count)
        kernels.weighted_means(sums.view(*shape, width), totals, input_scales[2], out[:, :, place])
        if bad_keys is not None:
            out[:, :, place].masked_fill_(bad_queries(query, bad_keys, mask, start, rows)[..., None], torch.nan)
    return out


@torch.library.custom_op("brownout::int8_attention", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
@in_turn
def int8_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scales: torch.Tensor,
    group: torch.Tensor | None,
    is_causal: bool,
    scale: float,
    enable_gqa: bool,
    layer: int,
) -> torch.Tensor:
    """Scaled dot-product attention whose products run on an accelerator.

    Tagged as random, as `int8_linear`.

    Parameters
    ----------
    query, key, value : torch.Tensor
        Floating-point (..., L, E), (..., S, E), (..., S, V).
    mask : torch.Tensor, optional
        Boolean (True: attend) or added to the scores; broadcastable to (..., L, S).
    scales : torch.Tensor
        float64 (G, 3): scales of query, key and value, for each timestep group.
    group : torch.Tensor, optional
        int64 (): the timestep group, by default 0.
    is_causal, scale, enable_gqa
        As in ``F.scaled_dot_product_attention``.
    layer : int
        Number of the offloaded call.

    Returns
    -------
    torch.Tensor
        (..., L, V), dtype of `query`; zero where all keys are masked. Rows that are NaN or infinite, attend to such
        keys or values, or have NaN or plus infinity in their mask, are NaN.
    """
    call: AttentionCall = find(layer)
    check_attention(call.name, query, key, value)
    input_scales = scales[0 if group is None else int(group)].tolist()
    keys: list[int] = []

    def look(met: tuple[Met, Met, Met]) -> bool:
        scores, means = call.products
        bad = [scores.meet(met[0] + met[1], heads.query, heads.key), means.meet(met[2], heads.value)]
        keys.extend(product.begin() for product in call.products)
        return any(bad)

    def refuse_mask() -> None:
        call.products[0].refuse("NaN or plus infinity in a mask", begun=True)

    def multiply(which: int) -> Multiply:
        def run(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, first_row: int) -> None:
            call.products[which].multiply_pair(a, b, out, keys[which], first_row)

        return run

    heads = split_heads(query, key, value, mask, enable_gqa)
    scratch = call.products[0].model.scratch
    if call.gather is not None and (is_causal or mask is not None):
        raise ValueError(f"attention {call.name!r} has a mask, which cannot be divided over devices")
    refusing = refuse_mask if call.model.nonfinite == "raise" else None
    out = call.attend_on_chip(heads, input_scales, 0 if group is None else int(group), scale, is_causal, keys, look)
    if out is not None:
        return out.to(query.dtype).reshape(heads.shape)
    products = (multiply(0), multiply(1))
    out = attend(heads, input_scales, scale, is_causal, products, scratch, call.gather, look, refusing)
    return out.to(query.dtype).reshape(heads.shape)


@int8_attention.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scales: torch.Tensor,
    group: torch.Tensor | None,
    is_causal: bool,
    scale: float,
    enable_gqa: bool,
    layer: int,
) -> torch.Tensor:
    heads = split_heads(query, key, value, None, enable_gqa)
    batch, count, length, _ = heads.query.shape
    return query.new_empty((batch, length, count, value.shape[-1])).transpose(1, 2).reshape(heads.shape)


class AttentionCall(NotCopied, nn.Module):
    """One call of attention in a module; its ``state_dict`` holds ``scales`` (float64, timestep group x 3).

    Attributes
    ----------
    gather : callable or None
        Adds keys and values of tokens that other devices hold.
    """

    scales: torch.Tensor

    def __init__(self, model: OffloadedModel, name: str, calibration: LayerCalibration, device: torch.device) -> None:
        super().__init__()
        self.model, self.name = model, name
        self.register_buffer("scales", calibration.scales.to(device, copy=True))
        self.products = tuple(
            OffloadedProduct(model, f"{name}.{part}", calibration.kind, calibration.sqnr_db, calibration.clipped)
            for part in ("qk", "pv")
        )
        self.gather: Gather | None = None
        self.output_scales = None if calibration.output is None else calibration.output.tolist()
        self._calibrated = calibration.scales.tolist()
        self.number = register(self)

    def attend_on_chip(
        self,
        heads: Heads,
        input_scales: list[float],
        group: int,
        scale: float,
        is_causal: bool,
        keys: list[int],
        look: Look,
    ) -> torch.Tensor | None:
        """Attention as one command, if the accelerator has a unit for it and the call fits; None otherwise.

        Parameters
        ----------
        heads, input_scales, scale, is_causal
            Arguments of `attend`.
        group : int
            Timestep group.
        keys : list of int
            Error keys of both products, once `look` was called.
        look : callable
            As of `attend`.

        Returns
        -------
        torch.Tensor or None
            As of `attend`, in steps of the calibrated scale of the output.
        """
        model = self.model
        scores, values = self.products
        if self.output_scales is None or self.gather is not None or model.observer is not None:
            return None
        if input_scales != self._calibrated[group]:
            # Those of another calibration were loaded, whose outputs may be larger.
            return None
        batch, count, length, width = heads.query.shape
        extents = (length, heads.key.shape[2], width, heads.value.shape[3])
        if not scale > 0 or not model.accelerator.can_attend(*extents):
            return None
        kept = None if heads.mask is None else kept_keys(heads.mask)
        if heads.mask is not None and kept is None:
            return None
        if not model.execution.attends(scores, values):
            return None
        out_scale = self.output_scales[group]
        factors = scale * input_scales[0] * input_scales[1], input_scales[2] / out_scale
        try:
            scales = SoftmaxScales.from_factors(*factors)
        except ValueError:
            return None
        operands, met = quantised(heads, input_scales, model.scratch)
        bad_keys = None
        if look((met[0], met[1], met[2])):
            bad_keys = bad_rows(heads.key) | bad_rows(heads.value)
        q, k, v = (operand.flatten(0, 1) for operand in operands)
        steps = model.scratch("means", (batch * count, length, extents[3]), torch.int8, q.device)
        for images, present in pieces_of(kept, batch):
            of_heads = slice(images.start * count, images.stop * count)
            one_k, one_v = (x[of_heads] if present is None else x[of_heads][:, present] for x in (k, v))
            call = AttentionProducts(
                *(scores, values, q[of_heads], one_k, one_v, scales, is_causal, (keys[0], keys[1])),
                first_row=of_heads.start * length,
            )
            model.execution.attention(call, steps[of_heads])
            number = of_heads.stop - of_heads.start
            scores.count_on_chip(GemmShape(number, length, one_k.shape[1], width))
            values.count_on_chip(GemmShape(number, length, extents[3], one_k.shape[1]))
        out = torch.empty((batch, length, count, extents[3]), device=q.device).transpose(1, 2)
        torch.mul(steps.view(batch, count, length, -1), out_scale, out=out)
        if bad_keys is not None:
            mask = causal_mask(0, length, extents[1], q.device) if is_causal else heads.mask
            out.masked_fill_(bad_queries(heads.query, bad_keys, mask, 0, length)[..., None], torch.nan)
        return out

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> AttentionCall:
        scales = self.scales
        super()._apply(fn, recurse)
        self.scales = scales.to(self.scales.device)
        return self

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Take the place of ``F.scaled_dot_product_attention``.

        Raises
        ------
        ValueError
            With dropout, with both a mask and `is_causal`, or with a scale that is NaN or infinite.
        """
        if dropout_p:
            raise ValueError(f"attention {self.name!r} has no dropout when it is offloaded; call eval() on the model")
        if is_causal and attn_mask is not None:
            raise ValueError(f"attention {self.name!r} got attn_mask and is_causal; give one of them")
        chosen = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
        if not math.isfinite(chosen):
            raise ValueError(f"attention {self.name!r} got scale={chosen}; it must be finite")
        group = self.model.groups.present
        return int8_attention(
            query, key, value, attn_mask, self.scales, group, is_causal, chosen, enable_gqa, self.number
        )


class Redirect(TorchFunctionMode):
    """Hands the calls of attention in one evaluation of a module to others, in their order."""

    def __init__(self, owner: str, calls: Sequence[Callable[..., torch.Tensor]]) -> None:
        super().__init__()
        self.owner, self.calls, self.index = owner, calls, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        if self.index >= len(self.calls):
            raise RuntimeError(
                f"module {self.owner!r} calls attention more than {len(self.calls)} times, as often as in its "
                "calibration; calibrate what it is used for"
            )
        call = self.calls[self.index]
        self.index += 1
        return call(*args, **(kwargs or {}))


class OffloadedAttention(NotCopied, nn.Module):
    """The calls of attention in one module, which stays where it is and gets this as a submodule.

    Parameters
    ----------
    name : str
        Name of that module.
    calls : list of AttentionCall
        Calls in their order.

    Attributes
    ----------
    model : OffloadedModel
        Model to which it belongs.
    """

    def __init__(self, name: str, calls: list[AttentionCall]) -> None:
        super().__init__()
        self.model = calls[0].model
        self.calls = nn.ModuleList(calls)
        self._name = name
        self._own_forward: Callable[..., Any] | None = None
        self._forward: Callable[..., Any] | None = None

    def install(self, owner: nn.Module) -> None:
        """Let `owner`, whose ``forward`` calls attention, call it here."""
        name, calls = self._name, list(self.calls)
        # What was there before, if the instance had a forward of its own.
        self._own_forward = owner.__dict__.get("forward")
        original = owner.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            # Someone may have put a forward of his own over this one, so that it cannot be removed.
            if self._forward is not forward:
                return original(*args, **kwargs)
            with Redirect(name, calls):
                return original(*args, **kwargs)

        owner.add_module(SUBMODULE, self)
        owner.forward = self._forward = forward

    def remove(self, owner: nn.Module) -> None:
        """Undo the offloading of `owner`."""
        del owner._modules[SUBMODULE]
        if owner.__dict__.get("forward") is self._forward:
            if self._own_forward is None:
                del owner.__dict__["forward"]
            else:
                owner.forward = self._own_forward
        self._forward = None
