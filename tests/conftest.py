"""Settings of all tests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings

# The same examples on every run: a failure on one machine is a failure on all.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture
def short_digits(monkeypatch):
    """The shipped digits drawn, and calibrated, in four steps instead of ten."""
    from brownout.host.models.spec import SPECS  # not where no test needs it

    monkeypatch.setitem(SPECS, "digits", replace(SPECS["digits"], num_inference_steps=4))
