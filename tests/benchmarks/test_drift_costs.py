"""`benchmarks/drift_costs.py` on a small model and a small map."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from brownout.host import write_results
from brownout.host.device.product.operands import GemmShape
from brownout.hw.config import AcceleratorConfig, MemoryConfig


def test_a_small_model_runs_through_the_benchmark(benchmark_module, monkeypatch, tmp_path):
    published, costs = benchmark_module("denoisers.published"), benchmark_module("drift_costs")
    dit = published.DENOISERS["dit_xl_2_512"]
    small = {"num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1, "sample_size": 16}
    monkeypatch.setitem(published.DENOISERS, "small", replace(dit, config=dit.config | small))
    memory = MemoryConfig(bytes_per_cycle=64)
    server = AcceleratorConfig(rows=32, cols=32, bus_bytes=64, slab_bytes=128, drain_lanes=8, memory=memory)
    monkeypatch.setattr(costs, "SERVER", server)
    monkeypatch.setattr(costs, "MODELS", dict.fromkeys(costs.MODELS, "small"))
    monkeypatch.setattr(costs, "MAP_SHAPES", (GemmShape(1, 1, 64, 64), GemmShape(1, 256, 256, 256)))
    monkeypatch.setattr(costs, "SIDES", (16,))
    some = {name: costs.TECHNOLOGIES[name] for name in ("reference", "ldo")}
    monkeypatch.setattr(costs, "TECHNOLOGIES", some)
    monkeypatch.setattr(costs, "write_results", partial(write_results, root=tmp_path))
    costs.main(only=None, variant="layers_s16p_v25", rate=1e-2)

    document = json.loads((tmp_path / "results" / "drift_costs.json").read_text())
    metrics = document["metrics"]
    assert metrics["macs_dit"] == published.DENOISERS["small"].macs()
    assert metrics["paper_model_mean"] == pytest.approx(0.353, abs=0.01)
    assert metrics["drift_saving_avg"] == pytest.approx(0.319, abs=5e-4)
    assert metrics["ours_saving_S32_V0_at_0.01"] > metrics["drift_saving_avg"]
    # The rates that targets ask for give these targets.
    at = pytest.approx
    law = costs.DelayModel()
    for target in (0.38, 0.43):
        rate = metrics[f"rate_for_saving_{target}_S32_V0"]
        assert costs.saving_at_rate(costs.ROLLBACK_SCHEMES[costs.SCHEME], rate, law).average == at(target, abs=1e-6)
    assert metrics["whole_saving_avg"] == at(
        sum(metrics[f"whole_saving_{key}"] for key in ("dit", "pixart", "sd15")) / 3
    )
    # So small a model waits for the converter more than it computes, and less for a faster regulator.
    assert metrics["whole_saving_dit"] == metrics["whole_saving_reference_dit"] < metrics["whole_saving_ldo_dit"]
    assert metrics["joule_per_image_dit"] == at(
        metrics["nominal_joule_per_image_dit"] * (1 - metrics["whole_saving_dit"])
    )
    assert metrics["joule_per_image_dit"] == at(
        sum(value for name, value in metrics.items() if name.startswith("protected_") and name.endswith("_j_dit"))
    )
    assert metrics["map_points"] == len(document["config"]["map"]) == 6
