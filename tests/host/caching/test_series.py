"""Extrapolation, against polynomials in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from brownout.host.caching import Series, extrapolation_weights


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("nodes", [(0, 1, 2), (0, 2, 7), (3, 4, 12)])
def test_order_n_continues_polynomials_of_degree_n(order, nodes, generator):
    coefficients = torch.randint(-9, 10, (order + 1, 5), generator=generator).double()

    def polynomial(place):
        return sum(coefficients[power] * place**power for power in range(order + 1))

    series = Series(order)
    for node in nodes:
        series.record(node, polynomial(node))
    for ahead in (1, 2, 5):
        torch.testing.assert_close(series.predict(nodes[-1] + ahead), polynomial(nodes[-1] + ahead), rtol=0, atol=1e-9)


def test_damping_takes_a_share_of_the_extrapolated_change():
    for damping, expected in ((0, 9), (0.25, 10.25), (1, 14)):
        series = Series(1, damping)
        series.record(1, torch.tensor([4.0]))
        series.record(2, torch.tensor([9.0]))
        assert series.predict(3).item() == expected


def test_a_degree_above_the_order_is_not_continued():
    series = Series(1)
    for node in range(3):
        series.record(node, torch.tensor([node**2]).double())
    assert series.predict(3).item() == 7


def test_weights_are_those_of_cramers_rule():
    """The weights solve the Vandermonde system, here by determinants of whole numbers."""
    a, b, c, place = 1, 3, 8, 13

    def vandermonde(x, y, z):
        return Fraction((y - x) * (z - x) * (z - y))

    whole = vandermonde(a, b, c)
    expected = [vandermonde(place, b, c), vandermonde(a, place, c), vandermonde(a, b, place)]
    assert extrapolation_weights((a, b, c), place) == pytest.approx([float(each / whole) for each in expected])


def test_the_order_rises_with_the_values_that_are_there():
    series = Series(2)
    with pytest.raises(ValueError, match=r"^nothing can be predicted before a first full evaluation$"):
        series.predict(0)
    series.record(0, torch.tensor([5.0]))
    assert series.predict(4).item() == 5
    series.record(1, torch.tensor([7.0]))
    assert series.predict(4).item() == 13


def test_values_are_copies_and_old_ones_go():
    series, value = Series(1), torch.ones(3)
    for node in range(4):
        series.record(node, value)
        value += 1
    assert series.nodes == [2, 3]
    assert [each.tolist() for each in series.values] == [[3.0] * 3, [4.0] * 3]


def test_half_precision_is_extrapolated_in_single():
    series = Series(1)
    series.record(0, torch.tensor([2048.0], dtype=torch.float16))
    series.record(1, torch.tensor([2050.0], dtype=torch.float16))
    predicted = series.predict(4)
    assert predicted.dtype == torch.float16
    assert predicted.item() == 2056


def test_traffic_is_what_is_written_and_read():
    series = Series(1)
    for node in range(3):
        series.record(node, torch.ones(10))
    series.predict(3)
    assert (series.bytes_written, series.bytes_read) == (3 * 40, 2 * 40)


def test_a_second_value_of_an_evaluation_is_refused():
    series = Series(1)
    series.record(4, torch.ones(1))
    with pytest.raises(ValueError, match=r"^evaluation 4 cannot follow evaluation 4: a cached module was called twice"):
        series.record(4, torch.ones(1))
