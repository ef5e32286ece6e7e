"""A model of timing errors can be added by an installed package, without a change of this tree."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from brownout.cosim.reference import reference_gemm
from brownout.cosim.reference.error_models import REFERENCE_ERROR_MODELS
from brownout.host import Accelerator, Protection
from brownout.host.device.twin.error_models import TWIN_ERROR_MODELS
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.model import TIMING_ERROR_MODELS

from .packages import installed_package

# Half of all sums that are drawn lose their lowest bit, and the sign of what is drawn decides about bit 4 too.
HARDWARE = """
from amaranth.hdl import Cat, Module, Mux, Signal
from brownout.hw.arithmetic import mix
from brownout.hw.errors.constants import DIGIT_STEP, ROW_STEP
from brownout.hw.config import ACC_BITS
from brownout.hw.errors.draws import SumInjector, draw
from brownout.hw.errors.model import TIMING_ERROR_MODELS, TimingErrorModel


class LowBits(SumInjector):
    def elaborate(self, platform):
        m = Module()
        tag = self.tag
        row_key, col = Signal(32), Signal(32)
        cols, final = Signal(range(self.config.cols + 1)), Signal()
        digit = tag.digit * DIGIT_STEP if self.config.group_count else 0
        m.d.sync += [
            row_key.eq(mix(m, self.errors.base + tag.row * ROW_STEP + digit, "key")),
            col.eq(tag.col), cols.eq(tag.cols), final.eq(self.valid & tag.final),
            self.row_key.eq(row_key), self.col.eq(col),
        ]
        stored = []
        for c in range(self.config.cols):
            rate = self.errors.rates[self.config.domain_of_column(c)]
            hit, pick = draw(m, row_key, col + c, 0, rate, str(c))
            wrong = final & hit & (cols > c)
            stored.append(self.total_row.word_select(c, ACC_BITS) ^ Mux(wrong, Cat(1, 0, 0, 0, pick[31]), 0))
        m.d.comb += self.stored_row.eq(Cat(stored))
        return m


@TIMING_ERROR_MODELS.register
class LowBitModel(TimingErrorModel):
    name = "low-bits"
    draws = True

    def injector(self, config):
        return LowBits(config)

    def check_sum(self, m, config, *, total, row_key, col, check, rate, name):
        return total
"""

REFERENCE = """
from brownout.cosim.reference.draws import pick
from brownout.cosim.reference.error_models import REFERENCE_ERROR_MODELS, ReferenceErrorModel
from brownout.cosim.reference.numbers import wrap
from brownout.cosim.reference.sums import clean_sums


@REFERENCE_ERROR_MODELS.register
class LowBitReference(ReferenceErrorModel):
    name = "low-bits"

    def sums(self, cmd, block):
        found = clean_sums(cmd, block)
        for (m, n), value in found.data.items():
            domain = cmd.config.domain_of_column(n % cmd.config.cols)
            drawn = cmd.error_of(domain, row=cmd.global_row(block.batch, m), col=cmd.global_col(n))
            if drawn is not None:
                found.data[m, n] = wrap(value ^ (1 | (pick(drawn) >> 31) << 4), 32)
        return found
"""

# The kernels draw, with bits 0 and 4 alike; then what they changed is made what this model changes.
TWIN = """
import dataclasses
import numpy as np
from brownout.host.device.twin.checking import check_errors
from brownout.host.device.twin.error_models import TWIN_ERROR_MODELS, TwinErrorModel
from brownout.host.device.twin.findings import Deltas, Errors
from brownout.host.device.twin.flips import draw_flips
from brownout.cosim.reference.draws import pick


@TWIN_ERROR_MODELS.register
class LowBitTwin(TwinErrorModel):
    name = "low-bits"

    def draw(self, config, m, n, call):
        return draw_flips(config, m, n, call)

    def inject(self, config, a, w, sums, drawn, call):
        rows, cols = drawn.outputs.rows.copy(), drawn.outputs.cols.copy()
        masks = np.array([1 | (pick(int(value)) >> 31) << 4 for value in drawn.outputs.draws], np.int32)
        before = sums[rows, cols].astype(np.int64)
        sums[rows, cols] ^= masks
        deltas = sums[rows, cols].astype(np.int64) - before
        errors = Errors(outputs=Deltas.of(rows, cols, deltas), injected=len(rows))
        return check_errors(config, sums, errors, call)
"""

GROUPS = {
    "brownout.timing_error_models": ("hardware", HARDWARE),
    "brownout.reference_error_models": ("reference", REFERENCE),
    "brownout.twin_error_models": ("twin", TWIN),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a model in three parts."""
    modules = dict(GROUPS.values())
    entries = {group: {"low-bits": module} for group, (module, _) in GROUPS.items()}
    with installed_package(tmp_path, monkeypatch, "low_bits", modules, entries) as folder:
        yield folder
    for registry in (TIMING_ERROR_MODELS, REFERENCE_ERROR_MODELS, TWIN_ERROR_MODELS):
        registry._entries.pop("low-bits", None)


def test_rtl_twin_and_reference_agree_on_an_added_model(package):
    config = AcceleratorConfig(
        rows=4, cols=4, timing_model="low-bits", checksum=ChecksumConfig(column_checks=False, segment_cols=4)
    )
    rng = np.random.default_rng(20)
    a = torch.from_numpy(rng.integers(-128, 128, (11, 9), dtype=np.int8))
    w = torch.from_numpy(rng.integers(-128, 128, (9, 10), dtype=np.int8))
    results = {}
    for backend in ("twin", "rtl"):
        with Accelerator(config, backend=backend) as accelerator:
            accelerator.set_error_rate(0.2, seed=3)
            kept = accelerator.gemm(a, w, error_key=5)
            checked = accelerator.gemm(a, w, error_key=5, protection=Protection())
            results[backend] = (kept, checked, dict(accelerator.stats), accelerator.last_log)
    clean = a.int() @ w.int()
    wrong = results["twin"][0] ^ clean
    assert set(wrong.unique().tolist()) == {0, 1, 0x11}
    for on_twin, on_rtl in zip(results["twin"], results["rtl"], strict=True):
        assert torch.equal(on_twin, on_rtl) if isinstance(on_twin, torch.Tensor) else on_twin == on_rtl
    with Accelerator(config, backend="twin") as accelerator:
        accelerator.set_error_rate(0.2, seed=3)
        accelerator.gemm(a, w, error_key=5)
        state = accelerator._device.errors
        options = Protection(check=False)
        found = reference_gemm(config, a.numpy(), w.numpy(), options=command(options, 5), errors=state)
    assert np.array_equal(found.output[0], results["twin"][0].numpy())


def command(protection, error_key):
    from brownout.hw.errors.state import CommandOptions

    return CommandOptions(flags=protection.flags, error_key=error_key)


def test_an_unknown_model_is_named_with_those_there_are(package):
    with pytest.raises(
        ValueError,
        match=re.escape("timing_model must be one of 'none', 'flip', 'carry', 'low-bits', not 'high-bits'"),
    ):
        AcceleratorConfig(timing_model="high-bits")


def test_what_is_built_follows_the_added_sources(package):
    config = AcceleratorConfig(rows=4, cols=4, timing_model="low-bits")
    before = TIMING_ERROR_MODELS.added_source("low-bits")
    assert HARDWARE.encode() in before
    (package / "low_bits" / "hardware.py").write_text(HARDWARE + "# another\n")
    assert TIMING_ERROR_MODELS.added_source("low-bits") != before
    assert config.rtl_hash == AcceleratorConfig(rows=4, cols=4, timing_model="low-bits").rtl_hash
    assert TIMING_ERROR_MODELS.added_source("flip") == b""
