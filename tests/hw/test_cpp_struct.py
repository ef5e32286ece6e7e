"""Structures that are declared once: C++ is made of what `ctypes` has, and a compiler finds every difference."""

from __future__ import annotations

import pytest

from brownout.hw.cpp_struct import Member, SharedStructure, ctypes_fields, layout_digest, structures_header

from ..cpp_syntax import compiles


class _Inner(SharedStructure):
    """One."""

    members = (Member("uint32_t", "first"), Member("int64_t", "second"))
    _fields_ = ctypes_fields(members)


class _Outer(SharedStructure):
    """Two, one of which has padding."""

    members = (
        Member("int32_t", "left right", "both"),
        Member("uint32_t", "odd"),
        Member(_Inner, "inner"),
        Member("const int8_t *", "pointer"),
        Member("int32_t", "array", count=3),
    )
    visited = True
    _fields_ = ctypes_fields(members)


def test_nested_structures_arrays_and_padding_agree(tmp_path):
    text = structures_header("somewhere", (_Inner, _Outer))
    good, said = compiles(tmp_path, text)
    assert good, said
    assert "static_assert(sizeof(_Inner) == 16);" in text
    assert "static_assert(offsetof(_Outer, inner) == 16);" in text
    assert "static_assert(offsetof(_Outer, array) == 40);" in text
    assert "    // both\n    int32_t left{};\n    int32_t right{};\n" in text


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("offsetof(_Outer, inner) == 16", "offsetof(_Outer, inner) == 12"),
        ("sizeof(_Outer) == 56", "sizeof(_Outer) == 52"),
        ("    uint32_t odd{};\n", ""),
        ("    int32_t left{};\n    int32_t right{};\n", "    int32_t right{};\n    int32_t left{};\n"),
    ],
)
def test_a_wrong_layout_does_not_compile(tmp_path, right, wrong):
    text = structures_header("somewhere", (_Inner, _Outer))
    assert right in text
    good, said = compiles(tmp_path, text.replace(right, wrong))
    assert not good
    assert "static assertion failed" in said or "static_assert" in said or "no member named" in said


def structure_of(kind):
    class Made(SharedStructure):
        """Something."""

        members = (Member(kind, "only"),)
        _fields_ = ctypes_fields(members)

    return Made


def test_the_digest_follows_every_declaration():
    signed, unsigned = structure_of("int32_t"), structure_of("uint32_t")
    assert layout_digest([signed]) == layout_digest([structure_of("int32_t")])
    assert layout_digest([signed]) != layout_digest([unsigned])
    assert f'LAYOUT[] = "{layout_digest([signed])}"' in structures_header("somewhere", [signed])


def test_members_are_visited_in_their_order(tmp_path):
    text = structures_header("somewhere", (_Inner, _Outer))
    places = [text.index(f"visit(&_Outer::{name});") for name in _Outer.names()]
    assert places == sorted(places)
    assert "visit(&_Inner" not in text
