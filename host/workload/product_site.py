"""Which product of which evaluation: what policies decide by, and what characterisation sweeps over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ..offloading.layer_types import layer_type_of_kind

_KINDS = (
    ("attention.qk", re.compile(r"\.qk$")),
    ("attention.pv", re.compile(r"\.pv$")),
    ("qkv", re.compile(r"attn\w*\.(to_[qkv]|to_qkv|to_kv|add_[qkv]_proj)$")),
    ("out", re.compile(r"attn\w*\.(to_out\.0|to_add_out)$")),
    ("mlp_in", re.compile(r"ff\w*\.net\.0\.proj$|ff\w*\.linear_1$")),
    ("mlp_out", re.compile(r"ff\w*\.net\.2$|ff\w*\.linear_2$")),
    ("modulation", re.compile(r"norm\w*\.(linear|emb\..*)$")),
)

ATTENTION_KINDS = ("attention.qk", "attention.pv")
BLOCK_LINEAR_KINDS = ("qkv", "out", "mlp_in", "mlp_out")
"""Layers of transformer blocks that work on tokens: where DRIFT injects errors (arXiv 2604.09073)."""


@lru_cache(maxsize=4096)
def block_of(name: str) -> str:
    """Block of a layer, by its dotted name: the first part, with the number that follows it.

    ``transformer_blocks.3.ff.net.2`` is in ``transformer_blocks.3``, ``down_blocks.0.attentions.1.proj_in`` in
    ``down_blocks.0``, ``mid_block.resnets.1.conv1`` in ``mid_block``.
    """
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdecimal() else first


@lru_cache(maxsize=4096)
def kind_of_product(name: str, layer_kind: str | None = None) -> str:
    """Kind of a product by its dotted name and the kind of its layer.

    One of ``qkv``, ``out`` (of attention), ``mlp_in``, ``mlp_out``, ``modulation`` (adaptive norms), ``attention.qk``,
    ``attention.pv``; else the layer's, if its rows are pixels (``conv2d``), or ``other`` (embeddings, the
    output layer).
    """
    for kind, pattern in _KINDS:
        if pattern.search(name):
            return kind
    return layer_kind if layer_kind is not None and is_of_pixels(layer_kind) else "other"


def is_of_pixels(layer_kind: str) -> bool:
    """Whether rows of the products of layers of a kind are output pixels."""
    layer_type = layer_type_of_kind(layer_kind)
    return layer_type is not None and layer_type.of_pixels


@dataclass(frozen=True)
class ProductSite:
    """One product in one evaluation of the denoiser.

    Attributes
    ----------
    evaluation : int
        Evaluation of the denoiser, from 0 on.
    timestep : float
        Timestep of the noise schedule; NaN if the denoiser was called without one.
    product : str
        Dotted name, for attention with ``.qk`` or ``.pv``.
    block, kind : str
        Names by `block_of` and `kind_of_product`.
    """

    evaluation: int
    timestep: float
    product: str
    block: str
    kind: str
