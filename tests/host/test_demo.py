"""The demo finds every difference, says where it is, and shows what happened."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import pytest
import torch
import typer
from PIL import Image

from brownout.host import Accelerator
from brownout.host.backends.rtl import RtlBackend
from brownout.host.demo import __main__ as command_line
from brownout.host.demo import page, run
from brownout.host.demo.trace import Trace
from brownout.host.models import evaluate
from brownout.host.models.classifier import Classifier
from brownout.host.models.spec import DIGITS, EMOJI, build_denoiser
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from .fake_simulator import FakeSimulator

CONFIG = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 23))
SPOILED_COMMAND = 12


class SpoilingSimulator(FakeSimulator):
    """Flips one bit of one output."""

    def _gemm(self, fields):
        super()._gemm(fields)
        if len(self.commands) == SPOILED_COMMAND:
            self.memory[fields["y_addr"] + 5] ^= 1


@pytest.fixture
def short_demo(monkeypatch):
    """Run the demo with a two-step model on a stand-in for the RTL."""

    def start(simulator, spec=DIGITS):
        def accelerator(config, backend):
            if backend == "rtl":
                backend = RtlBackend(config, lambda: simulator(config), deadline_s=1)
            return Accelerator(config, backend=backend)

        monkeypatch.setattr(run, "Accelerator", accelerator)
        monkeypatch.setattr(run, "get_spec", lambda name: dataclasses.replace(spec, num_inference_steps=2))
        return run.run_demo(spec.name, seed=0, config=CONFIG)

    return start


def test_equal_runs_are_bit_exact_and_shown_on_one_page(short_demo, tmp_path):
    demo = short_demo(FakeSimulator)
    assert demo.mismatch is None
    assert demo.metrics["bit_exact"]
    assert {"class_agreement", "sim_cycles", "wall_s", "utilisation"} <= set(demo.metrics)
    assert len(demo.rtl.trace.layers) == demo.rtl.stats["commands"]
    assert sum(layer.cycles for layer in demo.rtl.layers) == demo.metrics["sim_cycles"]
    text = page.write_page(demo, tmp_path / "demo.html").read_text()
    assert "Bit-identical on RTL and twin" in text
    assert text.count("<img") == 3 * 10 + 2
    for layer in demo.rtl.layers:
        assert layer.name in text
    # Self-contained: nothing is fetched.
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import""", text)


def test_one_flipped_bit_is_found_and_located(short_demo, tmp_path):
    demo = short_demo(SpoilingSimulator)
    assert not demo.metrics["bit_exact"]
    name = demo.twin.trace.layers[SPOILED_COMMAND - 1][0]
    assert demo.mismatch.startswith(
        f"layer call {SPOILED_COMMAND - 1} ({name}), expected from the twin, got from RTL: 1 of "
    )
    # Byte 5 belongs to the second int32 of the first row.
    assert "row 0, column 1 (block 0, accumulator row 0, column tile 0, PE column 1)" in demo.mismatch
    assert "differing bits 0x00000100" in demo.mismatch
    assert "RTL and twin differ" in page.write_page(demo, tmp_path / "demo.html").read_text()


@pytest.mark.parametrize(("mismatch", "code"), [(None, None), ("somewhere", 1)])
def test_exit_code_tells_whether_all_bits_agree(short_demo, monkeypatch, tmp_path, mismatch, code):
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path))
    demo = dataclasses.replace(short_demo(FakeSimulator), mismatch=mismatch)
    monkeypatch.setattr(run, "run_demo", lambda name, seed, config: demo)
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


def test_pictures_keep_their_colours_on_the_page():
    colours = torch.tensor([[[1.0, 0.0]], [[0.5, 0.0]], [[0.0, 1.0]]])
    _, _, packed = page._data_uri(colours).partition("base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(packed)))
    assert picture.mode == "RGB"
    assert [picture.getpixel((column, 0)) for column in (0, 1)] == [(255, 128, 0), (0, 0, 255)]


def test_a_colour_model_is_drawn_and_its_classes_named(short_demo, monkeypatch, tmp_path):
    spec = dataclasses.replace(
        EMOJI, image_size=8, num_layers=1, num_heads=1, num_inference_steps=2, guidance_scale=1.0
    )
    torch.manual_seed(0)
    model = build_denoiser(spec).requires_grad_(False)
    for module in (run, evaluate):
        monkeypatch.setattr(module, "load_denoiser", lambda name: model)
    monkeypatch.setattr(run, "load_classifier", lambda name: Classifier(10, 3).eval())
    demo = short_demo(FakeSimulator, spec)
    assert demo.mismatch is None
    assert demo.rtl.images.shape == (10, 3, 8, 8)
    text = page.write_page(demo, tmp_path / "demo.html").read_text()
    assert "Ten emoji, drawn by a systolic array" in text
    assert "From noise to picture: animal" in text
    assert all(f"<th>{name}</th>" in text for name in ("face", "heart", "moon"))


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
