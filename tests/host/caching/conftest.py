"""Fixtures of the tests of caching."""

from __future__ import annotations

import pytest

from brownout.host import Accelerator


@pytest.fixture
def twin(config):
    with Accelerator(config, backend="twin") as accelerator:
        yield accelerator
