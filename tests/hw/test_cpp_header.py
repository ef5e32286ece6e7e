"""The header of numbers for C++: what it says is what the RTL is made of."""

from __future__ import annotations

import re

from brownout.hw import depths
from brownout.hw.commands import GemmFlag, Opcode
from brownout.hw.cpp_header import CONSTANTS, hardware_header
from brownout.hw.errors import constants
from brownout.hw.log_record import LOG_FIELDS, Outcome

from ..cpp_syntax import compiles


def value_of(name):
    found = re.findall(rf"\b{name} = (\d+)u?[,;]", hardware_header())
    assert len(found) == 1, name
    return int(found[0])


def test_every_opcode_flag_and_outcome_is_there():
    for prefix, values in (("OPCODE", Opcode), ("FLAG", GemmFlag), ("OUTCOME", Outcome)):
        for member in values:
            assert value_of(f"{prefix}_{member.name}") == member


def test_numbers_are_those_of_the_hardware():
    for name, value in CONSTANTS.items():
        assert value_of(name) == value
    for module in (depths, constants):
        public = {name for name in vars(module) if name.isupper()} - {"MIX_FACTORS"}
        assert public <= CONSTANTS.keys()
    for field in LOG_FIELDS:
        text = f"LOG_{field.name.upper()}{{{field.word}, {field.low}, {field.width}}};"
        assert text in hardware_header()


def test_numbers_that_are_known_from_elsewhere():
    """Those of AXI, of the command format as drivers know it, and of docs/protection.md."""
    known = {
        "OPCODE_GEMM": 1,
        "OPCODE_COPY": 6,
        "FLAG_CHECK": 4,
        "FLAG_Y_TILED": 256,
        "COMMAND_BYTES": 256,
        "MAX_BURST_BEATS": 256,
        "BURST_BOUNDARY_BYTES": 4096,
        "LOG_RECORDS_PER_BLOCK": 64,
        "LOG_PLAIN_CHECK": 255,
        "RESIDUE_MODULUS": 8191,
        "ROW_STEP": 0x9E3779B1,
        "MAX_DOMAINS": 9,
        "MAX_CHECKS": 3,
    }
    assert {name: value_of(name) for name in known} == known


def test_a_compiler_takes_it(tmp_path):
    good, said = compiles(tmp_path, hardware_header())
    assert good, said


def test_its_checks_refuse_a_wrong_width(tmp_path):
    right, wrong = "LOG_PLACE{3, 8, 8}", "LOG_PLACE{3, 8, 7}"
    assert right in hardware_header()
    good, said = compiles(tmp_path, hardware_header().replace(right, wrong))
    assert not good
    assert "static assertion failed" in said or "static_assert" in said
