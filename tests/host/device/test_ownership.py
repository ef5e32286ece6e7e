"""Accelerators of all backends in forked children, in threads, and closed while they are at work."""

from __future__ import annotations

import concurrent.futures.thread
import gc
import os
import re
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from brownout.cosim import ownership
from brownout.host import (
    Accelerator,
    AcceleratorClosedError,
    ForkedProcessError,
    MixedOptions,
    Protection,
    offload,
    report,
    restore,
)
from brownout.host.device.backends.rtl import RtlBackend
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.device.product.operands import Tally
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from ...forks import in_a_child
from ..small import CONFIG as CHECKED
from .fake_simulator import FakeSimulator
from .test_rtl import CONFIG

pytestmark = pytest.mark.rtl

BACKENDS = ("twin", "rtl", "mixed")


def made(backend, config=CONFIG, **options):
    if backend == "mixed":
        options["mixed"] = MixedOptions(max_passes=40)
    return Accelerator(config, backend=backend, deadline_s=60, **options)


@pytest.fixture(scope="module")
def opened():
    """One accelerator of each backend for all tests that leave it as it was."""
    accelerators = {}

    def get(backend):
        if backend not in accelerators:
            accelerators[backend] = made(backend)
        return accelerators[backend]

    yield get
    for accelerator in accelerators.values():
        accelerator.close()


@pytest.fixture(params=BACKENDS)
def accelerator(opened, request):
    return opened(request.param)


def operands(number, *, m=3, k=9, n=5):
    """int8 matrices and their product, by numpy."""
    rng = np.random.default_rng(number)
    a, w = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    return torch.from_numpy(a), torch.from_numpy(w), torch.from_numpy(a.astype(np.int64) @ w).int()


def right(accelerator, number=0, **extents):
    a, w, expected = operands(number, **extents)
    return torch.equal(accelerator.gemm(a, w), expected)


def together(*works, seconds=120):
    """Run each in a thread; raises what one has raised."""
    errors = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_a_child_is_told_to_open_its_own(accelerator):
    weights = accelerator.upload(operands(0)[1])
    calls = {
        "gemm": lambda: right(accelerator),
        "resident": lambda: accelerator.gemm(operands(0)[0], weights),
        "upload": lambda: accelerator.upload(operands(0)[1]),
        "stats": lambda: accelerator.stats,
        "check_counts": lambda: accelerator.check_counts,
        "reset_stats": accelerator.reset_stats,
        "restart": accelerator.restart,
        "state": accelerator.state,
        "settings": lambda: accelerator.settings,
        "new_slot": lambda: accelerator.new_slot(2, 3),
        "add_host_traffic": lambda: accelerator.add_host_traffic(5),
        "coverage": lambda: accelerator.coverage,
        "device": lambda: accelerator._device.counters(),
    }
    message = re.compile(
        rf"this accelerator was opened in process {os.getpid()} and cannot be used in process (\d+), which was forked "
        r"from it; open an Accelerator in this process"
    )

    def child():
        for name, call in calls.items():
            with pytest.raises(ForkedProcessError) as caught:
                call()
            assert int(message.fullmatch(str(caught.value))[1]) == os.getpid(), name
        return "refused"

    assert right(accelerator)
    before = dict(accelerator.stats)
    assert in_a_child(child) == "refused"
    assert dict(accelerator.stats) == before
    assert right(accelerator, 1)


def test_closing_or_dropping_it_in_a_child_harms_nobody(accelerator):
    right(accelerator)
    held = [accelerator]

    def child():
        began = time.monotonic()
        with held[0] as entered:
            entered.close()
        seconds = time.monotonic() - began
        held.clear()
        del entered
        # Slow: all that the parent has is copied.
        gc.collect()
        return seconds

    assert in_a_child(child) < 3
    assert right(accelerator, 1)


def test_a_child_that_leaves_python_in_order_ends(opened):
    """Without os._exit Python waits for threads, and the pool of replays is the parent's."""
    mixed = opened("mixed")
    right(mixed)

    def child():
        concurrent.futures.thread._python_exit()
        threading._shutdown()
        return "ended"

    assert in_a_child(child) == "ended"
    assert right(mixed, 1)
    assert mixed.coverage.mismatches == 0


def test_a_child_opens_its_own_while_others_are_open(opened):
    """After the parent has used threads of OpenMP, which a fork does not copy."""
    twin = opened("twin")
    torch.set_num_threads(2)
    try:
        assert right(twin, m=200, k=300, n=200)

        def child():
            with made("twin") as own:
                assert right(own, m=200, k=300, n=200)
                assert own.stats["commands"] == 1
            return torch.get_num_threads()

        assert in_a_child(child) == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_layer_in_a_child_is_refused_before_it_computes(accelerator):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1)).requires_grad_(False)
    values = torch.randn(5, 8)
    offload(net, accelerator, calibration=lambda module: module(values))
    expected = net(values)

    def child():
        for layer in (net[0], net[2]):
            with pytest.raises(ForkedProcessError, match="open an Accelerator in this process"):
                layer(values if layer is net[0] else values.view(5, 2, 2, 2))
        return "refused"

    assert in_a_child(child) == "refused"
    assert torch.equal(net(values), expected)
    restore(net)


def test_a_forked_child_does_not_wait_for_a_product_of_another_thread():
    class Slow(FakeSimulator):
        def run(self, commands, **options):
            entered.set()
            assert release.wait(60)
            super().run(commands, **options)

    entered, release = threading.Event(), threading.Event()
    accelerator = Accelerator(CONFIG, RtlBackend(CONFIG, lambda: Slow(CONFIG), deadline_s=1))
    thread = threading.Thread(target=right, args=(accelerator,))
    thread.start()
    assert entered.wait(60)

    def child():
        for call in (lambda: right(accelerator), lambda: accelerator.stats):
            with pytest.raises(ForkedProcessError):
                call()
        accelerator.close()
        return "returned"

    try:
        assert in_a_child(child) == "returned"
    finally:
        release.set()
        thread.join(60)
    assert right(accelerator, 1)
    accelerator.close()


def test_shapes_in_a_child_are_refused():
    accelerator = Accelerator(CONFIG, ShapeBackend(CONFIG))
    a, w = torch.empty(3, 9, dtype=torch.int8, device="meta"), torch.empty(9, 5, dtype=torch.int8, device="meta")
    accelerator.gemm(a, w)
    assert isinstance(in_a_child(lambda: accelerator.gemm(a, w)), ForkedProcessError)


def test_threads_get_their_own_results_and_exact_counts(accelerator):
    """Operands of different extents, some of them resident; each thread's tally is that of its products."""
    extents = [{"m": 3 + number, "k": 9, "n": 2 + number} for number in range(4)]
    alone = []
    for number, shape in enumerate(extents):
        a, w, _ = operands(number, **shape)
        tally = Tally()
        accelerator.gemm(a, w, tally=tally)
        _ = accelerator.stats
        alone.append(tally.cycles)
    tallies = [Tally() for _ in extents]
    accelerator.reset_stats()

    def work(number):
        def run():
            a, w, expected = operands(number, **extents[number])
            for turn in range(5):
                weights = accelerator.upload(w) if turn % 2 else w
                assert torch.equal(accelerator.gemm(a, weights, tally=tallies[number]), expected)
                assert accelerator.stats["commands"] > turn

        return run

    together(*(work(number) for number in range(len(extents))))
    stats = accelerator.stats
    assert stats["commands"] == 5 * len(extents)
    assert stats["macs"] == 5 * sum(shape["m"] * shape["k"] * shape["n"] for shape in extents)
    # Cycles do not depend on what was done before, but for rows of memory, which cost none.
    assert [tally.cycles for tally in tallies] == [5 * cycles for cycles in alone]
    assert stats["cycles"] == 5 * sum(alone)


@pytest.mark.parametrize("backend", ["twin", "rtl"])
def test_each_thread_has_the_log_of_its_own_product(backend):
    """Of products that err: twice as many rows, twice as many records."""
    with made(
        backend, CHECKED, protection=Protection(correct=False, on_uncorrectable="keep", log_records=64)
    ) as accelerator:
        accelerator.set_error_rate(1.0, seed=5)
        expected = {}
        for number in (1, 2):
            a, w, _ = operands(number, m=2 * number)
            accelerator.gemm(a, w, error_key=number)
            expected[number] = accelerator.last_log
        assert expected[1]
        assert expected[1] != expected[2]

        def work(number):
            def run():
                a, w, _ = operands(number, m=2 * number)
                for _ in range(4):
                    accelerator.gemm(a, w, error_key=number)
                    time.sleep(0.01)
                    assert accelerator.last_log == expected[number]

            return run

        together(work(1), work(2))
        assert accelerator.last_log == expected[2]


def test_threads_that_evaluate_one_model_get_its_values(accelerator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 6)).requires_grad_(False)
    inputs = [torch.randn(2 + number, 12) for number in range(3)]
    offload(net, accelerator, calibration=lambda module: module(torch.cat(inputs)))
    expected = [net(values) for values in inputs]
    accelerator.reset_stats()
    before = {layer.name: (layer.calls, layer.rows, layer.cycles) for layer in report(net)}

    def work(number):
        def run():
            for _ in range(4):
                assert torch.equal(net(inputs[number]), expected[number])

        return run

    together(*(work(number) for number in range(len(inputs))))
    layers = report(net)
    assert [layer.calls - before[layer.name][0] for layer in layers] == [12, 12]
    assert [layer.rows - before[layer.name][1] for layer in layers] == [4 * (2 + 3 + 4)] * 2
    assert sum(layer.cycles - before[layer.name][2] for layer in layers) == accelerator.stats["cycles"]
    restore(net)


def test_threads_with_histories_get_the_values_of_their_own_product(opened):
    """Two threads write the slot of one layer in turn: each reads what it has written, not what the other has."""
    with made("twin", CHECKED, protection=Protection(on_uncorrectable="suppress")) as accelerator:
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(64, 64)).requires_grad_(False)
        inputs = [torch.randn(64, 64) for _ in range(2)]
        offload(net, accelerator, calibration=lambda module: module(torch.cat(inputs)))
        expected = [net(values) for values in inputs]

        def work(number):
            def run():
                for _ in range(40):
                    assert torch.equal(net(inputs[number]), expected[number])

            return run

        together(work(0), work(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_while_a_thread_computes_ends_it_with_a_typed_error(backend, monkeypatch):
    monkeypatch.setattr(ownership, "CLOSE_GRACE_S", 0.3)
    accelerator = made(backend)
    entered, errors = threading.Event(), []
    a, w, expected = operands(0, m=600, k=64, n=16)

    def work():
        try:
            right(accelerator)
            entered.set()
            while True:
                # Some hundred thousand cycles on the RTL.
                assert torch.equal(accelerator.gemm(a.repeat(8, 1), w)[:600], expected)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert entered.wait(60)
    began = time.monotonic()
    accelerator.close()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - began < 25
    assert [type(error) for error in errors] == [AcceleratorClosedError]
    with pytest.raises(AcceleratorClosedError):
        right(accelerator)


def test_the_memory_of_a_parent_is_out_of_a_childs_reach(opened):
    """Even if it writes to it without a call."""
    rtl = opened("rtl")
    weights = rtl.upload(operands(3)[1])

    def child():
        rtl._device._bytes.numpy().fill(77)  # without threads, which torch has lost at the fork
        return int(rtl._device._bytes[0])

    assert in_a_child(child) == 77
    a, _, expected = operands(3)
    assert torch.equal(rtl.gemm(a, weights), expected)


def test_too_many_threads_of_a_small_memory_do_not_get_in_each_others_way():
    """Where each product takes most of the memory, two at a time would not fit."""
    config = AcceleratorConfig(rows=4, cols=4, memory=MemoryConfig(size_bytes=1 << 16))
    accelerator = Accelerator(config, RtlBackend(config, lambda: FakeSimulator(config), deadline_s=1))

    def work(number):
        def run():
            for _ in range(5):
                assert right(accelerator, number, m=100, k=100, n=30)

        return run

    together(*(work(number) for number in range(4)))
    accelerator.close()


def test_closing_from_inside_a_call_ends_it_with_a_typed_error():
    class Closing(FakeSimulator):
        def run(self, commands, **options):
            accelerator.close()
            super().run(commands, **options)

    accelerator = Accelerator(CONFIG, RtlBackend(CONFIG, lambda: Closing(CONFIG), deadline_s=1))
    with pytest.raises(AcceleratorClosedError, match=r"^this accelerator was closed while a call was under way$"):
        right(accelerator)
    with pytest.raises(AcceleratorClosedError, match=r"^this accelerator is closed; make a new one$"):
        right(accelerator)
