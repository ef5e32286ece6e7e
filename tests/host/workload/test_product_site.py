"""Blocks and kinds of products by their names."""

from __future__ import annotations

import pytest

from brownout.host.workload.product_site import block_of, kind_of_product


@pytest.mark.parametrize(
    ("name", "block", "kind"),
    [
        ("transformer_blocks.3.attn1.to_q", "transformer_blocks.3", "qkv"),
        ("transformer_blocks.3.attn1.to_out.0", "transformer_blocks.3", "out"),
        ("transformer_blocks.3.attn1.qk", "transformer_blocks.3", "attention.qk"),
        ("transformer_blocks.11.attn2.pv", "transformer_blocks.11", "attention.pv"),
        ("transformer_blocks.0.ff.net.0.proj", "transformer_blocks.0", "mlp_in"),
        ("transformer_blocks.0.ff.net.2", "transformer_blocks.0", "mlp_out"),
        ("transformer_blocks.0.norm1.linear", "transformer_blocks.0", "modulation"),
        ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1", "transformer_blocks.0", "modulation"),
        ("transformer_blocks.0.ff_context.net.0.proj", "transformer_blocks.0", "mlp_in"),
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k", "down_blocks.0", "qkv"),
        ("proj_out_1", "proj_out_1", "other"),
        ("pos_embed.proj", "pos_embed", "other"),
        ("mid_block.attentions.0.proj_in", "mid_block", "other"),
    ],
)
def test_names_of_diffusers_say_block_and_kind(name, block, kind):
    assert block_of(name) == block
    assert kind_of_product(name) == kind


def test_convolutions_are_a_kind_of_their_own():
    assert kind_of_product("down_blocks.0.resnets.1.conv1", "conv2d") == "conv2d"
