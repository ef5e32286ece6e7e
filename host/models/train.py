"""Train the shipped models: ``python -m brownout.host.models.train denoiser mnist``.

Training may be stopped at any time and goes on where it stopped when started again. The learning rate is
constant after a short warm-up and falls linearly to zero over the last quarter, so a run can be lengthened
by asking for more iterations before that quarter begins.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .augment import translate, vary
from .classifier import Classifier
from .data import Dataset, load_dataset
from .load import load_denoiser, note_digest
from .spec import TRAIN_TIMESTEPS, ModelSpec, build_denoiser, build_scheduler, get_spec

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

WEIGHTS = Path(__file__).parent / "weights"
LABEL_DROPOUT = 0.1
EMA_DECAY = 0.9995
DECAY_SHARE = 0.25
WARMUP_ITERATIONS = 200


def initialise_adaln_zero(model: nn.Module) -> None:
    """Start every block as the identity and the output at zero (adaLN-Zero, arXiv 2212.09748, section 3.2)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    gates = [name for name, _ in model.named_parameters() if name.endswith("norm1.linear.weight")]
    for name in (*gates, "proj_out_1.weight", "proj_out_2.weight"):
        nn.init.zeros_(model.get_parameter(name))


def draw_indices(data: Dataset, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` training images at random, int64 (count,).

    Where there are originals, classes are drawn by the root of their size: small ones more often than their share,
    and large ones, which have more to be learnt, more often than an equal share.
    """
    labels = data.train_labels
    if data.train_originals is None:
        return torch.randint(0, len(labels), (count,), generator=generator)
    weights = labels.bincount()[labels].float().rsqrt()
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def augment(data: Dataset, pick: torch.Tensor, largest_shift: int, generator: torch.Generator) -> torch.Tensor:
    """Random variants of the training images `pick`, float32 (N, C, H, W) in [0, 1]."""
    images = data.train_images[pick]
    originals = data.train_originals
    if originals is None:
        return translate(images, largest_shift, generator)
    return vary(originals.images[pick], images.shape[-1], largest_shift, originals.mirrored[pick], generator)


def adopt_blocks(model: DiTTransformer2DModel, teacher: DiTTransformer2DModel) -> None:
    """Start a model with smaller patches from one with larger ones.

    Blocks are taken as they are. A small patch is embedded as a large one is that shows twice as little contrast
    at half the resolution, and predicts the mean of the pixels at its place in a large one.
    """
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    small, large = model.config.patch_size, teacher.config.patch_size
    if large % small:
        raise ValueError(f"patches of {large} pixels cannot be divided into patches of {small}")
    ratio, channels = large // small, model.config.out_channels or model.config.in_channels
    state["pos_embed.proj.weight"] = F.avg_pool2d(state["pos_embed.proj.weight"], ratio) * ratio**2 / 2
    for name in ("proj_out_2.weight", "proj_out_2.bias"):
        pixels = state[name].view(small, ratio, small, ratio, channels, *state[name].shape[1:])
        state[name] = pixels.mean((1, 3)).reshape(-1, *state[name].shape[1:])
    model.load_state_dict(state)


def draw_timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw training timesteps: three quarters logit-normal (arXiv 2403.03206), one quarter uniform.

    The middle of the schedule decides which digit appears; the ends must not be starved.
    """
    normal = torch.sigmoid(torch.randn(count, generator=generator) + 0.3)
    uniform = torch.rand(count, generator=generator)
    take_uniform = torch.rand(count, generator=generator) < 0.25
    unit = torch.where(take_uniform, uniform, normal)
    return (unit * TRAIN_TIMESTEPS).long().clamp_(0, TRAIN_TIMESTEPS - 1)


def learning_rate(iteration: int, total: int, peak: float) -> float:
    """Warm-up, plateau, linear decay over the last `DECAY_SHARE` of the run."""
    decay_start = total * (1 - DECAY_SHARE)
    scale = min(1.0, (iteration + 1) / WARMUP_ITERATIONS)
    if iteration > decay_start:
        scale = max(0.0, (total - iteration) / (total - decay_start))
    return peak * scale


def _write_atomically(path: Path, payload: dict) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(payload, temporary)
    os.replace(temporary, path)


def train_denoiser(spec: ModelSpec, *, iterations: int, batch_size: int, peak_lr: float, work: Path) -> None:
    """Train the denoiser of `spec` and write its averaged weights beside this file."""
    data = load_dataset(spec.dataset)
    work.mkdir(parents=True, exist_ok=True)
    state_file = work / f"{spec.name}-denoiser.pt"
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build_denoiser(spec)
    initialise_adaln_zero(model)
    teacher = load_denoiser(spec.teacher) if spec.teacher else None
    if teacher is not None:
        adopt_blocks(model, teacher)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    start, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        start, seconds = state["iteration"], state["seconds"]
        print(f"resumed at iteration {start}", flush=True)
    alphas = build_scheduler().alphas_cumprod
    parameters, averaged = list(model.parameters()), list(average.parameters())
    running, began = 0.0, time.monotonic()
    for iteration in range(start, iterations):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(iteration, iterations, peak_lr)
        pick = draw_indices(data, batch_size, generator)
        clean = augment(data, pick, spec.shift_augmentation, generator) * 2 - 1
        noise = torch.randn(clean.shape, generator=generator)
        timestep = draw_timesteps(batch_size, generator)
        dropped = torch.rand(batch_size, generator=generator) < LABEL_DROPOUT
        label = torch.where(dropped, spec.null_label, data.train_labels[pick])
        signal = alphas[timestep].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alphas[timestep]).sqrt().view(-1, 1, 1, 1)
        noisy = signal * clean + sigma * noise
        if teacher is None:
            target = signal * noise - sigma * clean
        else:
            # Without the noise of the data, so that far fewer images teach as much.
            with torch.no_grad():
                target = teacher(noisy, timestep, label).sample
        # Products in bfloat16, which takes two thirds of the time; its fused attention is slow backwards on CPUs.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            predicted = model(noisy, timestep, label).sample.float()
        loss = F.mse_loss(predicted, target)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(EMA_DECAY, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(averaged, parameters, 1 - decay)
        running += loss.item()
        if (iteration + 1) % 250 == 0 or iteration + 1 == iterations:
            spent = seconds + time.monotonic() - began
            print(f"{iteration + 1}/{iterations} loss {running / 250:.4f} {spent:.0f} s", flush=True)
            running = 0.0
            payload = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "iteration": iteration + 1,
                "seconds": spent,
            }
            _write_atomically(state_file, payload)
    WEIGHTS.mkdir(exist_ok=True)
    recipe = {
        "prediction": "v",
        "teacher": spec.teacher,
        "iterations": iterations,
        "batch_size": batch_size,
        "peak_learning_rate": peak_lr,
        "label_dropout": LABEL_DROPOUT,
        "ema_decay": EMA_DECAY,
        "shift_augmentation_px": spec.shift_augmentation,
    }
    # Half precision halves the file and costs less than one step of the later int8 quantisation.
    weights = {name: value.half().contiguous() for name, value in average.state_dict().items()}
    path = WEIGHTS / f"{spec.name}-denoiser.safetensors"
    save_file(weights, path, metadata={"recipe": json.dumps(recipe)})
    note_digest(path)


def train_classifier(spec: ModelSpec, *, epochs: int, batch_size: int, peak_lr: float) -> float:
    """Train the judge of `spec`, write its weights and return its accuracy on held-out real images."""
    if spec.dataset != spec.name:
        raise ValueError(f"the judge of {spec.name} is the classifier of {spec.dataset}; train that one")
    data = load_dataset(spec.name)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Classifier(spec.num_classes, spec.channels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=1e-2, fused=True)
    per_epoch = len(data.train_images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_lr, total_steps=epochs * per_epoch)
    for _ in range(epochs):
        order = torch.randperm(len(data.train_images), generator=generator)
        for index in range(per_epoch):
            pick = order[index * batch_size : (index + 1) * batch_size]
            images = augment(data, pick, max(1, spec.image_size // 14), generator)
            loss = F.cross_entropy(model(images), data.train_labels[pick], label_smoothing=0.05)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(data.test_images).argmax(1) == data.test_labels).float().mean().item()
    WEIGHTS.mkdir(exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    path = WEIGHTS / f"{spec.name}-classifier.safetensors"
    save_file(weights, path)
    note_digest(path)
    return accuracy


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["denoiser", "classifier"])
    parser.add_argument("model", help="one of the shipped models")
    parser.add_argument("--iterations", type=int, help="denoiser: optimiser steps in all")
    parser.add_argument("--epochs", type=int, help="classifier: passes over the data")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/train"), help="folder of the resumable state")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = get_spec(arguments.model)
    if arguments.what == "denoiser":
        train_denoiser(
            spec,
            iterations=arguments.iterations
            or {"digits": 8000, "mnist": 14000, "mnist-patch2": 9000, "emoji": 16000}[spec.name],
            batch_size=arguments.batch_size or {"digits": 128, "mnist": 64, "mnist-patch2": 16, "emoji": 64}[spec.name],
            peak_lr=arguments.lr,
            work=arguments.work,
        )
    else:
        accuracy = train_classifier(
            spec,
            epochs=arguments.epochs or {"digits": 30, "mnist": 30, "emoji": 200}[spec.name],
            batch_size=arguments.batch_size or 64,
            peak_lr=3e-3,
        )
        print(f"held-out accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
