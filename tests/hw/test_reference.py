import dataclasses
from pathlib import Path

from brownout.hw.config import AcceleratorConfig
from brownout.hw.reference import reference_markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == reference_markdown(), "run: python -m brownout.hw --reference docs/reference.md"


def test_every_configuration_field_is_explained():
    text = reference_markdown()
    for field in dataclasses.fields(AcceleratorConfig):
        assert f"| `{field.name}` |" in text
