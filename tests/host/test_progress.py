"""Progress bars of processes that have nowhere to show them."""

from __future__ import annotations

import sys

from brownout.host.progress import progress_bar


def test_bar_without_a_standard_error_is_silent(monkeypatch, capsys):
    assert list(progress_bar([1, 2], show=True)) == [1, 2]
    assert "2/2" in capsys.readouterr().err
    assert list(progress_bar([1, 2], show=False)) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar(total=2, show=True) as bar:
        bar.update()
    assert list(progress_bar([1, 2], show=True)) == [1, 2]
