"""How fast is the cycle model, and is it exact? Layers of DiT-XL/2 at 512 x 512, and a small sweep against the RTL.

Run ``python benchmarks/cycle_model.py``; writes ``build/results/cycle_model.json``.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from typing import Annotated

import torch
import typer

from brownout.cosim.cycle_model import CycleModel
from brownout.host import Accelerator, Requantisation, write_results
from brownout.hw.commands import GemmCommand
from brownout.hw.config import AcceleratorConfig, MemoryConfig
from brownout.hw.tiling import ideal_cycles

LAYERS = {"attention": (1024, 1152, 1152), "ff_in": (1024, 1152, 4608), "ff_out": (1024, 4608, 1152)}
"""M, K, N: 1,024 tokens of width 1,152."""

WIDE = AcceleratorConfig(
    rows=128,
    cols=128,
    bus_bytes=128,
    block_rows=512,
    slab_bytes=512,
    drain_lanes=32,
    memory=MemoryConfig(bytes_per_cycle=128),
)
"""A 128 x 128 array on a bus that can nearly feed it."""

ARRAYS = {"16x16": AcceleratorConfig(), "128x128": WIDE}

SEED = 0


def layer_command(config: AcceleratorConfig, m: int, k: int, n: int) -> GemmCommand:
    """int8 times int8 to int32, operands on pages of their own."""

    def pages(size: int) -> int:
        return -(-size // 4096) * 4096

    w_addr = pages(m * k)
    y_addr = w_addr + pages(k * n)
    end = y_addr + m * n * 4
    return GemmCommand(
        **{"m": m, "n": n, "k": k, "a_addr": 0, "w_addr": w_addr, "y_addr": y_addr, "lda": k, "ldw": n, "ldy": 4 * n},
        **{"read_base": 0, "read_limit": y_addr, "write_base": y_addr, "write_limit": end},
    )


def measure_speed(name: str, config: AcceleratorConfig, repeats: int) -> dict[str, float]:
    """Cycles per second of a first call, per layer, and microseconds of a further one."""
    metrics: dict[str, float] = {}
    again: list[float] = []
    for layer, shape in LAYERS.items():
        command = layer_command(config, *shape)
        first: list[float] = []
        for _ in range(repeats):
            model = CycleModel(config)
            began = time.perf_counter()
            cycles = model.run([command])["cycles"]
            first.append(time.perf_counter() - began)
            began = time.perf_counter()
            model.run([command])
            again.append(time.perf_counter() - began)
        seconds = statistics.median(first)
        m, k, n = shape
        metrics[f"{name}_{layer}_cycles"] = cycles
        metrics[f"{name}_{layer}_utilisation"] = ideal_cycles(config, m, n, k) / cycles
        metrics[f"{name}_{layer}_first_call_ms"] = 1e3 * seconds
        metrics[f"{name}_{layer}_cycles_per_s"] = cycles / seconds
        print(f"{name} {layer}: {cycles:,} cycles in {1e3 * seconds:.1f} ms, {cycles / seconds / 1e6:,.0f} M cycles/s")
    metrics[f"{name}_further_call_us"] = 1e6 * statistics.median(again)
    return metrics


def compare(products: int) -> dict[str, float]:
    """Random products on RTL and twin under several memories; counts those after which any counter differs."""
    rng, generator = random.Random(SEED), torch.Generator().manual_seed(SEED)
    cases = mismatches = cycles = 0
    for bytes_per_cycle, latency_cycles in ((16, 64), (32, 1), (5, 150)):
        memory = MemoryConfig(size_bytes=1 << 23, bytes_per_cycle=bytes_per_cycle, latency_cycles=latency_cycles)
        config = dataclasses.replace(ARRAYS["16x16"], memory=memory)
        with Accelerator(config, backend="rtl") as rtl, Accelerator(config, backend="twin") as twin:
            for _ in range(products):
                m, k, n = (rng.randint(1, 200) for _ in range(3))
                a = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
                w = torch.randint(-128, 128, (k, n), dtype=torch.int8, generator=generator)
                shift = torch.full((n,), 10)
                requant = rng.choice([None, Requantisation(torch.ones_like(shift), shift)])
                for accelerator in (rtl, twin):
                    accelerator.reset_stats()
                    accelerator.gemm(a, w, requant=requant)
                cases += 1
                mismatches += rtl.stats != twin.stats
                cycles += int(rtl.stats["cycles"])
    print(f"{cases} products on 16x16 RTL, {cycles:,} cycles: {mismatches} with another counter")
    return {"compared_products": cases, "compared_cycles": cycles, "mismatches": mismatches}


def main(
    repeats: Annotated[int, typer.Option(help="measurements of each layer")] = 7,
    products: Annotated[int, typer.Option(help="products per memory compared with the RTL")] = 40,
) -> None:
    """Measure, compare, print and write the results."""
    metrics: dict[str, float] = {}
    for name, config in ARRAYS.items():
        metrics |= measure_speed(name, config, repeats)
    metrics |= compare(products)
    settings = {name: config.to_dict() for name, config in ARRAYS.items()}
    print(write_results("cycle_model", metrics, config={"layers": LAYERS, **settings, "seed": SEED}))
    if metrics["mismatches"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
