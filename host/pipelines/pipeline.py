"""Pipelines whose denoiser runs on an accelerator."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from brownout.cosim.errors import ProtocolError, SimulatorDied, SimulatorTimeout

from ..checkpoints import Journal, RunCheckpoint
from ..device.accelerator import Accelerator
from ..errors import CheckpointWarning, PipelineClosedError
from ..models.evaluate import calibration_run
from ..offloading import (
    Calibration,
    FilterFn,
    Nonfinite,
    OffloadedModel,
    Outputs,
    Report,
    Unsupported,
    calibration_of,
    offload,
    offloaded_model,
    report,
    restore,
)
from ..offloading.timesteps import timestep_reader
from . import storage
from .calibrate import Calls, calibration_runs
from .denoiser import denoiser_of
from .shipped import ShippedPipeline

StepHook = Callable[[int, float], None]
"""``on_step(evaluation, timestep)``: called before each evaluation of the denoiser, the first of which is 0.

So it can set the operating point of that evaluation. Solvers of second order evaluate twice a step. In a run that is
resumed it is called before replayed evaluations too.
"""

LOST = (SimulatorDied, SimulatorTimeout, ProtocolError)
"""What a simulator raises that another one in its place need not."""


class OffloadedPipeline:
    """A pipeline whose denoiser runs on an accelerator; text encoders, schedulers and VAE stay in PyTorch.

    Call it as the pipeline that it wraps. It is made by `from_pretrained`, `from_pipe`, `shipped` or `load`; as a
    context manager it restores the denoiser in the end. Until then no parameter of the pipeline requires a gradient::

        with OffloadedPipeline.from_pretrained(folder, accelerator, calibration=[{"class_labels": [1]}]) as pipe:
            images = pipe(class_labels=[207], num_inference_steps=20).images

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline or ShippedPipeline
        A pipeline whose denoiser has been offloaded.

    Attributes
    ----------
    pipeline : diffusers.DiffusionPipeline or ShippedPipeline
        What is wrapped: exchange its scheduler or configure its progress bar there.
    denoiser : nn.Module
        Its ``transformer`` or ``unet``.
    evaluations : int
        Evaluations of the denoiser in the last call.
    stats : dict
        What the last call has added to `Accelerator.stats`: ``cycles``, ``time_s``, ``energy_j`` and all the others;
        empty before the first, and after one that failed.

    Raises
    ------
    ValueError
        The pipeline has no denoiser, or it is not offloaded.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.denoiser: nn.Module = denoiser_of(pipeline)[1]
        self._model: OffloadedModel | None = offloaded_model(self.denoiser)
        # PyTorch chooses its kernels by this even where no gradient is taken, so a pipeline that was saved and loaded
        # would not give the same bits.
        parts = [part for part in vars(pipeline).values() if isinstance(part, nn.Module)]
        self._trainable = [each for part in parts for each in part.parameters() if each.requires_grad]
        self._require_gradients(False)
        self.evaluations = 0
        self.stats: dict[str, float] = {}

    @classmethod
    def from_pipe(
        cls,
        pipeline: Any,
        accelerator: Accelerator,
        *,
        calibration: Calibration | Calls,
        filter_fn: FilterFn | None = None,
        unsupported: Unsupported = "float",
        nonfinite: Nonfinite = "nan",
        outputs: Outputs = "int32",
    ) -> Self:
        """Offload the denoiser of a pipeline, in place.

        Parameters
        ----------
        pipeline : diffusers.DiffusionPipeline or ShippedPipeline
            It stays usable, and runs on the accelerator too until `close`.
        accelerator : Accelerator
            Where the denoiser's products run; it must stay open until `close`.
        calibration : Calibration or list of dict
            What `calibrate_pipeline` returned, or keyword arguments of calls with which to calibrate.
        filter_fn, unsupported, nonfinite, outputs
            As in `offload`.

        Raises
        ------
        TypeError, ValueError, DeviceMemoryError
            The pipeline has no denoiser, the calibration is of another model, or as `offload`; the pipeline is as
            before.
        """
        _, denoiser = denoiser_of(pipeline)
        if isinstance(calibration, Calibration):
            _check_calibration(denoiser, calibration)
            chosen: Calibration | Callable[[nn.Module], Any] = calibration
        else:
            chosen = calibration_runs(pipeline, calibration)
        offload(
            *(denoiser, accelerator),
            calibration=chosen,
            filter_fn=filter_fn,
            unsupported=unsupported,
            nonfinite=nonfinite,
            outputs=outputs,
        )
        return cls(pipeline)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        accelerator: Accelerator,
        *,
        calibration: Calibration | Calls,
        filter_fn: FilterFn | None = None,
        unsupported: Unsupported = "float",
        nonfinite: Nonfinite = "nan",
        outputs: Outputs = "int32",
        **options: Any,
    ) -> Self:
        """Load a pipeline of diffusers and offload its denoiser.

        Parameters
        ----------
        name : str or Path
            Folder or hub id.
        accelerator, calibration, filter_fn, unsupported, nonfinite, outputs
            As in `from_pipe`.
        **options
            Of ``DiffusionPipeline.from_pretrained``, for example ``dtype``, ``local_files_only``, or components in
            place of those of the folder.

        Raises
        ------
        TypeError, ValueError, DeviceMemoryError
            As `from_pipe`, or the folder is one that `save` wrote.
        """
        from diffusers import DiffusionPipeline

        if storage.is_saved(Path(name)):
            raise ValueError(f"{name} holds an offloaded pipeline; use OffloadedPipeline.load")
        pipeline = DiffusionPipeline.from_pretrained(name, **options)
        return cls.from_pipe(
            pipeline,
            accelerator,
            calibration=calibration,
            filter_fn=filter_fn,
            unsupported=unsupported,
            nonfinite=nonfinite,
            outputs=outputs,
        )

    @classmethod
    def shipped(
        cls,
        name: str,
        accelerator: Accelerator,
        *,
        calibration: Calibration | Calls | None = None,
        filter_fn: FilterFn | None = None,
        unsupported: Unsupported = "float",
        nonfinite: Nonfinite = "nan",
        outputs: Outputs = "int32",
    ) -> Self:
        """Offload a shipped model: ``OffloadedPipeline.shipped("mnist", accelerator)([0, 1, 2], seed=0)``.

        Parameters
        ----------
        name : str
            ``digits`` or ``mnist``.
        accelerator, filter_fn, unsupported, nonfinite, outputs
            As in `from_pipe`.
        calibration : Calibration or list of dict, optional
            Argument of `from_pipe`; by default two images of each class.

        Raises
        ------
        WeightsNotFoundError
            The model is not trained.
        TypeError, ValueError, DeviceMemoryError
            No model has that name, or as `from_pipe`.
        """
        pipeline = ShippedPipeline(name)
        chosen = calibration_run(pipeline.spec) if calibration is None else calibration
        return cls.from_pipe(
            *(pipeline, accelerator),
            calibration=chosen,
            filter_fn=filter_fn,
            unsupported=unsupported,
            nonfinite=nonfinite,
            outputs=outputs,
        )

    @classmethod
    def load(cls, folder: Path | str, accelerator: Accelerator, *, nonfinite: Nonfinite = "nan") -> Self:
        """Load what `save` wrote: it gives the same images, without calibration.

        The float weights that `close` brings back are those of the int8 weights.

        Parameters
        ----------
        folder : Path or str
            Where it is.
        accelerator, nonfinite
            As in `from_pipe`.

        Raises
        ------
        FileNotFoundError
            There is no saved pipeline, or a file of it is missing.
        ValueError
            A file is damaged or foreign.
        DeviceMemoryError
            The weights do not fit the accelerator's DRAM.
        """
        return cls(storage.load(Path(folder), accelerator, nonfinite))

    def save(self, folder: Path | str) -> None:
        """Write the pipeline, with int8 weights and scales of the denoiser.

        Parameters
        ----------
        folder : Path or str
            A new or empty folder.

        Raises
        ------
        FileExistsError
            The folder is not empty.
        ValueError
            The denoiser's class is not one of diffusers'.
        PipelineClosedError
            After `close`.
        """
        self._open()
        storage.save(self.pipeline, Path(folder))

    def _open(self) -> OffloadedModel:
        if self._model is None:
            raise PipelineClosedError("this pipeline is closed, its denoiser is a float model again; make a new one")
        return self._model

    def _require_gradients(self, required: bool) -> None:
        for parameter in self._trainable:
            parameter.requires_grad_(required)

    @contextlib.contextmanager
    def _watch(self, model: OffloadedModel, on_step: StepHook | None) -> Iterator[None]:
        read_timestep = timestep_reader(self.denoiser)
        sample = next(iter(inspect.signature(self.denoiser.forward).parameters))
        parts: dict[tuple[int, ...], int] = {}

        def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            values = arguments[0] if arguments else named[sample]
            # Some kinds of guidance evaluate a part of the batch once more. Its rows are not those of the whole batch,
            # so they have values of their own to go back to.
            model.part = parts.setdefault(tuple(values.shape), len(parts))
            evaluation = model.evaluation = self.evaluations
            self.evaluations += 1
            if on_step is not None:
                timestep = read_timestep(arguments, named)
                if timestep is None:
                    raise ValueError(f"on_step needs a timestep, but {type(self.denoiser).__name__} was called without")
                on_step(evaluation, float(timestep))

        handle = self.denoiser.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            model.part = 0

    def _run(self, model: OffloadedModel, on_step: StepHook | None, args: Any, kwargs: Any) -> Any:
        self.evaluations = 0
        with self._watch(model, on_step):
            return self.pipeline(*args, **kwargs)

    def _run_kept(
        self, journal: Journal, on_step: StepHook | None, args: Any, kwargs: Any
    ) -> tuple[Any, dict[str, float]]:
        """As `_run`, and again with another simulator where one was lost; with the accelerator's `stats` in the end."""
        model, options = self._open(), journal.options
        states = [(each, each.get_state()) for each in _generators([args, kwargs])]
        for attempt in range(options.restarts + 1):
            try:
                if attempt:
                    for generator, state in states:
                        generator.set_state(state)
                    model.accelerator.restart()
                    journal.rewind()
                result = self._run(model, on_step, args, kwargs)
                return result, dict(model.accelerator.stats)
            except LOST as error:
                if attempt == options.restarts:
                    raise
                warnings.warn(
                    f"{error}; going on with another simulator ({attempt + 1} of {options.restarts})",
                    CheckpointWarning,
                    stacklevel=3,
                )
        raise AssertionError("unreachable")

    def __call__(
        self,
        *args: Any,
        on_step: StepHook | None = None,
        checkpoint: RunCheckpoint | Path | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the pipeline.

        Histories and keys of timing errors begin anew, so the same arguments, with generators in the same state, give
        the same image.

        Parameters
        ----------
        *args, **kwargs
            Of the pipeline.
        on_step : callable, optional
            `StepHook`.
        checkpoint : RunCheckpoint, Path or str, optional
            Folder in which the run is kept. The same call after a loss goes on with what is there, to the same image
            and the same `stats`; those of the accelerator become what they were then. A simulator that is lost is
            replaced.

        Returns
        -------
        Any
            What the pipeline returns: of diffusers an object with ``images``, of shipped models float32 (N, C, H, W).

        Raises
        ------
        PipelineClosedError
            After `close`.
        CheckpointError
            The folder of the checkpoint is in use, holds another run, or has no state to go on from.
        brownout.cosim.errors.SimulatorError
            The simulator was lost, with a checkpoint more often than it may be replaced.
        """
        model = self._open()
        before = dict(model.accelerator.stats)
        self.stats = {}
        if checkpoint is None:
            model.begin_run()
            result = self._run(model, on_step, args, kwargs)
            after = dict(model.accelerator.stats)
        else:
            options = checkpoint if isinstance(checkpoint, RunCheckpoint) else RunCheckpoint(checkpoint)
            with Journal(self.denoiser, model, options, {"stats": before}) as journal:
                result, after = self._run_kept(journal, on_step, args, kwargs)
            before = journal.facts["stats"]
        self.stats = {name: value - before[name] for name, value in after.items()}
        return result

    @property
    def calibration(self) -> Calibration:
        """The denoiser's; can be saved, and used with other accelerators."""
        self._open()
        return calibration_of(self.denoiser)

    def report(self) -> Report:
        """What each product of the denoiser has done, in all calls."""
        self._open()
        return report(self.denoiser)

    def close(self) -> None:
        """Give the denoiser its float layers back. Closing twice does no harm."""
        if self._model is not None:
            self._model = None
            restore(self.denoiser)
            self._require_gradients(True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._model is None else repr(self._model.accelerator)
        return f"OffloadedPipeline({type(self.pipeline).__name__}, {type(self.denoiser).__name__}, {state})"


def _generators(value: Any) -> Iterator[torch.Generator]:
    """Generators among arguments."""
    if isinstance(value, torch.Generator):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _generators(each)


def _check_calibration(denoiser: nn.Module, calibration: Calibration) -> None:
    """Refuse a calibration that knows layers which the denoiser lacks; `offload` refuses the reverse."""
    names = {name for name, _ in denoiser.named_modules()}
    for name in calibration.layers:
        if name.partition("#")[0] not in names:
            raise ValueError(
                f"calibration is of another model: it has a layer {name!r}, which {type(denoiser).__name__} lacks; "
                "calibrate this pipeline"
            )
