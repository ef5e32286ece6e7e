"""Residuals of keys and values: the codes against a computation by hand, images against one made in one place."""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, offload
from brownout.host.stadi.execute.exchange import Exchange
from brownout.host.stadi.execute.fleet import Fleet
from brownout.host.stadi.execute.keys_values import Piece, join
from brownout.host.stadi.execute.mailbox import Mailbox
from brownout.host.stadi.execute.residuals import Residuals, decode, encode
from brownout.host.stadi.execute.run import Generated
from brownout.host.stadi.execute.solvers import solver_for
from brownout.host.stadi.plan.coding import AUTO, ExchangeCoding
from brownout.host.stadi.plan.device import DeviceSpec
from brownout.host.stadi.plan.link import Link, Links
from brownout.host.stadi.plan.load import LoadTrace
from brownout.host.stadi.plan.plan import Plan
from brownout.host.stadi.simulate.interval import Failure

from .displaced import in_one_place
from .tiny import (
    CONFIG,
    HALF,
    STEPS,
    alone,
    calibrated,
    devices,
    dit,
    dit_conditions,
    latents,
    make_image,
    plan,
    scheduler,
)

pytestmark = pytest.mark.xdist_group("fleet_residuals")
"""Tests share workers, which take longer to start than most tests."""

BITS = range(1, 8)
SCALE_BYTES_PER_MESSAGE = 16
SLOW_BYTES_PER_S = 2e7


def levels_of(bits: int) -> list[int]:
    """What a code can stand for, in steps."""
    return list(range(1 - 2**bits, 2**bits, 2)) if bits <= 2 else list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def golden(row: list[int], bits: int, block: int) -> tuple[bytes, list[int]]:
    """Bytes of a row and what they stand for, element by element."""
    levels, scales, digits, values = levels_of(bits), [], "", []
    for start in range(0, len(row), block):
        # The row is filled up with zeros.
        part = (row[start : start + block] + [0] * block)[:block]
        widest = next(step for step in range(256) if step * levels[-1] >= max(map(abs, part)))
        tried = []
        for eighth in range(8, -1, -1):
            step = -(-widest * eighth // 8)
            # The greater of two that are equally near.
            codes = [
                min(range(len(levels)), key=lambda code: (abs(levels[code] * max(step, 1) - each), -code))
                for each in part
            ]
            errors = sum((levels[code] * step - each) ** 2 for code, each in zip(codes, part, strict=True))
            tried.append((errors, -eighth, step, codes))
        _, _, step, codes = min(tried)
        used = codes[: len(row) - start]
        scales.append(step)
        digits += "".join(f"{code:0{bits}b}" for code in used)
        values += [levels[code] * step for code in used]
    digits += "0" * (-len(digits) % 8)
    return bytes(scales) + bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)), values


def rows_of_residuals(count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [
        [0] * count,
        [255] * count,
        [-255] * count,
        [(-1) ** each * 255 for each in range(count)],
        [1] * count,
        [255, *[0] * (count - 1)],
        [-255, *[1] * (count - 1)],
        random.integers(-255, 256, count).tolist(),
        random.normal(0, 4, count).round().astype(int).tolist(),
        random.integers(-3, 4, count).tolist(),
    ]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("count", "block"), [(16, 8), (13, 8), (5, 8), (7, 1), (1, 3)])
def test_codes_are_those_by_hand(bits, count, block):
    coding, rows = ExchangeCoding(bits, block), rows_of_residuals(count)
    coded = encode(torch.tensor(rows), coding)
    assert coded.dtype == torch.uint8
    assert coded.shape == (len(rows), coding.bytes(count))
    decoded = decode(coded, count, coding)
    for row, got, values in zip(rows, coded, decoded.tolist(), strict=True):
        assert (bytes(got.tolist()), values) == golden(row, bits, block)


@pytest.mark.parametrize("bits", BITS)
def test_small_residuals_are_exact(bits):
    largest = levels_of(bits)[-1] if bits > 2 else 1
    row = [-largest, largest] * 8 if bits <= 2 else list(range(-largest, largest + 1))
    coding = ExchangeCoding(bits, 16)
    assert decode(encode(torch.tensor([row]), coding), len(row), coding).tolist() == [row]


def test_payloads_of_another_size_are_refused():
    coding = ExchangeCoding(4, 8)
    message = f"16 elements take 10 bytes with {coding}, not 9"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        decode(torch.zeros(1, 9, dtype=torch.uint8), 16, coding)


@pytest.mark.parametrize("bits", BITS)
def test_feedback_makes_up_for_what_was_left_out(bits):
    """After a jump across the whole range the receiver gets to what stays, though each message is coarse."""
    random = np.random.default_rng(1)
    wanted = torch.from_numpy(random.integers(-128, 128, (3, 40)))
    held, coding = -wanted.clamp(min=-127), ExchangeCoding(bits, 8)
    errors = []
    for _ in range(40):
        held = (held + decode(encode(wanted - held, coding), 40, coding)).clamp(-128, 127)
        errors.append(float((wanted - held).double().square().mean().sqrt()))
    assert errors[-1] <= (1.0 if bits <= 2 else 0.0)
    assert errors[0] > errors[-1]


def test_without_feedback_errors_add_up():
    """Residuals to the sender's own old values, as a reference, against those to what the receiver holds."""
    random, coding = np.random.default_rng(2), ExchangeCoding(3, 16)
    true = np.zeros((2, 64))
    sequence = []
    for _ in range(60):
        true = 0.98 * true + random.normal(0, 6, true.shape)
        sequence.append(torch.from_numpy(true.round().clip(-128, 127).astype(np.int64)))
    closed = drifting = sequence[0]
    errors = []
    for before, now in itertools.pairwise(sequence):
        closed = (closed + decode(encode(now - closed, coding), 64, coding)).clamp(-128, 127)
        drifting = drifting + decode(encode(now - before, coding), 64, coding)
        errors.append([float((now - each).double().square().mean().sqrt()) for each in (closed, drifting)])
    early, late = np.array(errors[:15]).mean(0), np.array(errors[-15:]).mean(0)
    assert late[0] < 1.2 * early[0]
    assert late[1] > 2 * early[1]
    assert late[1] > 3 * late[0]


class Pair:
    """d0 sends to d1, of whom only the exchange is there."""

    def __init__(self, wanted: Plan, coding: ExchangeCoding) -> None:
        posts: dict[str, Mailbox] = {}
        for name in ("d0", "d1"):
            posts[name] = Mailbox(name, lambda receiver, envelope: posts[receiver].deliver(envelope), 5)
            posts[name].begin(0)
        self.here, self.there = (Exchange(posts[name], wanted, 0, lambda: None, coding) for name in posts)
        self.sender, self.receiver, self.random = Residuals(), Residuals(), np.random.default_rng(3)

    def own(self, step: int) -> Piece:
        """Two rows of three tokens; scales of the model change with the timestep."""
        key, value = (torch.from_numpy(self.random.integers(-128, 128, (2, 2, 6, width))) for width in (4, 5))
        return Piece(step, (0, 2), key.to(torch.int8), value.to(torch.int8), (0.02 + 0.001 * step, 0.03 - 0.001 * step))

    def message(self, own: Piece, before: Piece | None, held: Piece | None, *, synchronous: bool = False) -> Piece:
        """What the receiver then holds."""
        for exchange in (self.here, self.there):
            exchange.begin(own.step, synchronous=synchronous)
        self.sender.send("site", self.here, own, before)
        got = self.receiver.receive("site", self.there, self.here.me, own.step, held)
        key_scale, value_scale = got["steps"].tolist()
        return Piece(own.step, (0, 2), got["key"], got["value"], (key_scale, value_scale), "bad" in got)


def same(one: Piece, other: Piece) -> bool:
    facts = one.scales == other.scales and one.bad == other.bad
    return facts and torch.equal(one.key, other.key) and torch.equal(one.value, other.value)


def test_both_sides_know_of_nan_for_as_long_as_it_is_there():
    pair = Pair(plan((2, 2), warmup=1, steps=9), ExchangeCoding(5, 8, 4))
    before = replace(pair.own(0), bad=True)
    held = pair.message(before, None, None, synchronous=True)
    assert held.bad
    for step, bad in enumerate((True, False, True, True, False, False), 1):
        own = replace(pair.own(step), bad=bad)
        held = pair.message(own, before, held)
        assert held.bad is bad
        assert same(held, pair.sender.state().pieces["site"]["d1"])
    assert join([replace(own, rows=(0, 2)), replace(before, rows=(2, 4))]).bad


def test_both_sides_agree_when_scales_change():
    pair = Pair(plan((2, 2), warmup=1, steps=9), ExchangeCoding(5, 8, 4))
    before = pair.own(0)
    held = pair.message(before, None, None, synchronous=True)
    assert same(held, before)
    for step in range(1, 8):
        own = pair.own(step)
        held = pair.message(own, before, held)
        assert same(held, pair.sender.state().pieces["site"]["d1"])
        assert held.scales == own.scales
        # The fourth message is whole; at 5 bits a block's step is at most 17.
        assert same(held, own) == (step == 4)
        assert (held.key.int() - own.key.int()).abs().max() <= 17
        before = own


def test_what_was_held_at_a_sync_point_is_gone_back_to():
    pair = Pair(plan((2, 2), warmup=1, steps=9), ExchangeCoding(3, 8))
    pieces = [pair.own(step) for step in range(5)]
    held = pair.message(pieces[0], None, None, synchronous=True)
    held = pair.message(pieces[1], pieces[0], held)
    sync_point, state = held, pair.sender.state()
    runs = []
    for _ in range(2):
        pair.sender.restore(state)
        held = sync_point
        for before, own in itertools.pairwise(pieces[1:]):
            held = pair.message(own, before, held)
        runs.append(held)
    assert same(*runs)
    assert not same(runs[0], pieces[4])


def test_after_rows_change_hands_a_message_is_whole():
    pair = Pair(plan((2, 2), warmup=1, steps=9), ExchangeCoding(1, 8))
    pieces = [pair.own(step) for step in range(4)]
    held = pair.message(pieces[0], None, None, synchronous=True)
    # After synchronous steps all hold the same, whosever rows they become.
    pair.sender.redistribute()
    held = pair.message(pieces[1], pieces[0], held)
    assert not same(held, pieces[1])
    pair.sender.redistribute()
    assert same(pair.message(pieces[2], pieces[1], None), pieces[2])
    pair.sender.forget()
    assert same(pair.message(pieces[3], pieces[2], None), pieces[3])


class Case:
    """A small DiT on a fleet of three unequal devices."""

    def __init__(self, specs=None, patience_s=60) -> None:
        self.model, self.noise = dit(), latents(1)
        self.conditions = dit_conditions(1)[0]
        self.calibration = calibrated(self.model, self.noise, self.conditions)
        fleet = Fleet(specs or devices(CONFIG, HALF, CONFIG), executor="inline", patience_s=patience_s)
        self.placed = fleet.place(self.model, self.calibration)

    def generate(self, **options):
        options = {"num_inference_steps": STEPS, "scheduler": scheduler(), "conditions": self.conditions} | options
        return make_image(self.placed, self.noise, **options)


@pytest.fixture(scope="module")
def case():
    made = Case()
    yield made
    made.placed.close()


def coded(case: Case, wanted: Plan, coding: ExchangeCoding) -> torch.Tensor:
    """The displaced image, evaluated as a whole on one accelerator, with what each device holds of each other one.

    Nothing of messages or workers is used; residuals are coded by `golden`.
    """
    module, solver = copy.deepcopy(case.model), solver_for(scheduler(), wanted.steps)
    true: dict = {}
    held: dict = {}
    current: dict = {}

    def tokens(rows):
        return slice(rows[0] * 6, rows[1] * 6)

    def advance(old, new):
        after = [torch.empty_like(each) for each in new]
        for row in range(new[0].shape[2] // 6):
            part = slice(row * 6, row * 6 + 6)
            olds, news = ([int(each) for t in two for each in t[:, :, part].flatten()] for two in (old, new))
            _, values = golden([n - o for n, o in zip(news, olds, strict=True)], coding.bits, coding.block)
            now = torch.tensor([max(-128, min(127, o + v)) for o, v in zip(olds, values, strict=True)]).to(torch.int8)
            first = 0
            for each in after:
                shape = each[:, :, part].shape
                each[:, :, part] = now[first : first + shape.numel()].reshape(shape)
                first += shape.numel()
        return after

    def message(site, sender, receiver, step):
        """What the receiver holds after the sender's evaluation at a step."""
        if step is None:
            return [each[:, :, tokens(sender.rows)] for each in true[site, "all", None]]
        key = (site, sender.device, receiver.device, step)
        if key not in held:
            steps = list(wanted.sends(sender, receiver))
            place = steps.index(step)
            new = [each[:, :, tokens(sender.rows)] for each in true[site, sender.device, step]]
            before = message(site, sender, receiver, steps[place - 1] if place else None)
            whole = coding.keyframe_interval is not None and (place + 1) % coding.keyframe_interval == 0
            held[key] = new if whole else advance(before, new)
        return held[key]

    with Accelerator(CONFIG, "twin") as accelerator, torch.no_grad():
        offload(module, accelerator, calibration=case.calibration)

        def gather(site):
            def put(key, value, _steps, _bad):
                true[site, current["device"], current["step"]] = key.clone(), value.clone()
                key, value = key.clone(), value.clone()
                for other, step in current["others"]:
                    got = message(site, other, current["share"], step)
                    key[:, :, tokens(other.rows)], value[:, :, tokens(other.rows)] = got
                return key, value, False

            return put

        for call in module.modules():
            if type(call).__name__ == "AttentionCall":
                call.gather = gather(call.name)

        def evaluate(image, step):
            timestep = torch.full((1,), solver.timesteps[step])
            return module(image, timestep=timestep, **case.conditions).sample[:, :2]

        return in_one_place(wanted, solver, case.noise, 2, current, evaluate)


@pytest.mark.parametrize(
    ("strides", "bits", "keyframe_interval", "steps"),
    [((1, 1, 1), 1, None, 5), ((1, 2, 4), 2, 3, 14), ((1, 1, 2), 3, None, 6)],
)
def test_images_equal_a_computation_in_one_place(case, strides, bits, keyframe_interval, steps):
    wanted = plan((3, 1, 2), strides=strides, warmup=2, warmup_rows=(2, 2, 2), steps=steps)
    coding = ExchangeCoding(bits, 16, keyframe_interval)
    got = case.generate(plan=wanted, coding=coding, num_inference_steps=steps, replan=False)
    whole = case.generate(plan=wanted, num_inference_steps=steps, replan=False)
    assert torch.equal(got.latents, coded(case, wanted, coding))
    assert not torch.equal(got.latents, whole.latents), "coding lost nothing"
    assert (got.coding, whole.coding) == (coding, None)


def ends_of(plans: list[Plan]) -> list[int]:
    """Where each plan gives way to the next."""
    return [*(each.first_step for each in plans[1:]), plans[0].steps]


def message_count(plans: list[Plan], sites: int) -> int:
    """Messages of keys and values."""
    count = 0
    for each, end in zip(plans, ends_of(plans), strict=True):
        for sender, receiver in itertools.permutations(each.shares, 2):
            count += each.warmup + sum(step < end for step in each.sends(sender, receiver))
    return count * sites


def sync_point_bytes(plans: list[Plan]) -> int:
    """Latents that devices tell each other: two channels of two rows of 12, float32."""
    count = 0
    for each, end in zip(plans, ends_of(plans), strict=True):
        count += sum(stop <= end for _, stop in each.intervals) * (len(each.shares) - 1) * each.rows
    return count * 2 * 2 * 12 * 4


def check_bytes(got: Generated) -> None:
    plans = got.timeline.plans
    scales = SCALE_BYTES_PER_MESSAGE * message_count(plans, sites=2)
    assert got.timeline.link_bytes == got.sent_bytes - scales + sync_point_bytes(plans)


@pytest.mark.parametrize("coding", [None, ExchangeCoding(3, 10), ExchangeCoding(4, 32, 2)])
def test_bytes_of_the_timeline_are_those_that_were_sent(case, coding):
    wanted = plan((3, 1, 2), strides=(1, 2, 4), warmup=2, steps=14)
    got = case.generate(plan=wanted, coding=coding, num_inference_steps=14, replan=False)
    check_bytes(got)


def test_a_new_plan_begins_with_whole_messages(case):
    """Rows change hands in mid-run: bytes show that both sides and the timeline count messages anew."""
    wanted = plan((2, 2, 2), warmup=1, steps=12)
    begins = case.generate(plan=wanted, num_inference_steps=12, replan=False).timeline.latency_s / 2
    specs = [
        DeviceSpec(name="d0", config=CONFIG),
        DeviceSpec(name="d1", config=CONFIG, load=LoadTrace((0.0, begins), (0.0, 0.6))),
    ]
    coding = ExchangeCoding(3, 16)
    loaded = Case(specs=specs)
    with loaded.placed:
        got = loaded.generate(plan="elastic", coding=coding, num_inference_steps=12, warmup_steps=1)
    assert len(got.timeline.plans) > 1
    assert got.timeline.plans[-1].warmup == 0
    assert got.timeline.plans[-1].shares != got.timeline.plans[0].shares
    check_bytes(got)


def test_an_interval_in_vain_leaves_no_traces():
    """A worker is lost while others already send; the image is that of a run in which it was to stop there."""
    wanted, coding = plan((2, 2, 2), warmup=2, steps=10), ExchangeCoding(2, 16)
    losing, stopping = Case(patience_s=3), Case()

    def kill(step, _latents):
        if step == 6:
            losing.placed._workers._executor.kill("d2")

    with losing.placed, stopping.placed:
        lost = losing.generate(plan=wanted, coding=coding, num_inference_steps=10, callback=kill)
        assert list(lost.lost) == ["d2"]
        undisturbed = stopping.generate(plan=wanted, coding=coding, num_inference_steps=10)
        moment = next(
            each.start_s for each in undisturbed.timeline.segments if each[:2] == ("d2", "compute") and each.step == 6
        )
        stops = stopping.generate(
            plan=wanted, coding=coding, num_inference_steps=10, failures=[Failure("d2", moment * (1 + 1e-9))]
        )
    assert [each.first_step for each in lost.timeline.plans] == [0, 6]
    assert lost.timeline.plans == stops.timeline.plans
    assert torch.equal(lost.latents, stops.latents)
    assert not torch.equal(lost.latents, undisturbed.latents)


def test_synchronous_images_are_those_of_one_device(case):
    got = case.generate(plan=plan((3, 1, 2)), mode="full_sync", coding=ExchangeCoding(1, 64))
    expected = alone(
        case.model,
        case.calibration,
        case.noise,
        (case.conditions, {}),
        guidance_scale=1.0,
        own_scheduler=scheduler(),
    )
    assert torch.equal(got.latents, expected)


@pytest.mark.parametrize(("bytes_per_s", "taken"), [(25e9, False), (SLOW_BYTES_PER_S, True)])
def test_auto_takes_coding_where_links_are_slow(case, bytes_per_s, taken):
    with Fleet(case.placed.fleet.spec.devices, Links(Link(bytes_per_s=bytes_per_s)), executor="inline").place(
        case.model, case.calibration
    ) as placed:
        options = {
            "scheduler": scheduler(),
            "conditions": case.conditions,
            "num_inference_steps": 8,
            "warmup_steps": 1,
            "plan": plan((2, 2, 2), steps=8),
        }
        whole, coded, auto = (
            make_image(placed, case.noise, coding=coding, **options) for coding in (None, AUTO, "auto")
        )
    assert auto.coding == (AUTO if taken else None)
    assert torch.equal(auto.latents, (coded if taken else whole).latents)
    assert (coded.timeline.latency_s < 0.99 * whole.timeline.latency_s) == taken
    assert (auto.predicted_s, auto.sent_bytes) == (
        (coded.predicted_s, coded.sent_bytes) if taken else (whole.predicted_s, whole.sent_bytes)
    )


def test_other_codings_are_refused(case):
    with pytest.raises(ValueError, match=r"^coding must be an ExchangeCoding, 'auto' or None, not 'fast'$"):
        case.generate(coding="fast")


def test_images_of_few_bits_need_feedback(case, monkeypatch):
    """Reference: residuals to the sender's own old values, whose errors add up in the receiver."""
    wanted, message = plan((3, 3), warmup=2, steps=20), Residuals.message

    def without_feedback(own, base, coding):
        return message(own, base, coding)[0], own

    def make(**options):
        return case.generate(plan=wanted, num_inference_steps=20, replan=False, **options).latents

    def error(coding):
        return float((make(coding=coding) - undivided).square().mean().sqrt())

    undivided, coding = make(mode="full_sync"), ExchangeCoding(2, 32)
    displaced, closed = error(None), error(coding)
    monkeypatch.setattr(Residuals, "message", staticmethod(without_feedback))
    drifting = error(coding)
    assert closed < 2 * displaced
    assert drifting > 2 * closed


def test_a_run_is_taken_up_from_a_checkpoint(tmp_path):
    """Devices hold different things of the same rows: each goes on with its own."""
    wanted, coding = plan((3, 1, 2), strides=(1, 2, 2), warmup=2, steps=12), ExchangeCoding(2, 16)
    options = {"plan": wanted, "coding": coding, "num_inference_steps": 12}

    def stop(step, _latents):
        if step == 8:
            raise KeyboardInterrupt

    first, second = Case(), Case()
    with first.placed, second.placed:
        expected = first.generate(**options)
        with pytest.raises(KeyboardInterrupt):
            first.generate(checkpoint=tmp_path, callback=stop, **options)
        got = second.generate(checkpoint=tmp_path, **options)
    assert torch.equal(got.latents, expected.latents)
    assert (got.sent_bytes, got.timeline.link_bytes) == (expected.sent_bytes, expected.timeline.link_bytes)
