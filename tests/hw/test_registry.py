"""Kinds that are registered are found by name, and what is missing is said before it is needed."""

from __future__ import annotations

import pytest

from brownout.hw.checks.scheme import CheckScheme
from brownout.hw.errors.model import TimingErrorModel
from brownout.hw.registry import Registry


class Entry:
    name = "own"


class Other:
    name = "own"


def test_an_entry_is_found_by_its_name():
    registry = Registry("entry", "brownout.tests.none", {})
    assert registry.register(Entry) is Entry
    assert "own" in registry
    assert isinstance(registry.get("own"), Entry)
    assert registry.names() == ("own",)


def test_a_name_is_given_once():
    registry = Registry("entry", "brownout.tests.none", {})
    registry.register(Entry)
    registry.register(Entry)
    with pytest.raises(ValueError, match=r"^'own' is the name of the entry Entry; choose another$"):
        registry.register(Other)


def test_what_is_not_there_is_named_with_what_is():
    registry = Registry("entry", "brownout.tests.none", {})
    registry.register(Entry)
    assert "another" not in registry
    assert 3 not in registry
    with pytest.raises(LookupError, match=r"^there is no entry 'another'; there are 'own'$"):
        registry.get("another")


def test_a_module_that_registers_nothing_is_named():
    registry = Registry("entry", "brownout.tests.none", {"own": "json"})
    with pytest.raises(LookupError, match=r"^json registers no entry 'own'; decorate its class"):
        registry.get("own")


@pytest.mark.parametrize(
    ("base", "members", "missing"),
    [
        (TimingErrorModel, {"draws": True}, "injector"),
        (TimingErrorModel, {"draws": True, "injector": lambda self, config: None}, "check_sum"),
        (TimingErrorModel, {"settles": True}, "element_sum"),
        (CheckScheme, {"locates": True}, "check_bits"),
        (CheckScheme, {"locates": True, "check_bits": lambda self, cols, check: 8}, "weights"),
    ],
)
def test_a_kind_that_leaves_out_how_is_refused_when_it_is_defined(base, members, missing):
    message = f"^Half needs {missing}, which {base.__name__} only describes$"
    with pytest.raises(TypeError, match=message):
        type("Half", (base,), {"name": "half", **members})
