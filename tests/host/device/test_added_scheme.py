"""A checksum scheme can be added by an installed package, without a change of this tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.cosim.reference import reference_gemm
from brownout.host import Accelerator, Protection
from brownout.hw.checks.scheme import CHECK_SCHEMES
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.state import CommandOptions

from .packages import installed_package

# The first locator is modulo 8191 with weights of its own, the second is a whole sum: neither of the schemes that come
# with Brownout mixes them.
SCHEME = """
from brownout.hw.checks.scheme import CHECK_SCHEMES, CheckScheme
from brownout.hw.residues import RESIDUE_BITS, RESIDUE_MODULUS


@CHECK_SCHEMES.register
class MixedScheme(CheckScheme):
    name = "mixed-locators"
    locates = True

    def modulus(self, check):
        return RESIDUE_MODULUS if check == 1 else 0

    def check_bits(self, segment_cols, check):
        return RESIDUE_BITS if check == 1 else 40

    def weights(self, segment_cols, check):
        if check == 1:
            return tuple(pow(7, column + 1, RESIDUE_MODULUS) for column in range(segment_cols))
        return tuple(range(1, segment_cols + 1))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    entries = {"brownout.check_schemes": {"mixed-locators": "scheme"}}
    with installed_package(tmp_path, monkeypatch, "mixed_locators", {"scheme": SCHEME}, entries) as folder:
        yield folder
    CHECK_SCHEMES._entries.pop("mixed-locators", None)


def test_rtl_twin_and_reference_agree_on_an_added_scheme(package):
    checksum = ChecksumConfig(scheme="mixed-locators", locators=2, column_checks=False, segment_cols=4)
    config = AcceleratorConfig(rows=4, cols=4, timing_model="flip", checksum=checksum)
    rng = np.random.default_rng(21)
    a = torch.from_numpy(rng.integers(-128, 128, (13, 9), dtype=np.int8))
    w = torch.from_numpy(rng.integers(-128, 128, (9, 11), dtype=np.int8))
    results = {}
    for backend in ("twin", "rtl"):
        with Accelerator(config, backend=backend) as accelerator:
            accelerator.set_error_rate(0.1, seed=5, check_rate=0.02)
            out = accelerator.gemm(a, w, error_key=1, protection=Protection())
            results[backend] = (out, dict(accelerator.stats), accelerator.last_log)
            if backend == "twin":
                errors = accelerator._device.errors
    assert torch.equal(results["twin"][0], results["rtl"][0])
    assert results["twin"][1:] == results["rtl"][1:]
    counts = results["twin"][1]
    assert 0 < counts["corrected"] < counts["detected"]
    options = CommandOptions(flags=Protection().flags, error_key=1, log_bytes=1024 * config.log_record_bytes)
    found = reference_gemm(config, a.numpy(), w.numpy(), options=options, errors=errors)
    assert np.array_equal(found.output[0], results["twin"][0].numpy())
    assert {name: counts[name] for name in found.counters} == found.counters


def test_locators_that_are_too_many_are_refused(package):
    with pytest.raises(ValueError, match=r"^ChecksumConfig\.locators must be an integer in 1\.\.2, not 3$"):
        ChecksumConfig(scheme="mixed-locators", locators=3, column_checks=False)
