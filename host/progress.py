"""Progress bars, where there is somewhere to show them."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*arguments: Any, show: bool, **options: Any) -> Any:
    """A `tqdm` bar; silent unless `show`, and where this process was started without a standard error."""
    return tqdm(*arguments, disable=not show or sys.stderr is None, **options)
