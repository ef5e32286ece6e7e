"""A product goes through few files: whoever wants to know what happens has to read them all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import brownout.host
from brownout.host import Accelerator
from brownout.hw.config import AcceleratorConfig

ROOT = Path(brownout.host.__file__).parents[1]
SOURCES = tuple(f"{ROOT / part}/" for part in ("hw", "cosim", "host"))

MOST = 16


def hops(action):
    """Calls from one file of the project into another one, as callee's names; what lies between does not count."""
    found = []

    def see(frame, event, _argument):
        here = frame.f_code.co_filename
        if event != "call" or not here.startswith(SOURCES):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(SOURCES):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != here:
            found.append(f"{Path(here).relative_to(ROOT)}: {frame.f_code.co_name}")

    sys.setprofile(see)
    try:
        action()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("layout", ["row-major", "tiled"])
@pytest.mark.parametrize("resident", [False, True])
def test_a_clean_product_of_a_known_shape_goes_through_few_files(layout, resident):
    a, w = torch.ones(8, 32, dtype=torch.int8), torch.ones(32, 16, dtype=torch.int8)
    with Accelerator(AcceleratorConfig(rows=4, cols=4), backend="twin", layout=layout) as accelerator:
        weights = accelerator.upload(w) if resident else w
        first = hops(lambda: accelerator.gemm(a, weights))
        found = hops(lambda: accelerator.gemm(a, weights))
    assert len(first) > len(found), "nothing was remembered"
    assert len(found) <= MOST, found
