"""Cutting, joining and sending what a solver remembers."""

from __future__ import annotations

import pickle
import re

import pytest
import torch

from brownout.host.stadi.execute.solver_state import SolverState


def state(height=5, width=3, first=0):
    values = torch.arange(first, first + 2 * height * width, dtype=torch.float32).reshape(1, 2, height, width)
    return SolverState(latents=values, denoised=-values, denoised_at=torch.arange(first, first + height))


def assert_same(one, other):
    assert one.tensors().keys() == other.tensors().keys()
    for name, tensor in one.tensors().items():
        assert tensor.dtype == other.tensors()[name].dtype
        assert torch.equal(tensor, other.tensors()[name]), name


@pytest.mark.parametrize("history", [True, False])
def test_cuts_are_joined_to_the_whole(history):
    whole = state() if history else SolverState(latents=state().latents)
    parts = [whole.rows(0, 1), whole.rows(1, 4), whole.rows(4, 5)]
    assert [part.height for part in parts] == [1, 3, 1]
    assert_same(SolverState.join(parts), whole)


def test_a_cut_holds_the_rows_asked_for():
    cut = state().rows(1, 3)
    assert torch.equal(cut.latents, state().latents[:, :, 1:3])
    assert torch.equal(cut.denoised, -cut.latents)
    assert cut.denoised_at.tolist() == [1, 2]


def test_a_cut_has_memory_of_its_own():
    whole = SolverState(latents=torch.zeros(1, 1, 1000, 4))
    cut = whole.rows(0, 1)
    whole.latents.fill_(1.0)
    assert not cut.latents.any()
    assert len(pickle.dumps(cut)) < 2000


def test_tensors_are_those_of_an_equal_state():
    assert_same(SolverState.from_tensors(state().tensors()), state())
    assert SolverState(latents=state().latents).tensors().keys() == {"latents"}


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (-1, 2), (3, 6), (2, 1)])
def test_rows_that_are_not_there_are_refused(start, stop):
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'rows must be within 0..5 and at least one, not {start}..{stop}')}$"
    ):
        state().rows(start, stop)


def test_states_that_do_not_fit_are_not_joined():
    with pytest.raises(ValueError, match=r"^there must be at least one state to join$"):
        SolverState.join([])
    without = SolverState(latents=state().latents)
    for other in (without, state(width=4)):
        with pytest.raises(
            ValueError, match=r"^states must agree in \(tensors, dtype, \(B, C, W\)\) to be joined, not "
        ):
            SolverState.join([state(), other])
    half = SolverState(latents=without.latents.half())
    with pytest.raises(ValueError, match=r"torch\.float32.* and .*torch\.float16"):
        SolverState.join([without, half])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(2, 3)}, "latents must be floating-point numbers of shape (B, C, H, W), none of "
         "them 0, not torch.float32 (2, 3)"),
        ({"latents": torch.zeros(1, 1, 0, 3)}, "latents must be floating-point numbers of shape (B, C, H, W), none of "
         "them 0, not torch.float32 (1, 1, 0, 3)"),
        ({"denoised": None}, "denoised and denoised_at belong together: give both or neither"),
        ({"denoised": torch.zeros(1, 2, 5, 4)}, "denoised must be torch.float32 (1, 2, 5, 3) as latents are, "
         "not torch.float32 (1, 2, 5, 4)"),
        ({"denoised_at": torch.zeros(5)}, "denoised_at must be torch.int64 (5,) on cpu, not torch.float32 (5,) on cpu"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SolverState(**{**state().tensors(), **changes})


def test_tensors_of_something_else_are_refused():
    message = (
        "a state has latents, and of ['denoised', 'denoised_at', 'latents'] what it needs, not ['latents', 'weight']"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SolverState.from_tensors({"latents": state().latents, "weight": state().latents})
    with pytest.raises(ValueError, match=r"not \[\]$"):
        SolverState.from_tensors({})
