"""TaylorCache skips products, no more and no fewer than it says, and predicts what TaylorSeer predicts."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache
from diffusers.hooks.hooks import CacheContext, _set_cache_context

from brownout.host import OffloadedPipeline, calibrate, offload, report, restore
from brownout.host.caching import TaylorCache

from . import tiny


@pytest.mark.parametrize("order", [0, 1])
def test_branches_are_what_diffusers_taylorseer_predicts(order):
    """Up to order 1, where the published differences and the interpolating polynomial agree.

    With interval 2, because with others theirs has a shorter first interval after the warm-up.
    """
    model = tiny.dit()
    with TaylorCache(interval=2, order=order, damping=1, warmup=3, granularity="branches").attach(model) as cache:
        ours = tiny.run(model)
    assert cache.predicted == 4
    config = TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=3,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"transformer_blocks\.\d+\.(attn1|ff)"],
    )
    apply_taylorseer_cache(model, config)
    _set_cache_context(model, CacheContext("run"))
    theirs = tiny.run(model)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("granularity", "kept"), [("branches", (".norm1.",)), ("blocks", ("blocks.0.norm1.emb.",))])
def test_skipped_products_do_not_run(twin, granularity, kept):
    """`kept`: of the blocks, what goes on being computed; the model's output uses the first block's embedding."""
    model = tiny.dit()
    calibration = calibrate(model, lambda m: tiny.run(m, (900, 500, 100)))
    model_products = offload(model, twin, calibration=calibration).products
    tiny.run(model, (900,))
    macs = {product.name: product.macs for product in model_products}
    always = {name for name in macs if "transformer_blocks" not in name or any(part in name for part in kept)}
    assert always
    assert always != set(macs)

    before = {layer.name: layer for layer in report(model)}
    counters = dict(twin.stats)
    with TaylorCache(interval=4, warmup=2, granularity=granularity).attach(model) as cache:
        tiny.run(model)
    assert (cache.full, cache.predicted) == (4, 6)
    for layer in report(model):
        runs = 10 if layer.name in always else cache.full
        # The embedding of the first block is evaluated by the model, and once more by the block.
        once = macs[layer.name]
        if granularity == "blocks" and layer.name in always and "transformer_blocks" in layer.name:
            runs, once = cache.full * 2 + cache.predicted, once // 2
        assert layer.macs - before[layer.name].macs == runs * once, layer.name
    total = sum(layer.macs for layer in report(model)) - sum(layer.macs for layer in before.values())
    assert twin.stats["macs"] - counters["macs"] == total
    restore(model)


def test_blocks_predict_what_each_block_adds():
    """Linear extrapolation of the sum is the sum of extrapolations of each block's residual."""
    model = tiny.dit()
    inputs, residuals = [], [[], []]
    handles = [
        block.register_forward_hook(lambda _m, args, out, i=index: residuals[i].append(out - args[0]))
        for index, block in enumerate(model.transformer_blocks)
    ]
    handles.append(model.transformer_blocks[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0])))
    tiny.run(model, (900, 700))
    for handle in handles:
        handle.remove()
    outputs = []
    with TaylorCache(interval=5, order=1, damping=1, warmup=2, granularity="blocks").attach(model):
        model.transformer_blocks[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
        model.transformer_blocks[1].register_forward_hook(lambda _m, _args, out: outputs.append(out))
        tiny.run(model, (900, 700, 500))
    expected = inputs[-1]
    for earlier, latest in residuals:
        expected = expected + 2 * latest - earlier
    torch.testing.assert_close(outputs[2], expected, rtol=0, atol=1e-5)


def test_one_tensor_for_all_blocks():
    model = tiny.dit()
    held = {}
    for granularity in ("branches", "blocks"):
        with TaylorCache(interval=3, order=1, granularity=granularity).attach(model) as cache:
            tiny.run(model)
            held[granularity] = cache.held_bytes
    # Two values of 2 x 16 tokens x 16 channels in float32, of two branches of two blocks or of all together.
    one = 2 * (2 * 16 * 16 * 4)
    assert held == {"branches": 4 * one, "blocks": one}


def test_a_pipeline_begins_a_run_with_each_call(twin):
    with OffloadedPipeline.shipped("digits", twin) as pipe, TaylorCache(interval=2).attach(pipe.denoiser) as cache:
        first = pipe([3, 7], seed=1, num_inference_steps=4)
        assert (cache.full, cache.predicted) == (2, 2)
        few = pipe.stats["macs"]
        assert torch.equal(pipe([3, 7], seed=1, num_inference_steps=4), first)
        cache.detach()
        pipe([3, 7], seed=1, num_inference_steps=4)
        assert pipe.stats["macs"] > few


def test_a_branch_that_is_called_in_chunks_is_refused():
    model = tiny.dit()
    for block in model.transformer_blocks:
        block.set_chunk_feed_forward(8, 1)
    with (
        TaylorCache(interval=2, granularity="branches").attach(model),
        pytest.raises(ValueError, match="chunked feed-forward"),
    ):
        tiny.run(model)
    with TaylorCache(interval=2).attach(model):
        tiny.run(model)
