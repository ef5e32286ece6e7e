"""What a worker of a fleet is made of, as bytes for a process that the coordinator has started.

The float model that a worker begins with is of the user's classes, so its skeleton is pickled, and only ever handed
from a coordinator to workers that it has started.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ...storage.files import storable
from ...storage.packing import load_tensors
from .worker import WorkerConfig

PackedWorkerConfig = tuple[bytes, bytes]
"""Skeleton, and tensors as safetensors."""


def pack_worker_config(
    worker_config: WorkerConfig, pickler: type[pickle.Pickler] = pickle.Pickler
) -> PackedWorkerConfig:
    """What a worker is made of, for a process that the caller has started: a pickle without tensors, and the tensors.

    Parameters
    ----------
    worker_config : WorkerConfig
        Configuration with a module of any class.
    pickler : type
        Which pickles the skeleton.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}

    # One of these bases, whichever it is.
    class Skeleton(pickler):  # type: ignore[valid-type, misc]
        def persistent_id(self, value: Any) -> Any:
            if type(value) not in (torch.Tensor, nn.Parameter) or value.is_meta or value.layout != torch.strided:
                return None
            name = names.setdefault(id(value), str(len(names)))
            tensors[name] = value
            return name, type(value) is nn.Parameter, value.requires_grad

    buffer = io.BytesIO()
    Skeleton(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(worker_config)
    return buffer.getvalue(), save(storable(tensors))


def unpack_worker_config(packed: PackedWorkerConfig) -> WorkerConfig:
    """Undo `pack_worker_config`: only for what the process that started this one has sent."""
    skeleton, data = packed
    tensors = load_tensors(data, "the recipe")
    made: dict[str, torch.Tensor] = {}

    class Whole(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> torch.Tensor:
            name, is_parameter, requires_grad = pid
            if name not in made:
                tensor = tensors[name]
                made[name] = nn.Parameter(tensor, requires_grad) if is_parameter else tensor
            return made[name]

    worker_config: WorkerConfig = Whole(io.BytesIO(skeleton)).load()
    return worker_config
