"""The report of STADI: its settings are plans, its page shows what was measured."""

from __future__ import annotations

import pytest
import torch

from brownout.host.stadi.simulate.timeline import Segment, Timeline


@pytest.fixture
def page(benchmark_module):
    return benchmark_module("pages.stadi")


@pytest.fixture
def quality(benchmark_module):
    return benchmark_module("stadi_quality")


def test_settings_divide_fourteen_rows_and_all_steps(quality):
    for name, division in quality.SETTINGS.items():
        plan = division.plan()
        assert plan.rows == 14, name
        assert plan.steps in (quality.STEPS, quality.STEPS // 2)
        first = (0,) if len(division.rows) == 1 else (quality.WARMUP, quality.WARMUP + 2)
        assert plan.warmup in first, name


@pytest.fixture
def report(page, quality):
    plan = quality.SETTINGS["stride2_1to2"].plan()
    timeline = Timeline(
        latency_s=2.0,
        segments=[Segment("d0", "compute", 0.0, 2.0, 0), Segment("d1", "compute", 0.0, 1.0, 0)],
        busy_s={"d0": 2.0, "d1": 1.0},
        free_s={"d0": 2.0, "d1": 2.0},
        exposed_s={"d0": 0.0, "d1": 0.0},
        energy_j=3.0,
        plans=[plan],
    )
    metrics = {name: float(wanted) for name, _, wanted, _ in page.REACHED} | {
        "images": 7,
        "latency_single_1to2_2": 1.25,
    }
    metrics |= {"varying_wave_reduction_vs_fixed": 0.11, "varying_wave_reduction_vs_elastic": 0.22}
    setting = {
        "latency_s": 2.0,
        "utilisation": {"d0": 0.98, "d1": 0.87},
        "bound_ratio": 0.96,
        "exposed_s": {"d0": 0.0, "d1": 0.0},
        "energy_j": 3.0,
        "plans": 4,
    }
    settings = {f"stadi_1to{ratio}_{count}": setting for ratio in (1, 2, 3, 4) for count in (2, 3, 4, 8)}
    settings["varying_wave"] = setting
    pictures = {"single": torch.zeros(3, 1, 28, 28), "stride2_1to2": torch.ones(3, 1, 28, 28)}
    metrics |= {"agreement_single": 0.99, "agreement_stride2_1to2": 0.985, "perceptual_stride2_1to2": 0.0123}
    return page.Report(metrics, settings, {"stadi_1to2_2": timeline, "single_1to2_2": timeline}, pictures)


def test_a_figure_just_short_is_called_short(page, report):
    assert page.headlines(report).count(">yes<") == len(page.REACHED)
    for name, _, wanted, more in page.REACHED:
        report.metrics[name] = float(wanted) + (-0.001 if more else 0.001)
        assert page.headlines(report).count(">no<") == 1, name
        report.metrics[name] = float(wanted)


def test_the_page_shows_charts_tables_and_pictures(page, report, tmp_path):
    text = page.write_page(report, tmp_path / "stadi.html").read_text()
    assert text.count('<svg class="gantt"') == 2
    assert text.count("<img") == 2
    for shown in ("1,250", "87.0 %", "0.0123", "0.985", "11.0 %", "7 of each setting"):
        assert shown in text, shown
    assert "http" not in text
