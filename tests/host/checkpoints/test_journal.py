"""What is journaled, and what is brought back."""

from __future__ import annotations

import inspect

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from brownout.host import CheckpointError, RunCheckpoint, State, journal, offload, offloaded_model, restore
from brownout.host.checkpoints.values import decode, describe, encode

from . import toy


class StopError(Exception):
    """Ends a run early."""


def stop_after(denoiser, evaluations):
    def count(*_):
        if denoiser.computed == evaluations:
            raise StopError

    return denoiser.register_forward_hook(count)


def interrupt(denoiser, folder, evaluations, **options):
    handle = stop_after(denoiser, evaluations)
    with pytest.raises(StopError):
        with journal(denoiser, RunCheckpoint(folder, **options)):
            toy.sample(denoiser)
    handle.remove()
    denoiser.computed = 0


def test_a_denoiser_that_is_not_offloaded_has_a_journal_too(tmp_path):
    expected = toy.sample(toy.Denoiser())
    denoiser = toy.Denoiser()
    interrupt(denoiser, tmp_path, 4)
    with journal(denoiser, tmp_path) as opened:
        assert opened.replayed == 4
        assert torch.equal(toy.sample(denoiser), expected)
    assert denoiser.computed == 2
    assert "forward" not in denoiser.__dict__


@pytest.mark.parametrize("evaluations", range(1, toy.STEPS + 1))
@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_run_that_ends_early_goes_on_in_the_same_process_or_another(evaluations, every, tmp_path):
    values, stats, _ = toy.run()
    with toy.offloaded() as (denoiser, _):
        interrupt(denoiser, tmp_path, evaluations, every=every)
    got, counted, computed = toy.run(RunCheckpoint(tmp_path, every=every))
    assert torch.equal(got, values)
    assert counted == stats
    assert computed == toy.STEPS - evaluations // every * every


def test_a_forward_of_the_instance_comes_back(tmp_path):
    denoiser = toy.Denoiser()

    def forward(sample, timestep):
        return sample * 0, {}

    denoiser.forward = forward
    with journal(denoiser, tmp_path):
        assert not denoiser(torch.ones(2, 10), 3)[0].any()
    assert denoiser.forward is forward


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_denoisers_have_a_journal(in_place, tmp_path):
    class Plain(toy.Denoiser):
        def forward(self, sample, timestep):
            return self.last(torch.tanh(self.first(sample) + timestep / 10)), {}

    expected = toy.sample(Plain(), steps=3)
    denoiser = Plain()
    if in_place:
        denoiser.compile(backend="eager", dynamic=True)
    else:
        denoiser = torch.compile(denoiser, backend="eager", dynamic=True)
    for replayed in (0, 3):
        with journal(denoiser, tmp_path) as opened:
            assert opened.replayed == replayed
            assert torch.equal(toy.sample(denoiser, steps=3), expected)


class Remembering(nn.Module):
    """Its output depends on how often it was called; that is kept where the model's state is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)
        self.memory = torch.zeros(10)
        self.calls = 0

    def forward(self, sample, timestep):
        self.calls += 1
        self.memory = self.memory * 0.5 + self.layer(sample).mean(0)
        return sample * 0.1 + self.memory + self.calls, {}

    def state(self):
        return State({"calls": self.calls}, {"memory": self.memory})

    def load_state(self, state):
        self.calls, self.memory = state.values["calls"], state.tensors["memory"]


def test_what_else_is_registered_is_part_of_the_state(tmp_path):
    def run(steps, folder=None, name="memory"):
        torch.manual_seed(0)
        denoiser = Remembering().requires_grad_(False)
        with toy.Accelerator(toy.CONFIG, backend="twin") as accelerator:
            offload(denoiser, accelerator, calibration=lambda module: module(torch.randn(7, 10), 0))
            denoiser.calls, denoiser.memory = 0, torch.zeros(10)
            offloaded_model(denoiser).stateful[name] = denoiser
            if folder is None:
                return toy.sample(denoiser, steps=steps)
            with journal(denoiser, folder):
                return toy.sample(denoiser, steps=steps)

    expected = run(6)
    run(3, tmp_path)
    assert torch.equal(run(6, tmp_path), expected)
    with pytest.raises(CheckpointError, match=r"'stateful' was \['memory'\] and is \['cache'\] now;"):
        run(6, tmp_path, name="cache")


def test_random_numbers_are_those_of_the_first_run(tmp_path):
    """Of the generator on the CPU that nobody seeds, inside the denoiser and outside of it."""

    class Noisy(toy.Denoiser):
        def forward(self, sample, timestep):
            return super().forward(sample + torch.randn(7, 10), timestep)

    def run(folder, steps):
        noisy = Noisy()
        torch.seed()
        with journal(noisy, folder), torch.no_grad():
            values = torch.randn(7, 10)
            for step in range(steps):
                values = 0.5 * values + noisy(values, timestep=step)[0] + torch.randn(7, 10)
        return values

    kept = RunCheckpoint(tmp_path, every=2)
    first = run(kept, 5)
    # The last evaluation is computed again.
    assert torch.equal(run(kept, 5), first)
    assert not torch.equal(run(tmp_path / "other", 5), first)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3.25,
        "text",
        (torch.arange(6).view(2, 3), [1, True], {"a": torch.tensor(1.5, dtype=torch.bfloat16)}),
        Transformer2DModelOutput(sample=torch.randn(2, 3)),
        torch.zeros(0, 3),
    ],
)
def test_outputs_come_back_as_they_were(value):
    tensors = {}
    got = decode(encode(value, tensors), tensors)
    assert type(got) is type(value)
    signature = inspect.signature(lambda value: None)
    assert describe(signature, (got,), {}) == describe(signature, (value,), {})


@pytest.mark.parametrize(
    ("value", "stride"),
    [
        (torch.randn(1, 4, 5, 6).to(memory_format=torch.channels_last), (120, 1, 24, 4)),
        (torch.randn(3, 4).T, (1, 4)),
        (torch.randn(4, 10)[:, ::2], (5, 1)),
        (torch.randn(1, 5).expand(4, 5), (5, 1)),
    ],
)
def test_strides_come_back_without_gaps_and_overlaps(value, stride):
    tensors = {}
    got = decode(encode(value, tensors), tensors)
    assert torch.equal(got, value)
    assert got.stride() == stride


def test_outputs_that_no_file_can_hold_are_refused(tmp_path):
    class Odd(toy.Denoiser):
        def forward(self, sample, timestep):
            return {sample.shape}

    odd = Odd()
    with journal(odd, tmp_path):
        with pytest.raises(
            TypeError, match=r"^the denoiser returned a set, which a checkpoint cannot hold; it can hold"
        ):
            odd(torch.ones(1), 0)


def test_only_outputs_of_diffusers_are_made_from_names():
    for module, name in (("os", "system"), ("diffusers.utils", "logging"), ("builtins", "dict")):
        with pytest.raises(ValueError, match=rf"^{module}.{name} is no output class of diffusers$"):
            decode(["output", module, name, {}], {})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folder": 3}, TypeError, "RunCheckpoint.folder must be a Path or str, not 3"),
        ({"folder": "x", "every": 0}, ValueError, "RunCheckpoint.every must be an integer of at least 1, not 0"),
        ({"folder": "x", "keep": True}, ValueError, "RunCheckpoint.keep must be an integer of at least 1, not True"),
        (
            {"folder": "x", "restarts": -1},
            ValueError,
            "RunCheckpoint.restarts must be an integer of at least 0, not -1",
        ),
        ({"folder": "x", "overwrite": 1}, ValueError, "RunCheckpoint.overwrite must be a bool, not 1"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        RunCheckpoint(**options)


def test_a_failed_opening_frees_the_folder(tmp_path):
    denoiser = toy.Denoiser()
    with journal(denoiser, tmp_path):
        toy.sample(denoiser)
    denoiser.last.bias.data += 1
    for _ in range(2):
        with pytest.raises(CheckpointError, match="'weights' was"):
            with journal(denoiser, tmp_path):
                pass
    assert "forward" not in denoiser.__dict__


def test_restored_models_need_no_journal_of_their_own(tmp_path):
    """The journal of an offloaded model is none of its float model."""
    with toy.offloaded() as (denoiser, _):
        with journal(denoiser, tmp_path):
            toy.sample(denoiser)
        restore(denoiser)
        with pytest.raises(CheckpointError, match=r"holds another run: 'config' was .* and is absent now;"):
            with journal(denoiser, tmp_path):
                pass
