"""What does it save to keep activations on the chip for all columns of a product?

A denoising step of three full-size models on `SERVER_ATTENTION`, on `SERVER_KEEP`, which has as much SRAM, in the fixed
loop order and in the searched one, and on other divisions of that SRAM: bytes, time (at least the memory's), energy and
MAC utilisation, with all bytes that the host moves; and how many of the bytes are of activations and weights that are
read again. Run ``python benchmarks/loop_order.py``; writes ``build/results/loop_order.json``. Everything is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean

from drift_costs import MODELS

from brownout.host import Accelerator, write_results
from brownout.host.device.backends.loop_orders import LoopOrders
from brownout.host.device.backends.shaped_command import Matrices
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.device.power.memories import sram_bytes
from brownout.host.device.product.attention import fits
from brownout.host.device.product.operands import GemmShape
from brownout.host.workload.shaped import ShapedModel
from brownout.host.workload.trace import Workload
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER_ATTENTION, SERVER_KEEP
from brownout.hw.tiling import split_extent, with_block_rows
from denoisers.published import DENOISERS

MIB = 1 << 20

SUM_BYTES = 4
"""Of an element of a layer's output."""


@dataclass(frozen=True)
class Machine:
    """An accelerator and how its loop order is found."""

    config: AcceleratorConfig
    loop_order: str = "searched"


def division(block_rows: int, block_col_tiles: int, slab_k_tiles: int) -> AcceleratorConfig:
    """`SERVER_KEEP` with accumulators and slabs of another size, and activations in what is left of its SRAM."""
    least = replace(
        SERVER_ATTENTION,
        block_rows=block_rows,
        block_col_tiles=block_col_tiles,
        slab_bytes=slab_k_tiles * SERVER_ATTENTION.rows,
    )
    spare = (sram_bytes(SERVER_KEEP) - sram_bytes(least)) // SERVER_KEEP.rows
    return replace(least, activation_vectors=least.two_slabs + spare)


MACHINES = {
    "attention": Machine(SERVER_ATTENTION),
    "fixed": Machine(SERVER_KEEP, "fixed"),
    "keep": Machine(SERVER_KEEP),
    "1024x4x2": Machine(division(1024, 4, 2)),
    "1024x4x1": Machine(division(1024, 4, 1)),
    "1024x3x2": Machine(division(1024, 3, 2)),
    "1024x2x4": Machine(division(1024, 2, 4)),
    "2048x1x4": Machine(division(2048, 1, 4)),
    "2048x2x1": Machine(division(2048, 2, 1)),
    "768x4x2": Machine(division(768, 4, 2)),
    "512x8x2": Machine(division(512, 8, 2)),
}
"""By what they are called in the results: rows of blocks x column tiles x k-tiles of a slab."""


def step(machine: Machine, workload: Workload) -> dict[str, float]:
    """One nominal evaluation."""
    config = machine.config
    with Accelerator(config, ShapeBackend(config, loop_order=machine.loop_order)) as accelerator:
        ShapedModel(accelerator, workload).evaluate()
        stats = accelerator.stats
    return {
        "step_mj": stats["energy_j"] * 1e3,
        "step_ms": max(stats["time_s"], stats["memory_s"]) * 1e3,
        "dram_gb": stats["dram_bytes"] / 1e9,
        "mac_utilisation": stats["macs"] / (config.rows * config.cols * stats["cycles"]),
        **read_again(machine, workload),
    }


def read_again(machine: Machine, workload: Workload) -> dict[str, float]:
    """Bytes of layers' operands that are read more than once, each element counted as a byte."""
    config = machine.config
    orders = LoopOrders(Matrices(config, tiled=False), search=machine.loop_order == "searched")
    activations = weights = 0
    for each in workload.products:
        shape: GemmShape = each.shape
        if each.is_of_attention and fits(config, shape.m, shape.n, shape.k, shape.k):
            continue
        order = orders.of(shape, SUM_BYTES, 0)
        cut = with_block_rows(config, order.block_rows)
        col_blocks = len(list(split_extent(-(-shape.n // config.cols), config.block_col_tiles)))
        row_blocks = len(list(split_extent(shape.m, cut.block_rows)))
        activations += shape.batch * shape.m * shape.k * (0 if order.keep else col_blocks - 1)
        weights += shape.batch * shape.k * shape.n * (row_blocks - 1)
    return {"activations_again_gb": activations / 1e9, "weights_again_gb": weights / 1e9}


def main() -> None:
    """Count, print and write the results."""
    metrics: dict[str, float] = {}
    workloads = {key: DENOISERS[name].workload() for key, name in MODELS.items()}
    found = {name: {key: step(machine, each) for key, each in workloads.items()} for name, machine in MACHINES.items()}
    for name, models in found.items():
        metrics[f"sram_mib_{name}"] = sram_bytes(MACHINES[name].config) / MIB
        for key, values in models.items():
            metrics |= {f"{metric}_{name}_{key}": value for metric, value in values.items()}
        for metric in ("step_mj", "step_ms", "dram_gb"):
            ratios = [models[key][metric] / found["attention"][key][metric] for key in workloads]
            metrics[f"{metric}_{name}_over_attention"] = mean(ratios)
    machines = {name: {**machine.config.to_dict(), "order": machine.loop_order} for name, machine in MACHINES.items()}
    path = write_results("loop_order", metrics, config=machines)
    for name, value in metrics.items():
        print(f"{name:44} {value:.5g}")
    print(path)


if __name__ == "__main__":
    main()
