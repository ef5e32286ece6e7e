"""Which part of a pipeline is its denoiser."""

from __future__ import annotations

from typing import Any

from torch import nn

DENOISERS = ("transformer", "unet")
"""What diffusers calls the denoiser of a pipeline."""


def denoiser_of(pipeline: Any) -> tuple[str, nn.Module]:
    """Name and module of a pipeline's denoiser: its ``transformer``, or else its ``unet``.

    Raises
    ------
    ValueError
        It has neither; the message names what it has.
    """
    for name in DENOISERS:
        module = getattr(pipeline, name, None)
        if isinstance(module, nn.Module):
            return name, module
    parts = getattr(pipeline, "components", {})
    found = ", ".join(f"{name} ({type(part).__name__})" for name, part in parts.items() if part is not None)
    raise ValueError(
        f"{type(pipeline).__name__} has no denoiser, which would be called {' or '.join(DENOISERS)}; "
        f"it has {found or 'no components'}"
    )
