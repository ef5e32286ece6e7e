"""Outputs that leave the accelerator as int8 or int16: their scales, their bits, and who gets them."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import Accelerator, OperatingPoint, Rollback, calibrate, offload, protect, restore
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.drift.power_policy import constant
from brownout.host.drift.strategies import (
    Dmr,
    PredictedRollback,
    PublishedDrift,
    RangeRestriction,
    Unprotected,
    ZeroingAbft,
)
from brownout.host.errors import OffloadWarning
from brownout.host.offloading import Calibration, load_offloaded, offloaded_model, save_offloaded
from brownout.host.offloading.execution import Execution
from brownout.host.offloading.layer_calibration import LayerCalibration
from brownout.host.offloading.output_format import HEADROOM, narrow_sqnr_db, output_format
from brownout.host.workload.shaped import ShapedModel
from brownout.host.workload.trace import trace_workload
from brownout.hw.config import AcceleratorConfig

ARRAY = AcceleratorConfig(rows=8, cols=8, block_rows=32, block_col_tiles=4, slab_bytes=16)
ERRING = dataclasses.replace(ARRAY, timing_model="flip")
LOW = OperatingPoint(voltage_v=0.66)
SCALE = torch.ones(1, dtype=torch.float64)


class Net(nn.Module):
    """A convolution, a grouped one, and two layers on tokens."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 5, bias=False)

    def forward(self, image, timestep=None):
        tokens = self.grouped(self.conv(image)).flatten(2).mT
        return self.second(torch.relu(self.first(tokens)))


IMAGE = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Net().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def calibration():
    torch.manual_seed(3)
    return calibrate(Net().eval().requires_grad_(False), lambda each: each(IMAGE))


def db(wanted, got):
    return float(10 * ((wanted.square().mean()) / (wanted - got).square().mean()).log10())


def layer(**fields):
    return LayerCalibration("linear", SCALE, peaks=torch.tensor([2.0, 0.0], dtype=torch.float64), power=0.5, **fields)


def test_formats_that_are_chosen():
    assert output_format(layer(), "int32") is None
    assert output_format(layer(), "int8", groups=2) is None
    assert output_format(LayerCalibration("linear", SCALE), "int8") is None
    for bits, limit in ((8, 127), (16, 32767)):
        chosen = output_format(layer(), f"int{bits}")
        assert chosen.bits == bits
        assert chosen.scale.tolist() == [2.0 * HEADROOM[bits] / limit, 0.0]
    # Steps of 2 x 1.25 / 127 in one of two channels: noise of their square / 24.
    expected = 10 * np.log10(0.5 / ((2.5 / 127) ** 2 / 24))
    assert narrow_sqnr_db(layer().peaks, 0.5, 8) == pytest.approx(expected)
    assert narrow_sqnr_db(torch.zeros(3, dtype=torch.float64), 0.0, 8) is None
    for own, bits in ((expected - 3.1, 8), (expected - 2.9, 16), (None, 16)):
        assert output_format(layer(sqnr_db=own), "auto").bits == bits


def test_calibration_sees_peaks_without_bias(net, calibration):
    seen = net.conv(IMAGE) - net.conv.bias[:, None, None]
    assert torch.allclose(calibration.layers["conv"].peaks, seen.abs().amax((0, 2, 3)).double(), atol=1e-6)
    assert calibration.layers["conv"].power == pytest.approx(float(seen.double().square().mean()))
    values = torch.relu(net.first(net.grouped(net.conv(IMAGE)).flatten(2).mT))
    assert torch.allclose(calibration.layers["second"].peaks, net.second(values).abs().amax((0, 1)).double(), atol=1e-6)


def test_calibrations_keep_them(tmp_path, calibration):
    calibration.save(tmp_path / "file.safetensors")
    again = Calibration.load(tmp_path / "file.safetensors")
    for name, each in calibration.layers.items():
        assert torch.equal(again.layers[name].peaks, each.peaks)
        assert again.layers[name].power == each.power


@pytest.mark.parametrize("outputs", ["int16", "int8", "auto"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_outputs_are_sums_scaled_by_the_published_rule(net, calibration, outputs, channels_last):
    image = IMAGE.to(memory_format=torch.channels_last) if channels_last else IMAGE
    found = {}
    with Accelerator(ARRAY, "twin") as twin:
        for each in ("int32", outputs):
            seen = []

            def observe(name, values, seen=seen):
                seen.append((name, values.clone()))

            offload(net, twin, calibration=calibration, outputs=each, observer=observe)
            model = offloaded_model(net)
            found[each] = net(image), seen, {p.name: p for p in model.products}
            formats = {name: m.format for name, m in net.named_modules() if hasattr(m, "format")}
            if each == "int32":
                assert set(formats.values()) == {None}
                sums = dict(seen)
            restore(net)
    assert formats["grouped"] is None
    narrow, products = dict(found[outputs][1]), found[outputs][2]
    # Of the first layer: the inputs of the others are not the same.
    requant, chosen = products["conv"].requants[0], formats["conv"]
    total = sums["conv"].numpy().astype(object) * requant.mult.numpy().astype(object)
    shift = requant.shift.numpy().astype(object)
    limit = 2 ** (chosen.bits - 1)
    wanted = np.clip((total + 2 ** (shift - 1)) // 2**shift, -limit, limit - 1).astype(np.int64)
    assert narrow["conv"].element_size() == chosen.bits // 8
    assert np.array_equal(narrow["conv"].numpy().astype(np.int64), wanted)
    assert narrow["grouped"].dtype == torch.int32
    assert db(found["int32"][0], found[outputs][0]) > (45 if outputs == "int16" else 28)


def test_channels_that_calibration_did_not_see_are_kept(net):
    net.second.weight[2] = 0
    chosen = calibrate(net, lambda each: each(IMAGE))
    assert chosen.layers["second"].peaks[2] == 0
    with Accelerator(ARRAY, "twin") as twin:
        offload(net, twin, calibration=chosen, outputs="int16")
        assert (net(IMAGE)[..., 2] == 0).all()
        restore(net)


def test_narrow_outputs_move_fewer_bytes_as_priced(net, calibration):
    workload = trace_workload(net, lambda each: each(IMAGE))
    for outputs, bits in (("int32", 32), ("int16", 16), ("int8", 8)):
        with Accelerator(ARRAY, "twin") as twin, Accelerator(ARRAY, ShapeBackend(ARRAY)) as shapes:
            offload(net, twin, calibration=calibration, outputs=outputs)
            twin.reset_stats()
            net(IMAGE)
            restore(net)
            ShapedModel(shapes, workload.with_outputs(lambda _, bits=bits: bits)).evaluate()
            assert dict(shapes.stats) == dict(twin.stats)


class Plain(Execution):
    """Gives sums, as executions did before there was anything else."""

    def layer(self, call):
        assert call.requant is None
        return call.product.model.accelerator.gemm(call.a, call.w, error_key=call.key, tally=call.product.tally)


def test_who_knows_only_sums_gets_them_and_the_bits_are_the_same(net, calibration):
    with Accelerator(ARRAY, "twin") as twin:
        model = offload(net, twin, calibration=calibration, outputs="auto")
        wanted = net(IMAGE)
        model.execution = Plain()
        assert torch.equal(net(IMAGE), wanted)
        restore(net)


STRATEGIES = {
    each.name: each for each in (Unprotected(), Rollback(), PredictedRollback(), PublishedDrift(), ZeroingAbft(), Dmr())
} | {"range": RangeRestriction()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_with_narrow_outputs(net, calibration, name):
    """Clean at the safe point, with the bits of a run without; under errors they do something, and go on as before."""
    strategy = STRATEGIES[name]
    config = strategy.hardware(ERRING)
    with Accelerator(config, "twin") as twin:
        model = offload(net, twin, calibration=calibration, outputs="auto")
        clean = net(IMAGE)

        def images(count):
            return [net(IMAGE + index / 50) for index in range(count)]

        exact = images(6)
        assert torch.equal(exact[0], clean)
        with protect(net, strategy, constant(OperatingPoint())) as run:
            assert run.narrows() == (name != "range")
            assert all(torch.equal(a, b) for a, b in zip(images(3), exact, strict=False))
        with protect(net, strategy, constant(LOW)):
            images(3)
            state = copy.deepcopy(model.state())
            last = images(3)
            model.load_state(state)
            again = images(3)
        assert all(torch.equal(a, b) for a, b in zip(last, again, strict=True))
        assert twin.stats["injected"] > 40
        restore(net)


def test_rollback_keeps_narrow_values(net, calibration):
    """What cannot be corrected is the output of the evaluation before, as int8: closer than without protection."""
    strategy = Rollback()
    with Accelerator(strategy.hardware(ERRING), "twin") as twin:
        model = offload(net, twin, calibration=calibration, outputs="int8")
        exact = net(IMAGE)
        errors = {}
        for each in (strategy, Unprotected()):
            with protect(net, each, constant(LOW)):
                for _ in range(6):
                    out = net(IMAGE)
                kept = {key.product: slot.sums.dtype for key, slot in model.history._slots.items()}
            errors[each.name] = float((out - exact).abs().mean())
            if each is strategy:
                assert set(kept.values()) == {torch.int8, torch.int32}
                assert twin.stats["suppressed"] > 0
        assert errors["rollback"] < 0.05 * errors["unprotected"]
        restore(net)


def test_outputs_beyond_calibration_are_clamped_with_a_warning(net, calibration):
    with Accelerator(ARRAY, "twin") as twin:
        model = offload(net, twin, calibration=calibration, outputs="int8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net(IMAGE)
        conv = next(each for each in model.products if each.name == "conv")
        assert conv.outputs == 2 * 8 * 30
        assert conv.clamped == 0
        net.conv.weight *= 4
        with pytest.warns(OffloadWarning, match=r"of the outputs of layer 'conv' are clamped in this run"):
            net(IMAGE)
        assert conv.clamped > 0
        restore(net)


def test_saved_models_write_as_they_did(tmp_path, net, calibration):
    with Accelerator(ARRAY, "twin") as twin:
        offload(net, twin, calibration=calibration, outputs="auto")
        wanted = net(IMAGE)
        save_offloaded(net, tmp_path)
        restore(net)
        other = Net().eval()
        model = load_offloaded(other, twin, tmp_path)
        assert model.outputs == "auto"
        assert torch.equal(other(IMAGE), wanted)
        restore(other)


def test_outputs_that_there_are_not(net, calibration, twin):
    with pytest.raises(ValueError, match=r"^outputs must be one of 'int32', 'int16', 'int8', 'auto', not 'int4'$"):
        offload(net, twin, calibration=calibration, outputs="int4")
