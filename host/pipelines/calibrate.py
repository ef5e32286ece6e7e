"""Calibrate a denoiser by running the pipeline that it belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..offloading import Calibration, FilterFn, calibrate
from .denoiser import denoiser_of

Calls = Sequence[Mapping[str, Any]]
"""Keyword arguments of calls of a pipeline."""

SEED = 1_000_003
"""Of noise that no generator of the caller's makes."""


@contextlib.contextmanager
def _same_noise(calls: Calls) -> Iterator[None]:
    """Let a calibration's runs see the same noise each, and take nothing from the caller's generators."""
    generators: set[torch.Generator] = set()
    for call in calls:
        given = call.get("generator")
        generators.update(given if isinstance(given, (list, tuple)) else () if given is None else (given,))
    states = [(generator, generator.get_state()) for generator in generators]
    try:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def calibration_runs(pipeline: Any, calls: Calls) -> Callable[[Any], None]:
    """What `calibrate` calls to see a pipeline at work.

    Raises
    ------
    TypeError
        `calls` is not a list of keyword arguments.
    ValueError
        It is empty.
    """
    if isinstance(calls, Mapping) or not isinstance(calls, Sequence):
        raise TypeError(
            f"calibration must be a Calibration or a list of keyword arguments of the pipeline, not {calls!r}"
        )
    if not calls:
        raise ValueError("calibration must have at least one call of the pipeline")
    for call in calls:
        if not isinstance(call, Mapping):
            raise TypeError(f"each call in calibration must be a dict of keyword arguments, not {call!r}")

    def run(_: Any) -> None:
        with _same_noise(calls):
            for call in calls:
                pipeline(**call)

    return run


def calibrate_pipeline(
    pipeline: Any, calls: Calls, *, filter_fn: FilterFn | None = None, **options: Any
) -> Calibration:
    """Choose the input scales of a pipeline's denoiser from what it sees in runs of the pipeline.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline or ShippedPipeline
        The pipeline, not offloaded.
    calls : list of dict
        Keyword arguments of representative calls. Each is made up to three times, with the same noise; generators among
        the arguments are left in the state that they had.
    filter_fn : callable, optional
        Argument of `calibrate`.
    **options
        ``method``, ``percentile``, ``smoothing``, ``timestep_groups``, ``num_train_timesteps`` (by default the
        scheduler's), ``measure_error``: as in `calibrate`.

    Returns
    -------
    Calibration
        The `calibration` of `OffloadedPipeline`.

    Raises
    ------
    TypeError, ValueError
        `calls` is not a list of keyword arguments, the pipeline has no denoiser, or as `calibrate`.
    """
    _, denoiser = denoiser_of(pipeline)
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is not None and "num_train_timesteps" in scheduler.config:
        options.setdefault("num_train_timesteps", scheduler.config["num_train_timesteps"])
    return calibrate(denoiser, calibration_runs(pipeline, calls), filter_fn=filter_fn, **options)
