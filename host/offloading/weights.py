"""Float weights of offloaded layers: parameters of which no write is missed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self, cast

import torch
from torch import nn

REFUSED = frozenset(
    (
        "__cuda_array_interface__",
        "__dlpack__",
        "_typed_storage",
        "data_ptr",
        "share_memory_",
        "storage",
    )
)
"""Attributes that would let memory be written to unseen, or exchange it."""

OWN = frozenset(("__array__", "__deepcopy__", "__reduce_ex__", "__repr__", "numpy", "tolist", "untyped_storage"))
"""Methods that `TrackedWeight` has of its own."""

_lock = threading.RLock()
_sources: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()
"""By the number (`id`) of the float parameter, which its source keeps."""


class Source:
    """The float weights of offloaded layers, and how often they were written to.

    Layers that share a parameter share its source. While one of them is offloaded, the parameter itself, which somebody
    may have kept from before, hands what is done to it to `weight`.

    Parameters
    ----------
    parameter : nn.Parameter
        Parameter of the float layer, which `restore` puts back; its memory is that of the weights until others are
        loaded.

    Attributes
    ----------
    weight : nn.Parameter
        What offloaded layers have in its place, a `TrackedWeight`: same shape, dtype and device.
    writes : int
        Operators so far that may have written to it.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.writes = 0
        self._users = 0
        self._make: Callable[[], torch.Tensor] | None = None
        self.storage = _NoMemory(parameter.nbytes, device="meta")
        with torch.inference_mode(False):
            self._values: torch.Tensor | None = parameter.detach()
            # What makes an instance of another class a parameter.
            weight = TrackedWeight(self._values, self, whole=True)
            weight._is_param = True
        self.weight = cast(nn.Parameter, weight)
        self.require_grad(parameter.requires_grad)

    @classmethod
    def of(cls, parameter: torch.Tensor) -> Source:
        """The source of a parameter, for one more layer; it may be the tracked weight of another."""
        with _lock:
            if isinstance(parameter, TrackedWeight):
                source = parameter.source
            else:
                found = _sources.get(id(parameter))
                source = cls(cast(nn.Parameter, parameter)) if found is None else found
            _sources[id(source.parameter)] = source
            source._users += 1
            _exchange(source.parameter, nn.Parameter, _KeptParameter)
            return source

    def release(self) -> None:
        """One layer less."""
        with _lock:
            self._users -= 1
            if not self._users:
                _sources.pop(id(self.parameter), None)
                _exchange(self.parameter, _KeptParameter, nn.Parameter)

    @property
    def values(self) -> torch.Tensor:
        """The weights as a tensor like any other; only to be read."""
        if self._values is None:
            with _lock, torch.inference_mode(False), torch.no_grad():
                if self._values is None:
                    assert self._make is not None
                    self._values = self._make().to(self.weight.dtype)
        return self._values

    @property
    def is_parameter(self) -> bool:
        """Whether the memory is that of `parameter`: no other weights were loaded."""
        return self._make is None

    @property
    def is_made_later(self) -> bool:
        """Whether nobody has asked for weights that were loaded."""
        return self._values is None

    def replace(self, values: torch.Tensor) -> None:
        """Copy other values, and take up their dtype.

        Raises
        ------
        TypeError
            They are not floating-point.
        ValueError
            They are of another shape or device.
        """
        held = self.weight
        if not values.is_floating_point():
            raise TypeError(f"weights of an offloaded layer must be floating-point, not {values.dtype}")
        if values.shape != held.shape or values.device != held.device:
            raise ValueError(
                f"weights of an offloaded layer stay of shape {tuple(held.shape)} on {held.device}, so they cannot be "
                f"of shape {tuple(values.shape)} on {values.device}; call restore first"
            )
        self.writes += 1
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            if values.dtype == held.dtype:
                self.values.copy_(_plain(values))
            elif self.is_parameter:
                self.parameter.data = _plain(values).detach().clone()
                self.follow(self.parameter)
            else:
                self.follow(_plain(values).detach().clone())
        self.writes += 1

    def make_later(self, make: Callable[[], torch.Tensor]) -> None:
        """Have what `make` returns, float32 of the same shape, when somebody asks for it."""
        self._make, self._values = make, None

    def settle(self) -> None:
        """Copy the weights to the float parameter, so that they are what `restore` brings back."""
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            self.parameter.copy_(self.values)
            self._make = None
            self.follow(self.parameter)

    def follow(self, converted: torch.Tensor) -> None:
        """Take up a tensor of the same values in other memory, of another dtype or device."""
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(False):
            self._values = converted.detach()
            self.convert(converted.dtype, converted.device)

    def convert(self, dtype: torch.dtype, device: torch.device) -> None:
        """Give the tracked weight another dtype and device."""
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(False):
            if (dtype, device) != (self.weight.dtype, self.weight.device):
                # Of its metadata: it has no memory of its own.
                empty = torch.empty_strided(self.weight.shape, self.weight.stride(), dtype=dtype, device="meta")
                self.weight.data = TrackedWeight(empty, self, device=device)

    def require_grad(self, wanted: bool) -> None:
        """As ``requires_grad_``, of the tracked weight and of the parameter that comes back."""
        with torch._C.DisableTorchFunctionSubclass():
            self.weight.requires_grad_(wanted)
            self.parameter.requires_grad_(wanted)


class TrackedWeight(torch.Tensor):
    """Weights, or a view of them: operators run on the float memory, and those that may write are counted.

    Results that share the memory are such tensors too. Ways to the memory that pass PyTorch's operators by are refused;
    NumPy gets a copy that cannot be written to.
    """

    source: Source
    _is_param: bool

    @staticmethod
    def __new__(
        cls, inner: torch.Tensor, source: Source, *, whole: bool = False, device: torch.device | None = None
    ) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=inner.device if device is None else device,
        )
        return made

    def __init__(
        self, inner: torch.Tensor, source: Source, *, whole: bool = False, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.source = source
        self._view = None if whole else inner

    @property
    def floats(self) -> torch.Tensor:
        """The float memory."""
        return self.source.values if self._view is None else self._view

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        this = args[0] if args else None
        if isinstance(this, TrackedWeight):
            name = _name(func)
            if name == "data" and len(args) == 2:
                return this._become(args[1])
            if (name == "requires_grad" and len(args) == 2) or name == "requires_grad_":
                return this._require_grad(*args[1:], **kwargs)
            if name in OWN:
                return getattr(cls, name)(*args, **kwargs)
            if name in REFUSED:
                raise _refusal(name)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.set_.source_Tensor and isinstance(args[0], TrackedWeight):
            args[0]._become(args[1])
            return args[0]
        if func._schema.name in ("aten::set_", "aten::resize_"):
            raise _refusal(func._schema.name.removeprefix("aten::"))
        seen: list[TrackedWeight] = []
        written: set[Source] = set()
        schema = func._schema.arguments
        named = {argument.name: argument for argument in schema}
        given = [*zip(schema, args, strict=False), *((named[name], value) for name, value in kwargs.items())]
        for argument, value in given:
            for each in _tracked(value):
                seen.append(each)
                if argument.alias_info is not None and argument.alias_info.is_write:
                    written.add(each.source)
        # Before, so that a product that runs meanwhile is not the last to look, and after.
        for source in written:
            source.writes += 1
        try:
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*_map(_plain, args), **_map(_plain, kwargs))
        finally:
            for source in written:
                source.writes += 1
        return _map(lambda value: _sharing(value, seen), result)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self._copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = memo.setdefault(id(self), self._copy())
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._copy().__reduce_ex__(protocol)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def numpy(self, *, force: bool = False) -> Any:
        """A copy that cannot be written to."""
        plain = self.floats.detach().clone().requires_grad_(self.requires_grad)
        array = plain.numpy(force=force)
        array.flags.writeable = False
        return array

    def tolist(self) -> Any:
        """Elements as Python's numbers."""
        return self.floats.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Of the size that ``torch.export`` asks for, the same for all views, but without memory."""
        return self.source.storage

    def _copy(self) -> torch.Tensor:
        """A tensor, or parameter, like any other."""
        copied = self.floats.detach().clone()
        return nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied

    def _become(self, values: torch.Tensor) -> None:
        """``data`` is set."""
        if not isinstance(self, nn.Parameter):
            raise RuntimeError("data of a view of an offloaded layer's weights cannot be set; set that of the weights")
        self.source.replace(values)

    def _require_grad(self, requires_grad: bool = True) -> torch.Tensor:
        if isinstance(self, nn.Parameter):
            self.source.require_grad(requires_grad)
        else:
            with torch._C.DisableTorchFunctionSubclass():
                self.requires_grad_(requires_grad)
        return self


class _NoMemory(torch.UntypedStorage):
    """A storage whose size is all that there is of it."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise _refusal("untyped_storage")

    __getitem__ = __setitem__ = data_ptr = fill_ = copy_ = resize_ = tolist = _refuse


class _KeptParameter(nn.Parameter):
    """A float parameter that somebody may have kept while its layer is offloaded."""

    def __new__(cls, data: torch.Tensor, requires_grad: bool = True) -> nn.Parameter:  # type: ignore[misc]
        # A copy that is made of its class is one like any other.
        return nn.Parameter(data, requires_grad)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*_map(_weight, args), **_map(_weight, kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = memo.setdefault(id(self), copy_of(self))
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copy_of(self).__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return repr(copy_of(self))


def _exchange(parameter: nn.Parameter, present: type, other: type) -> None:
    # Parameters of other classes have their own ways.
    if type(parameter) is present:
        parameter.__class__ = other


def is_shared(weight: torch.Tensor) -> bool:
    """Whether a weight is that of an offloaded layer, or the float parameter that it stands for."""
    return type(weight) in (TrackedWeight, _KeptParameter)


def copy_of(parameter: nn.Parameter) -> torch.Tensor:
    """A parameter of its own with the same values."""
    with torch._C.DisableTorchFunctionSubclass():
        return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def _refusal(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name} of an offloaded layer's weights could change them unseen; "
        "take a copy with clone(), or call restore first"
    )


def _name(func: Callable[..., Any]) -> str:
    """What is called: a method's name, or that of the property that is read or set."""
    name = getattr(func, "__name__", "")
    return getattr(func.__self__, "__name__", name) if name in ("__get__", "__set__") else name  # type: ignore[attr-defined]


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_map(function, each) for each in value)
    if type(value) is dict:
        return {name: _map(function, each) for name, each in value.items()}
    return function(value)


def _tracked(value: Any) -> Iterator[TrackedWeight]:
    if isinstance(value, TrackedWeight):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tracked(each)


def _plain(value: Any) -> Any:
    return value.floats if isinstance(value, TrackedWeight) else value


def _weight(value: Any) -> Any:
    return _sources[id(value)].weight if type(value) is _KeptParameter else value


def _sharing(value: Any, seen: list[TrackedWeight]) -> Any:
    """A result: tracked if its memory is that of tracked weights."""
    if not isinstance(value, torch.Tensor):
        return value
    for each in seen:
        if value is each.floats:
            return each
        if torch._C._is_alias_of(value, each.floats):  # type: ignore[attr-defined]
            # In inference mode too it is the view of a tensor with a version.
            with torch.inference_mode(value.is_inference()):
                return TrackedWeight(value, each.source)
    return value
