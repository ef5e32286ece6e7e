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
from pathlib import Path

import torch

import brownout.host.files as files
from brownout.host import Accelerator, CheckpointWarning, OffloadedPipeline, Protection
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

RUNS = {
    "suppress": (Protection(on_mark="suppress"), "flip"),
    "carry": (Protection(on_mark="keep"), "carry"),
}
LABELS, SEED, STEPS = [3, 8], 0, 5


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


def run(pipe: OffloadedPipeline, request: dict, answer: int) -> None:
    """In the child."""
    points = Points(request["kill"])
    points.install()
    changes = {0: 5e-3, 2: 2e-2}

    def change(evaluation: int, timestep: float) -> None:
        if evaluation in changes and request["run"] == "suppress":
            pipe._model.accelerator.set_error_rate(changes[evaluation], seed=4, check_rate=1e-4)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        kept = request["folder"] if request["keep"] else None
        images = pipe(LABELS, seed=SEED, num_inference_steps=STEPS, checkpoint=kept, on_step=change)
    passed = points.passed
    facts = {"stats": pipe.stats, "report": [vars(layer) for layer in pipe.report()]}
    files.write_tensors(Path(request["out"]), "result", {"images": images}, facts)
    os.write(answer, json.dumps(passed).encode())


def main() -> None:
    torch.set_num_threads(1)
    name = sys.argv[1]
    protection, model = RUNS[name]
    config = AcceleratorConfig(timing_model=model, checksum=ChecksumConfig(scheme="residue"))
    with Accelerator(config, backend="twin", protection=protection) as accelerator:
        calls = [{"labels": [1], "seed": 7, "num_inference_steps": 2}]
        with OffloadedPipeline.shipped("digits", accelerator, calibration=calls) as pipe:
            if model == "carry":
                accelerator.set_operating_point(voltage_v=0.72)
            print("ready", flush=True)
            for line in sys.stdin:
                reader, writer = os.pipe()
                child = os.fork()
                if not child:
                    try:
                        run(pipe, {**json.loads(line), "run": name}, writer)
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
