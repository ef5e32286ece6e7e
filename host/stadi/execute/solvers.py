"""Steps of DDIM and DPM-Solver++ that may be several schedule steps long, with state that can be cut along rows."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import PlanError
from ...storage.packable import packable
from .solver_state import NO_HISTORY, SolverState

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
_SHORT_SCHEDULE = 15
"""diffusers' `lower_order_final` applies to schedules of fewer steps than this."""


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A diffusers scheduler as a function of the state: the same bits at stride 1, and steps of any stride.

    A device of stride s evaluates the denoiser at step m, with ``timesteps[m]``, and `step` takes its rows to the noise
    level at which stride 1 arrives after s steps. Nothing is drawn at random, and everything but the coefficients is
    elementwise with one rounding per operation, so rows have the same bits whoever computes them.

    Attributes
    ----------
    timesteps : tuple of int
        Timesteps of the training, falling: those that the scheduler has after ``set_timesteps``.
    prediction_type : str
        What the denoiser predicts: ``epsilon``, ``sample`` or ``v_prediction``.
    """

    timesteps: tuple[int, ...]
    prediction_type: str

    @property
    def steps(self) -> int:
        """Evaluations at stride 1."""
        return len(self.timesteps)

    def begin(self, latents: Tensor) -> SolverState:
        """State before the first step.

        Parameters
        ----------
        latents : torch.Tensor
            (B, C, H, W): noise of standard deviation 1.
        """
        return SolverState(latents=latents)

    def step(self, state: SolverState, predicted: Tensor, index: int, stride: int = 1) -> SolverState:
        """Go from step `index` to step `index` + `stride`, with one evaluation.

        Parameters
        ----------
        state : SolverState
            State of any rows, all at step `index`.
        predicted : torch.Tensor
            What the denoiser gave for ``state.latents`` at ``timesteps[index]``: same shape and dtype.
        index, stride : int
            Numbers of steps.

        Raises
        ------
        ValueError
            The steps are not within the schedule, or `predicted` or `state` do not fit.
        """
        if stride < 1 or index < 0 or index + stride > self.steps:
            raise ValueError(
                f"a step must be at least 1 long and within steps 0..{self.steps}, not {stride} from step {index}"
            )
        if predicted.shape != state.latents.shape or predicted.dtype != state.latents.dtype:
            raise ValueError(
                f"predicted must be {state.latents.dtype} {tuple(state.latents.shape)} as the latents are, "
                f"not {predicted.dtype} {tuple(predicted.shape)}"
            )
        return self._step(state, predicted, index, stride)

    @abstractmethod
    def _step(self, state: SolverState, predicted: Tensor, index: int, stride: int) -> SolverState: ...


@packable("stadi.solvers.DDIMSolver")
@dataclass(frozen=True, kw_only=True)
class DDIMSolver(Solver):
    """DDIM without noise (eta 0), formula 12 of https://arxiv.org/abs/2010.02502.

    Attributes
    ----------
    alphas : tuple of float
        Cumulative product of 1 - beta at each of `timesteps`, in float32.
    next_alphas : tuple of float
        The same where stride 1 arrives. This is not ``alphas[m + 1]``: diffusers goes back
        ``num_train_timesteps // num_inference_steps`` timesteps, also where `timesteps` are spaced otherwise.
    clip_range : float or None
        Limit of the predicted image; None for no limit.
    use_clipped_model_output : bool
        Derive the noise anew from the limited image.
    """

    alphas: tuple[float, ...]
    next_alphas: tuple[float, ...]
    clip_range: float | None
    use_clipped_model_output: bool

    def _step(self, state: SolverState, predicted: Tensor, index: int, stride: int) -> SolverState:
        sample = state.latents
        alpha, next_alpha = _scalar(self.alphas[index]), _scalar(self.next_alphas[index + stride - 1])
        # In the order of diffusers' operations, of which every one rounds.
        root_alpha, root_beta = alpha**0.5, (1 - alpha) ** 0.5
        if self.prediction_type == "epsilon":
            denoised, noise = (sample - root_beta * predicted) / root_alpha, predicted
        elif self.prediction_type == "sample":
            denoised, noise = predicted, (sample - root_alpha * predicted) / root_beta
        else:
            denoised = root_alpha * sample - root_beta * predicted
            noise = root_alpha * predicted + root_beta * sample
        if self.clip_range is not None:
            denoised = denoised.clamp(-self.clip_range, self.clip_range)
        if self.use_clipped_model_output:
            noise = (sample - root_alpha * denoised) / root_beta
        return SolverState(latents=next_alpha**0.5 * denoised + (1 - next_alpha) ** 0.5 * noise)


@packable("stadi.solvers.DPMSolver")
@dataclass(frozen=True, kw_only=True)
class DPMSolver(Solver):
    """DPM-Solver++ of order 1, or 2M with midpoints, https://arxiv.org/abs/2211.01095.

    The second order takes a row's own last evaluation at its own distance, so strides may change in mid-run and rows
    may come from anywhere. A row without one takes a step of first order, as the first step of all does.

    Attributes
    ----------
    sigmas : tuple of float
        Noise over signal at each of `timesteps`, and at the end; in float32.
    order : int
        1 or 2.
    euler_at_final : bool
        The last step is of first order. It always is where it ends at sigma 0, at which the second has no limit.
    lower_order_final : bool
        The same if the schedule, at the stride of that step, is shorter than 15 steps.
    """

    sigmas: tuple[float, ...]
    order: int
    euler_at_final: bool
    lower_order_final: bool

    def begin(self, latents: Tensor) -> SolverState:
        if self.order == 1:
            return super().begin(latents)
        return SolverState(
            latents=latents,
            denoised=torch.zeros_like(latents),
            denoised_at=torch.full((latents.shape[2],), NO_HISTORY, dtype=torch.int64),
        )

    def _step(self, state: SolverState, predicted: Tensor, index: int, stride: int) -> SolverState:
        denoised = self._denoised(state.latents, predicted, index)
        if self.order == 1:
            return SolverState(latents=self._first_order(state.latents, denoised, index, stride))
        if state.denoised is None or state.denoised_at is None:
            raise ValueError("the state of a solver of order 2 needs denoised and denoised_at; make the first by begin")
        for at in (int(state.denoised_at.min()), int(state.denoised_at.max())):
            if not NO_HISTORY <= at < index:
                raise ValueError(f"denoised_at must be in {NO_HISTORY}..{index - 1} for a step from {index}, not {at}")
        lower_order = index + stride == self.steps and self._lower_order_final(stride)
        latents = [
            self._first_order(state.latents[:, :, rows], denoised[:, :, rows], index, stride)
            if lower_order or at == NO_HISTORY
            else self._second_order(
                state.latents[:, :, rows], denoised[:, :, rows], state.denoised[:, :, rows], index, stride, at
            )
            for rows, at in _runs(state.denoised_at)
        ]
        return SolverState(
            latents=torch.cat(latents, 2),
            denoised=denoised,
            denoised_at=torch.full_like(state.denoised_at, index),
        )

    def _lower_order_final(self, stride: int) -> bool:
        short = math.ceil(self.steps / stride) < _SHORT_SCHEDULE
        return self.euler_at_final or (self.lower_order_final and short) or self.sigmas[-1] == 0

    def _denoised(self, sample: Tensor, predicted: Tensor, index: int) -> Tensor:
        alpha, sigma = self._alpha_sigma(index)
        if self.prediction_type == "epsilon":
            return (sample - sigma * predicted) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * sample - sigma * predicted
        return predicted

    def _first_order(self, sample: Tensor, denoised: Tensor, index: int, stride: int) -> Tensor:
        (_, sigma), (next_alpha, next_sigma) = self._alpha_sigma(index), self._alpha_sigma(index + stride)
        decay = next_alpha * (torch.exp(-self._distance(index, index + stride)) - 1.0)
        return ((next_sigma / sigma) * sample.float() - decay * denoised).to(denoised.dtype)

    def _second_order(
        self, sample: Tensor, denoised: Tensor, previous: Tensor, index: int, stride: int, at: int
    ) -> Tensor:
        (_, sigma), (next_alpha, next_sigma) = self._alpha_sigma(index), self._alpha_sigma(index + stride)
        length = self._distance(index, index + stride)
        ratio = self._distance(at, index) / length
        slope = (1.0 / ratio) * (denoised - previous)
        decay = next_alpha * (torch.exp(-length) - 1.0)
        # diffusers computes in float32 whatever the dtype of the latents.
        advanced = (next_sigma / sigma) * sample.float() - decay * denoised - 0.5 * decay * slope
        return advanced.to(denoised.dtype)

    def _alpha_sigma(self, index: int) -> tuple[Tensor, Tensor]:
        """Scales of signal and noise."""
        sigma = _scalar(self.sigmas[index])
        alpha = 1 / ((sigma**2 + 1) ** 0.5)
        return alpha, sigma * alpha

    def _distance(self, start: int, stop: int) -> Tensor:
        """From one step to another in lambda, the logarithm of signal over noise; infinite to sigma 0."""
        (alpha, sigma), (next_alpha, next_sigma) = self._alpha_sigma(start), self._alpha_sigma(stop)
        return (torch.log(next_alpha) - torch.log(next_sigma)) - (torch.log(alpha) - torch.log(sigma))


def _scalar(value: float) -> Tensor:
    """0-dimensional float32: torch computes with one as diffusers does, and takes the dtype of what it scales."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def _runs(values: Tensor) -> Iterator[tuple[slice, int]]:
    """Stretches of equal values.

    Each is computed by itself with scalar coefficients: a tensor of coefficients per row would promote half precision,
    so that bits of a row would depend on its neighbours.
    """
    unique, counts = torch.unique_consecutive(values, return_counts=True)
    stop = 0
    for value, count in zip(unique.tolist(), counts.tolist(), strict=True):
        start, stop = stop, stop + count
        yield slice(start, stop), value


def solver_for(
    scheduler: SchedulerMixin, num_inference_steps: int, *, use_clipped_model_output: bool = False
) -> Solver:
    """Make the solver that does what a scheduler does.

    Parameters
    ----------
    scheduler : DDIMScheduler or DPMSolverMultistepScheduler
        Scheduler of diffusers; not changed. DPM-Solver must be ``dpmsolver++`` of order 1 or 2 with midpoints; its
        sigmas may be of any kind but those of flows.
    num_inference_steps : int
        Steps at stride 1.
    use_clipped_model_output : bool
        Choice for DDIM: derive the noise anew from the clipped image, as `brownout.host.models.sampling.sample` does.

    Returns
    -------
    Solver
        Immutable and picklable; equal solvers do the same. Its `steps` are fewer than asked for where
        ``lambda_min_clipped`` cuts a ``trailing`` schedule.

    Raises
    ------
    PlanError
        The scheduler, one of its options or the number of steps is not supported; the message says which, and what
        to do.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    name = type(scheduler).__name__
    # Not isinstance: a subclass may step in another way.
    if type(scheduler) not in (DDIMScheduler, DPMSolverMultistepScheduler):
        raise PlanError(
            f"no solver has strides for {name}; use DDIMScheduler or DPMSolverMultistepScheduler, "
            f"for example by DDIMScheduler.from_config(scheduler.config)"
        )
    trained = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= trained:
        raise PlanError(f"num_inference_steps must be in 1..{trained} (num_train_timesteps), not {num_inference_steps}")
    _require(scheduler, "thresholding", (False,), "it takes a quantile over all rows, and no device has them all")
    _require(scheduler, "prediction_type", _PREDICTION_TYPES)
    own = copy.deepcopy(scheduler)
    own.set_timesteps(num_inference_steps)
    timesteps = tuple(own.timesteps.tolist())
    if not timesteps or not all(0 <= timestep < trained for timestep in timesteps):
        raise PlanError(
            f"{num_inference_steps} steps with timestep_spacing={own.config.timestep_spacing!r} and "
            f"steps_offset={own.config.steps_offset} give timesteps that are not within 0..{trained - 1}: "
            f"{_bounds(timesteps)}; use another number of steps"
        )
    if isinstance(own, DDIMScheduler):
        return _ddim(own, timesteps, use_clipped_model_output)
    if use_clipped_model_output:
        raise PlanError(f"use_clipped_model_output=True has no meaning for {name}, which does not clip; leave it out")
    return _dpm(own, timesteps)


def _ddim(scheduler: DDIMScheduler, timesteps: tuple[int, ...], use_clipped_model_output: bool) -> DDIMSolver:
    config = scheduler.config
    _require_falling(scheduler, timesteps)
    back = config.num_train_timesteps // scheduler.num_inference_steps
    products = scheduler.alphas_cumprod.tolist()
    final = float(scheduler.final_alpha_cumprod)
    alphas = tuple(products[timestep] for timestep in timesteps)
    if alphas[0] == 0 and config.prediction_type == "epsilon":
        raise PlanError(
            "prediction_type='epsilon' cannot begin at a signal of 0 (rescale_betas_zero_snr); use a model of "
            "v_prediction, or a timestep_spacing that leaves out the last timestep"
        )
    return DDIMSolver(
        timesteps=timesteps,
        prediction_type=config.prediction_type,
        alphas=alphas,
        next_alphas=tuple(products[t - back] if t >= back else final for t in timesteps),
        clip_range=float(config.clip_sample_range) if config.clip_sample else None,
        use_clipped_model_output=use_clipped_model_output,
    )


def _dpm(scheduler: DPMSolverMultistepScheduler, timesteps: tuple[int, ...]) -> DPMSolver:
    _require(scheduler, "algorithm_type", ("dpmsolver++",))
    _require(scheduler, "solver_type", ("midpoint",))
    _require(scheduler, "solver_order", (1, 2))
    _require(scheduler, "use_flow_sigmas", (False,))
    _require(scheduler, "variance_type", (None,), "cut the variance off the model's output")
    sigmas = tuple(scheduler.sigmas.tolist())
    # The last one may repeat: sigmas of Karras end where final_sigmas_type='sigma_min' ends.
    _require_falling(scheduler, sigmas[:-1])
    config = scheduler.config
    return DPMSolver(
        timesteps=timesteps,
        prediction_type=config.prediction_type,
        sigmas=sigmas,
        order=config.solver_order,
        euler_at_final=config.euler_at_final,
        lower_order_final=config.lower_order_final,
    )


def _require(scheduler: SchedulerMixin, option: str, allowed: Sequence[object], why: str = "") -> None:
    value = scheduler.config[option]
    if value not in allowed:
        choices = " or ".join(map(repr, allowed))
        raise PlanError(
            f"{option}={value!r} of {type(scheduler).__name__} is not supported{f' ({why})' if why else ''}; "
            f"use {option}={choices}"
        )


def _require_falling(scheduler: SchedulerMixin, levels: Sequence[float]) -> None:
    if any(level <= following for level, following in pairwise(levels)):
        raise PlanError(
            f"{scheduler.num_inference_steps} steps with timestep_spacing={scheduler.config.timestep_spacing!r} repeat "
            f"a noise level; use fewer steps"
        )


def _bounds(timesteps: Sequence[int]) -> str:
    return f"{max(timesteps)} to {min(timesteps)}" if timesteps else "none"
