"""Fleets to which things happen, and what their images should be."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from brownout.host.stadi.execute import fleet as fleet_module
from brownout.host.stadi.execute import process
from brownout.host.stadi.execute.fleet import Fleet
from brownout.host.stadi.execute.inline import InlineExecutor
from brownout.host.stadi.execute.mailbox import ATTEMPTS, Again, Message
from brownout.host.stadi.execute.wire import _HEADER, _MESSAGE
from brownout.host.stadi.execute.worker import Worker
from brownout.host.stadi.simulate.interval import Failure

from .tiny import CONFIG, HALF, both, calibrated, devices, dit, dit_conditions, latents, make_image, scheduler

STEPS = 9


class Case:
    """A tiny model of one layer, and fleets of four devices for it."""

    def __init__(self):
        self.model, self.conditions, self.noise = dit(num_layers=1), dit_conditions(1), latents(1)
        self.calibration = calibrated(self.model, torch.cat([self.noise] * 2), both(self.conditions))
        self._expected = {}
        self._quiet = {}

    @property
    def quiet(self):
        """A fleet to which nothing happens."""
        return self.quiet_fleet(("d0", "d1", "d2", "d3"))

    def quiet_fleet(self, names):
        if names not in self._quiet:
            # Whatever the test that asks first has put in the executor's place.
            with patch.dict(fleet_module.EXECUTORS, {"inline": InlineExecutor}):
                self._quiet[names] = self.place(names=names)
        return self._quiet[names]

    def close(self):
        for placed in self._quiet.values():
            placed.close()

    def place(self, count=4, names=None, **options):
        chosen = devices(CONFIG, HALF, CONFIG, HALF)[:count]
        chosen = [device for device in chosen if names is None or device.name in names]
        fleet = Fleet(chosen, **{"executor": "inline", **options})
        return fleet.place(self.model, self.calibration)

    def generate(self, placed, plan, **options):
        return make_image(
            placed,
            self.noise,
            scheduler=scheduler(),
            conditions=self.conditions[0],
            unconditional=self.conditions[1],
            guidance_scale=2.0,
            num_inference_steps=STEPS,
            plan=plan,
            **options,
        )

    def expected(self, first, losses, **options):
        """The image when devices stop in simulated time, in intervals that begin at these steps, one after another."""
        key = repr((first, losses, options))
        if key not in self._expected:
            failures = []
            for count, (step, names) in enumerate(losses):
                # With the failures before, at the same times.
                before = self.expected(first, losses[:count], **options).timeline
                for name in names:
                    own = [s for s in before.segments if s.device == name and s.kind == "compute" and s.step >= step]
                    failures.append(Failure(name, (own[0].start_s + own[0].end_s) / 2))
            names = tuple(share.device for share in first.shares)
            self._expected[key] = self.generate(self.quiet_fleet(names), first, failures=failures, **options)
        return self._expected[key]

    def assert_by_plans(self, got, first):
        """The image is that of its plans, whatever intervals the losses fell into."""
        expected = self.expected(first, losses_of(got))
        assert got.timeline.plans == expected.timeline.plans
        assert torch.equal(got.latents, expected.latents)

    def assert_as_expected(self, got, first, losses, **options):
        expected = self.expected(first, losses, **options)
        assert got.timeline.plans == expected.timeline.plans
        assert torch.equal(got.latents, expected.latents)
        assert got.evaluations.keys() == expected.evaluations.keys()
        for device, each in got.evaluations.items():
            for one, other in zip(each, expected.evaluations[device], strict=True):
                assert (one.step, one.rows, one.images) == (other.step, other.rows, other.images)
                assert one.stage_s == pytest.approx(other.stage_s)
                # Which rows of the memory were open before is not the same.
                assert one.energy_j == pytest.approx(other.energy_j, rel=0.02)
        assert set(got.lost) == {name for _, names in losses for name in names}
        # What was computed in vain takes time.
        spent = sum(segment.kind == "lost" for segment in got.timeline.segments)
        assert bool(spent) == bool(losses)
        if losses:
            assert got.timeline.latency_s > self.expected(first, [], **options).timeline.latency_s


def losses_of(got):
    """Which devices were lost in which intervals."""
    plans = got.timeline.plans
    used = {share.device for plan in plans for share in plan.shares}
    order, found = [name for name in got.lost if name in used], []
    for before, after in itertools.pairwise(plans):
        gone = {share.device for share in before.shares} - {share.device for share in after.shares}
        names = []
        # Others that have no part any more may be lost later, after they had one again.
        while order and order[0] in gone:
            names.append(order.pop(0))
        found.append((after.first_step, names))
    assert not order
    return found


class Unreliable(InlineExecutor):
    """Envelopes may be spoilt."""

    spoil = staticmethod(lambda receiver, envelope: envelope)

    def _carry(self, receiver, envelope):
        envelope = type(self).spoil(receiver, envelope)
        if envelope is not None:
            super()._carry(receiver, envelope)


class Trouble:
    """Makes workers of this process fail, by device and step; each place once."""

    def __init__(self, monkeypatch):
        self.planned = {}
        self.release = threading.Event()
        step_of = Worker._step

        def step(worker, job, denoiser, exchange, state, number, stride):
            action = self.planned.pop((worker.worker_config.device.name, number), None)
            if action is not None:
                action(worker, exchange)
            return step_of(worker, job, denoiser, exchange, state, number, stride)

        monkeypatch.setattr(Worker, "_step", step)

    def fail(self, device, step, error=None):
        def act(_worker, _exchange):
            raise RuntimeError("the simulator ended with status -11") if error is None else error

        self.planned[device, step] = act

    def fail_at_exchange(self, device, step):
        """After the keys and values of the first self-attention are sent."""

        def act(_worker, exchange):
            send = exchange.send

            def once(*arguments):
                send(*arguments)
                exchange.send = send
                raise RuntimeError("out of memory")

            exchange.send = once

        self.planned[device, step] = act

    def hang(self, device, step):
        self.planned[device, step] = lambda _worker, _exchange: self.release.wait(60)


def flipped(message, rng=random):
    data = bytearray(message.data)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return replace(message, data=bytes(data))


class Flipper:
    """Damages some messages, each no more often than it is asked for again, or all of one sender."""

    def __init__(self, share=0.0, always=None, seed=0):
        self.share, self.always, self.rng, self.count = share, always, random.Random(seed), 0
        self.damaged = Counter()
        self.lock = threading.Lock()

    def __call__(self, receiver, envelope):
        if isinstance(envelope, Again):
            return envelope
        assert isinstance(envelope, Message)
        with self.lock:
            times = self.damaged[receiver, envelope.key]
            if envelope.key.sender != self.always and (self.rng.random() >= self.share or times >= ATTEMPTS):
                return envelope
            self.damaged[receiver, envelope.key] += 1
            self.count += 1
            return flipped(envelope, self.rng)


class Relays:
    """In place of sockets between processes: bytes are passed on, one of every so many messages damaged."""

    def __init__(self, monkeypatch, every):
        self.every, self.messages, self.damaged, self.tear = every, 0, 0, threading.Event()
        self.lock, self.threads, self.ends = threading.Lock(), [], []
        monkeypatch.setattr(process, "socketpair", self.pair)

    def pair(self):
        (a, inner_a), (inner_b, b) = socket.socketpair(), socket.socketpair()
        self.ends += [inner_a, inner_b]
        for source, target in ((inner_a, inner_b), (inner_b, inner_a)):
            self.threads.append(threading.Thread(target=self.relay, args=(source, target), daemon=True))
            self.threads[-1].start()
        return a, b

    def close(self):
        for end in self.ends:
            end.close()

    def relay(self, source, target):
        with contextlib.suppress(OSError):
            while header := source.recv(_HEADER.size, socket.MSG_WAITALL):
                _, kind, label, content, *_ = _HEADER.unpack(header)
                body = bytearray()
                while len(body) < label + content:
                    body += source.recv(label + content - len(body))
                with self.lock:
                    if kind == _MESSAGE:
                        self.messages += 1
                        if self.messages % self.every == 0:
                            self.damaged += 1
                            body[-1] ^= 1
                        if self.tear.is_set():
                            self.tear.clear()
                            header = b"x" + header[1:]
                target.sendall(header + body)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def children():
    """Processes that this one has started, zombies too."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= {int(number) for number in (task / "children").read_text().split()}
    return found


def threads():
    """Without tqdm's own."""
    return {thread for thread in threading.enumerate() if type(thread).__name__ != "TMonitor"}


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def at_evaluation(placed, device, step, action):
    """Act when a device has reported the evaluation at a step."""
    workers = placed._workers
    ask = workers.ask

    def asked(commands, on_progress=None):
        def seen(who, done):
            on_progress(who, done)
            if (who, done) == (device, step) and workers.ask is asked:
                workers.ask = ask
                action()

        return ask(commands, seen if on_progress else None)

    workers.ask = asked
