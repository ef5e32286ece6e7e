"""Small denoisers on small fleets."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import diffusers
import torch

from brownout.host import Accelerator, calibrate, offload
from brownout.host.stadi.execute.fleet import PlacedDenoiser
from brownout.host.stadi.execute.request import Sampling, Sharing
from brownout.host.stadi.execute.run import Generated
from brownout.host.stadi.plan.device import DeviceSpec
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.hw.config import AcceleratorConfig, MemoryConfig

CONFIG = AcceleratorConfig(rows=8, cols=8, memory=MemoryConfig(size_bytes=1 << 22))
HALF = AcceleratorConfig(rows=8, cols=4, memory=MemoryConfig(size_bytes=1 << 22))
STEPS, NULL = 6, 10


def dit(num_layers: int = 2) -> diffusers.DiTTransformer2DModel:
    """6 rows of 6 tokens; width 32, a multiple of what is computed at once."""
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=2,
        num_layers=num_layers,
        sample_size=12,
        patch_size=2,
        num_embeds_ada_norm=NULL,
    ).eval()


def pixart() -> diffusers.PixArtTransformer2DModel:
    """Predicts variances too, and has cross-attention."""
    torch.manual_seed(1)
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=2,
        out_channels=4,
        num_layers=2,
        sample_size=12,
        patch_size=2,
        cross_attention_dim=32,
        caption_channels=12,
    ).eval()


def dit_conditions(count: int) -> tuple[dict, dict]:
    """Conditional and unconditional."""
    return {"class_labels": torch.arange(count)}, {"class_labels": torch.full((count,), NULL)}


def pixart_conditions(count: int) -> tuple[dict, dict]:
    """Conditional and unconditional; no size conditioning, which only the largest models have."""
    generator = torch.Generator().manual_seed(2)

    def prompts() -> dict:
        return {
            "encoder_hidden_states": torch.randn(count, 6, 12, generator=generator),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }

    return prompts(), prompts()


def latents(count: int, size: tuple[int, int] = (12, 12)) -> torch.Tensor:
    return torch.randn(count, 2, *size, generator=torch.Generator().manual_seed(3))


def scheduler() -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False)


def both(conditions: tuple[dict, dict]) -> dict:
    """For a batch with guidance."""
    found = {}
    for name, value in conditions[0].items():
        other = conditions[1][name]
        found[name] = torch.cat([value, other]) if isinstance(value, torch.Tensor) else value
    return found


def calibrated(model, inputs, conditions):
    timesteps = (999, 500, 1)

    def run(module):
        for timestep in timesteps:
            module(inputs, timestep=torch.full((len(inputs),), timestep), **conditions)

    with torch.no_grad():
        return calibrate(model, run)


def alone(model, calibration, noise, conditions, *, guidance_scale, own_scheduler, steps=STEPS):
    """The image of the undivided model on one accelerator, by diffusers' own steps."""
    module = copy.deepcopy(model)
    with Accelerator(CONFIG, "twin") as accelerator, torch.no_grad():
        offload(module, accelerator, calibration=calibration)
        own_scheduler.set_timesteps(steps)
        image = noise
        for timestep in own_scheduler.timesteps:
            guided = guidance_scale != 1
            inputs = torch.cat([image, image]) if guided else image
            arguments = both(conditions) if guided else conditions[0]
            predicted = module(inputs, timestep=timestep.expand(len(inputs)), **arguments).sample[:, : image.shape[1]]
            if guided:
                wanted, unwanted = predicted.chunk(2)
                predicted = unwanted + guidance_scale * (wanted - unwanted)
            image = own_scheduler.step(predicted, timestep, image).prev_sample
    return image


def devices(*configs: AcceleratorConfig) -> list[DeviceSpec]:
    return [DeviceSpec(name=f"d{index}", config=config) for index, config in enumerate(configs)]


def plan(rows, *, strides=None, warmup_rows=None, warmup=1, steps=STEPS) -> Plan:
    """Devices d0, d1, .. with these numbers of rows."""
    strides = strides or [1] * len(rows)
    warmup_rows = warmup_rows or rows
    shares, start, warm = [], 0, 0
    for index, (count, stride, warm_count) in enumerate(zip(rows, strides, warmup_rows, strict=True)):
        shares.append(
            Share(
                device=f"d{index}",
                stride=stride,
                rows=(start, start + count),
                warmup_rows=(warm, warm + warm_count),
            )
        )
        start, warm = start + count, warm + warm_count
    return Plan(method="test", shares=tuple(shares), rows=sum(rows), steps=steps, warmup=warmup)


def divisions(total: int, parts: int):
    """All ways to divide rows over devices, each with at least one."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in divisions(total - first, parts - 1):
            yield (first, *rest)


def make_image(placed: PlacedDenoiser, noise: torch.Tensor, **options: Any) -> Generated:
    """`PlacedDenoiser.generate`, with the fields of `Sampling` and of `Sharing` among its options."""

    def of(kind: type) -> Any:
        return kind(**{each.name: options.pop(each.name) for each in fields(kind) if each.name in options})

    return placed.generate(noise, of(Sampling), of(Sharing), **options)
