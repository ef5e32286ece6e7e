"""Measure how much errors in each slice of a run damage the image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...offloading import offloaded_model
from ...quality import FeatureNetwork, perceptual_distance_per_image, squared_error_per_image
from ...workload.product_site import ProductSite
from ..operating_point import NOMINAL, OperatingPoint
from ..power_policy import PowerPolicy, constant
from ..runtime import protect
from ..strategies import Strategy, Unprotected
from .profile import ResilienceProfile
from .slices import Run, Slice
from .stopping import DamageEstimate, Stopping
from .store import Store, Values

Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``metric(images, clean)``: damage of each image, (N,), 0 where both are equal."""

Watcher = Callable[[Slice, OperatingPoint, DamageEstimate], None]
"""Called after each batch with what is known by then."""

SEED_LIMIT = 1 << 32


def image_metrics(network: FeatureNetwork | None = None) -> dict[str, Metric]:
    """Perceptual distance on a feature network, if there is one, and mean squared error (``"mse"``)."""
    metrics: dict[str, Metric] = {}
    if network is not None:
        metrics["perceptual"] = partial(perceptual_distance_per_image, network=network)
    metrics["mse"] = squared_error_per_image
    return metrics


def digest_of(module: nn.Module) -> str:
    """SHA-256 of an offloaded model's int8 weights, scales and other parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _describe(strategy: Strategy) -> dict[str, str]:
    # Stores hold what this gives: what is renamed keeps its name there.
    options = {name: repr(value) for name, value in sorted(vars(strategy).items()) if not name.startswith("_")}
    options = {name: text.replace(f"{OperatingPoint.__name__}(", "Setting(") for name, text in options.items()}
    return {"name": strategy.stored_name, **options}


class Bench:
    """Draws images with errors in one slice, and compares them with clean ones.

    Parameters
    ----------
    module : nn.Module
        Denoiser that draws, offloaded.
    run : callable
        Function that draws images (`Run`).
    metrics : mapping
        Measures of damage (`Metric`) by name.
    strategy : Strategy
        What is done about errors.
    safe : OperatingPoint
        Point of everything outside the slice.
    seed : int
        Seed of noise and errors; batch b has seed + b.
    batch : int
        Images at a time.
    """

    def __init__(
        self,
        module: nn.Module,
        run: Run,
        metrics: Mapping[str, Metric],
        *,
        strategy: Strategy,
        safe: OperatingPoint,
        seed: int,
        batch: int,
    ) -> None:
        if not metrics:
            raise ValueError("metrics is empty; use image_metrics()")
        self.module, self.run, self.metrics = module, run, metrics
        self.strategy, self.safe, self.seed, self.batch = strategy, safe, seed, batch
        self._clean: dict[int, torch.Tensor] = {}

    def images(self, policy: PowerPolicy, batch: int, strategy: Strategy | None = None) -> torch.Tensor:
        """Images of a batch, drawn by a policy, with the bench's strategy or another."""
        seed = self.seed + batch
        chosen = self.strategy if strategy is None else strategy
        with protect(self.module, chosen, policy, safe=self.safe, seed=seed % SEED_LIMIT):
            images = self.run(seed, self.batch)
        if len(images) != self.batch:
            raise ValueError(f"run(seed, {self.batch}) must return {self.batch} images, not {len(images)}")
        return images

    def clean(self, batch: int) -> torch.Tensor:
        """Clean images of a batch, which are kept."""
        if batch not in self._clean:
            self._clean[batch] = self.images(constant(self.safe), batch)
        return self._clean[batch]

    def compare(self, images: torch.Tensor, clean: torch.Tensor) -> Values:
        """Damage of each image by each metric."""
        return {name: metric(images, clean).tolist() for name, metric in self.metrics.items()}

    def damage(self, policy: PowerPolicy, batch: int) -> Values:
        """Damage of each image of a batch that a policy does, by each metric."""
        return self.compare(self.images(policy, batch), self.clean(batch))

    def describe_clean(self, batch: int) -> dict[str, Any]:
        """Digest of a batch of clean images, and damage between images that have nothing to do with each other."""
        clean = self.clean(batch)
        return {
            "sha256": hashlib.sha256(clean.detach().cpu().contiguous().numpy().tobytes()).hexdigest(),
            "unrelated": self.compare(clean.roll(1, 0), clean),
        }

    def slice_damage(self, slice_: Slice, point: OperatingPoint, batch: int) -> Values:
        """Damage of errors in a slice.

        Raises
        ------
        ValueError
            There is no such product in the run.
        """
        low, seen = slice_.low(point), False

        def policy(site: ProductSite) -> OperatingPoint:
            nonlocal seen
            if site not in slice_:
                return self.safe
            seen = True
            return low

        found = self.damage(policy, batch)
        if not seen:
            raise ValueError(f"slice {slice_.name!r} selects no product of this run: {slice_}")
        return found


def characterise(
    module: nn.Module,
    run: Run,
    slices: Iterable[Slice],
    points: Sequence[OperatingPoint],
    *,
    metrics: Mapping[str, Metric],
    strategy: Strategy | None = None,
    stopping: Stopping | None = None,
    pairs: Iterable[tuple[str, str]] = (),
    safe: OperatingPoint | None = None,
    seed: int = 0,
    store: Path | str | None = None,
    watch: Watcher | None = None,
) -> ResilienceProfile:
    """Measure the damage of each slice at each operating point, against the clean int8 run with the same noise.

    Batches are measured in rounds: all slices that still need images get one more batch. Where `pairs` name a slice,
    it needs images until the order of each of its pairs is shown; otherwise `stopping` says.

    Parameters
    ----------
    module : nn.Module
        The denoiser, offloaded to an accelerator that has what `strategy` needs.
    run : callable
        `Run`: draws images with it.
    slices : iterable of Slice
        Slices to measure, with different names.
    points : sequence of OperatingPoint
        What the sites of a slice run at: error rates, or operating points.
    metrics : mapping
        `Metric` by name, as `image_metrics` makes them; decisions are made on the first.
    strategy : Strategy, optional
        What is done about errors; by default nothing.
    stopping : Stopping, optional
        When enough is known.
    pairs : iterable of (str, str)
        Names of slices whose order is asked for.
    safe : OperatingPoint, optional
        Point of everything outside the slice; by default the nominal point, or an error rate of 0 with error rates.
    seed : int
        Seed of noise and errors.
    store : Path or str, optional
        File to which every batch is written, and from which an interrupted characterisation goes on.
    watch : callable, optional
        Function that is told what is known after each batch (`Watcher`).

    Raises
    ------
    ValueError
        Slices share a name or select nothing, a pair names an unknown slice, the strategy or `safe` does not fit the
        accelerator, or `store` is of another model or other operating points.
    """
    slices, points, pairs = tuple(slices), tuple(points), list(pairs)
    names = [each.name for each in slices]
    if not slices or not points:
        raise ValueError("characterise needs at least one slice and one operating point")
    for each in names:
        if names.count(each) > 1:
            raise ValueError(f"two slices are called {each!r}; names must differ")
    if unknown := sorted({name for pair in pairs for name in pair} - set(names)):
        raise ValueError(f"pairs name {unknown[0]!r}, which is none of the slices {', '.join(names)}")
    strategy = Unprotected() if strategy is None else strategy
    stopping = Stopping() if stopping is None else stopping
    if safe is None:
        rates = all(each.error_rate is not None for each in points)
        safe = OperatingPoint(error_rate=0.0) if rates else NOMINAL
    bench = Bench(module, run, metrics, strategy=strategy, safe=safe, seed=seed, batch=stopping.batch)
    about = {
        "model": digest_of(module),
        "accelerator": offloaded_model(module).accelerator.config.to_dict(),
        "timing_law": asdict(offloaded_model(module).accelerator.delay_model),
        "strategy": _describe(strategy),
        "safe": safe.to_dict(),
        "seed": seed,
        "batch": stopping.batch,
        "metrics": list(metrics),
    }
    sweep = Sweep(bench, Store(None if store is None else Path(store), about), slices, points, stopping, pairs)
    sweep.go(watch)
    return sweep.profile(about)


class Sweep:
    """Measures slices in rounds, until enough is known of each.

    Parameters
    ----------
    bench : Bench
        Bench that draws and compares.
    store : Store
        What has been measured, and will be.
    slices, points, stopping, pairs
        Arguments of `characterise`.
    """

    def __init__(
        self,
        bench: Bench,
        store: Store,
        slices: tuple[Slice, ...],
        points: tuple[OperatingPoint, ...],
        stopping: Stopping,
        pairs: list[tuple[str, str]],
    ) -> None:
        self.bench, self.store = bench, store
        self.slices, self.points, self.stopping = slices, points, stopping
        self.pairs = {name: [pair for pair in pairs if name in pair] for pair in pairs for name in pair}
        self.metrics = tuple(bench.metrics)
        self.values: dict[tuple[str, int], dict[str, list[float]]] = {
            (each.name, index): {metric: [] for metric in self.metrics}
            for each in slices
            for index in range(len(points))
        }
        self.unrelated: dict[str, list[float]] = {metric: [] for metric in self.metrics}
        self._seen_clean: set[int] = set()

    def profile(self, about: Mapping[str, Any]) -> ResilienceProfile:
        """What is known by now."""
        return ResilienceProfile(
            self.slices,
            self.points,
            self.metrics,
            {key: {metric: tuple(each) for metric, each in values.items()} for key, values in self.values.items()},
            {metric: sum(each) / max(1, len(each)) for metric, each in self.unrelated.items()},
            self.stopping,
            about,
        )

    def _settled(self, profile: ResilienceProfile, name: str, index: int) -> bool:
        values = profile.values[name, index][self.metrics[0]]
        if len(values) < 2:
            return False
        if pairs := self.pairs.get(name):
            return all(profile.worse(*pair, index) is not None for pair in pairs)
        return self.stopping.enough(values, profile.unrelated[self.metrics[0]])

    def _note_clean(self, batch: int) -> None:
        known = self.store.clean(batch)
        if known is None:
            known = self.bench.describe_clean(batch)
            self.store.add_clean(batch, known)
            self._seen_clean.add(batch)
        for metric, each in known["unrelated"].items():
            self.unrelated[metric] += each

    def _check_clean(self, batch: int) -> None:
        """See, once, that a batch of clean images is the one that was noted."""
        if batch in self._seen_clean:
            return
        if self.store.clean(batch) != self.bench.describe_clean(batch):
            raise ValueError(
                f"{self.store.path} is of other images: batch {batch} of the clean run is not the one noted there; "
                "run() must depend on its arguments alone, or choose another file"
            )
        self._seen_clean.add(batch)

    def go(self, watch: Watcher | None = None) -> None:
        """Measure until enough is known."""
        for batch in range(self.stopping.looks):
            profile = self.profile({})
            todo = [
                (each, index)
                for each in self.slices
                for index in range(len(self.points))
                if not batch or not self._settled(profile, each.name, index)
            ]
            if not todo:
                return
            self._note_clean(batch)
            for each, index in todo:
                self._measure(each, index, batch)
                if watch is not None:
                    watch(each, self.points[index], self.profile({}).damage(each.name, index))

    def _measure(self, slice_: Slice, index: int, batch: int) -> None:
        point = self.points[index]
        found = self.store.values(slice_, point, batch)
        if found is None:
            self._check_clean(batch)
            found = self.bench.slice_damage(slice_, point, batch)
            self.store.add(slice_, point, batch, found)
        for metric, each in found.items():
            self.values[slice_.name, index][metric] += each
