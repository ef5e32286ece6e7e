import re

import pytest

from brownout.hw.commands import COMMAND_BYTES, ERROR_MEANING, GEMM_FIELDS, RESERVED_RANGES, ErrorCause, GemmCommand
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.params import params_layout

FIELDS = {
    "m": 1, "n": 2, "k": 3, "a_addr": 16, "w_addr": 32, "y_addr": 48, "lda": 64, "ldw": 80, "ldy": 96,
    "read_base": 0, "read_limit": 4096, "write_base": 8192, "write_limit": 16384,
}  # fmt: skip


def test_fields_and_reserved_bytes_cover_the_command_exactly_once():
    owners = [0] * COMMAND_BYTES
    for field in GEMM_FIELDS:
        assert field.bits % 8 == 0
        for byte in range(field.offset, field.offset + field.bits // 8):
            owners[byte] += 1
    for low, high in RESERVED_RANGES:
        for byte in range(low, high):
            owners[byte] += 1
    assert owners == [1] * COMMAND_BYTES


def test_fields_are_naturally_aligned():
    for field in GEMM_FIELDS:
        assert field.offset % (field.bits // 8) == 0, field.name


def test_every_field_is_of_use():
    config = AcceleratorConfig(checksum=ChecksumConfig(), timing_model="flip", activation_vectors=1024)
    checked = {"opcode", "version", "flags", "read_base", "read_limit", "write_base", "write_limit"}
    assert {field.name for field in GEMM_FIELDS} == checked | {
        name for name in params_layout(config).members if name in {field.name for field in GEMM_FIELDS}
    }


def test_encoding_puts_every_field_at_its_offset():
    # Every field gets a value of its own, so that two swapped fields cannot go unnoticed.
    values = {field.name: 100 + index for index, field in enumerate(GEMM_FIELDS)}
    encoded = GemmCommand(**values).encode()
    for field in GEMM_FIELDS:
        read_back = int.from_bytes(encoded[field.offset : field.offset + field.bits // 8], "little")
        assert read_back == values[field.name]
    for low, high in RESERVED_RANGES:
        assert not any(encoded[low:high])


def test_a_value_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=re.escape("GemmCommand.m must fit 32 unsigned bits, not -1")):
        GemmCommand(**{**FIELDS, "m": -1}).encode()


def test_every_error_cause_has_a_meaning():
    assert set(ERROR_MEANING) == set(ErrorCause)
    assert len(set(ERROR_MEANING.values())) == len(ErrorCause)
