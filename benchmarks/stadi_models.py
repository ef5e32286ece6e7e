"""Do published models at full size run divided over two accelerators, with the same bits and in the predicted time?

DiT-XL/2, PixArt-alpha and Stable Diffusion 1.5 with random weights and guidance, on the twin of `SERVER` and of an
array with half of its columns. Run ``python benchmarks/stadi_models.py`` (``--only dit_xl_2_512``); writes
``build/results/stadi_models.json``. Of each model NAME, in a few steps:

- ``NAME_bit_exact``: two devices in step make the image of one, bit for bit.
- ``NAME_prediction_error``: of the latency of displaced patches with strides 1 and 2, against what the accelerators
  count.
- ``NAME_distance``: root mean square difference of the displaced image to that of one device, over the range of the
  latter; weights are random, so it says nothing about pictures.
- ``NAME_latency_single_s``, ``NAME_latency_displaced_s``: simulated; ``NAME_sent_bytes``: on the links.
- ``NAME_wall_s``: wall-clock seconds for all of it.
"""

from __future__ import annotations

import gc
import time
from typing import Annotated, Any

import diffusers
import torch
import typer
from stadi_time import part_of_server

from brownout.host import calibrate, write_results
from brownout.host.stadi import DeviceSpec, Fleet, Generated, PlacedDenoiser, Plan, Sampling, Share, Sharing
from brownout.hw.configurations import SERVER
from denoisers.published import DENOISERS, Denoiser, fill

MODELS = ("dit_xl_2_512", "pixart_alpha_512", "sd_1_5")
STEPS = 5


def scheduler() -> diffusers.DDIMScheduler:
    """As the models are shipped with."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )


def conditions_of(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conditional and unconditional arguments beside latents and timestep; prompts of full length."""
    left = {"hidden_states", "sample", "timestep", "encoder_attention_mask"}

    def half(value: Any, index: int) -> Any:
        if isinstance(value, dict):
            return {name: half(each, index) for name, each in value.items()}
        return value.chunk(2)[index] if isinstance(value, torch.Tensor) else value

    named = {name: value for name, value in inputs.items() if name not in left}
    return half(named, 0), half(named, 1)


def two(rows: int, *, strides: tuple[int, int], warmup: int, steps: int) -> Plan:
    """A fast and a slow device with an uneven share of the rows."""
    first = -(-2 * rows // 3)
    spans = ((0, first), (first, rows))
    shares = tuple(
        Share(device=name, stride=stride, rows=span, warmup_rows=span)
        for name, stride, span in zip(("fast", "slow"), strides, spans, strict=True)
    )
    return Plan(method="given", shares=shares, rows=rows, steps=steps, warmup=warmup)


def one(rows: int, steps: int) -> Plan:
    """The fast device alone."""
    share = Share(device="fast", stride=1, rows=(0, rows), warmup_rows=(0, rows))
    return Plan(method="given", shares=(share,), rows=rows, steps=steps, warmup=0)


def study(name: str, denoiser: Denoiser) -> dict[str, float]:
    """Figures of a model."""
    began = time.monotonic()
    model = denoiser.build()
    fill(model)
    inputs: dict[str, Any] = dict(denoiser.inputs())
    with torch.no_grad():
        calibration = calibrate(model, lambda module: module(**inputs))
    latents = next(value for key, value in inputs.items() if key in ("hidden_states", "sample"))[:1].clone()
    conditions, unconditional = conditions_of(inputs)
    devices = [DeviceSpec(name="fast", config=SERVER), DeviceSpec(name="slow", config=part_of_server(2))]
    with Fleet(devices, executor="inline", patience_s=3600).place(model, calibration) as placed:

        def generate(plan: Plan, *, steps: int, mode: str = "displaced") -> Generated:
            return placed.generate(
                latents,
                Sampling(
                    scheduler=scheduler(),
                    conditions=conditions,
                    unconditional=unconditional,
                    guidance_scale=4.0,
                    num_inference_steps=steps,
                ),
                Sharing(plan=plan, mode=mode, replan=False),
            )

        rows = rows_of(placed, latents, conditions)
        single = generate(one(rows, STEPS), steps=STEPS)
        both = generate(two(rows, strides=(1, 1), warmup=1, steps=STEPS), steps=STEPS, mode="full_sync")
        displaced = generate(two(rows, strides=(1, 2), warmup=1, steps=STEPS), steps=STEPS)
    spread = single.latents.max() - single.latents.min()
    return {
        f"{name}_bit_exact": torch.equal(single.latents, both.latents),
        f"{name}_prediction_error": abs(displaced.predicted_s / displaced.timeline.latency_s - 1),
        f"{name}_distance": ((displaced.latents - single.latents).square().mean().sqrt() / spread).item(),
        f"{name}_latency_single_s": single.timeline.latency_s,
        f"{name}_latency_displaced_s": displaced.timeline.latency_s,
        f"{name}_sent_bytes": displaced.timeline.link_bytes,
        f"{name}_wall_s": time.monotonic() - began,
    }


def rows_of(placed: PlacedDenoiser, latents: torch.Tensor, conditions: dict[str, Any]) -> int:
    """Rows into which an image can be divided."""
    return placed.costs(latents, conditions).model.rows


def main(
    only: Annotated[str | None, typer.Option(help="one of the models")] = None,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
) -> None:
    """Run the models one after another."""
    if only is not None and only not in MODELS:
        raise typer.BadParameter(f"--only must be one of {', '.join(MODELS)}, not {only}")
    torch.set_num_threads(threads)
    metrics: dict[str, float] = {"steps": STEPS}
    for name in MODELS if only is None else (only,):
        metrics |= study(name, DENOISERS[name])
        gc.collect()
        for key, value in metrics.items():
            if key.startswith(name):
                print(f"{key:40} {value:.6g}", flush=True)
    print(
        write_results("stadi_models", metrics, config={"fast": SERVER.to_dict(), "slow": part_of_server(2).to_dict()})
    )


if __name__ == "__main__":
    typer.run(main)
