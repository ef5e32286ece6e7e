"""What users of a pipeline see and exchange while it runs on an accelerator."""

from __future__ import annotations

import io
import re

import diffusers
import numpy as np
import pytest
import torch

from brownout.host import (
    Accelerator,
    AcceleratorClosedError,
    Calibration,
    OffloadedPipeline,
    PipelineClosedError,
    Protection,
    calibrate,
    calibrate_pipeline,
    offload,
    offloaded_model,
    restore,
    sample,
)
from brownout.host.models.evaluate import calibration_run
from brownout.host.models.load import load_denoiser
from brownout.host.models.spec import DIGITS
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from .tiny import TINY, make, noise

MEMORY = MemoryConfig(size_bytes=1 << 24)


@pytest.fixture
def twin():
    with Accelerator(AcceleratorConfig(memory=MEMORY), backend="twin") as accelerator:
        yield accelerator


def offloaded(tiny, accelerator):
    return OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=[tiny.call | {"generator": noise(9)}])


@pytest.mark.parametrize("name", TINY)
def test_every_evaluation_is_announced_and_progress_is_shown(name, twin):
    tiny = make(name)
    with offloaded(tiny, twin) as pipe:
        bar = io.StringIO()
        pipe.pipeline.set_progress_bar_config(file=bar, disable=False)
        seen = []
        pipe(**tiny.call, on_step=lambda *step: seen.append(step))
        timesteps = [float(timestep) for timestep in pipe.pipeline.scheduler.timesteps]
        assert seen == list(enumerate(timesteps))
        assert pipe.evaluations == len(timesteps) >= 3
        assert f"{len(timesteps)}/{len(timesteps)}" in bar.getvalue()


def test_a_step_hook_comes_before_its_evaluation_and_can_set_the_operating_point():
    tiny = make("dit")
    with Accelerator(AcceleratorConfig(timing_model="flip", memory=MEMORY), backend="twin") as accelerator:
        with offloaded(tiny, accelerator) as pipe:
            injected = []

            def undervolt_the_last(evaluation, timestep):
                injected.append(accelerator.stats["injected"])
                accelerator.set_error_rate(1e-2 if evaluation == 2 else 0.0, seed=1)

            pipe(**tiny.call, on_step=undervolt_the_last)
            assert injected == [0, 0, 0]
            assert pipe.stats["injected"] > 0


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_callbacks_at_the_end_of_a_step_are_called_and_may_change_latents(name, twin):
    tiny = make(name)
    seen = []

    def zero(pipeline, step, timestep, tensors):
        seen.append((pipeline, step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    with offloaded(tiny, twin) as pipe:
        options = tiny.call | {"output_type": "latent", "callback_on_step_end": zero}
        assert not pipe(**options).images.any()
        timesteps = enumerate(pipe.pipeline.scheduler.timesteps)
        assert seen == [(tiny.pipeline, step, float(timestep)) for step, timestep in timesteps]


def test_the_legacy_callback_of_pixart_is_called(twin):
    tiny = make("pixart")
    seen = []

    def watch(step, timestep, latents):
        seen.append((step, float(timestep), tuple(latents.shape)))

    with offloaded(tiny, twin) as pipe:
        pipe(**tiny.call | {"callback": watch, "callback_steps": 1})
        timesteps = enumerate(pipe.pipeline.scheduler.timesteps)
        assert seen == [(step, float(timestep), (1, 4, 8, 8)) for step, timestep in timesteps]


def test_schedulers_are_exchanged_on_the_same_pipeline(twin):
    tiny = make("sd")
    schedulers = {
        diffusers.DDIMScheduler: 4,
        diffusers.DPMSolverMultistepScheduler: 4,
        diffusers.EulerDiscreteScheduler: 4,
        diffusers.HeunDiscreteScheduler: 7,  # Of second order: all steps but the last evaluate twice.
    }
    call = tiny.call | {"num_inference_steps": 4}
    float32 = {}
    for scheduler in schedulers:
        tiny.pipeline.scheduler = scheduler.from_config(tiny.pipeline.scheduler.config)
        float32[scheduler] = tiny.pipeline(**call | {"generator": noise()}).images
    with offloaded(tiny, twin) as pipe:
        for scheduler, evaluations in schedulers.items():
            pipe.pipeline.scheduler = scheduler.from_config(pipe.pipeline.scheduler.config)
            expected = float32[scheduler]
            seen = []
            got = pipe(**call | {"generator": noise()}, on_step=lambda *step: seen.append(step)).images  # noqa: B023
            assert pipe.evaluations == len(seen) == evaluations
            error = {each: np.abs(got - other).mean() / expected.std() for each, other in float32.items()}
            assert 1e-3 < error[scheduler] < 0.12, error
            assert min(error, key=error.get) is scheduler


def test_rows_that_are_evaluated_apart_have_values_of_their_own_to_go_back_to(monkeypatch):
    """Guidance that skips layers evaluates the conditional half of the batch once more."""
    tiny = make("sd3")
    config = AcceleratorConfig(timing_model="flip", checksum=ChecksumConfig(scheme="residue"), memory=MEMORY)
    with Accelerator(config, backend="twin", protection=Protection(on_uncorrectable="suppress")) as accelerator:
        with offloaded(tiny, accelerator) as pipe:
            call = tiny.call | {"num_inference_steps": 6}
            slots = []
            make_slot = accelerator.new_slot

            def count(*shape, **options):
                slots.append(shape)
                return make_slot(*shape, **options)

            monkeypatch.setattr(accelerator, "new_slot", count)
            pipe(**call)
            whole = len(slots)
            assert whole == len([layer for layer in pipe.report() if layer.kind != "attention"])
            slots.clear()
            pipe(**call, skip_guidance_layers=[0], skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0)
            assert pipe.evaluations > 6 + 2
            # Once for each part, not once for each evaluation; a skipped layer has only one.
            assert whole < len(slots) < 2 * whole


def test_a_calibration_serves_other_accelerators_and_leaves_generators_as_they_are(twin, tmp_path):
    tiny = make("sd")
    generators = [noise(5)]
    before = generators[0].get_state(), torch.get_rng_state()
    calls = [tiny.call | {"generator": generators}, tiny.call]
    calibration = calibrate_pipeline(tiny.pipeline, calls, timestep_groups=2)
    assert torch.equal(generators[0].get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert calibration.timestep_bounds == (500.0,)
    again = calibrate_pipeline(tiny.pipeline, calls, timestep_groups=2)
    assert all(torch.equal(each.scales, again.layers[name].scales) for name, each in calibration.layers.items())

    calibration.save(tmp_path / "calibration.safetensors")
    drawn = []
    for each in (calibration, Calibration.load(tmp_path / "calibration.safetensors")):
        with OffloadedPipeline.from_pipe(tiny.pipeline, twin, calibration=each) as pipe:
            drawn.append(pipe(**tiny.call | {"generator": noise()}).images)
    assert np.array_equal(*drawn)


def test_selected_layers_stay_in_float32(twin):
    tiny = make("dit")
    with OffloadedPipeline.from_pipe(
        tiny.pipeline, twin, calibration=[tiny.call], filter_fn=lambda layer, name: name == "proj_out_1"
    ) as pipe:
        assert [layer.name for layer in pipe.report()] == ["proj_out_1"]


def test_shipped_models_draw_what_sample_draws(twin, tmp_path):
    model = load_denoiser("digits")
    float32 = sample(model, DIGITS, [3, 8], seed=0)
    offload(model, twin, calibration=calibration_run(DIGITS))
    expected = sample(model, DIGITS, [3, 8], seed=0)
    restore(model)
    steps = []
    with OffloadedPipeline.shipped("digits", twin) as pipe:
        seen = []
        images = pipe([3, 8], seed=0, callback=lambda *step: steps.append(step[:2]), on_step=lambda *s: seen.append(s))
        assert torch.equal(images, expected)
        assert seen == [(index, float(timestep)) for index, timestep in steps]
        assert pipe.evaluations == len(steps) == DIGITS.num_inference_steps
        assert pipe.stats["macs"] == sum(layer.macs for layer in pipe.report())
        pipe.save(tmp_path / "digits")
    assert torch.equal(pipe.pipeline([3, 8], seed=0), float32)
    with OffloadedPipeline.load(tmp_path / "digits", twin) as pipe:
        assert torch.equal(pipe([3, 8], seed=0), expected)
    assert torch.equal(pipe.pipeline([3, 8], seed=0), float32)


def test_shipped_models_can_be_calibrated_with_calls_of_their_own(twin):
    with OffloadedPipeline.shipped("digits", twin, calibration=[{"labels": [1], "seed": 7}]) as pipe:
        assert pipe([1], seed=0, num_inference_steps=2).shape == (1, 1, 8, 8)


def test_a_pipeline_without_a_denoiser_is_refused(twin):
    pipeline = diffusers.DiffusionPipeline()
    with pytest.raises(
        ValueError,
        match=r"^DiffusionPipeline has no denoiser, which would be called transformer or unet; it has no components$",
    ):
        OffloadedPipeline.from_pipe(pipeline, twin, calibration=[{}])

    class Decoder:
        def __init__(self):
            self.components = {"vae": make("dit").pipeline.vae, "tokenizer": None}

    with pytest.raises(ValueError, match=r"^Decoder has no denoiser, .*; it has vae \(AutoencoderKL\)$"):
        OffloadedPipeline.from_pipe(Decoder(), twin, calibration=[{}])


def test_a_closed_pipeline_says_so(twin, tmp_path):
    tiny = make("dit")
    trainable = [each.requires_grad for each in tiny.pipeline.vae.parameters()]
    pipe = offloaded(tiny, twin)
    assert not any(each.requires_grad for each in tiny.pipeline.vae.parameters())
    assert repr(pipe) == "OffloadedPipeline(DiTPipeline, DiTTransformer2DModel, Accelerator(16x16, backend='twin'))"
    pipe.close()
    pipe.close()
    assert repr(pipe) == "OffloadedPipeline(DiTPipeline, DiTTransformer2DModel, closed)"
    assert [each.requires_grad for each in tiny.pipeline.vae.parameters()] == trainable
    message = r"^this pipeline is closed, its denoiser is a float model again; make a new one$"
    for use in (lambda: pipe(**tiny.call), pipe.report, lambda: pipe.save(tmp_path), lambda: pipe.calibration):
        with pytest.raises(PipelineClosedError, match=message):
            use()


def test_what_fails_leaves_no_hook_and_no_stats_behind(twin):
    tiny = make("dit")
    with offloaded(tiny, twin) as pipe:
        pipe(**tiny.call)
        hooks = len(pipe.denoiser._forward_pre_hooks)
        with pytest.raises(KeyboardInterrupt):
            pipe(**tiny.call, on_step=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert pipe.stats == {}
        assert len(pipe.denoiser._forward_pre_hooks) == hooks
        assert offloaded_model(pipe.denoiser).part == 0
        twin.close()
        with pytest.raises(AcceleratorClosedError):
            pipe(**tiny.call)


def test_calibrations_of_other_models_are_refused_and_the_pipeline_stays_as_it_is(twin):
    tiny, other = make("dit"), make("sd3")
    foreign = calibrate_pipeline(other.pipeline, [other.call])
    message = "calibration is of another model: it has a layer 'pos_embed.proj', which UNet2DConditionModel lacks; "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}calibrate this pipeline$"):
        OffloadedPipeline.from_pipe(make("sd").pipeline, twin, calibration=foreign)
    partial = calibrate(
        tiny.pipeline.transformer, lambda _: tiny.pipeline(**tiny.call), filter_fn=lambda _, name: name == "proj_out_1"
    )
    before = tiny.pipeline(**tiny.call | {"generator": noise()}).images
    with pytest.raises(ValueError, match=r"^calibration has no scale for layer 'pos_embed.proj'; calibrate it, or"):
        OffloadedPipeline.from_pipe(tiny.pipeline, twin, calibration=partial)
    assert np.array_equal(tiny.pipeline(**tiny.call | {"generator": noise()}).images, before)


@pytest.mark.parametrize(
    ("calls", "error", "message"),
    [
        ([], ValueError, "calibration must have at least one call of the pipeline"),
        (
            {"class_labels": [1]},
            TypeError,
            "calibration must be a Calibration or a list of keyword arguments of the pipeline, "
            "not {'class_labels': [1]}",
        ),
        ([[1]], TypeError, "each call in calibration must be a dict of keyword arguments, not [1]"),
    ],
)
def test_calls_that_are_none_are_refused(calls, error, message, twin):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        OffloadedPipeline.from_pipe(make("dit").pipeline, twin, calibration=calls)


def test_folders_that_do_not_fit_are_refused(twin, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no saved pipeline: there is no brownout.json$"):
        OffloadedPipeline.load(tmp_path, twin)
    saved = tmp_path / "saved"
    with OffloadedPipeline.shipped("digits", twin) as pipe:
        pipe.save(saved)
        with pytest.raises(FileExistsError, match=r"saved is not empty; save to a new folder$"):
            pipe.save(saved)
    with pytest.raises(ValueError, match=r"saved holds an offloaded pipeline; use OffloadedPipeline.load$"):
        OffloadedPipeline.from_pretrained(saved, twin, calibration=[{}])
    (saved / "brownout.json").write_text('{"version": 0}')
    with pytest.raises(ValueError, match=r"has version 0 of its format; this program reads version 1$"):
        OffloadedPipeline.load(saved, twin)
    (saved / "brownout.json").write_text("{")
    with pytest.raises(ValueError, match=r"brownout.json is no JSON that this program reads: "):
        OffloadedPipeline.load(saved, twin)


def test_a_denoiser_that_diffusers_does_not_know_is_not_saved(twin, tmp_path):
    class Own(diffusers.DiTTransformer2DModel):
        pass

    tiny = make("dit")
    tiny.pipeline.transformer.__class__ = Own
    with offloaded(tiny, twin) as pipe:
        with pytest.raises(ValueError, match=r"^Own is no model of diffusers, so it would not be found again; "):
            pipe.save(tmp_path / "own")
    assert not (tmp_path / "own").exists()
