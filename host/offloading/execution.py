"""How the products of an offloaded model are run: the place where strategies against timing errors come in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..device.accelerator import Accelerator
from ..device.product.attention import SoftmaxScales
from ..device.product.operands import Requantisation, ResidentWeights, Tally
from ..device.product.protection import Protection
from ..storage.state import State
from .history import History, HistoryKey


def knows_of(kind: type, name: str, of: str) -> bool:
    """Whether a class, or one that it is made from, defines `name` no earlier than `of`, which it stands for.

    Who changes `of` in a subclass, and does not say what becomes of `name`, has not thought of it.
    """
    places = [next(i for i, each in enumerate(kind.__mro__) if which in vars(each)) for which in (name, of)]
    return places[0] <= places[1]


class ProductOwner(Protocol):
    """Offloaded model of a product: an `OffloadedModel`."""

    accelerator: Accelerator
    """Accelerator that runs its products."""
    history: History
    """Sums of earlier evaluations."""
    evaluation: int
    """Evaluation of the denoiser, from 0 on."""
    part: int
    """Part of the batch that is being evaluated."""

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Memory that is used again and again."""


class CalledProduct(Protocol):
    """Product that is called: an `OffloadedProduct`."""

    name: str
    """Dotted name of the layer, for attention with ``.qk`` or ``.pv``."""
    kind: str
    """Kind of the layer."""
    number: int
    """Place in the model."""
    weights: ResidentWeights | None
    """Resident weights of a layer."""
    tally: Tally
    """Counter of its commands' cycles."""

    @property
    def model(self) -> ProductOwner:
        """Model that it belongs to."""


@dataclass(frozen=True)
class ProductCall:
    """One evaluation of a layer's product, or one block of a product of attention.

    Attributes
    ----------
    product : OffloadedProduct
        What is called.
    a : torch.Tensor
        int8 (M, K) or (B, M, K).
    w : ResidentWeights or torch.Tensor
        Resident weights of a layer, or int8 (B, K, N) of attention.
    key : int
        Error key of the evaluation.
    scale : float
        Scale of `a`, on which the meaning of the sums depends; 1 for attention, and for narrow outputs.
    first_row : int
        Place of the first row in the whole product, for draws of errors.
    occurrence : int
        Which call of the layer in its evaluation it is, for those who count.
    requant : Requantisation or None
        Scales of narrow outputs; None for the int32 sums.
    """

    product: CalledProduct
    a: torch.Tensor
    w: ResidentWeights | torch.Tensor
    key: int
    scale: float = 1.0
    first_row: int = 0
    occurrence: int = 0
    requant: Requantisation | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the outputs."""
        return torch.int32 if self.requant is None else self.requant.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the sums."""
        return (*self.a.shape[:-1], self.w.shape[-1])

    @property
    def history_key(self) -> HistoryKey:
        """Whose history the sums become."""
        return HistoryKey(self.product.number, self.product.model.part, self.occurrence)


@dataclass(frozen=True)
class AttentionProducts:
    """One evaluation of both products of attention.

    Attributes
    ----------
    scores, values : OffloadedProduct
        What is called.
    q, k, v : torch.Tensor
        int8 (B, L, E), (B, S, E), (B, S, V).
    scales : SoftmaxScales
        Factors of the scores and of the output.
    causal : bool
        Whether keys after a query's own place count for nothing.
    keys : (int, int)
        Error keys of either product.
    first_row : int
        Place of the first query in the whole batch, for draws of errors.
    """

    scores: CalledProduct
    values: CalledProduct
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scales: SoftmaxScales
    causal: bool
    keys: tuple[int, int]
    first_row: int = 0

    def run(self, accelerator: Accelerator, out: torch.Tensor, protection: Protection | None) -> None:
        """Run them; their cycles are those of the second."""
        accelerator.attention(
            *(self.q, self.k, self.v, self.scales),
            causal=self.causal,
            out=out,
            protection=protection,
            error_key=self.keys[0],
            value_error_key=self.keys[1],
            first_row=self.first_row,
            tally=self.values.tally,
        )


class Execution:
    """Runs products as the accelerator's protection says.

    Subclasses do more: move operating points, run a product again, go back to other values. There is one for each
    offloaded model (`OffloadedModel.execution`).
    """

    def begin_run(self) -> None:
        """Another image begins: forget everything about the last."""

    def forget_product(self, number: int) -> None:
        """Forget the values of a product, as `History.forget_product`."""

    def describe(self) -> dict[str, Any]:
        """What makes this execution different from others, as JSON: a run goes on with an equal one only."""
        return {"execution": type(self).__name__}

    def state(self) -> State:
        """What the next evaluation depends on."""
        return State()

    def load_state(self, state: State) -> None:
        """Take up a state of an equal execution."""

    def layer(self, call: ProductCall) -> torch.Tensor:
        """Run the product of a layer.

        Returns
        -------
        torch.Tensor
            `ProductCall.dtype`: sums, or scaled ones, in memory that the next call may reuse.
        """
        model = call.product.model
        protection = model.accelerator.protection
        if protection is not None and protection.check and protection.on_uncorrectable == "suppress":
            key, device = call.history_key, call.a.device
            out, _ = model.history.slot(
                *(key, call.shape, device), scale=call.scale, evaluation=model.evaluation, dtype=call.dtype
            )
        else:
            out = model.scratch("sums", call.shape, call.dtype, call.a.device)
        return model.accelerator.gemm(
            call.a, call.w, requant=call.requant, out=out, error_key=call.key, tally=call.product.tally
        )

    def narrows(self) -> bool:
        """Whether `layer` may be asked for narrow outputs; otherwise it gives sums, which the host scales.

        A subclass with a `layer` of its own gives sums, unless it has a `narrows` too.
        """
        return knows_of(type(self), "narrows", "layer")

    def attends(self, scores: CalledProduct, values: CalledProduct) -> bool:
        """Whether both products of attention may be one command now; otherwise `attention_product` runs each.

        A subclass with an `attention_product` of its own runs each, unless it has an `attends` too.
        """
        return knows_of(type(self), "attends", "attention_product")

    def attention(self, call: AttentionProducts, out: torch.Tensor) -> None:
        """Run both products of attention as one command into int8 `out`."""
        accelerator = call.scores.model.accelerator
        protection = accelerator.protection
        if protection is not None and protection.on_uncorrectable in ("suppress", "reload"):
            protection = replace(protection, on_uncorrectable="keep")
        call.run(accelerator, out, protection)

    def attention_product(self, call: ProductCall, out: torch.Tensor) -> None:
        """Run a block of a product of attention into int32 `out`.

        Uncorrectable elements are kept as they are: their history would take more memory than the model.
        """
        accelerator = call.product.model.accelerator
        protection = accelerator.protection
        if protection is not None and protection.on_uncorrectable == "suppress":
            protection = replace(protection, on_uncorrectable="keep")
        accelerator.gemm(
            call.a,
            call.w,
            out=out,
            protection=protection,
            error_key=call.key,
            first_row=call.first_row,
            tally=call.product.tally,
        )
