"""What Python shares with its C++ libraries: compilers agree about sizes and offsets."""

from __future__ import annotations

import ctypes

import pytest

from brownout.cosim.cycle_model.structs import STRUCTURES as CYCLE_MODEL_STRUCTURES
from brownout.cosim.cycle_model.structs import CounterWords, cycle_model_header
from brownout.host.device.twin.structs import STRUCTURES as KERNEL_STRUCTURES
from brownout.host.device.twin.structs import kernels_header
from brownout.hw.registers import COUNTERS

from .cpp_syntax import compiles

HEADERS = {
    "cycle model": (CYCLE_MODEL_STRUCTURES, cycle_model_header),
    "kernels": (KERNEL_STRUCTURES, kernels_header),
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_compiler_agrees_about_sizes_and_offsets(tmp_path, name):
    structures, text = HEADERS[name]
    good, said = compiles(tmp_path, text())
    assert good, said
    for structure in structures:
        assert f"static_assert(sizeof({structure.__name__}) == {ctypes.sizeof(structure)});" in text()
        assert text().count(f"static_assert(offsetof({structure.__name__}, ") == len(structure._fields_)


def test_the_cycle_model_counts_what_the_registers_do():
    assert CounterWords.names() == (*(counter.name for counter in COUNTERS), "dram_row_activations")
