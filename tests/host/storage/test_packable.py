"""What files of a fleet may hold has names that do not change when modules do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from brownout.host.device.product.protection import Protection
from brownout.host.stadi.execute.keys_values import Piece
from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.host.storage.packable import class_of, packable
from brownout.host.storage.packing import from_bytes, pack, to_bytes, unpack
from brownout.host.storage.state import State


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("state", State),
        ("stadi.plan", Plan),
        ("stadi.plan", Share),
        ("stadi.coding", ExchangeCoding),
        ("stadi.runtime.keys_values", Piece),
    ],
)
def test_files_of_earlier_commits_name_their_classes_so(module, kind):
    assert class_of(f"brownout.host.{module}", kind.__name__) is kind


def test_a_value_comes_back():
    value = {"coding": [ExchangeCoding(2, 16)], 3: (None, float("inf"), State({"a": 1}, {"b": torch.arange(3)}))}
    found = from_bytes(to_bytes(value), "this")
    state = found[3][2]
    assert found["coding"] == value["coding"]
    assert found[3][:2] == value[3][:2]
    assert state.values == {"a": 1}
    assert torch.equal(state.tensors["b"], torch.arange(3))


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match=r"^'stadi\.plan\.Plan' is the name of Plan in files; choose another$"):
        packable("stadi.plan.Plan")(type("Other", (), {}))


def test_other_dataclasses_are_refused_on_both_ways():
    @dataclass
    class Unknown:
        number: int = 0

    with pytest.raises(TypeError, match=r"^a checkpoint or a message cannot hold a Unknown$"):
        pack(Unknown(), {})
    with pytest.raises(ValueError, match=r"this has values that cannot be: a\.b\.Unknown is no dataclass"):
        unpack(["dataclass", "a.b", "Unknown", {"number": 0}], {})


def test_a_field_keeps_its_name_in_files():
    protection = Protection(on_uncorrectable="zero")
    stored = pack(protection, {})
    assert list(stored[3]) == ["check", "correct", "on_mark", "theta", "log_records"]
    assert unpack(stored, {}) == protection
