"""What must be the same for a run to go on with the same bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..offloading import OffloadedModel
from ..offloading.layer import OffloadedLayer
from ..storage.files import digest_of


def identity(module: nn.Module, model: OffloadedModel | None) -> dict[str, Any]:
    """Facts as JSON, by name; those that are short to say come first.

    Parameters
    ----------
    module : nn.Module
        The denoiser: all of its parameters and buffers count, so also int8 weights and scales.
    model : OffloadedModel or None
        Where it is offloaded; its accelerator's settings count.
    """
    facts: dict[str, Any] = {"denoiser": type(module).__qualname__, "torch": torch.__version__}
    if model is not None:
        facts |= {
            **model.accelerator.settings,
            "timestep_bounds": model.groups.bounds.tolist(),
            "products": [[product.name, product.kind] for product in model.products],
            "stateful": sorted(model.stateful),
            **_outputs(module),
            **model.execution.describe(),
        }
    return {**facts, "weights": digest_of(module.state_dict(), None)}


def _outputs(module: nn.Module) -> dict[str, Any]:
    """How layers write outputs, if some write them narrow: bits and scales of each."""
    formats = {
        name: each.format
        for name, each in module.named_modules()
        if isinstance(each, OffloadedLayer) and each.format is not None
    }
    if not formats:
        return {}
    bits = {name: each.bits for name, each in formats.items()}
    return {"outputs": bits, "output_scales": digest_of({name: each.scale for name, each in formats.items()}, None)}
