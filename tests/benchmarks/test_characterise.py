"""A small run of `benchmarks/characterise.py` writes its figures, plots and profiles."""

from __future__ import annotations

import json

import pytest


@pytest.mark.usefixtures("short_digits")
def test_digits_run_through_the_benchmark(benchmark_module, monkeypatch, tmp_path, capsys):
    module = benchmark_module("characterise")
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path))
    monkeypatch.setattr(module, "BITS", (4, 30))
    monkeypatch.setattr(module, "BIT_RATES", (1e-3,))
    monkeypatch.setattr(module, "RATES", (1e-6, 1e-2))
    monkeypatch.setattr(module, "PARTS", {"steps": ("early", "late"), "blocks": ("first", "last")})
    module.main(model="digits", images=2, batch=2, map_rate=1e-3, threads=1)

    results = tmp_path / "results"
    metrics = json.loads((results / "characterise.json").read_text())["metrics"]
    assert metrics["bit30"] > 10 * metrics["bit4"]
    for part in ("steps_early", "steps_late", "blocks_first", "blocks_last"):
        assert metrics[f"{part}_0.01_upper"] > metrics[f"{part}_0.01"] > metrics[f"{part}_1e-06"] >= 0
    difference = metrics["steps_early_0.01"] - metrics["steps_late_0.01"]
    assert abs(metrics["steps_early_minus_late_0.01"] - difference) < 1e-9
    assert metrics["step_order_0.01"] in (-1, 0, 1)
    assert len([name for name in metrics if name.startswith("cell_") and name.endswith("_images")]) == 4
    assert metrics["kind_attention.qk_images"] == 2
    names = {"bits", "steps", "blocks", "map", "kinds"}
    assert {path.name for path in results.glob("*.png")} == {f"characterise_{name}.png" for name in names}
    profiles = results / "profiles" / "digits"
    assert {path.name for path in profiles.iterdir()} == {f"{name}.json{end}" for name in names for end in ("", "l")}
    assert "bit30" in capsys.readouterr().out
