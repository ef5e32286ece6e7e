"""How fast is the twin? Clean products against float32 ``torch.matmul``, and what errors and checks add to them.

What errors add to a float32 layer in two PyTorch tools for fault injection stands beside it.
Run ``python benchmarks/twin.py``; writes ``build/results/twin.json``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import nn

from brownout.host import Accelerator, Protection, write_results
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from fault_injectors import torch_tools

M, K, N = 1024, 1152, 4608
"""Tokens of a 512x512 image into the feed-forward layer of DiT-XL/2."""

LAYERS = {
    "qkv": (1024, 1152, 3456),
    "projection": (1024, 1152, 1152),
    "feed_forward_in": (1024, 1152, 4608),
    "feed_forward_out": (1024, 4608, 1152),
}
"""M, K, N of the linear layers of DiT-XL/2 at 512x512."""

INJECTOR_LAYERS = ("projection", "feed_forward_in")
"""Layers that the PyTorch tools inject errors into."""

ERROR_RATE = 1e-3

RECOMMENDED = ChecksumConfig(scheme="residue", locators=1, column_checks=False, segment_cols=16)
"""On the Pareto front of docs/protection.md, which finds that column checks do not pay."""

SCHEMES_COMPARED = {
    "classic": ChecksumConfig(scheme="classic"),
    "matched": ChecksumConfig(scheme="matched"),
    "weighted_1": ChecksumConfig(scheme="weighted", locators=1, column_checks=False),
    "weighted_2": ChecksumConfig(scheme="weighted", locators=2, column_checks=False),
    "weighted_2_columns": ChecksumConfig(scheme="weighted", locators=2),
    "residue_2": ChecksumConfig(scheme="residue", locators=2, column_checks=False),
    "residue_1_columns": ChecksumConfig(scheme="residue", locators=1),
    "residue_2_columns": ChecksumConfig(scheme="residue", locators=2),
}
"""The other schemes, with column checks where the name says so or the scheme needs them."""

CARRY_VOLTAGE_V = 0.84
"""Late carries in a few per cent of the outputs; below, they are everywhere."""

SEED = 0

Contestants = dict[str, Callable[[], object]]


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _race(contestants: Contestants, repeats: int) -> dict[str, list[float]]:
    """Seconds of each, interleaved, so that other load on the machine meets all alike."""
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            times[name].append(_seconds(run))
    return times


def _operands(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    m, k, n = shape
    generator = torch.Generator().manual_seed(SEED)
    a = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
    return a, torch.randint(-128, 128, (k, n), dtype=torch.int8, generator=generator)


def clean_speed(repeats: int) -> dict[str, float]:
    """Clean products against float32."""
    a, w = _operands((M, K, N))
    a_float, w_float = a.float(), w.float()
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        weights = accelerator.upload(w)
        # Both write to a buffer that is there: new memory for 4.7 M results costs more than some products.
        sums, result = torch.empty(M, N, dtype=torch.int32), torch.empty(M, N)
        times = _race(
            {
                "twin": lambda: accelerator.gemm(a, weights, out=sums),
                "fp32": lambda: torch.matmul(a_float, w_float, out=result),
            },
            repeats,
        )
    gmacs = M * K * N / 1e9
    speed = {name: gmacs / statistics.median(values) for name, values in times.items()}
    ratios = [fp32 / twin for twin, fp32 in zip(times["twin"], times["fp32"], strict=True)]
    return {
        "twin_gmac_per_s": speed["twin"],
        "fp32_gmac_per_s": speed["fp32"],
        "twin_over_fp32": statistics.median(ratios),
    }


def _flip_race(
    checksum: ChecksumConfig, repeats: int, protections: dict[str, Protection]
) -> tuple[dict[str, dict[str, float]], float]:
    """Median seconds of each layer, clean and under each protection, and the share of errors that were corrected."""
    config = AcceleratorConfig(timing_model="flip", checksum=checksum)
    medians: dict[str, dict[str, float]] = {}
    with Accelerator(AcceleratorConfig(), backend="twin") as clean, Accelerator(config, backend="twin") as erring:
        erring.set_error_rate(ERROR_RATE, seed=SEED)
        for layer, shape in LAYERS.items():
            a, w = _operands(shape)
            sums = torch.empty(shape[0], shape[2], dtype=torch.int32)
            left, right = clean.upload(w), erring.upload(w)
            contestants: Contestants = {"clean": partial(clean.gemm, a, left, out=sums)}
            for name, protection in protections.items():
                contestants[name] = partial(erring.gemm, a, right, out=sums, protection=protection)
            times = _race(contestants, repeats)
            medians[layer] = {name: statistics.median(values) for name, values in times.items()}
        stats = erring.stats
    return medians, stats["corrected"] / stats["injected"]


def _over_clean(medians: dict[str, dict[str, float]], name: str) -> float:
    """Over the clean product, all layers together."""
    return sum(layer[name] for layer in medians.values()) / sum(layer["clean"] for layer in medians.values())


def flip_cost(repeats: int) -> dict[str, float]:
    """Injection, checks and correction over the clean product: of the recommended scheme for each layer, then of all.

    ``flip_over_clean_worst_scheme`` is that of the scheme in `SCHEMES_COMPARED` that costs most.
    """
    keep, suppress = Protection(on_uncorrectable="keep"), Protection(on_uncorrectable="suppress")
    medians, share = _flip_race(RECOMMENDED, repeats, {"protected": keep, "suppressing": suppress})
    metrics = {f"flip_over_clean_{layer}": times["protected"] / times["clean"] for layer, times in medians.items()}
    metrics["flip_over_clean"] = _over_clean(medians, "protected")
    metrics["flip_suppress_over_clean"] = _over_clean(medians, "suppressing")
    metrics["flip_corrected_share"] = share
    ratios = [metrics["flip_over_clean"]]
    for name, checksum in SCHEMES_COMPARED.items():
        medians, _ = _flip_race(checksum, max(5, repeats // 3), {"protected": keep})
        metrics[f"flip_over_clean_scheme_{name}"] = _over_clean(medians, "protected")
        ratios.append(metrics[f"flip_over_clean_scheme_{name}"])
    metrics["flip_over_clean_worst_scheme"] = max(ratios)
    return metrics


@torch.inference_mode()
def injector_cost(repeats: int) -> dict[str, float]:
    """A float32 layer with errors of PyTorchFI and of MRFI over the same layer without: each layer, and all of them.

    ``pytorchfi_fixed`` repeats the same errors, which saves their declaration. Tools that are not installed are left
    out.
    """
    metrics: dict[str, float] = {}
    totals: dict[str, float] = {}
    packages = torch_tools.installed()
    if not packages:
        return metrics
    for layer in INJECTOR_LAYERS:
        m, k, n = LAYERS[layer]
        torch.manual_seed(SEED)
        linear, tokens = nn.Linear(k, n), torch.randn(1, m, k)
        tools: Contestants = {}
        for package in packages:
            tools |= torch_tools.contestants(package, linear, tokens, ERROR_RATE)
        times = _race({"clean": partial(linear, tokens), **tools}, max(3, repeats // 3))
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, value in medians.items():
            totals[name] = totals.get(name, 0.0) + value
        metrics |= {f"{name}_over_clean_{layer}": medians[name] / medians["clean"] for name in tools}
    clean = totals.pop("clean")
    return metrics | {f"{name}_over_clean": total / clean for name, total in totals.items()}


def carry_speed(repeats: int) -> dict[str, float]:
    """GMAC/s of products with late carries, checks included."""
    config = AcceleratorConfig(timing_model="carry", checksum=ChecksumConfig(scheme="residue"))
    shape = LAYERS["projection"]
    a, w = _operands(shape)
    with Accelerator(config, backend="twin", protection=Protection()) as accelerator:
        accelerator.set_operating_point(voltage_v=CARRY_VOLTAGE_V)
        weights = accelerator.upload(w)
        sums = torch.empty(shape[0], shape[2], dtype=torch.int32)
        times = _race({"carry": lambda: accelerator.gemm(a, weights, out=sums)}, max(3, repeats // 5))
        share = accelerator.stats["detected"] / accelerator.stats["checks"]
    gmacs = shape[0] * shape[1] * shape[2] / 1e9
    return {"carry_gmac_per_s": gmacs / statistics.median(times["carry"]), "carry_flagged_share": share}


def main(
    repeats: Annotated[int, typer.Option(help="interleaved measurements of each")] = 30,
    threads: Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")] = 0,
) -> None:
    """Measure, print and write the results."""
    if threads:
        torch.set_num_threads(threads)
    # Other load on the machine changes the ratios.
    load = os.getloadavg()[0]
    metrics = {**clean_speed(repeats), **flip_cost(repeats), **injector_cost(repeats), **carry_speed(repeats)}
    metrics |= {"threads": torch.get_num_threads(), "repeats": repeats, "load_before": load}
    settings: dict[str, Any] = {"m": M, "k": K, "n": N, "error_rate": ERROR_RATE, "carry_voltage_v": CARRY_VOLTAGE_V}
    settings |= {"cpu_capability": torch.backends.cpu.get_cpu_capability(), **AcceleratorConfig().to_dict()}
    path = write_results("twin", metrics, config=settings)
    tools = [f"{name} {metrics[key]:.3f}" for name in ("pytorchfi", "mrfi") if (key := f"{name}_over_clean") in metrics]
    print(
        f"twin {metrics['twin_gmac_per_s']:.0f} GMAC/s, float32 {metrics['fp32_gmac_per_s']:.0f} GMAC/s, "
        f"ratio {metrics['twin_over_fp32']:.2f}; errors at {ERROR_RATE:g} with checks cost "
        f"{metrics['flip_over_clean']:.3f} of the clean product, "
        f"{metrics['flip_over_clean_worst_scheme']:.3f} with the worst scheme (errors alone in a float32 "
        f"layer: {', '.join(tools) or 'no tool installed'}), late carries run at "
        f"{metrics['carry_gmac_per_s']:.1f} GMAC/s; {path}"
    )


if __name__ == "__main__":
    typer.run(main)
