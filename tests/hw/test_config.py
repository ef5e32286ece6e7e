import dataclasses
import json
import re

import pytest

from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 0}, "AcceleratorConfig.rows must be an integer in 1..128, not 0"),
        ({"cols": 129}, "AcceleratorConfig.cols must be an integer in 1..128, not 129"),
        ({"rows": 4.0}, "AcceleratorConfig.rows must be an integer in 1..128, not 4.0"),
        ({"rows": True}, "AcceleratorConfig.rows must be an integer in 1..128, not True"),
        ({"bus_bytes": 2}, "AcceleratorConfig.bus_bytes must be an integer in 4..128, not 2"),
        ({"bus_bytes": 24}, "AcceleratorConfig.bus_bytes must be a power of two, not 24"),
        ({"razor": 1}, "AcceleratorConfig.razor must be a bool, not 1"),
        (
            {"activation_vectors": (1 << 20) + 1},
            "AcceleratorConfig.activation_vectors must be an integer in 0..1048576, not 1048577",
        ),
        (
            {"activation_vectors": 1023},
            "AcceleratorConfig.activation_vectors must be 0 or at least those of two slabs, 1024, not 1023",
        ),
        (
            {"razor": True},
            "AcceleratorConfig.razor=True needs a timing_model whose errors it can see, 'flip' or 'carry', not 'none'",
        ),
        ({"memory": 4096}, "AcceleratorConfig.memory must be a MemoryConfig, not 4096"),
        (
            {"address_bits": 32, "memory": MemoryConfig(size_bytes=1 << 33)},
            "AcceleratorConfig.memory.size_bytes must fit address_bits=32, not 8589934592",
        ),
    ],
)
def test_a_bad_field_is_refused_with_its_value(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AcceleratorConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latency_cycles": 0}, "MemoryConfig.latency_cycles must be an integer in 1..65536, not 0"),
        ({"banks": 3}, "MemoryConfig.banks must be a power of two, not 3"),
        ({"size_bytes": 70000}, "MemoryConfig.size_bytes must be a multiple of 4096, not 70000"),
    ],
)
def test_a_bad_memory_is_refused_with_its_value(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MemoryConfig(**fields)


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        AcceleratorConfig(16)


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AcceleratorConfig().rows = 3


def test_every_field_but_the_memory_changes_the_rtl_hash():
    base = AcceleratorConfig()
    changed = {
        "rows": 8, "cols": 8, "bus_bytes": 32, "address_bits": 48, "block_rows": 64, "block_col_tiles": 2,
        "slab_bytes": 32, "drain_lanes": 2, "read_outstanding": 8, "write_outstanding": 8,
        "checksum": ChecksumConfig(), "timing_model": "carry", "voltage_domains": 2, "operating_points": 3,
        "attention": True, "activation_vectors": 1024,
    }  # fmt: skip
    names = {field.name for field in dataclasses.fields(AcceleratorConfig)} - {"memory"}
    assert names == set(changed) | {"razor"}
    configs = [base, *(dataclasses.replace(base, **{k: v}) for k, v in changed.items())]
    configs.append(dataclasses.replace(base, timing_model="carry", razor=True))
    assert len({config.rtl_hash for config in configs}) == len(configs)


def test_memory_timing_does_not_change_the_rtl_hash():
    slow = AcceleratorConfig(memory=MemoryConfig(latency_cycles=500))
    assert slow.rtl_hash == AcceleratorConfig().rtl_hash


def test_it_survives_json():
    config = AcceleratorConfig(rows=3, memory=MemoryConfig(latency_cycles=9))
    assert AcceleratorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_accelerator_with_the_plain_buffer_is_written_down_as_before_there_was_another():
    assert "activation_vectors" not in AcceleratorConfig().to_dict()
    assert AcceleratorConfig(activation_vectors=1024).to_dict()["activation_vectors"] == 1024


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match=r"^AcceleratorConfig has no field 'row'; it has "):
        AcceleratorConfig.from_dict({"row": 3})


@pytest.mark.parametrize(("rows", "expected"), [(1, 16), (4, 16), (16, 4), (48, 1), (128, 1)])
def test_slabs_hold_whole_k_tiles(rows, expected):
    assert AcceleratorConfig(rows=rows).slab_k_tiles == expected
