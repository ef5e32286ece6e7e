"""Which evaluations are full, when a run begins, and that the model is as before in the end."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from brownout.host import calibrate, offload, restore
from brownout.host.caching import DeepCache, TaylorCache
from brownout.host.storage.state import State

from . import tiny

branches = partial(TaylorCache, granularity="branches")

KINDS = [
    pytest.param(tiny.dit, branches, id="branches"),
    pytest.param(tiny.dit, TaylorCache, id="blocks"),
    pytest.param(tiny.pixart, branches, id="pixart"),
    pytest.param(tiny.pixart, TaylorCache, id="pixart-blocks"),
    pytest.param(tiny.unet, DeepCache, id="unet"),
]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("build", "make"), KINDS)
def test_interval_1_changes_no_bit(build, make):
    model = build()
    expected = tiny.run(model)
    with make(interval=1).attach(model) as cache:
        assert same(tiny.run(model), expected)
    assert (cache.full, cache.predicted, cache.held_bytes, cache.traffic_bytes) == (10, 0, 0, 0)


@pytest.mark.parametrize(("build", "make"), KINDS)
def test_the_first_evaluations_are_those_without_a_cache_and_detach_undoes_all(build, make):
    model = build()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    expected = tiny.run(model)
    with make(interval=3, warmup=3).attach(model):
        outputs = tiny.run(model)
    assert same(outputs[:3], expected[:3])
    assert not torch.equal(outputs[3], expected[3])
    assert same(tiny.run(model), expected)
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert "forward" not in module.__dict__


@pytest.mark.parametrize(
    ("interval", "warmup", "full"),
    [(2, 1, "x.x.x.x.x."), (3, 1, "x..x..x..x"), (3, 2, "xx..x..x.."), (4, 3, "xxx...x..."), (20, 1, "x.........")],
)
def test_full_evaluations(interval, warmup, full):
    ages = []
    model = tiny.dit()
    with TaylorCache(interval=interval, warmup=warmup).attach(model) as cache:
        model.register_forward_hook(lambda *_: ages.append(cache.age))
        tiny.run(model)
    assert "".join("." if age else "x" for age in ages) == full
    assert all(age == 0 or age == before + 1 for before, age in zip([0, *ages], ages, strict=False))
    assert (cache.full, cache.predicted) == (full.count("x"), full.count("."))


def evaluations(cache, model, timesteps, **options):
    before = cache.full
    tiny.run(model, timesteps, **options)
    return cache.full - before


def test_a_run_begins_where_the_timestep_rises():
    model = tiny.dit()
    with TaylorCache(interval=9, warmup=1).attach(model) as cache:
        first = tiny.run(model, (900, 800, 700))
        assert cache.full == 1
        assert same(tiny.run(model, (900, 800, 700)), first)
        assert cache.full == 2
        assert evaluations(cache, model, (700, 700, 600)) == 0, "no value above the last: the run goes on"


def test_a_run_begins_with_another_shape_and_begin_run():
    model = tiny.dit()
    with TaylorCache(interval=9, warmup=1).attach(model) as cache:
        assert evaluations(cache, model, (900, 800)) == 1
        assert evaluations(cache, model, (700, 600), count=3) == 1
        assert evaluations(cache, model, (500,), count=3) == 0
        cache.begin_run()
        assert cache.held_bytes == 0
        assert evaluations(cache, model, (400, 300), count=3) == 1


def test_a_run_begins_after_an_evaluation_that_failed():
    model = tiny.dit()
    with TaylorCache(interval=9, warmup=1).attach(model) as cache:
        tiny.run(model, (900, 800))
        with pytest.raises(TypeError), torch.no_grad():
            model(torch.zeros(2, 1, 8, 8), timestep=torch.tensor([700, 700]), class_labels="none")
        assert evaluations(cache, model, (600, 500)) == 1


def test_begin_run_of_an_offloaded_model_begins_a_run(twin):
    model = tiny.dit()
    offloaded = offload(model, twin, calibration=calibrate(model, lambda m: tiny.run(m, (900, 500, 100))))
    with TaylorCache(interval=9, warmup=1).attach(model) as cache:
        assert evaluations(cache, model, (900, 800)) == 1
        offloaded.begin_run()
        assert evaluations(cache, model, (700,)) == 1
    assert not offloaded.run_listeners
    restore(model)


@pytest.mark.parametrize(("build", "make"), KINDS)
def test_a_run_goes_on_from_its_state(build, make):
    options = {"interval": 4, "warmup": 2, "order": 2}
    model = build()
    with make(**options).attach(model):
        expected = tiny.run(model)
    for cut in (1, 3, 6):
        model = build()
        cache = make(**options).attach(model)
        seen = []

        class StopError(Exception):
            pass

        def watch(_module, _arguments, result, seen=seen, cut=cut):
            seen.append(result.sample)
            if len(seen) == cut:
                raise StopError

        handle = model.register_forward_hook(watch)
        with pytest.raises(StopError):
            tiny.run(model)
        handle.remove()
        state = cache.state()
        kept = State(
            json.loads(json.dumps(state.values)), {name: value.clone() for name, value in state.tensors.items()}
        )
        cache.detach()

        fresh = build()
        with make(**options).attach(fresh) as other:
            other.load_state(kept)
            rest = continue_run(fresh, expected, cut)
        assert same(rest, expected[cut:]), cut


@torch.no_grad()
def continue_run(model, outputs, cut):
    """The rest of `tiny.run`, whose samples follow from its first outputs."""
    channels = model.config.in_channels
    sample = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(7))
    rest = []
    for index, timestep in enumerate(tiny.TIMESTEPS):
        if index < cut:
            output = outputs[index]
        else:
            output = model(sample, timestep=torch.tensor([timestep] * 2), **tiny.arguments(model)).sample
            rest.append(output)
        sample = sample - 0.05 * output[:, :channels]
    return rest


def test_states_of_other_caches_are_refused():
    model = tiny.dit()
    cache = branches(interval=3).attach(model)
    state = cache.state()
    cache.detach()
    with pytest.raises(ValueError, match=r"^attach the cache to a denoiser before load_state$"):
        cache.load_state(state)
    with (
        branches(interval=4).attach(model) as other,
        pytest.raises(ValueError, match=r"^the state has settings"),
    ):
        other.load_state(state)
    with (
        branches(interval=3).attach(tiny.pixart()) as other,
        pytest.raises(ValueError, match="has series"),
    ):
        other.load_state(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be an integer >= 1, not 0"),
        ({"interval": 2, "order": 3}, "order must be an integer in 0..2, not 3"),
        ({"interval": 2, "warmup": 0}, "warmup must be an integer >= 1, not 0"),
        ({"interval": 2, "damping": 1.5}, r"damping must be in 0..1, not 1.5"),
        ({"interval": True}, "interval must be an integer >= 1, not True"),
        ({"interval": 2, "granularity": "layers"}, "granularity must be one of 'blocks', 'branches', not 'layers'"),
    ],
)
def test_wrong_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TaylorCache(**options)


def test_a_cache_is_attached_once():
    model = tiny.dit()
    with (
        TaylorCache(interval=2).attach(model) as cache,
        pytest.raises(ValueError, match=r"^this cache is attached already"),
    ):
        cache.attach(model)
    cache.detach()
    with cache.attach(model):
        tiny.run(model)


def test_offloading_after_attach_has_to_be_undone_first(twin):
    model = tiny.dit()
    calibration = calibrate(model, lambda m: tiny.run(m, (900, 500, 100)))
    cache = branches(interval=3).attach(model)
    offload(model, twin, calibration=calibration)
    tiny.run(model)
    with pytest.raises(ValueError, match=r"^'transformer_blocks.0.attn1' was offloaded or changed after the cache"):
        cache.detach()
    restore(model)
    cache.detach()
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_models_of_another_kind_are_refused_and_left_as_they_are():
    unet, dit = tiny.unet(), tiny.dit()
    with pytest.raises(TypeError, match=r"not UNet2DConditionModel; for a U-Net use DeepCache$"):
        TaylorCache(interval=2).attach(unet)
    with pytest.raises(TypeError, match=r"^DeepCache needs a U-Net with down_blocks, not DiTTransformer2DModel"):
        DeepCache(interval=2).attach(dit)
    for model in (unet, dit):
        assert not model._forward_hooks
        assert not any("forward" in module.__dict__ for module in model.modules())
