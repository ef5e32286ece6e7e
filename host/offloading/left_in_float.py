"""What of a model stays in float when it is offloaded."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from .calibration import Calibration
from .float_modules import FloatModule
from .selection import EXCLUDED


def left_in_float(
    calibration: Calibration, offloaded: set[str], reasons: dict[str, str], modules: dict[str, nn.Module]
) -> list[FloatModule]:
    """What stays in float if some layers and attention calls are offloaded, the largest share first.

    Parameters
    ----------
    calibration : Calibration
        Has counted MACs.
    offloaded : set of str
        Names of layers and calls.
    reasons : dict of str to str
        Reasons for layers that are not, which is known now.
    modules : dict of str to nn.Module
        Modules of the model.
    """
    left = [
        each if reasons.get(each.name, EXCLUDED) == EXCLUDED else replace(each, reason=reasons[each.name])
        for each in calibration.left
    ]
    # A module may call attention and do products itself: under the same name.
    listed = {*calibration.layers, *(each.name for each in left)}
    unknown = [name for name in reasons if name not in listed]
    for name in (*(each for each in calibration.layers if each not in offloaded), *unknown):
        kind = type(modules[name.partition("#")[0]]).__name__
        layer = calibration.layers.get(name)
        left.append(FloatModule(name, kind, (layer and layer.macs) or 0, reasons.get(name, EXCLUDED)))
    total = sum(layer.macs or 0 for layer in calibration.layers.values()) + sum(each.macs for each in calibration.left)
    counted = total and all(layer.macs is not None for layer in calibration.layers.values())
    left = [replace(each, share=each.macs / total if counted else None) for each in left]
    return sorted(left, key=lambda each: -each.macs)
