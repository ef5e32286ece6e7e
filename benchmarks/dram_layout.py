"""How many rows of DRAM do contiguous tiles save, and what energy? On RTL, and on the twin of a large accelerator.

Run ``python benchmarks/dram_layout.py``; writes ``build/results/dram_layout.json``.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Annotated

import torch
import typer

from brownout.cosim.cycle_model import CycleModel
from brownout.host import Accelerator, Requantisation, write_results
from brownout.host.device.backends.layout import LAYOUTS, Layout
from brownout.host.device.product.operands import make_product
from brownout.hw.commands import GemmCommand, GemmFlag, output_item_bytes
from brownout.hw.config import AcceleratorConfig, MemoryConfig
from brownout.hw.configurations import SERVER
from brownout.hw.errors.state import CommandOptions
from brownout.hw.matrix_layout import MatrixLayout, tiled_activations, tiled_output, tiled_weights

SEED = 0


@dataclass(frozen=True)
class Case:
    """Products, each `batch` times (m, k) by (k, n), on an accelerator; int8 results, or int32 if not `narrow`."""

    config: AcceleratorConfig
    shapes: tuple[tuple[int, int, int, int], ...]
    narrow: bool = True


SMALL = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 25))
TILES = dataclasses.replace(SMALL, rows=32, cols=32, block_rows=32, block_col_tiles=1, slab_bytes=32)
"""One 32 x 32 tile of each operand at a time, as in DRIFT's arithmetic."""

RTL_CASES = {
    "tiles_32x32": Case(TILES, ((1, 64, 2048, 2048),)),
    "tiles_32x32_int32": Case(TILES, ((1, 64, 2048, 2048),), narrow=False),
    "16x16_1152_1152": Case(SMALL, ((1, 128, 1152, 1152),)),
    "16x16_1152_1152_int32": Case(SMALL, ((1, 128, 1152, 1152),), narrow=False),
    "16x16_heads": Case(SMALL, ((4, 128, 72, 128), (4, 128, 128, 72)), narrow=False),
    "16x16_odd": Case(SMALL, ((1, 131, 333, 217),)),
}

TOKENS, WIDTH, HEADS = 1024, 1152, 16
DIT_BLOCK = (
    *((1, 2 * TOKENS, WIDTH, WIDTH),) * 4,
    (2 * HEADS, TOKENS, WIDTH // HEADS, TOKENS),
    (2 * HEADS, TOKENS, TOKENS, WIDTH // HEADS),
    (1, 2 * TOKENS, WIDTH, 4 * WIDTH),
    (1, 2 * TOKENS, 4 * WIDTH, WIDTH),
)
"""A transformer block of DiT-XL/2 at 512 x 512 with both halves of guidance."""

TWIN_CASES = {
    "server_1152_1152": Case(SERVER, ((1, 1024, 1152, 1152),)),
    "server_1152_4608": Case(SERVER, ((1, 1024, 1152, 4608),)),
    "server_4608_1152": Case(SERVER, ((1, 1024, 4608, 1152),)),
    "server_4096_rows": Case(SERVER, ((1, 4096, 1152, 1152),)),
    "server_dit_block": Case(SERVER, DIT_BLOCK),
}

SPLIT_CASES = ("16x16_1152_1152", "16x16_1152_1152_int32", "server_1152_1152", "server_1152_4608")
"""Of one product each, for which the operands are also tiled one by one."""

WIDTHS = (64, 72, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1152)

COUNTS = ("cycles", "dram_bytes", "dram_row_activations", "energy_dram_j", "energy_activation_j", "energy_j")


def operands(case: Case) -> list[tuple[torch.Tensor, torch.Tensor, Requantisation | None]]:
    """Random activations, weights and scales of each product."""
    generator = torch.Generator().manual_seed(SEED)
    products = []
    for batch, m, k, n in case.shapes:
        a = torch.randint(-128, 128, (batch, m, k), dtype=torch.int8, generator=generator)
        w = torch.randint(-128, 128, (batch, k, n), dtype=torch.int8, generator=generator)
        shift = torch.full((n,), 16)
        products.append((a, w, Requantisation(torch.full((n,), 100), shift) if case.narrow else None))
    return products


def measure(case: Case, backend: str, layout: str) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Counts of all products, and their results."""
    results = []
    with Accelerator(case.config, backend=backend, layout=layout, check_axi=False) as accelerator:
        for a, w, requant in operands(case):
            results.append(accelerator.gemm(a, accelerator.upload(w), requant=requant))
        stats = accelerator.stats
        return {name: stats[name] for name in COUNTS}, results


def count(
    config: AcceleratorConfig, shape: tuple[int, int, int, int], narrow: bool, layout: str, only: str = ""
) -> int:
    """Row activations of a product by itself; with `only`, of row-major operands that one is tiled."""
    batch, m, k, n = shape
    a, w = torch.empty(batch, m, k, dtype=torch.int8), torch.empty(batch, k, n, dtype=torch.int8)
    requant = Requantisation(torch.ones(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)) if narrow else None
    product, _ = make_product(a, w, None, requant, None, CommandOptions(), None)
    model = CycleModel(config)
    with Layout(config, model.ring_base, layout).place_product(product) as command:
        return model.run([tile_one(config, command, only) if only else command])["dram_row_activations"]


def survey() -> dict[str, float]:
    """Random products on the small array: how much tiles save in all, and where they save least."""
    rng = random.Random(SEED)
    shapes = []
    for _ in range(60):
        batch = rng.choice([1, 1, 1, 4])
        m, k, n = rng.choice([64, 128, 256, 300, 512]), rng.choice(WIDTHS), rng.choice(WIDTHS)
        shapes.append((batch, m // batch, k, n))
    metrics = {}
    for narrow, kind in ((True, "int8"), (False, "int32")):
        rows, tiles = ([count(SMALL, shape, narrow, layout) for shape in shapes] for layout in LAYOUTS)
        metrics[f"activation_reduction_survey_{kind}"] = sum(rows) / sum(tiles)
        metrics[f"worst_activation_reduction_survey_{kind}"] = min(a / b for a, b in zip(rows, tiles, strict=True))
        print(f"{len(shapes)} random shapes, {kind}: {sum(rows):,} -> {sum(tiles):,} activations")
    return metrics


def tile_one(config: AcceleratorConfig, command: GemmCommand, operand: str) -> GemmCommand:
    """A command with one operand in tiles, from one with none; no tile needs more room than the rows it is cut from."""
    m, n, k = command.m, command.n, command.k
    item_bytes = output_item_bytes(command.flags)
    tiled: dict[str, tuple[GemmFlag, str, MatrixLayout]] = {
        "a": (GemmFlag.A_TILED, "lda", tiled_activations(config, m, k)),
        "w": (GemmFlag.W_TILED, "ldw", tiled_weights(config, k, n)),
        "y": (GemmFlag.Y_TILED, "ldy", tiled_output(config, m, n, item_bytes)),
    }
    flag, name, layout = tiled[operand]
    assert layout.row_bytes == getattr(command, name)
    return dataclasses.replace(command, flags=command.flags | flag)


def tile_transfers(case: Case) -> int:
    """Tiles read and written, where a block is one tile of each operand."""
    config, total = case.config, 0
    for batch, m, k, n in case.shapes:
        rows, slabs, cols = -(-m // config.block_rows), -(-k // config.rows), -(-n // config.cols)
        total += batch * rows * cols * (2 * slabs + 1)
    return total


def report(name: str, case: Case, counts: dict[str, dict[str, float]]) -> dict[str, float]:
    """Metrics of a case from the counts of both layouts."""
    before, after = counts["row-major"], counts["tiled"]
    dram = {layout: c["energy_dram_j"] + c["energy_activation_j"] for layout, c in counts.items()}
    metrics = {}
    for layout, counted in counts.items():
        suffix = f"{layout.replace('-', '_')}_{name}"
        metrics[f"activations_{suffix}"] = counted["dram_row_activations"]
        metrics[f"dram_bytes_{suffix}"] = counted["dram_bytes"]
        metrics[f"cycles_{suffix}"] = counted["cycles"]
        metrics[f"dram_energy_j_{suffix}"] = dram[layout]
        metrics[f"energy_j_{suffix}"] = counted["energy_j"]
    metrics[f"activation_reduction_{name}"] = before["dram_row_activations"] / after["dram_row_activations"]
    metrics[f"dram_energy_saving_{name}"] = 1 - dram["tiled"] / dram["row-major"]
    metrics[f"energy_saving_{name}"] = 1 - after["energy_j"] / before["energy_j"]
    # The least that any layout could do: every byte in rows that are opened once.
    metrics[f"activations_least_{name}"] = after["dram_bytes"] / case.config.memory.row_bytes
    print(
        f"{name}: {before['dram_row_activations']:,.0f} -> {after['dram_row_activations']:,.0f} activations "
        f"({metrics[f'activation_reduction_{name}']:.1f}x, at least {metrics[f'activations_least_{name}']:,.0f}), "
        f"DRAM energy -{100 * metrics[f'dram_energy_saving_{name}']:.1f} %, "
        f"all energy -{100 * metrics[f'energy_saving_{name}']:.1f} %, "
        f"cycles {before['cycles']:,.0f} -> {after['cycles']:,.0f}"
    )
    return metrics


def main(
    rtl: Annotated[bool, typer.Option(help="run the small cases on RTL too, and compare with the twin")] = True,
) -> None:
    """Measure, compare, print and write the results."""
    metrics: dict[str, float] = {}
    mismatches = 0
    for name, case in (RTL_CASES | TWIN_CASES).items():
        counts, outputs = {}, {}
        for layout in LAYOUTS:
            counts[layout], outputs[layout] = measure(case, "twin", layout)
            if rtl and name in RTL_CASES:
                on_rtl, results = measure(case, "rtl", layout)
                same = all(map(torch.equal, results, outputs["row-major"]))
                mismatches += on_rtl != counts[layout] or not same
        mismatches += not all(map(torch.equal, *outputs.values()))
        metrics |= report(name, case, counts)
        if name in SPLIT_CASES:
            metrics[f"activations_none_tiled_{name}"] = count(case.config, case.shapes[0], case.narrow, "row-major")
            for operand in "awy":
                only = count(case.config, case.shapes[0], case.narrow, "row-major", operand)
                metrics[f"activations_only_{operand}_tiled_{name}"] = only
        if case.config is TILES:
            # The published 3072 and 128 are for three tiles of 32 x 32, one of each operand.
            for layout in LAYOUTS:
                per_group = 3 * counts[layout]["dram_row_activations"] / tile_transfers(case)
                metrics[f"activations_per_tile_group_{layout.replace('-', '_')}_{name}"] = per_group
    metrics |= survey()
    metrics["mismatches"] = mismatches
    settings = {
        name: {"accelerator": case.config.to_dict(), "batch_m_k_n": case.shapes, "int8_results": case.narrow}
        for name, case in (RTL_CASES | TWIN_CASES).items()
    }
    print(write_results("dram_layout", metrics, config={**settings, "rtl": rtl, "seed": SEED}))
    if mismatches:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
