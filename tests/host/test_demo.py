"""The demo finds every difference, says where it is, and shows what happened."""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import io
import re

import pytest
import torch
import typer
from PIL import Image

from brownout.host import Accelerator, EnergyModel
from brownout.host.demo import __main__ as command_line
from brownout.host.demo import fleet, markup, page, picture, run
from brownout.host.demo.trace import Trace
from brownout.host.models.evaluate import calibration_run
from brownout.host.models.spec import DIGITS, EMOJI
from brownout.host.stadi.execute.fleet import Fleet
from brownout.hw.config import AcceleratorConfig

pytestmark = pytest.mark.xdist_group("demo")
"""Tests share one run."""

SPOILED_CALL = 12
VOLTAGE_V = 0.65


class SpoilingAccelerator(Accelerator):
    """Flips one bit of one output."""

    calls = 0

    def gemm(self, a, w, **options):
        out = super().gemm(a, w, **options)
        self.calls += 1
        if self.calls == SPOILED_CALL:
            out[0, 1] ^= 0x100
        return out


class ForgetfulAccelerator(Accelerator):
    """Counts one correction less."""

    @property
    def stats(self):
        stats = dict(super().stats)
        return {**stats, "corrected": stats["corrected"] - bool(stats["corrected"])}


@functools.cache
def calibration(spec):
    """Takes longer than all the rest, and is always the same; few steps are enough."""
    return calibration_run(dataclasses.replace(spec, num_inference_steps=2))


shared_image = functools.cache(fleet.share_image)
"""Is always the same too."""


def short_demo(stand_in):
    """Run the demo with a two-step model and a stand-in for the RTL, on the twin."""

    def accelerator(config, backend):
        return (stand_in if backend == "rtl" else Accelerator)(config, backend="twin")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Accelerator", accelerator)
        patch.setattr(run, "get_spec", lambda name: dataclasses.replace(DIGITS, num_inference_steps=2))
        patch.setattr(fleet, "Fleet", lambda devices, **_: Fleet(devices, executor="inline"))
        patch.setattr(fleet, "STEPS", 4)
        patch.setattr(fleet, "calibration_run", calibration)
        patch.setattr(run, "calibration_run", calibration)
        patch.setattr(run, "share_image", shared_image)
        return run.run_demo("digits", seed=0, config=AcceleratorConfig(), voltage_v=VOLTAGE_V)


@pytest.fixture(scope="module")
def demo():
    return short_demo(Accelerator)


def test_equal_runs_are_bit_exact_and_shown_on_one_page(demo, tmp_path):
    assert demo.mismatch is None
    assert demo.metrics["bit_exact"]
    assert {"class_agreement", "sim_cycles", "wall_s", "utilisation"} <= set(demo.metrics)
    for outcome in demo.outcomes:
        assert len(outcome.rtl.trace.layers) == sum(layer.calls for layer in outcome.rtl.layers)
    assert sum(layer.cycles for layer in demo.nominal.rtl.layers) == demo.metrics["sim_cycles"]
    text = page.write_page(demo, tmp_path / "demo.html").read_text()
    assert "Bit-identical on RTL and twin: 3 runs" in text
    # Pictures and steps of each run, the float32 model's pictures, and one picture made four ways by two devices.
    assert text.count("<img") == 3 * (10 + 2) + 10 + 4
    assert text.count('<svg class="gantt"') == 4
    for layer in demo.nominal.rtl.layers:
        assert layer.name in text
    # Self-contained: nothing is fetched.
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import""", text)


def test_the_image_of_two_devices_is_compared_and_timed(demo):
    shared, metrics = demo.shared, demo.metrics
    assert shared.mismatch is None
    assert metrics["fleet_latency_stadi_s"] < metrics["fleet_latency_uniform_s"]
    assert shared.psnr_db["single"] == float("inf")
    assert metrics["fleet_predicted_stadi_s"] == pytest.approx(metrics["fleet_latency_stadi_s"], rel=1e-9)
    latents = shared.rtl.latents.clone()
    latents[0, 0, 3, 4] += 1
    other = dataclasses.replace(shared.rtl, latents=latents)
    found = fleet.describe_mismatch(shared.twin["stadi"], other)
    assert found == "1 of 784 pixels of the image of two devices differ"
    slower = copy.deepcopy(shared.rtl.evaluations)
    (device, made), *_ = slower.items()
    made[1] = dataclasses.replace(made[1], energy_j=made[1].energy_j * 1.01)
    assert f"device {device} took" in fleet.describe_mismatch(
        shared.twin["stadi"], dataclasses.replace(shared.rtl, evaluations=slower)
    )
    spoiled = dataclasses.replace(demo, shared=dataclasses.replace(shared, mismatch=found))
    assert spoiled.mismatch == found


def test_only_protection_keeps_the_undervolted_picture(demo):
    metrics = demo.metrics
    assert metrics["injected_nominal"] == 0
    assert metrics["injected_unprotected"] > 1000
    assert metrics["corrected_unprotected"] == metrics["rolled_back_unprotected"] == 0
    assert metrics["corrected_rollback"] > 0.8 * metrics["injected_rollback"]
    assert metrics["rolled_back_rollback"] > 0
    assert metrics["psnr_rollback_db"] > metrics["psnr_unprotected_db"] + 10
    assert metrics["perceptual_rollback"] < 0.1 * metrics["perceptual_unprotected"]


def test_energy_adds_up_and_falls_with_the_voltage_in_the_array_alone(demo):
    metrics = demo.metrics
    for name in ("nominal", "unprotected", "rollback"):
        parts = [metrics[f"energy_{part}_{name}_j"] for part in ("mac", "check", "memory", "leakage")]
        assert sum(parts) == pytest.approx(metrics[f"energy_{name}_j"], rel=1e-12)
    # One of the two evaluations is at the low voltage, and waits for its converter.
    model = EnergyModel()
    expected = (1 + model.switching(VOLTAGE_V) / model.switching(0.9)) / 2
    assert metrics["energy_mac_rollback_j"] / metrics["energy_mac_nominal_j"] == pytest.approx(expected, rel=0.01)
    assert metrics["energy_check_nominal_j"] == metrics["energy_check_unprotected_j"] == 0
    assert metrics["energy_check_rollback_j"] > 0


def test_one_flipped_bit_is_found_and_located(tmp_path):
    demo = short_demo(SpoilingAccelerator)
    assert not demo.metrics["bit_exact"]
    name = demo.nominal.twin.trace.layers[SPOILED_CALL - 1][0]
    assert demo.mismatch.startswith(
        f"Nominal voltage: layer call {SPOILED_CALL - 1} ({name}), expected from the twin, got from RTL: 1 of "
    )
    assert "row 0, column 1 (block 0, accumulator row 0, column tile 0, PE column 1)" in demo.mismatch
    assert "differing bits 0x00000100" in demo.mismatch
    assert "RTL and twin differ" in page.write_page(demo, tmp_path / "demo.html").read_text()


def test_an_uncounted_correction_is_a_mismatch():
    assert "Undervolted, with rollback: corrected is" in short_demo(ForgetfulAccelerator).mismatch


@pytest.mark.parametrize(("mismatch", "code"), [(None, None), ("somewhere", 1)])
def test_exit_code_tells_whether_all_bits_agree(demo, monkeypatch, tmp_path, mismatch, code):
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path))
    nominal = dataclasses.replace(demo.nominal, mismatch=mismatch)
    demo = dataclasses.replace(demo, outcomes=(nominal, *demo.outcomes[1:]))
    monkeypatch.setattr(run, "run_demo", lambda name, **options: demo)
    if code is None:
        command_line.main()
    else:
        with pytest.raises(typer.Exit) as caught:
            command_line.main()
        assert caught.value.exit_code == code
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["demo.html", "demo.json"]


def test_an_unknown_model_is_a_usage_error(capsys):
    with pytest.raises(typer.Exit) as caught:
        command_line.main(model="cats")
    assert caught.value.exit_code == 2
    assert "unknown model 'cats'; choose one of digits, emoji, mnist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("voltage", "message"),
    [(0.85, "nothing errs at 0.85 V; choose a voltage below 0.85 V"), (0.5, "voltage_v must be in 0.6..")],
)
def test_a_voltage_that_shows_nothing_is_a_usage_error(capsys, voltage, message):
    with pytest.raises(typer.Exit) as caught:
        command_line.main(voltage=voltage)
    assert caught.value.exit_code == 2
    assert message in capsys.readouterr().out


def test_a_contact_sheet_has_a_line_for_each_run():
    black, white = torch.zeros(10, 1, 4, 4), torch.ones(10, 1, 4, 4)
    sheet = picture.contact_sheet([black, white])
    tile, gap = 4 * picture.SCALE, picture.GAP_PX
    assert sheet.size == (10 * (tile + gap) + gap, 2 * (tile + gap) + gap)
    assert sheet.getpixel((0, 0))[3] == 0
    assert sheet.getpixel((gap, gap)) == (0, 0, 0, 255)
    assert sheet.getpixel((gap + 9 * (tile + gap), gap + tile + gap)) == (255, 255, 255, 255)


COLOURS = torch.tensor([[[1.0, 0.0]], [[0.5, 0.0]], [[0.0, 1.0]]])
"""A picture of two pixels: orange and blue."""


def test_a_contact_sheet_keeps_colours():
    sheet = picture.contact_sheet([COLOURS[None]])
    gap = picture.GAP_PX
    assert [sheet.getpixel((gap + x * picture.SCALE, gap)) for x in (0, 1)] == [(255, 128, 0, 255), (0, 0, 255, 255)]


def test_pictures_keep_their_colours_on_the_page():
    _, _, packed = markup.data_uri(COLOURS).partition("base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(packed)))
    assert shown.mode == "RGB"
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(255, 128, 0), (0, 0, 255)]


def test_the_page_says_what_the_pictures_show(demo, tmp_path):
    spec = dataclasses.replace(demo.spec, subject="emoji", class_names=EMOJI.class_names)
    text = page.write_page(dataclasses.replace(demo, spec=spec), tmp_path / "demo.html").read_text()
    assert "Ten emoji, drawn below the safe voltage" in text
    assert "From noise to picture: animal" in text
    for name in EMOJI.class_names:
        assert f'alt="{name}, ' in text


def test_a_trace_notices_the_sign_of_zero():
    reference = Trace()
    reference.see_step(0, 999, torch.zeros(2))
    other = Trace(reference=reference)
    other.see_step(0, 999, -torch.zeros(2))
    assert other.first_departing_step() == 0


def test_a_trace_keeps_only_the_first_departing_sums():
    reference = Trace()
    for value in (1, 2, 3):
        reference.see_layer("layer", torch.full((2, 2), value, dtype=torch.int32))
    other = Trace(reference=reference)
    for value in (1, 7, 8):
        other.see_layer("layer", torch.full((2, 2), value, dtype=torch.int32))
    assert other.first_departing_layer() == 1
    assert (other.kept == 7).all()
