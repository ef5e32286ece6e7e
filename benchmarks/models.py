"""How long does one denoising step of a real model take on the twin, and what would the accelerator need?

DiT-XL/2, PixArt-alpha and Stable Diffusion 1.5 at full size with random weights and prompts (time and cycles do not
depend on them), for the batch of two of classifier-free guidance. float32 PyTorch, the clean twin, and the twin with
errors and correction take turns. Run ``python benchmarks/models.py``; writes ``build/results/models.json``.
"""

from __future__ import annotations

import copy
import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

# Before torch loads OpenMP. On a shared machine, threads that wait by spinning take the cores from those they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import typer
from torch import nn

from brownout.host import Accelerator, Protection, calibrate, offload, report, write_results
from brownout.host.offloading import Calibration
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER, SERVER_FLIP
from denoisers.published import DENOISERS, Denoiser, fill

ERROR_RATE = 1e-3

PROTECTION = Protection(on_uncorrectable="keep")
"""A single step has no values of the timestep before to go back to."""

SEED = 0

Step = Callable[[], torch.Tensor]


def _seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Of the wall clock, and of all cores for this process."""
    began = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A model with modules of its own and the weights of another."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _step(model: nn.Module, arguments: dict[str, Any]) -> Step:
    return lambda: model(**arguments).sample


def _sqnr_db(reference: torch.Tensor, result: torch.Tensor) -> float:
    noise = (result - reference).double().square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))


def _device_metrics(accelerator: Accelerator, model: nn.Module) -> dict[str, float]:
    """Of one step, just done; how long it takes to count its cycles, too."""
    count_s, _ = _seconds(lambda: accelerator.stats)
    stats = accelerator.stats
    weights = [layer for layer in report(model) if layer.kind != "attention"]
    return {
        "macs": stats["macs"],
        "cycles": stats["cycles"],
        "time_s": stats["time_s"],
        "energy_j": stats["energy_j"],
        "utilisation": stats["ideal_cycles"] / stats["cycles"],
        # Products of attention have short sums, whose 32-bit results are more than the bus can carry.
        "utilisation_weights": sum(layer.ideal_cycles for layer in weights) / sum(layer.cycles for layer in weights),
        "count_s": count_s,
    }


def _offloaded(model: nn.Module, accelerator: Accelerator, calibration: Calibration) -> nn.Module:
    twin = _sharing_copy(model)
    offload(twin, accelerator, calibration=calibration)
    return twin


def _race(
    models: dict[str, nn.Module], arguments: dict[str, Any], repeats: int, accelerators: dict[str, Accelerator]
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the steps of each model, in turns; all have run before."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            times[name].append(_seconds(_step(model, arguments)))
        # Counts what these steps have cost, so that no later one has to.
        for accelerator in accelerators.values():
            _ = accelerator.stats
    return times


@torch.inference_mode()
def measure(denoiser: Denoiser, repeats: int, configs: tuple[AcceleratorConfig, AcceleratorConfig]) -> dict[str, float]:
    """Let float32, the clean twin and the erring one race at one step of a model.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    repeats : int
        Steps of each, in turns, after one for warming up (of float32 the calibration).
    configs : (AcceleratorConfig, AcceleratorConfig)
        Without and with errors and checks.

    Returns
    -------
    dict of str to float
        Names without the model's.

    Raises
    ------
    AssertionError
        The accelerator counts other MACs than PyTorch, or a result is not finite.
    """
    with torch.inference_mode(False):
        model = denoiser.build()
        fill(model, SEED)
    arguments = denoiser.inputs(SEED)
    expected = denoiser.macs()
    reference: list[torch.Tensor] = []

    def run(each: nn.Module) -> None:
        reference.append(each(**arguments).sample)

    calibration = calibrate(model, run, method="absmax", measure_error=False)
    with (
        Accelerator(configs[0], backend="twin") as clean,
        Accelerator(configs[1], backend="twin", protection=PROTECTION) as erring,
    ):
        erring.set_error_rate(ERROR_RATE, seed=SEED, check_rate=ERROR_RATE)
        accelerators = {"twin": clean, "twin_protected": erring}
        models = {name: _offloaded(model, each, calibration) for name, each in accelerators.items()}
        metrics: dict[str, float] = {"parameters": sum(each.numel() for each in model.parameters())}
        for name, accelerator in accelerators.items():
            result = _step(models[name], arguments)()
            assert result.isfinite().all(), f"{denoiser.title}: output of {name} is not finite"
            found = _device_metrics(accelerator, models[name])
            assert found["macs"] == expected, f"{denoiser.title}: {found['macs']} MACs, but PyTorch has {expected}"
            found["sqnr_db"] = _sqnr_db(reference[0], result)
            suffix = name.removeprefix("twin")
            metrics |= {f"{metric}{suffix}": value for metric, value in found.items()}
        metrics["corrected_share"] = erring.stats["corrected"] / erring.stats["injected"]
        times = _race({"fp32": model, **models}, arguments, repeats, accelerators)
    metrics |= {f"{name}_s": statistics.median(wall for wall, _ in each) for name, each in times.items()}
    metrics |= {f"{name}_cpu_s": statistics.median(cpu for _, cpu in each) for name, each in times.items()}
    for name in models:
        for index, kind in enumerate(("time", "cpu_time")):
            ratios = [twin[index] / fp32[index] for twin, fp32 in zip(times[name], times["fp32"], strict=True)]
            metrics[f"{name}_over_fp32_{kind}"] = statistics.median(ratios)
    metrics["load_average"] = os.getloadavg()[0]
    return metrics


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(DENOISERS)}; may be repeated")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="steps of each contestant")] = 3,
    threads: Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")] = 0,
) -> None:
    """Measure, print and write the results."""
    if threads:
        torch.set_num_threads(threads)
    metrics: dict[str, float] = {}
    names = only or list(DENOISERS)
    for name in names:
        found = measure(DENOISERS[name], repeats, (SERVER, SERVER_FLIP))
        gc.collect()
        metrics |= {f"{name}_{metric}": value for metric, value in found.items()}
        print(
            f"{DENOISERS[name].title}: {found['macs'] / 1e9:.0f} GMAC in {found['time_s'] * 1e3:.1f} ms and "
            f"{found['energy_j']:.2f} J on the accelerator ({found['utilisation']:.0%} busy); float32 "
            f"{found['fp32_s']:.1f} s, twin {found['twin_s']:.1f} s ({found['twin_over_fp32_time']:.2f}), with errors "
            f"and correction {found['twin_protected_s']:.1f} s ({found['twin_protected_over_fp32_time']:.2f}); load "
            f"{found['load_average']:.1f}",
            flush=True,
        )
    for ratio in ("twin_over_fp32_time", "twin_protected_over_fp32_time"):
        metrics[ratio] = max(metrics[f"{name}_{ratio}"] for name in names)
    metrics |= {"threads": torch.get_num_threads(), "repeats": repeats, "models": len(names)}
    settings: dict[str, Any] = {"error_rate": ERROR_RATE, "batch": 2, **SERVER_FLIP.to_dict()}
    settings["omp_wait_policy"] = os.environ["OMP_WAIT_POLICY"]
    settings["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    print(write_results("models", metrics, config=settings))


if __name__ == "__main__":
    typer.run(main)
