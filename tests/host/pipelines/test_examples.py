"""The examples of the README and of the guide run as they are, on smaller things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from .tiny import make

ROOT = Path(__file__).parents[3]


def example(document, heading):
    """The first Python block below a heading."""
    text = (ROOT / document).read_text()
    return re.search(r"```python\n(.*?)```", text[text.index(f"## {heading}\n") :], re.DOTALL)[1]


def substitute(code, replacements):
    for old, new in replacements.items():
        assert old in code
        code = code.replace(old, new)
    return code


def test_the_example_of_the_guide(tmp_path, monkeypatch, capsys):
    make("dit").pipeline.save_pretrained(tmp_path / "dit")
    code = substitute(
        example("docs/host.md", "Pipelines"),
        {
            "facebook/DiT-XL-2-256": str(tmp_path / "dit"),
            '"num_inference_steps": 20': '"num_inference_steps": 2',
            "num_inference_steps=20": "num_inference_steps=4",
        },
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    evaluations, time_s, energy_j, injected = map(float, capsys.readouterr().out.split())
    assert evaluations == 4
    assert min(time_s, energy_j, injected) > 0
    assert Image.open("dog.png").size == (16, 16)
    assert (tmp_path / "dit-int8" / "offloaded" / "model.safetensors").is_file()


@pytest.mark.filterwarnings("error")
def test_the_example_of_the_readme(capsys):
    code = substitute(
        example("README.md", "In Python"),
        {'backend="rtl"': 'backend="twin"', "progress=True": "num_inference_steps=2"},
    )
    names = {}
    exec(code, names)
    assert names["images"].shape == (10, 1, 8, 8)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("LayerReport(name=") for line in lines) == len(lines) - 2 > 20
