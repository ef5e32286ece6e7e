"""A process whose children run a pipeline with a checkpoint and are killed: it imports and calibrates once for all.

It reads one JSON object a line: `folder`, `keep` (whether to use it), `out`, and `kill`, the number of the point at
which the child kills itself, or null. It answers with how the child ended and, unless it was killed, how many points it
has passed. Points are before and after everything that touches a file, in the middle of a write, and before each
product.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import brownout.host.storage.files as files
from brownout.host import Accelerator, CheckpointWarning, OffloadedPipeline, Protection, calibrate_pipeline
from brownout.host.pipelines.shipped import ShippedPipeline
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from ..pipelines.tiny import make, noise
from .undervolting import CONFIG, MARKING, Undervolting

Draw = Callable[[str | None], tuple[torch.Tensor, OffloadedPipeline]]
"""Runs a pipeline, with a checkpoint if there is a folder."""


@contextmanager
def digits(protection: Protection, timing_model: str) -> Iterator[Draw]:
    """The shipped model; each child has a twin of its own."""
    config = AcceleratorConfig(timing_model=timing_model, checksum=ChecksumConfig(scheme="residue"))
    shipped = ShippedPipeline("digits")
    calibration = calibrate_pipeline(shipped, [{"labels": [1], "seed": 7, "num_inference_steps": 2}])

    def draw(kept: str | None) -> tuple[torch.Tensor, OffloadedPipeline]:
        with Accelerator(config, backend="twin", protection=protection) as accelerator:
            with OffloadedPipeline.from_pipe(shipped, accelerator, calibration=calibration) as pipe:

                def change(evaluation: int, timestep: float) -> None:
                    if timing_model == "carry":
                        accelerator.set_operating_point(voltage_v=0.72 - 0.01 * (evaluation % 3))
                    elif evaluation in (0, 2):
                        accelerator.set_error_rate(5e-3 + 1e-2 * evaluation, seed=4, check_rate=1e-4)

                return pipe([3, 8], seed=0, num_inference_steps=4, checkpoint=kept, on_step=change), pipe

    yield draw


@contextmanager
def dit_on_rtl() -> Iterator[Draw]:
    """A tiny pipeline of diffusers; each child has a simulator of its own."""
    tiny = make("dit")
    calibration = calibrate_pipeline(tiny.pipeline, [tiny.call])

    def draw(kept: str | None) -> tuple[torch.Tensor, OffloadedPipeline]:
        with Accelerator(CONFIG, backend="rtl", protection=MARKING) as accelerator:
            with OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=calibration) as pipe:
                call = tiny.call | {"generator": noise(3), "class_labels": [5]}
                images = pipe(**call, on_step=Undervolting(accelerator), checkpoint=kept).images
                return torch.from_numpy(images), pipe

    yield draw


RUNS = {
    "suppress": lambda: digits(Protection(on_uncorrectable="suppress"), "flip"),
    "carry": lambda: digits(Protection(on_uncorrectable="keep"), "carry"),
    "rtl": dit_on_rtl,
}


class Points:
    """Counts points, and kills the process at one of them."""

    def __init__(self, kill: int | None) -> None:
        self.kill, self.passed = kill, 0

    def reach(self) -> None:
        self.passed += 1
        if self.passed == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: object, name: str) -> None:
        call = getattr(owner, name)

        def counted(*args: object, **kwargs: object) -> object:
            self.reach()
            result = call(*args, **kwargs)
            self.reach()
            return result

        setattr(owner, name, counted)

    def tear(self, save) -> None:
        """Writes come to their middle first."""

        def torn(tensors, path, metadata) -> None:
            save(tensors, path, metadata)
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            self.reach()
            path.write_bytes(content)

        files.save_file = torn

    def install(self) -> None:
        self.tear(files.save_file)
        for owner, name in ((files, "save_file"), (os, "fsync"), (os, "replace"), (Path, "unlink")):
            self.around(owner, name)
        gemm = Accelerator.gemm

        def counted(*args: object, **kwargs: object) -> torch.Tensor:
            self.reach()
            return gemm(*args, **kwargs)

        Accelerator.gemm = counted


def run(draw: Draw, request: dict, answer: int) -> None:
    """In the child."""
    points = Points(request["kill"])
    points.install()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        images, pipe = draw(request["folder"] if request["keep"] else None)
    passed = points.passed
    files.write_tensors(Path(request["out"]), "result", {"images": images}, {"stats": pipe.stats})
    os.write(answer, json.dumps(passed).encode())


def main() -> None:
    torch.set_num_threads(1)
    with RUNS[sys.argv[1]]() as draw:
        print("ready", flush=True)
        for line in sys.stdin:
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                try:
                    run(draw, json.loads(line), writer)
                    os._exit(0)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
            os.close(writer)
            passed = os.read(reader, 100)
            os.close(reader)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(json.dumps({"status": status, "passed": json.loads(passed or "null")}), flush=True)


if __name__ == "__main__":
    main()
