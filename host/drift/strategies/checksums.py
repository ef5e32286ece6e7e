"""Published strategies that detect errors with checksums: zeroing, and DRIFT's rollback."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch

from brownout.hw.config import ChecksumConfig

from ...device.product.operands import OUTPUT_DTYPES
from ...device.product.protection import UNCHECKED, Protection
from ...offloading.execution import ProductCall
from ...offloading.history import HistoryKey
from ...storage.decoding import Form, check, check_tensors
from ...storage.state import State
from ..operating_point import OperatingPoint
from .base import DriftRun, Strategy

PUBLISHED_TILE = 32


def classic(tile: int) -> ChecksumConfig:
    """Plain row and column sums of square tiles."""
    return ChecksumConfig(scheme="classic", segment_cols=tile, group_rows=tile)


LOG_RECORDS = 1 << 20
"""Room for everything that the hardware logs."""


@dataclass(frozen=True)
class _Checkpoints:
    """State of `PublishedDrift`, without the checkpoints: keys and devices."""

    checkpoints: list[tuple[int, int, int, str]]


class ZeroingAbft(Strategy):
    """Flagged rows x flagged columns become zero (ApproxABFT).

    Parameters
    ----------
    theta : int
        Syndromes below 2^theta are let pass.
    tile : int
        Rows and columns of a tile.
    """

    name = "zeroing"

    def __init__(self, theta: int = 10, *, tile: int = PUBLISHED_TILE) -> None:
        self.theta, self.checksum = theta, classic(tile)

    def takes_narrow(self) -> bool:
        return True

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        out = run.scratch("sums", call)
        self.attention_product(run, call, point, out)
        return out

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        zero = Protection(correct=False, on_uncorrectable="zero", theta=self.theta, log_records=0)
        run.run(call, out, point, UNCHECKED if run.is_safe(point) else zero)


class PublishedDrift(Strategy):
    """DRIFT as published (arXiv 2604.09073): flagged rows x flagged columns go back to a checkpoint of some steps ago.

    Attention has no checkpoints: its uncorrectable elements stay as they are. (The paper's attention does not err.)

    Parameters
    ----------
    theta : int
        Syndromes below 2^theta are let pass.
    interval : int
        Evaluations from one checkpoint to the next.
    tile : int
        Rows and columns of a tile.
    """

    name = "drift"

    def __init__(self, theta: int = 10, interval: int = 10, *, tile: int = PUBLISHED_TILE) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, not {interval!r}")
        self.theta, self.interval, self.checksum = theta, interval, classic(tile)
        self._checkpoints: dict[HistoryKey, torch.Tensor] = {}

    def takes_narrow(self) -> bool:
        return True

    def begin_run(self, run: DriftRun) -> None:
        self._checkpoints.clear()

    def forget_product(self, number: int) -> None:
        self._checkpoints = {key: values for key, values in self._checkpoints.items() if key.product != number}

    def state(self) -> State:
        keys = [[*astuple(key), str(values.device)] for key, values in self._checkpoints.items()]
        tensors = {str(place): values for place, values in enumerate(self._checkpoints.values())}
        return State({"checkpoints": keys}, tensors)

    def load_state(self, state: State, run: DriftRun) -> None:
        checkpoints = check(state.values, _Checkpoints, "the state of the strategy").checkpoints
        forms = {str(place): Form(OUTPUT_DTYPES) for place in range(len(checkpoints))}
        check_tensors(state.tensors, forms, "the state of the strategy")
        self._checkpoints = {
            HistoryKey(*key): run.accelerator.load_slot(state.tensors[str(place)], unwritten=False, device=device)
            for place, (*key, device) in enumerate(state.values["checkpoints"])
        }

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        key = call.history_key
        out, valid = run.history(call)
        checkpoint = self._checkpoints.get(key) if valid else None
        if checkpoint is not None and checkpoint.dtype != call.dtype:
            checkpoint = None
        if checkpoint is None or run.is_safe(point):
            if not run.is_safe(point):
                run.clean += 1
                point = run.safe
            run.run(call, out, point)
        else:
            reload = Protection(correct=False, on_uncorrectable="reload", theta=self.theta, log_records=LOG_RECORDS)
            run.run(call, out, point, reload, checkpoint=checkpoint)
        if checkpoint is None or run.evaluation % self.interval == 0:
            if checkpoint is None:
                checkpoint = self._checkpoints[key] = run.accelerator.new_slot(
                    *call.shape, dtype=call.dtype, device=out.device
                )
            run.accelerator.copy(out, checkpoint)
        return out

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        run.run(call, out, point, Protection(correct=False, theta=self.theta, log_records=0))
