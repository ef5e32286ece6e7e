"""What does it cost to check a run on the twin against the RTL while it goes on?

The linear layers of DiT-XL/2 at 512x512 with guidance (2 x 1024 tokens) and errors, on the twin and with one faulty
pass of each replayed on the RTL; then steps of a whole denoiser (random weights), attention included, with one faulty
pass of every command. Run ``python benchmarks/mixed.py``; writes ``build/results/mixed.json``.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import statistics
import time
from typing import Annotated, Any

import torch
import typer

from brownout.host import Accelerator, MixedOptions, Protection, ResidentWeights, calibrate, offload, write_results
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from denoisers.published import DENOISERS, fill

LAYERS = {
    "qkv": (2048, 1152, 3456),
    "projection": (2048, 1152, 1152),
    "feed_forward_in": (2048, 1152, 4608),
    "feed_forward_out": (2048, 4608, 1152),
}
"""M, K, N."""

BLOCKS = 4
"""Transformer blocks in a run, of the 28 of an evaluation: at its end the last replay is waited for."""

ERROR_RATE = 1e-3

CARRY_VOLTAGE_V = 0.84
"""As in benchmarks/twin.py."""

CHECKSUM = ChecksumConfig(scheme="residue", locators=1, column_checks=False, segment_cols=16)
"""On the Pareto front of docs/protection.md."""

SEED = 0

Operands = dict[str, tuple[torch.Tensor, ResidentWeights, torch.Tensor]]


def _operands(accelerator: Accelerator) -> Operands:
    """Activations, weights and a slot of each layer."""
    generator = torch.Generator().manual_seed(SEED)
    made = {}
    for name, (m, k, n) in LAYERS.items():
        a = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
        w = torch.randint(-128, 128, (k, n), dtype=torch.int8, generator=generator)
        made[name] = a, accelerator.upload(w), accelerator.new_slot(m, n)
    return made


def _run(accelerator: Accelerator, operands: Operands, blocks: int) -> float:
    """Seconds of all layers in turn, with the replays that belong to them."""
    began = time.perf_counter()
    for _ in range(blocks):
        for a, weights, slot in operands.values():
            accelerator.gemm(a, weights, out=slot)
    if accelerator.backend == "mixed":
        _ = accelerator.coverage
    return time.perf_counter() - began


def _set_errors(accelerator: Accelerator) -> None:
    if accelerator.config.timing_model == "flip":
        accelerator.set_error_rate(ERROR_RATE, seed=SEED)
    else:
        accelerator.set_operating_point(voltage_v=CARRY_VOLTAGE_V)


def overhead(timing_model: str, repeats: int, blocks: int) -> dict[str, float]:
    """Time of runs with replays over that of runs without, alternating; and what the replays have covered."""
    config = AcceleratorConfig(timing_model=timing_model, checksum=CHECKSUM)
    protection = Protection(on_uncorrectable="suppress")
    options = MixedOptions(selection="faulty", seed=SEED)
    with (
        Accelerator(config, backend="twin", protection=protection) as twin,
        Accelerator(config, backend="mixed", mixed=options, protection=protection) as mixed,
    ):
        both = [(accelerator, _operands(accelerator)) for accelerator in (twin, mixed)]
        for accelerator, operands in both:
            _set_errors(accelerator)
            _run(accelerator, operands, blocks)
        before = mixed.coverage
        seconds: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats):
            # The other one goes first every time, so that neither always meets a warm cache.
            for index in (0, 1) if repeat % 2 else (1, 0):
                seconds[index].append(_run(*both[index], blocks))
        after = mixed.coverage
    counts = {
        field.name: getattr(after, field.name) - getattr(before, field.name) for field in dataclasses.fields(after)
    }
    if counts["replayed"] != repeats * blocks * len(LAYERS) or counts["faulty_replayed"] != counts["replayed"]:
        raise RuntimeError(f"one faulty pass of each layer should have been replayed, but: {after}")
    ratios = [slower / faster for faster, slower in zip(*seconds, strict=True)]
    metrics = {
        "over_twin": statistics.median(ratios),
        "over_twin_of_medians": statistics.median(seconds[1]) / statistics.median(seconds[0]),
        "over_twin_lowest_tenth": statistics.quantiles(ratios, n=10)[0],
        "over_twin_highest_tenth": statistics.quantiles(ratios, n=10)[-1],
        "twin_s": statistics.median(seconds[0]),
        "rtl_ms_per_replay": 1e3 * counts["rtl_wall_s"] / counts["replayed"],
        "rtl_cycles_per_replay": counts["rtl_cycles"] / counts["replayed"],
    }
    return {**metrics, **counts}


@torch.inference_mode()
def whole_model(name: str, repeats: int) -> dict[str, float]:
    """The same for steps of a denoiser at full size, with guidance."""
    denoiser = DENOISERS[name]
    with torch.inference_mode(False):
        model = denoiser.build()
        fill(model, SEED)
    arguments = denoiser.inputs(SEED)
    calibration = calibrate(model, lambda each: each(**arguments), method="absmax", measure_error=False)
    config = AcceleratorConfig(timing_model="flip", checksum=CHECKSUM, memory=MemoryConfig(size_bytes=1 << 33))
    options = MixedOptions(selection="faulty", seed=SEED)
    seconds: dict[str, list[float]] = {"twin": [], "mixed": []}
    offloaded, accelerators = {}, {}
    with contextlib.ExitStack() as stack:
        for backend in seconds:
            settings: dict[str, Any] = {"mixed": options} if backend == "mixed" else {}
            accelerator = Accelerator(
                config, backend=backend, protection=Protection(on_uncorrectable="keep"), **settings
            )
            accelerators[backend] = stack.enter_context(accelerator)
            _set_errors(accelerator)
            tensors = (*model.parameters(), *model.buffers())
            offloaded[backend] = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
            offload(offloaded[backend], accelerator, calibration=calibration)
            offloaded[backend](**arguments)
        for repeat in range(repeats):
            for backend in ("twin", "mixed") if repeat % 2 else ("mixed", "twin"):
                began = time.perf_counter()
                offloaded[backend](**arguments)
                if backend == "mixed":
                    _ = accelerators[backend].coverage
                seconds[backend].append(time.perf_counter() - began)
        covered = accelerators["mixed"].coverage
    ratios = [slower / faster for faster, slower in zip(seconds["twin"], seconds["mixed"], strict=True)]
    return {
        "over_twin": statistics.median(ratios),
        "twin_s": statistics.median(seconds["twin"]),
        "rtl_ms_per_replay": 1e3 * covered.rtl_wall_s / covered.replayed,
        **dataclasses.asdict(covered),
    }


def main(
    repeats: Annotated[int, typer.Option(help="runs of all layers, with replays and without")] = 21,
    threads: Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")] = 0,
    carry: Annotated[bool, typer.Option(help="late carries too, whose runs take seconds")] = True,
    model: Annotated[str, typer.Option(help=f"denoiser: {', '.join(DENOISERS)}; empty: none")] = "dit_xl_2_512",
) -> None:
    """Measure, print and write the results."""
    if threads:
        torch.set_num_threads(threads)
    metrics: dict[str, float] = {f"mixed_{name}": value for name, value in overhead("flip", repeats, BLOCKS).items()}
    if carry:
        late = overhead("carry", max(3, repeats // 5), 1)
        metrics |= {f"carry_mixed_{name}": value for name, value in late.items()}
    if model:
        metrics |= {f"{model}_mixed_{name}": value for name, value in whole_model(model, 3).items()}
    # With other work on the machine, replays cost all of their processor time.
    metrics |= {"threads": torch.get_num_threads(), "repeats": repeats, "load_average": os.getloadavg()[0]}
    settings: dict[str, Any] = {"blocks": BLOCKS, "error_rate": ERROR_RATE, "carry_voltage_v": CARRY_VOLTAGE_V}
    path = write_results("mixed", metrics, config={**settings, **AcceleratorConfig().to_dict()})
    print(
        f"a faulty pass of every layer on RTL: {metrics['mixed_over_twin']:.3f} of the twin's time "
        f"({metrics['mixed_rtl_ms_per_replay']:.1f} ms and {metrics['mixed_rtl_cycles_per_replay']:.0f} cycles each), "
        f"{metrics['mixed_replayed']:.0f} replayed, {metrics['mixed_mismatches']:.0f} mismatches"
        + (f"; late carries {metrics['carry_mixed_over_twin']:.3f}" if carry else "")
        + (f"; a step of {model} {metrics[f'{model}_mixed_over_twin']:.3f}" if model else "")
        + f"; {path}"
    )


if __name__ == "__main__":
    typer.run(main)
