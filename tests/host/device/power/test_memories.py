"""Memories on the chip: their sizes, and what their bytes take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brownout.host import Accelerator
from brownout.host.device.power.energy import EnergyModel
from brownout.host.device.power.memories import Memory, SramPrices, memories, sram_bytes
from brownout.host.device.power.sram import cacti
from brownout.host.device.power.technologies import TECHNOLOGIES
from brownout.host.device.product.protection import Protection
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.configurations import SERVER

SMALL = AcceleratorConfig(rows=32, cols=32, block_rows=64, block_col_tiles=2)
CHECKED = replace(SMALL, checksum=ChecksumConfig(scheme="classic", segment_cols=32, group_rows=16))
PROTECTION = Protection(correct=False)


def test_the_server_has_four_mebibytes_of_accumulators_and_one_and_a_half_of_operands():
    sizes = [memory.bytes for memory in memories(SERVER)]
    assert sizes == [4 << 20, 1 << 20, 1 << 19]
    assert sram_bytes(SERVER) == 11 << 19


def test_a_memory_wider_than_the_table_is_several_side_by_side():
    wide = Memory("wide", 4096, 512).made_of("hp")
    assert wide.read_byte_j == cacti(4096 * 128, 128, "hp", "1r1w").read_byte_j


def test_a_memory_beyond_the_table_is_refused_by_name():
    config = AcceleratorConfig(rows=2, cols=2, block_rows=16, block_col_tiles=1, drain_lanes=2)
    with pytest.raises(ValueError, match=r"accumulators of 16 words of 8 bytes .* size_bytes must be in"):
        Accelerator(config, backend="twin", energy_model=EnergyModel(sram_cells="hp"))


def test_cells_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="sram_cells must be 'hp', 'lop', 'lstp' or None, not 'fast'"):
        EnergyModel(sram_cells="fast")


def _accumulator_bytes(config: AcceleratorConfig, m: int, n: int, k: int) -> tuple[int, int]:
    """Read and written, counted tile by tile: the array adds to what it reads, but for the first tile of K."""
    read = written = 0
    word = 4 * config.cols
    for first_row in range(0, m, config.block_rows):
        rows = min(config.block_rows, m - first_row)
        digits = 0
        if config.checksum is not None:
            digits = config.checksum.digits * -(-rows // config.checksum.group_rows)
        for _ in range(0, n, config.cols):
            for k_tile in range(0, k, config.rows):
                written += (rows + digits) * word
                read += (rows + digits) * word if k_tile else 0
            read += rows * word  # drained, without digits
    return read, written


@pytest.mark.parametrize("config", [SMALL, CHECKED], ids=["plain", "checked"])
def test_accumulators_are_priced_apart_from_operands(config):
    m, n, k = 100, 70, 90
    config = replace(config, block_rows=256)  # CACTI's table begins with 8 KiB
    model = EnergyModel(sram_cells="lop")
    generator = torch.Generator().manual_seed(5)
    a, w = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in ((m, k), (k, n)))
    with Accelerator(config, backend="twin", energy_model=model) as accelerator:
        accelerator.gemm(a, w, protection=PROTECTION if config.checksum else None)
        stats = accelerator.stats
    read, written = _accumulator_bytes(config, m, n, k)
    prices = SramPrices.by_cacti(config, "lop")
    syndromes = 0.0
    if config.checksum is not None:
        plain = replace(model, sram_cells=None, sram_byte_j=1.0)
        with Accelerator(config, backend="twin", energy_model=plain) as accelerator:
            accelerator.gemm(a, w, protection=PROTECTION if config.checksum else None)
            syndromes = accelerator.stats["energy_sram_j"] - stats["sram_read_bytes"] - stats["sram_write_bytes"]
        assert syndromes > 0
    near, far = prices.accumulators, prices.scratchpads
    expected = (read + syndromes / 2) * near.read_byte_j + (written + syndromes / 2) * near.write_byte_j
    expected += (stats["sram_read_bytes"] - read) * far.read_byte_j
    expected += (stats["sram_write_bytes"] - written) * far.write_byte_j
    assert stats["energy_sram_j"] == pytest.approx(expected, rel=1e-9)


def test_technologies_change_one_thing_each():
    reference = TECHNOLOGIES["reference"]
    hbm2 = TECHNOLOGIES["hbm2"]
    assert hbm2.dram_background_w > 0 == reference.dram_background_w
    assert hbm2.dram_byte_j == pytest.approx(reference.dram_byte_j, rel=1e-5)
    assert hbm2.activation_j == pytest.approx(reference.activation_j, rel=1e-5)
    for name in ("hbm3", "lpddr4x", "lpddr5"):
        assert TECHNOLOGIES[name].dram_byte_j > reference.dram_byte_j
    assert len(set(TECHNOLOGIES.values())) == len(TECHNOLOGIES)
