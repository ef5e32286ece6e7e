"""A displaced image in one place: no messages and no workers, only what a plan says."""

from __future__ import annotations

import torch


def in_one_place(wanted, solver, noise, latent_rows, current, evaluate):
    """Latents of a plan, of which every evaluation is one of the whole image.

    Parameters
    ----------
    wanted : Plan
        Who evaluates what.
    solver : Solver
        Integrates.
    noise : torch.Tensor
        (B, C, H, W) to begin with.
    latent_rows : int
        Rows of latents in one of the plan.
    current : dict
        Told before each evaluation: ``device``, its name, or "all" in warm-up; ``share``; ``step``, None in warm-up;
        ``others``, pairs of another share and the step whose values are used of it (None: the last one of warm-up).
    evaluate : callable
        ``evaluate(latents, step)`` predicts for all rows; those of the device are kept.
    """

    def joined(states):
        cut = [states[share.device].rows(*(row * latent_rows for row in share.rows)) for share in wanted.shares]
        return type(cut[0]).join(cut)

    with torch.no_grad():
        state = solver.begin(noise)
        for step in range(wanted.warmup):
            current.update(device="all", share=None, step=None, others=[])
            state = solver.step(state, evaluate(state.latents, step), step, 1)
        states = {share.device: state for share in wanted.shares}
        for step in range(wanted.warmup, wanted.steps):
            if (step - wanted.warmup) % wanted.interval == 0:
                # A sync point: everybody gets the rows of all others.
                states = dict.fromkeys(states, joined(states))
            for share in wanted.shares:
                if (step - wanted.warmup) % share.stride:
                    continue
                others = [(other, wanted.held(other, step)) for other in wanted.shares if other is not share]
                current.update(device=share.device, share=share, step=step, others=others)
                mine = states[share.device]
                states[share.device] = solver.step(mine, evaluate(mine.latents, step), step, share.stride)
    return joined(states).latents
