"""Every kind of pipeline: loaded from a folder, run on an accelerator, saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, OffloadedPipeline, Protection, calibrate_pipeline
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from .tiny import TINY, make, noise

MEMORY = MemoryConfig(size_bytes=1 << 24)
ERRING = AcceleratorConfig(timing_model="flip", checksum=ChecksumConfig(scheme="residue"), memory=MEMORY)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What ``save_pretrained`` writes, by name of the pipeline."""
    root = tmp_path_factory.mktemp("pipelines")
    for name in TINY:
        make(name).pipeline.save_pretrained(root / name)
    return {name: root / name for name in TINY}


@pytest.fixture
def twin():
    with Accelerator(AcceleratorConfig(memory=MEMORY), backend="twin") as accelerator:
        yield accelerator


def images(pipeline, tiny, seed=0, **options):
    return pipeline(**tiny.call | {"generator": noise(seed)} | options).images


def difference(got, expected):
    """Mean error in units of the standard deviation."""
    return np.abs(got - expected).mean() / expected.std()


@pytest.mark.parametrize("name", TINY)
def test_a_folder_is_loaded_and_runs_in_int8_close_to_float32(name, folders, twin):
    tiny = make(name)
    expected = images(tiny.pipeline, tiny)
    # diffusers wants to be told which components are to be left out.
    options = {part: None for part, value in tiny.pipeline.components.items() if value is None}
    options |= {"calibration": [tiny.call | {"generator": noise(9)}], "local_files_only": True}
    with OffloadedPipeline.from_pretrained(folders[name], twin, **options) as pipe:
        assert type(pipe.pipeline) is type(tiny.pipeline)
        pipe.pipeline.set_progress_bar_config(disable=True)
        assert pipe.stats == {}
        got = images(pipe, tiny)
        assert 1e-3 < difference(got, expected) < 0.09
        assert pipe.evaluations == len(pipe.pipeline.scheduler.timesteps)
        layers = pipe.report()
        assert all(layer.calls > 0 for layer in layers)
        assert sum(layer.cycles for layer in layers) == pipe.stats["cycles"]

        first = dict(pipe.stats)
        assert np.array_equal(images(pipe, tiny), got)
        for count in ("macs", "cycles", "dram_bytes"):
            assert pipe.stats[count] == first[count] > 0
        assert pipe.stats["time_s"] == pytest.approx(first["time_s"])
        assert difference(images(pipe, tiny, seed=1), expected) > 0.3
    assert np.array_equal(images(pipe.pipeline, tiny), expected)


@pytest.mark.parametrize("name", TINY)
def test_errors_and_rollback_are_the_same_in_every_run_and_after_saving(name, tmp_path):
    tiny = make(name)
    tiny.arguments["num_inference_steps"] = 2
    # Not so when it is loaded; it must not matter.
    tiny.pipeline.vae.requires_grad_(False)
    with Accelerator(ERRING, backend="twin", protection=Protection(on_uncorrectable="suppress")) as accelerator:
        with OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=[tiny.call]) as pipe:
            clean = images(pipe, tiny)
            accelerator.set_error_rate(3e-2, seed=1)
            erring = images(pipe, tiny)
            assert np.isfinite(erring).all()
            assert not np.array_equal(erring, clean)
            stats = dict(pipe.stats)
            assert stats["corrected"] > 0
            assert stats["suppressed"] > stats["suppressed_unwritten"] > 0
            images(pipe, tiny, seed=1)
            assert np.array_equal(images(pipe, tiny), erring)
            assert {count: pipe.stats[count] for count in ("injected", "suppressed", "suppressed_unwritten")} == {
                count: stats[count] for count in ("injected", "suppressed", "suppressed_unwritten")
            }
            pipe.save(tmp_path / "saved")
            scales = {layer: each.scales for layer, each in pipe.calibration.layers.items()}
        original = tiny.pipeline
        with OffloadedPipeline.load(tmp_path / "saved", accelerator) as pipe:
            assert type(pipe.pipeline) is type(original)
            pipe.pipeline.set_progress_bar_config(disable=True)
            assert np.array_equal(images(pipe, tiny), erring)
            assert all(torch.equal(pipe.calibration.layers[layer].scales, scales[layer]) for layer in scales)
        part = "unet" if hasattr(original, "unet") else "transformer"
        assert [file.name for file in (tmp_path / "saved" / part).iterdir()] == ["config.json"]
        # Float weights come back as near as int8 can tell.
        assert 1e-4 < difference(images(pipe.pipeline, tiny), images(original, tiny)) < 0.09


@pytest.mark.parametrize("name", TINY)
def test_rows_of_a_batch_keep_their_places_from_step_to_step(name):
    tiny = make(name)
    seen = []
    condition = "class_labels" if name == "dit" else "encoder_hidden_states"
    denoiser = getattr(tiny.pipeline, "unet", None) or tiny.pipeline.transformer
    denoiser.register_forward_pre_hook(lambda _, arguments, named: seen.append(named[condition]), with_kwargs=True)
    images(tiny.pipeline, tiny)
    rows = len(seen[0])
    assert rows == (4 if name == "dit" else 2)
    assert len(seen) >= 3
    assert all(torch.equal(each, seen[0]) for each in seen)


def test_dtypes_and_smoothing_are_kept(twin, tmp_path):
    tiny = make("sd")
    pipeline = tiny.pipeline.to(torch.bfloat16)
    before = {name: weight.detach().clone() for name, weight in pipeline.unet.state_dict().items()}
    calibration = calibrate_pipeline(pipeline, [tiny.call], smoothing=0.5, timestep_groups=2)
    with OffloadedPipeline.from_pipe(pipeline, twin, calibration=calibration) as pipe:
        expected = images(pipe, tiny)
        pipe.save(tmp_path / "saved")
    with OffloadedPipeline.load(tmp_path / "saved", twin) as pipe:
        pipe.pipeline.set_progress_bar_config(disable=True)
        assert pipe.pipeline.vae.dtype == pipe.denoiser.dtype == torch.bfloat16
        assert np.array_equal(images(pipe, tiny), expected)
    for name, weight in pipe.denoiser.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert (weight - before[name]).float().norm() <= 0.03 * before[name].float().norm()


@pytest.mark.rtl
def test_rtl_draws_the_same_image(config):
    tiny = make("dit")
    calibration = calibrate_pipeline(tiny.pipeline, [tiny.call])
    found = {}
    for backend in ("twin", "rtl"):
        with Accelerator(config, backend=backend) as accelerator:
            with OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=calibration) as pipe:
                drawn = images(pipe, tiny, num_inference_steps=2, class_labels=[5])
                found[backend] = drawn, pipe.stats
    assert np.array_equal(found["rtl"][0], found["twin"][0])
    assert found["rtl"][1] == pytest.approx(found["twin"][1])
