"""Fault injection into a linear layer with the two usual PyTorch tools: PyTorchFI and MRFI.

Run by ``benchmarks/twin.py``. Both inject into the outputs of a float32 ``nn.Linear`` at a rate per output, through
their documented interface and without observers. What either cannot do is left out, to its advantage: no checks, no
correction, no int8.

PyTorchFI 0.6.0 writes values to a list of places. It looks for layers among the children of the model, so that the
layer stands in an ``nn.Sequential``, and takes shapes without the batch: with one image in the batch, (tokens,
features) is enough, and a place has two coordinates. It counts layers over all forward passes and never starts anew, so
that a second pass over one declaration ends in an IndexError unless ``reset_current_layer`` comes first. New errors
need a new declaration, which copies the model.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Forward = Callable[[], torch.Tensor]


def _pytorchfi(linear: nn.Linear, tokens: torch.Tensor, rate: float) -> dict[str, Forward]:
    """New errors in each pass, as the twin and MRFI have them, and one list of errors for all passes."""
    # PyTorchFI gives the root logger a format that no other library's messages fit; only the first format counts.
    logging.basicConfig()
    from pytorchfi.core import fault_injection

    _, rows, features = tokens.shape
    count = round(rows * linear.out_features * rate)

    def injector() -> Any:
        return fault_injection(nn.Sequential(linear), 1, input_shape=[rows, features], layer_types=[nn.Linear])

    def declare(injector: Any) -> nn.Module:
        corrupted: nn.Module = injector.declare_neuron_fi(
            batch=[0] * count,
            layer_num=[0] * count,
            dim1=torch.randint(rows, (count,)).tolist(),
            dim2=torch.randint(linear.out_features, (count,)).tolist(),
            dim3=[None] * count,
            value=torch.randn(count).tolist(),
        )
        return corrupted

    # The list of errors belongs to the injector, not to the model it returns.
    changing, fixed = injector(), injector()
    model = declare(fixed)

    def new_errors() -> torch.Tensor:
        result: torch.Tensor = declare(changing)(tokens)
        return result

    def same_errors() -> torch.Tensor:
        fixed.reset_current_layer()
        result: torch.Tensor = model(tokens)
        return result

    return {"pytorchfi": new_errors, "pytorchfi_fixed": same_errors}


def _mrfi(linear: nn.Linear, tokens: torch.Tensor, rate: float) -> dict[str, Forward]:
    """A random bit of float32 flipped at a Poisson number of random places."""
    from mrfi import MRFI, EasyConfig

    fault = {
        "type": "activation_out",
        "selector": {"method": "RandomPositionByRate", "rate": rate, "poisson": True},
        "error_mode": {"method": "FloatRandomBitFlip", "floattype": "float32"},
        "module_type": ["Linear"],
    }
    model = MRFI(nn.Sequential(copy.deepcopy(linear)), EasyConfig({"faultinject": [fault]}))
    return {"mrfi": lambda: model(tokens)}


BUILDERS = {"pytorchfi": _pytorchfi, "mrfi": _mrfi}


def installed() -> list[str]:
    """Packages that can be imported; prints the names of the others."""
    found = []
    for package in BUILDERS:
        try:
            importlib.import_module(f"{package}.core" if package == "pytorchfi" else package)
        except ImportError as error:
            print(f"{package}_over_clean left out: package {package} cannot be imported: {error}")
        else:
            found.append(package)
    return found


def contestants(package: str, linear: nn.Linear, tokens: torch.Tensor, rate: float) -> dict[str, Forward]:
    """Forward passes with errors, by name, checked to have about as many as asked for.

    Parameters
    ----------
    package : str
        One of ``installed()``.
    linear : nn.Linear
        The layer; the tools work on copies.
    tokens : torch.Tensor
        (1, tokens, features).
    rate : float
        Errors per output.
    """
    found = BUILDERS[package](linear, tokens, rate)
    clean = linear(tokens)
    for name, run in found.items():
        share = float((run() != clean).float().mean())
        # Places are drawn with repetition and MRFI's number of them is random: near the rate, not exactly on it.
        if not 0.75 * rate < share < 1.25 * rate:
            raise RuntimeError(f"{name} changed {share:g} of the outputs, not {rate:g}")
    return found
