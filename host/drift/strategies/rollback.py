"""Correct what can be located, keep the last evaluation's value of the rest, repeat attention where errors are left."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch

from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from ...caching import ProductPredictor
from ...device.product.operands import OUTPUT_DTYPES
from ...device.product.protection import Protection
from ...device.product.reload import Places
from ...offloading.execution import ProductCall
from ...offloading.history import HistoryKey
from ...storage.decoding import Form, check
from ...storage.state import State
from ..operating_point import OperatingPoint
from .base import DriftRun, Strategy

RESIDUE = ChecksumConfig(scheme="residue", segment_cols=16, column_checks=False)
RESIDUE_DOUBLE_ERRORS = replace(RESIDUE, pairs=True)

ATTEMPTS_LIMIT = 3

LOG_RECORDS = 1 << 20
"""Room for everything that the hardware logs."""

NOWHERE = Places(np.zeros(0, np.int64), np.zeros(0, np.int64))


class Rollback(Strategy):
    """Residue checks correct errors on the fly; what they cannot locate is not written and keeps its last value.

    Neither costs memory traffic. A product without a last value runs at the safe point. Products of attention, whose
    history would be larger than the model, are repeated at the same point where something was uncorrectable: what was
    so before and is not now is overwritten, so that after n repetitions only what was uncorrectable every time is left.

    Parameters
    ----------
    checksum : ChecksumConfig, optional
        The checksum units; by default residue checks of 16 columns. They locate double errors too where errors are
        inverted bits, of models that draw; late carries change runs of bits, which pass for double errors that they are
        not.
    theta : int
        Syndromes below 2^theta are let pass.
    attempts : int
        Most repetitions of a product of attention, 0 to 3. With 0, what cannot be corrected becomes zero: a score of
        the mean, or a weighted value that adds nothing; and where the accelerator has an attention unit, scores stay on
        the chip, of which an uncorrectable one counts for nothing.
    """

    name = "rollback"
    name_in_files = "ours"

    def __init__(self, checksum: ChecksumConfig | None = None, *, theta: int = 0, attempts: int = 2) -> None:
        if not 0 <= attempts <= ATTEMPTS_LIMIT:
            raise ValueError(f"attempts must be in 0..{ATTEMPTS_LIMIT}, not {attempts!r}")
        self.checksum, self.theta, self.attempts = checksum, theta, attempts

    def takes_narrow(self) -> bool:
        return True

    def checksum_for(self, config: AcceleratorConfig) -> ChecksumConfig:
        if self.checksum is not None:
            return self.checksum
        return RESIDUE if config.error_model.settles else RESIDUE_DOUBLE_ERRORS

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        out, valid = run.history(call)
        if run.is_safe(point):
            return run.run(call, out, point)
        if not valid:
            run.clean += 1
            return run.run(call, out, run.safe)
        return run.run(call, out, point, Protection(on_uncorrectable="suppress", theta=self.theta, log_records=0))

    def attention_protection(self) -> Protection | None:
        if self.attempts:
            return None
        return Protection(on_uncorrectable="zero", theta=self.theta, log_records=0)

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        if not self.attempts:
            run.run(call, out, point, Protection(on_uncorrectable="zero", theta=self.theta, log_records=0))
            return
        counts = run.accelerator.check_counts["suppressed"]
        run.run(call, out, point, Protection(on_uncorrectable="keep", theta=self.theta, log_records=0))
        for attempt in range(1, self.attempts + 1):
            uncorrectable = run.accelerator.check_counts["suppressed"]
            if uncorrectable == counts:
                break
            counts = uncorrectable
            run.recomputed_rows += call.a.shape[:-1].numel()
            again = Protection(on_uncorrectable="suppress", theta=self.theta, log_records=0)
            run.run(call, out, point, again, attempt=attempt)


@dataclass
class _Held:
    """The predictor of a product, and the input scale of what it holds."""

    predictor: ProductPredictor
    scale: float


@dataclass(frozen=True)
class _Values:
    """State of `PredictedRollback`, without the slots: keys, scales and evaluations."""

    held: list[tuple[int, int, int, float, list[int]]]


class PredictedRollback(Rollback):
    """As `Rollback`, but what cannot be corrected gets an extrapolation of the last two evaluations.

    The host writes it at the uncorrectable elements that the log names, which costs traffic. Of those that the log has
    no room for (64 records of each block) the value is two evaluations old, so this is for low error rates.

    Parameters
    ----------
    checksum, theta, attempts
        Arguments of `Rollback`.
    damping : float
        Share of the last change that is expected to come again, 0 to 1.
    """

    name = "predicted"

    def __init__(
        self, checksum: ChecksumConfig | None = None, *, theta: int = 0, attempts: int = 2, damping: float = 0.5
    ) -> None:
        super().__init__(checksum, theta=theta, attempts=attempts)
        self.damping = damping
        self._held: dict[HistoryKey, _Held] = {}

    def begin_run(self, run: DriftRun) -> None:
        self._held.clear()

    def forget_product(self, number: int) -> None:
        self._held = {key: held for key, held in self._held.items() if key.product != number}

    def state(self) -> State:
        values: list[list[Any]] = []
        tensors: dict[str, torch.Tensor] = {}
        for place, (key, held) in enumerate(self._held.items()):
            state = held.predictor.state()
            values.append([*astuple(key), held.scale, state["nodes"]])
            tensors |= {f"{place}.{name}": slot for name, slot in state.items() if name != "nodes"}
        return State({"held": values}, tensors)

    def load_state(self, state: State, run: DriftRun) -> None:
        check(state.values, _Values, "the state of the strategy")
        for name, slot in state.tensors.items():
            Form(OUTPUT_DTYPES).check(name, slot, "the state of the strategy")
        self._held.clear()
        for place, (*key, scale, nodes) in enumerate(state.values["held"]):
            slots = {f"slot{index}": state.tensors.get(f"{place}.slot{index}") for index in range(2)}
            there = {name: slot for name, slot in slots.items() if slot is not None}
            dtype = next((slot.dtype for slot in there.values()), torch.int32)
            predictor = ProductPredictor(run.accelerator, damping=self.damping, dtype=dtype)
            predictor.load_state({"nodes": nodes, **there})
            self._held[HistoryKey(*key)] = _Held(predictor, scale)

    def takes_narrow(self) -> bool:
        return True

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        held = self._held.get(call.history_key)
        if held is None or (held.scale, held.predictor.dtype) != (call.scale, call.dtype):
            predictor = ProductPredictor(run.accelerator, damping=self.damping, dtype=call.dtype)
            held = self._held[call.history_key] = _Held(predictor, call.scale)
        predictor = held.predictor
        out = predictor.slot(call.shape, call.a.device)
        if run.is_safe(point) or not predictor.evaluations:
            if not run.is_safe(point):
                run.clean += 1
                point = run.safe
            run.run(call, out, point)
            predictor.settle(NOWHERE, evaluation=run.evaluation)
            return out
        suppress = Protection(on_uncorrectable="suppress", theta=self.theta, log_records=LOG_RECORDS)
        run.run(call, out, point, suppress)
        places = run.accelerator.last_uncorrectable(call.first_row)
        writes = predictor.settle(places, evaluation=run.evaluation)
        run.accelerator.add_host_traffic(writes.bytes)
        return out
