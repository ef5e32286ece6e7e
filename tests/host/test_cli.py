"""The command ``brownout``: quick help, and a small run of each command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from brownout.host import cli
from brownout.host.drift.characterisation.profile import ResilienceProfile
from brownout.host.drift.policy.search import FoundPolicy

from .pipelines import tiny


def brownout(*arguments):
    return CliRunner().invoke(
        cli.app, [str(each) for each in arguments], env={"COLUMNS": "200"}, catch_exceptions=False
    )


def test_help_needs_no_torch():
    code = (
        "import sys; from brownout.host.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "characterise" in done.stdout
    assert "search" in done.stdout


@pytest.mark.usefixtures("short_digits")
def test_digits_are_characterised(tmp_path):
    out = tmp_path / "profile.json"
    options = ["--rate", 1e-5, "--rate", 1e-2, "--step-groups", 2, "--block-groups", 1, "--images", 4, "--batch", 4]
    done = brownout("characterise", "digits", "--out", out, *options)
    assert done.exit_code == 0, done.output
    profile = ResilienceProfile.load(out)
    early, late = (each.name for each in profile.slices)
    assert early.startswith("steps0-1/")
    assert late.startswith("steps2-3/")
    # A thousand times as many errors.
    for name in (early, late):
        assert profile.difference(name, name, 0).mean == 0
        assert profile.damage(name, 1).mean > 10 * profile.damage(name, 0).mean
    assert "steps0-1" in done.output


@pytest.mark.usefixtures("short_digits")
def test_a_policy_for_digits_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(cli.GRIDS, "rollback", {"theta": [6], "attempts": [2]})
    out = tmp_path / "policy.json"
    options = ["--step-groups", 1, "--block-groups", 1, "--images", 4, "--batch", 4, "--tune"]
    options += ["--objective", "time", "--point", 2.3, "--point", 3]
    done = brownout("search", "digits", "--budget", 0.5, "--out", out, *options)
    assert done.exit_code == 0, done.output
    policy = FoundPolicy.from_json(out.read_text())
    assert policy.measured.damage.upper <= policy.budget == 0.5
    assert policy.measured.time_s < policy.nominal.time_s
    assert all(evaluation > 0 for evaluation, _ in policy.table.points)
    assert {point.frequency_hz for point in policy.table.points.values()} <= {2.3e9, 3e9}
    assert "saves" in done.output
    assert "theta 6, attempts 2" in done.output


def test_calls_of_a_pipeline_must_be_json(tmp_path):
    done = brownout("characterise", tmp_path, "--call", "{class_labels")
    assert done.exit_code == 2
    assert "--call must be JSON" in done.output


def test_unknown_choices_are_refused():
    for option, expected in (
        ("--strategy", "must be one of rollback, drift"),
        ("--objective", "must be energy or time"),
    ):
        done = brownout("search", "digits", "--budget", 1, option, "x")
        assert done.exit_code == 2
        assert expected in done.output


@pytest.mark.parametrize("strategy", ["rollback", "ours"])
def test_old_names_of_strategies_are_accepted(strategy):
    done = brownout("search", "digits", "--budget", 1, "--strategy", strategy, "--objective", "x")
    assert done.exit_code == 2
    assert "--objective must be energy or time" in done.output


@pytest.mark.parametrize("command", ["characterise", "search"])
def test_commands_explain_themselves(command):
    assert "--call" in brownout(command, "--help").output


def test_a_pipeline_of_diffusers_is_characterised(tmp_path):
    torch.manual_seed(0)
    tiny.dit().pipeline.save_pretrained(tmp_path / "pipe")
    call = json.dumps({"class_labels": [1, 2], "num_inference_steps": 2})
    options = ["--rate", 1e-2, "--step-groups", 2, "--block-groups", 1, "--images", 2, "--batch", 2, "--call", call]
    done = brownout("characterise", tmp_path / "pipe", "--out", tmp_path / "profile.json", *options)
    assert done.exit_code == 0, done.output
    profile = ResilienceProfile.load(tmp_path / "profile.json")
    assert [each.evaluations for each in profile.slices] == [(0,), (1,)]
    assert profile.metrics == ("mse",)
    assert all(profile.damage(each.name, 0).mean > 0 for each in profile.slices)
