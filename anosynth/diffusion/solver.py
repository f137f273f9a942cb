"""Solving the denoising equation: DDIM and DPM-Solver++(2M) as one update with a table of coefficients.

| here | meaning | symbol |
| --- | --- | --- |
| level n | how many of the T noise steps a latent has gone through, 0 (clean) to T; timestep t = n - 1 | t |
| signal, noise | alpha_n = sqrt(abar_t), sigma_n = sqrt(1 - abar_t); (1, 0) at n = 0 | alpha_t, sigma_t |
| lambda | log(alpha / sigma), half the log signal-to-noise ratio | lambda_t |
| h | lambda of the next level minus lambda of this one | h_i |
| clean | the network's estimate of z_0 | x_theta, D |

1. A sample that starts at level n takes K = max(1, round(steps n / T)) steps down evenly spaced levels to 0.
2. Each step goes from (alpha, sigma) to (alpha', sigma') by
   z' = (sigma' / sigma) z + (alpha' - sigma' alpha / sigma) D, exact if D were constant in lambda. With D = clean this
   is deterministic DDIM (Song et al. 2021, eta = 0) and first-order DPM-Solver++ alike.
3. DPM-Solver++(2M) (Lu et al. 2022, multistep second order) extrapolates D = clean + h / (2 h_before) (clean -
   clean_before), except in the first step and in the last one, where h is infinite.

Every coefficient is known before the first step, so they are computed in float64 on the CPU and nothing in the loop
waits for the device. Samples of one batch may start at different levels: they are lined up at the end, so that one call
of the network serves all that still have steps to go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.params import Solver

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z_t [b, C, h, w], timesteps [b], rows [b]) -> estimate of z_0; rows are the positions of these b in the batch.

Timesteps and rows are int64 on the CPU, whatever the device of z_t, so that looking a level up waits for nothing."""


@dataclass(frozen=True)
class SamplerSettings:
    """How samples are drawn.

    Attributes:
        solver: "ddim" or "dpm_solver" (DPM-Solver++ 2M).
        steps: network evaluations from pure noise; a start at level n takes its share n / T of them, at least one.
        guidance: scale g of classifier-free guidance, u + g (c - u); 1 skips the unconditional evaluation.
    """

    solver: Solver
    steps: int
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0.0:
            raise ValueError(f"steps is {self.steps} (at least 1), guidance is {self.guidance} (not negative)")


@dataclass(frozen=True, eq=False)
class Known:
    """What inpainting keeps.

    Attributes:
        latents: clean latents of the picture that is kept, [B, C, h, w].
        noise: the one noise that it is lifted to each level with, same shape.
        redraw: 1 where the picture is drawn anew, 0 where it is kept, [B, 1, h, w].
    """

    latents: Tensor
    noise: Tensor
    redraw: Tensor


@dataclass(frozen=True, eq=False)
class StepTable:
    """Coefficients of every step of every sample; samples with fewer steps join later (rows of zeros before).

    Attributes:
        counts: steps of each sample, [B].
        timesteps: int64 [K, B].
        keep, clean, extrapolate, signal, noise: float64 [K, B]: sigma' / sigma, alpha' - keep alpha, h / (2 h_before),
            alpha', sigma'.
    """

    counts: tuple[int, ...]
    timesteps: Tensor
    keep: Tensor
    clean: Tensor
    extrapolate: Tensor
    signal: Tensor
    noise: Tensor


def level_of(strength: float, schedule: NoiseSchedule) -> int:
    """Level n = round(strength T) of a re-noising strength in [0, 1]; 0 leaves an image alone, T forgets it."""
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is {strength}; it is a share of T and must lie in [0, 1]")
    return round(strength * schedule.num_timesteps)


def signal_and_noise(levels: Sequence[int], schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """(alpha_n, sigma_n) of levels [B], float64 [B]; exactly (1, 0) at level 0."""
    at = torch.tensor(list(levels), dtype=torch.long)
    abar = torch.cat([torch.ones(1, dtype=torch.float64), schedule.abar])[at]
    return abar.sqrt(), (1.0 - abar).sqrt()


def renoise(latents: Tensor, *, levels: Sequence[int], noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Move clean latents to noise levels, the start of a partial re-generation: z_n = alpha_n z_0 + sigma_n eps.

    Args:
        latents: z_0, [B, C, h, w], scaled by the VAE factor.
        levels: n per sample, 0 to T; 0 returns the sample unchanged, near T almost nothing of it is left.
        noise: eps, same shape.
        schedule: supplies alpha and sigma.
    """
    signal, sigma = (value.to(latents).reshape(-1, 1, 1, 1) for value in signal_and_noise(levels, schedule))
    return signal * latents + sigma * noise.to(latents)


def step_table(schedule: NoiseSchedule, levels: Sequence[int], settings: SamplerSettings) -> StepTable:
    """Plan the steps of a batch whose sample b starts at level levels[b]; see the module's notation.

    The levels of a start at T are diffusers' "trailing" spacing: they begin with the noisiest timestep.
    """
    counts = tuple(_steps(level, schedule.num_timesteps, settings.steps) for level in levels)
    rows = max(counts, default=0)
    table = {name: torch.zeros(rows, len(counts), dtype=torch.float64) for name in _COLUMNS}
    timesteps = torch.zeros(rows, len(counts), dtype=torch.long)
    for column, (level, count) in enumerate(zip(levels, counts, strict=True)):
        if count == 0:
            continue
        path = np.round(level - np.arange(count + 1) * (level / count)).astype(int).tolist()
        signal, noise = signal_and_noise(path, schedule)
        keep = noise[1:] / noise[:-1]
        late = slice(rows - count, rows)
        timesteps[late, column] = torch.tensor(path[:-1]) - 1
        table["keep"][late, column] = keep
        table["clean"][late, column] = signal[1:] - keep * signal[:-1]
        table["signal"][late, column] = signal[1:]
        table["noise"][late, column] = noise[1:]
        if settings.solver == "dpm_solver" and count > 2:
            h = torch.diff(torch.log(signal[:-1]) - torch.log(noise[:-1]))
            table["extrapolate"][rows - count + 1 : rows - 1, column] = h[1:] / (2.0 * h[:-1])
    return StepTable(counts, timesteps, **table)


_COLUMNS = ("keep", "clean", "extrapolate", "signal", "noise")


def _steps(level: int, num_timesteps: int, steps: int) -> int:
    if not 0 <= level <= num_timesteps:
        raise ValueError(f"level is {level}; it must lie in [0, {num_timesteps}]")
    return min(level, max(1, round(steps * level / num_timesteps))) if level else 0


def solve(
    model: Model,
    noisy: Tensor,
    *,
    levels: Sequence[int],
    schedule: NoiseSchedule,
    settings: SamplerSettings,
    known: Known | None = None,
) -> Tensor:
    """Follow the denoising path of each sample from its level down to 0.

    Args:
        model: estimates clean latents; see `Model`.
        noisy: z_n, float32 [B, C, h, w].
        levels: n per sample; a sample at level 0 comes back untouched, the model never sees it.
        schedule: noise schedule of the model.
        settings: solver and steps (guidance is the model's business).
        known: keep a part of each picture (blended latent inpainting): after each step that part is put back at its
            noise level, after the last one clean.

    Returns:
        Clean latents, float32 [B, C, h, w], on the device of `noisy`.
    """
    table = step_table(schedule, levels, settings)
    order = torch.argsort(torch.tensor(table.counts), descending=True, stable=True)
    latents = noisy[order.to(noisy.device)]
    columns = {name: getattr(table, name)[:, order].to(latents) for name in _COLUMNS}
    timesteps = table.timesteps[:, order]
    blend = None if known is None else Known(*(part[order].to(latents) for part in _parts(known)))
    counts = np.asarray(table.counts)[order.numpy()]
    before = latents
    for row in range(len(timesteps)):
        active = int(np.count_nonzero(counts >= len(timesteps) - row))
        keep, pull, more, signal, noise = (columns[name][row, :active].reshape(-1, 1, 1, 1) for name in _COLUMNS)
        current = latents[:active]
        clean = model(current, timesteps[row, :active], order[:active])
        moved = keep * current + pull * (clean + more * (clean - before[:active]))
        if blend is not None:
            old = signal * blend.latents[:active] + noise * blend.noise[:active]
            moved = blend.redraw[:active] * moved + (1.0 - blend.redraw[:active]) * old
        latents = torch.cat([moved, latents[active:]])
        before = torch.cat([clean, latents[active:]])
    return latents[torch.argsort(order).to(latents.device)]


def _parts(known: Known) -> tuple[Tensor, Tensor, Tensor]:
    return known.latents, known.noise, known.redraw
