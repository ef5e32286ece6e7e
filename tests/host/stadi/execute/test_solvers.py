"""Solvers against diffusers' schedulers, closed forms in float64 and an exactly solvable equation."""

from __future__ import annotations

import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from brownout.host.errors import PlanError
from brownout.host.models.spec import build_scheduler
from brownout.host.stadi.execute.solver_state import SolverState
from brownout.host.stadi.execute.solvers import solver_for

from .test_solver_state import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # In diffusers.

SHAPE = (2, 3, 5, 7)


def noise(seed, shape=SHAPE, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coarse_run(solver, stride, latents):
    """Latents after every step; what is predicted is noise of the step's number."""
    state, found = solver.begin(latents), []
    for number, index in enumerate(range(0, solver.steps, stride)):
        state = solver.step(state, noise(number, latents.shape, latents.dtype), index, stride)
        found.append(state.latents)
    return found


def golden_run(scheduler, latents, **options):
    found = []
    for number, timestep in enumerate(scheduler.timesteps):
        predicted = noise(number, latents.shape, latents.dtype)
        latents = scheduler.step(predicted, timestep, latents, **options).prev_sample
        found.append(latents)
    return found


def assert_equal_runs(found, expected):
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == other.dtype
        assert torch.isfinite(other).all(), number
        assert torch.equal(one, other), number


# Stride 1 ---------------------------------------------------------------------------------------------------------

DDIM_CONFIGS = {
    "defaults": {},
    "unclipped": {"clip_sample": False, "beta_schedule": "scaled_linear"},
    "range": {"clip_sample_range": 0.5},
    "offset": {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    "trailing": {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"},
    "linspace": {"timestep_spacing": "linspace", "set_alpha_to_one": False},
}


@pytest.mark.parametrize("clipped_output", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("config", DDIM_CONFIGS)
def test_ddim_of_stride_1_has_the_bits_of_diffusers(config, prediction_type, clipped_output):
    for steps in (1, 15, 20):  # 15 does not divide 1000.
        scheduler = DDIMScheduler(prediction_type=prediction_type, **DDIM_CONFIGS[config])
        solver = solver_for(scheduler, steps, use_clipped_model_output=clipped_output)
        scheduler.set_timesteps(steps)
        assert solver.timesteps == tuple(scheduler.timesteps.tolist())
        expected = golden_run(scheduler, noise(99), use_clipped_model_output=clipped_output)
        assert_equal_runs(coarse_run(solver, 1, noise(99)), expected)


DPM_CONFIGS = {
    "defaults": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    "order 1": {"solver_order": 1},
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "sigma_min, second order to the end": {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    "sigma_min, euler": {"final_sigmas_type": "sigma_min", "lower_order_final": False, "euler_at_final": True},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "karras": {"use_karras_sigmas": True},
    "karras to sigma_min": {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    "lu": {"use_lu_lambdas": True},
    "exponential": {"use_exponential_sigmas": True},
}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("config", DPM_CONFIGS)
def test_dpm_of_stride_1_has_the_bits_of_diffusers(config, prediction_type):
    for steps in (1, 2, 14, 15, 20):  # lower_order_final ends with 14.
        scheduler = DPMSolverMultistepScheduler(prediction_type=prediction_type, **DPM_CONFIGS[config])
        solver = solver_for(scheduler, steps)
        scheduler.set_timesteps(steps)
        assert solver.timesteps == tuple(scheduler.timesteps.tolist())
        assert_equal_runs(coarse_run(solver, 1, noise(99)), golden_run(scheduler, noise(99)))


def test_the_solver_of_the_shipped_models_has_the_bits_of_sampling():
    scheduler = build_scheduler()
    solver = solver_for(scheduler, 50, use_clipped_model_output=True)
    scheduler.set_timesteps(50)
    expected = golden_run(scheduler, noise(99), use_clipped_model_output=True)
    assert_equal_runs(coarse_run(solver, 1, noise(99)), expected)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), DPMSolverMultistepScheduler()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_have_the_bits_of_diffusers(scheduler, dtype):
    solver = solver_for(scheduler, 10)
    scheduler.set_timesteps(10)
    assert_equal_runs(coarse_run(solver, 1, noise(99, dtype=dtype)), golden_run(scheduler, noise(99, dtype=dtype)))


# Larger strides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [2, 4, 5])
def test_a_strided_ddim_run_is_that_of_a_coarser_scheduler(stride):
    # Leading timesteps of 20 / stride steps begin `stride - 1` fine steps of 50 lower: the offset makes up for them.
    for coarse in ({"timestep_spacing": "trailing"}, {"steps_offset": 50 * (stride - 1)}):
        fine = {**coarse, "steps_offset": 0}
        golden = DDIMScheduler(**coarse)
        golden.set_timesteps(20 // stride)
        solver = solver_for(DDIMScheduler(**fine), 20)
        assert solver.timesteps[::stride] == tuple(golden.timesteps.tolist())
        assert_equal_runs(coarse_run(solver, stride, noise(99)), golden_run(golden, noise(99)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_strided_ddim_run_is_the_closed_form(spacing, prediction_type):
    steps, stride = 15, 3
    scheduler = DDIMScheduler(prediction_type=prediction_type, timestep_spacing=spacing, clip_sample=False)
    found = coarse_run(solver_for(scheduler, steps), stride, noise(99))
    products = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
    timesteps = {
        "leading": [66 * k for k in range(14, -1, -1)],
        "trailing": [round(1000 - k * 1000 / 15) - 1 for k in range(15)],
        "linspace": [round(999 - k * 999 / 14) for k in range(15)],
    }[spacing]
    x = noise(99).numpy().astype(np.float64)
    for number, index in enumerate(range(0, steps, stride)):
        a = products[timesteps[index]]
        arrives = timesteps[index + stride - 1] - 66
        b = products[arrives] if arrives >= 0 else 1.0
        y = noise(number).numpy().astype(np.float64)
        x0, eps = {
            "epsilon": ((x - np.sqrt(1 - a) * y) / np.sqrt(a), y),
            "sample": (y, (x - np.sqrt(a) * y) / np.sqrt(1 - a)),
            "v_prediction": (np.sqrt(a) * x - np.sqrt(1 - a) * y, np.sqrt(a) * y + np.sqrt(1 - a) * x),
        }[prediction_type]
        x = np.sqrt(b) * x0 + np.sqrt(1 - b) * eps
        np.testing.assert_allclose(found[number].numpy(), x, rtol=1e-4, atol=1e-4 * np.abs(x).max())


@pytest.mark.parametrize("config", ["defaults", "order 1", "sigma_min", "sigma_min, euler", "leading"])
@pytest.mark.parametrize("stride", [2, 4, 5])
def test_a_strided_dpm_run_is_that_of_coarser_timesteps(config, stride):
    for steps in (20, 60):  # At the stride shorter, and mostly longer, than the 15 steps of lower_order_final.
        golden = DPMSolverMultistepScheduler(**DPM_CONFIGS[config])
        solver = solver_for(golden, steps)
        golden.set_timesteps(timesteps=list(solver.timesteps[::stride]))
        assert_equal_runs(coarse_run(solver, stride, noise(99)), golden_run(golden, noise(99)))


@pytest.mark.parametrize("stride", [2, 3, 11])
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_a_strided_step_arrives_where_stride_1_does(scheduler_class, stride):
    # Where the predicted image is 0, latents are in proportion to their noise level.
    solver = solver_for(scheduler_class(prediction_type="sample"), 15)
    begun, nothing = solver.begin(noise(99)), torch.zeros(SHAPE)
    fine = begun
    for index in range(3, 3 + stride):
        fine = solver.step(fine, nothing, index)
    torch.testing.assert_close(solver.step(begun, nothing, 3, stride).latents, fine.latents)


# History of rows --------------------------------------------------------------------------------------------------


def dpm(steps=20, **options):
    return solver_for(DPMSolverMultistepScheduler(**options), steps)


def mixed_state(shape=SHAPE, dtype=torch.float32, ats=(-1, 4, 2, 2, 3)):
    return SolverState(latents=noise(1, shape, dtype), denoised=noise(2, shape, dtype), denoised_at=torch.tensor(ats))


@pytest.mark.parametrize("stride", [1, 3])
def test_each_row_uses_its_own_history(stride):
    # Formulas of the paper in float64; D1 for the row without history is 0.
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample")
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas.numpy().astype(np.float64)
    state = mixed_state()
    found = solver_for(scheduler, 20).step(state, noise(3), 5, stride)
    alpha, lam = 1 / np.sqrt(sigmas[:-1] ** 2 + 1), -np.log(sigmas[:-1])
    h = lam[5 + stride] - lam[5]
    for row, at in enumerate(state.denoised_at.tolist()):
        x, m1, m0 = (t[:, :, row].numpy().astype(np.float64) for t in (state.latents, state.denoised, noise(3)))
        slope = 0.0 if at < 0 else (m0 - m1) * h / (lam[5] - lam[at])
        sigma_ratio = sigmas[5 + stride] * alpha[5 + stride] / (sigmas[5] * alpha[5])
        expected = sigma_ratio * x - alpha[5 + stride] * np.expm1(-h) * (m0 + slope / 2)
        np.testing.assert_allclose(found.latents[:, :, row].numpy(), expected, rtol=2e-5, atol=2e-5)
    assert found.denoised_at.tolist() == [5] * 5
    assert torch.equal(found.denoised, noise(3))


def test_history_of_another_row_does_not_matter():
    solver, state = dpm(), mixed_state()
    one = solver.step(state, noise(3), 5, 2)
    changed = SolverState(latents=state.latents, denoised=state.denoised, denoised_at=torch.tensor([-1, 4, 2, 2, 0]))
    other = solver.step(changed, noise(3), 5, 2)
    assert torch.equal(one.latents[:, :, :4], other.latents[:, :, :4])
    assert not torch.equal(one.latents[:, :, 4], other.latents[:, :, 4])


def test_the_last_step_of_any_stride_is_of_first_order_where_diffusers_makes_it_so():
    without, history = mixed_state(ats=(-1,) * 5), mixed_state(ats=(4,) * 5)

    def ignores_history(solver, stride):
        index = solver.steps - stride
        first, second = (solver.step(state, noise(3), index, stride).latents for state in (without, history))
        return torch.equal(first, second)

    to_sigma_min = {"final_sigmas_type": "sigma_min", "euler_at_final": False}
    assert ignores_history(dpm(30), 1)
    assert ignores_history(dpm(30), 4)
    assert not ignores_history(dpm(30, **to_sigma_min), 1)
    assert not ignores_history(dpm(30, **to_sigma_min), 2)  # 15 steps at stride 2,
    assert ignores_history(dpm(28, **to_sigma_min), 2)  # 14 at stride 2
    assert ignores_history(dpm(30, **to_sigma_min), 4)
    assert not ignores_history(dpm(30, **to_sigma_min, lower_order_final=False), 4)


# Rows are independent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, 16, 33, 64])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_rows_have_the_same_bits_alone_and_together(prediction_type, width, dtype):
    height, index, stride = 9, 5, 2
    ats = (-1, 4, 4, 2, 2, 2, 3, -1, 1)
    state = mixed_state((2, 3, height, width), dtype, ats)
    predicted = noise(3, state.latents.shape, dtype)
    bare = SolverState(latents=state.latents)
    for solver, start in (
        (solver_for(DDIMScheduler(prediction_type=prediction_type), 20, use_clipped_model_output=True), bare),
        (dpm(prediction_type=prediction_type), state),
        (dpm(prediction_type=prediction_type, solver_order=1), bare),
    ):
        whole = solver.step(start, predicted, index, stride)
        for cuts in ([*range(height + 1)], [0, 1, height], [0, 2, 5, height], [0, 4, 8, height]):
            parts = []
            for first, last in pairwise(cuts):
                part = solver.step(start.rows(first, last), predicted[:, :, first:last], index, stride)
                assert_same(part, whole.rows(first, last))
                parts.append(part)
            assert_same(SolverState.join(parts), whole)


def test_a_run_in_which_rows_change_hands_is_that_of_each_row():
    solver, latents = dpm(), noise(99)
    predictions = [noise(100 + index) for index in range(solver.steps)]

    def advance(state, start, stop, first, last, stride):
        for index in range(first, last, stride):
            state = solver.step(state, predictions[index][:, :, start:stop], index, stride)
        return state

    begun = solver.begin(latents)
    # Steps 0 to 7: rows 0 and 1 with stride 1, others 2. From 8 on: rows 0 to 3 with stride 1, others 4.
    met = SolverState.join([advance(begun.rows(0, 2), 0, 2, 0, 8, 1), advance(begun.rows(2, 5), 2, 5, 0, 8, 2)])
    assert met.denoised_at.tolist() == [7, 7, 6, 6, 6]
    done = SolverState.join([advance(met.rows(0, 4), 0, 4, 8, 20, 1), advance(met.rows(4, 5), 4, 5, 8, 20, 4)])
    for row, (early, late) in enumerate([(1, 1), (1, 1), (2, 1), (2, 1), (2, 4)]):
        alone = advance(begun.rows(row, row + 1), row, row + 1, 0, 8, early)
        assert_same(advance(alone, row, row + 1, 8, 20, late), done.rows(row, row + 1))


# Order of accuracy ------------------------------------------------------------------------------------------------


class GaussianData:
    """The exact predictions and paths for pixels of N(0.7, 0.3**2), with diffusers' default betas."""

    mean, deviation = 0.7, 0.3

    def __init__(self, scheduler, steps):
        self.solver = solver_for(scheduler, steps)
        products = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
        self.products = [products[timestep] for timestep in self.solver.timesteps]

    def predict(self, latents, index):
        product = self.products[index]
        variance = product * self.deviation**2 + 1 - product
        return ((1 - product) ** 0.5 / variance) * (latents - product**0.5 * self.mean)

    def standardised(self, latents, index):
        """Distance from the mean in standard deviations: an exact path keeps it."""
        product = self.products[index]
        deviation = np.sqrt(product * self.deviation**2 + 1 - product)
        return (latents.numpy().astype(np.float64) - product**0.5 * self.mean) / deviation

    def error(self, *halves):
        """Root mean square after rows in two halves went ``((first, last, stride), ...)``, met after each."""
        latents = torch.linspace(-2, 2, 9).expand(1, 1, 4, 9).clone()
        state = begun = self.solver.begin(latents)
        for spans in zip(*halves, strict=True):
            parts = [state.rows(0, 2), state.rows(2, 4)]
            for half, (first, last, stride) in enumerate(spans):
                for index in range(first, last, stride):
                    predicted = self.predict(parts[half].latents, index)
                    parts[half] = self.solver.step(parts[half], predicted, index, stride)
            state = SolverState.join(parts)
        first, last = halves[0][0][0], halves[0][-1][1]
        wrong = self.standardised(state.latents, last) - self.standardised(begun.latents, first)
        return float(np.sqrt(np.mean(wrong**2)))


@pytest.mark.parametrize(
    ("scheduler", "steps", "order"),
    [
        (DDIMScheduler(clip_sample=False), 250, 1),
        (DPMSolverMultistepScheduler(solver_order=1, timestep_spacing="leading"), 249, 1),
        (DPMSolverMultistepScheduler(timestep_spacing="leading"), 249, 2),
    ],
)
def test_double_strides_have_the_error_of_the_order(scheduler, steps, order):
    data = GaussianData(scheduler, steps)
    plans = {
        "equal": lambda s: [[(8, 200, s)]] * 2,
        "half of the rows": lambda s: [[(8, 200, s)], [(8, 200, 2 * s)]],
        "swapped": lambda s: [[(8, 104, s), (104, 200, 2 * s)], [(8, 104, 2 * s), (104, 200, s)]],
    }
    for name, plan in plans.items():
        fine, middle, coarse = (data.error(*plan(s)) for s in (2, 4, 8))
        observed = (np.log2(middle / fine), np.log2(coarse / middle))
        assert observed == pytest.approx((order, order), abs=0.1), name


# Use and misuse ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), DPMSolverMultistepScheduler()])
def test_a_solver_leaves_its_scheduler_and_its_state_alone(scheduler):
    scheduler.set_timesteps(7)
    solver = solver_for(scheduler, 20)
    assert len(scheduler.timesteps) == 7
    state = solver.begin(noise(99))
    for index in (0, 2):
        before = {name: tensor.clone() for name, tensor in state.tensors().items()}
        following = solver.step(state, noise(index), index, 2)
        assert_same(state, SolverState(**before))
        state = following


def test_solvers_are_values():
    for scheduler_class in (DDIMScheduler, DPMSolverMultistepScheduler):
        solver = solver_for(scheduler_class(), 20)
        assert pickle.loads(pickle.dumps(solver)) == solver == solver_for(scheduler_class(), 20)
        assert hash(solver) == hash(solver_for(scheduler_class(), 20))
        assert solver != solver_for(scheduler_class(), 10)
        assert solver != solver_for(scheduler_class(prediction_type="sample"), 20)
        assert solver != solver_for(scheduler_class(beta_end=0.03), 20)


def test_a_state_in_mid_run_goes_on_from_its_tensors():
    solver = dpm()
    state = solver.step(solver.begin(noise(99)), noise(0), 0, 2)
    again = SolverState.from_tensors(pickle.loads(pickle.dumps(state.tensors())))
    assert_same(solver.step(again, noise(1), 2), solver.step(state, noise(1), 2))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (EulerDiscreteScheduler(), "no solver has strides for EulerDiscreteScheduler; use DDIMScheduler or "
         "DPMSolverMultistepScheduler, for example by DDIMScheduler.from_config(scheduler.config)"),
        (DDIMScheduler(thresholding=True), "thresholding=True of DDIMScheduler is not supported (it takes a quantile "
         "over all rows, and no device has them all); use thresholding=False"),
        (DDIMScheduler(prediction_type="flow"), "prediction_type='flow' of DDIMScheduler is not supported; use "
         "prediction_type='epsilon' or 'sample' or 'v_prediction'"),
        (DDIMScheduler(timestep_spacing="trailing", rescale_betas_zero_snr=True), "prediction_type='epsilon' cannot "
         "begin at a signal of 0 (rescale_betas_zero_snr); use a model of v_prediction, or a timestep_spacing that "
         "leaves out the last timestep"),
        (DPMSolverMultistepScheduler(thresholding=True), "thresholding=True of DPMSolverMultistepScheduler is not "
         "supported (it takes a quantile over all rows, and no device has them all); use thresholding=False"),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "algorithm_type='sde-dpmsolver++' of "
         "DPMSolverMultistepScheduler is not supported; use algorithm_type='dpmsolver++'"),
        (DPMSolverMultistepScheduler(solver_type="heun"), "solver_type='heun' of DPMSolverMultistepScheduler is not "
         "supported; use solver_type='midpoint'"),
        (DPMSolverMultistepScheduler(solver_order=3), "solver_order=3 of DPMSolverMultistepScheduler is not supported; "
         "use solver_order=1 or 2"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), "use_flow_sigmas=True of DPMSolverMultistepScheduler is "
         "not supported; use use_flow_sigmas=False"),
        (DPMSolverMultistepScheduler(variance_type="learned"), "variance_type='learned' of DPMSolverMultistepScheduler "
         "is not supported (cut the variance off the model's output); use variance_type=None"),
    ],
)  # fmt: skip
def test_schedulers_that_a_solver_does_not_follow_are_refused(scheduler, message):
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        solver_for(scheduler, 20)


def test_a_subclass_is_refused():
    class Mine(DDIMScheduler):
        pass

    with pytest.raises(PlanError, match=r"^no solver has strides for Mine; "):
        solver_for(Mine(), 20)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    message = f"num_inference_steps must be in 1..1000 (num_train_timesteps), not {steps}"
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        solver_for(DDIMScheduler(), steps)


def test_timesteps_that_the_model_does_not_know_are_refused():
    # diffusers makes a 62nd one by rounding.
    message = (
        "61 steps with timestep_spacing='trailing' and steps_offset=0 give timesteps that are not within 0..999: 999 "
        "to -1; use another number of steps"
    )
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        solver_for(DDIMScheduler(timestep_spacing="trailing"), 61)


def test_repeated_noise_levels_are_refused():
    message = "1000 steps with timestep_spacing='linspace' repeat a noise level; use fewer steps"
    with pytest.raises(PlanError, match=f"^{message}$"):
        solver_for(DPMSolverMultistepScheduler(), 1000)


def test_clipped_output_is_for_ddim():
    message = "use_clipped_model_output=True has no meaning for DPMSolverMultistepScheduler, which does not clip; "
    with pytest.raises(PlanError, match=f"^{message}leave it out$"):
        solver_for(DPMSolverMultistepScheduler(), 20, use_clipped_model_output=True)


@pytest.mark.parametrize(("index", "stride"), [(0, 0), (-1, 1), (19, 2), (20, 1)])
def test_steps_outside_of_the_schedule_are_refused(index, stride):
    solver = dpm()
    message = f"a step must be at least 1 long and within steps 0..20, not {stride} from step {index}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        solver.step(solver.begin(noise(99)), noise(0), index, stride)


def test_a_prediction_that_does_not_fit_is_refused():
    solver = dpm()
    state = solver.begin(noise(99))
    for wrong, kind in (
        (noise(0).half(), "torch.float16 (2, 3, 5, 7)"),
        (noise(0)[:, :2], "torch.float32 (2, 2, 5, 7)"),
    ):
        message = f"predicted must be torch.float32 (2, 3, 5, 7) as the latents are, not {kind}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            solver.step(state, wrong, 0)


def test_history_that_does_not_fit_is_refused():
    solver = dpm()
    with pytest.raises(ValueError, match=r"^denoised_at must be in -1\.\.2 for a step from 3, not 4$"):
        solver.step(mixed_state(), noise(0), 3)
    with pytest.raises(ValueError, match=r"^denoised_at must be in -1\.\.4 for a step from 5, not -2$"):
        solver.step(mixed_state(ats=(-2,) * 5), noise(0), 5)
    with pytest.raises(ValueError, match=r"^the state of a solver of order 2 needs denoised and denoised_at; make "):
        solver.step(SolverState(latents=noise(99)), noise(0), 0)
