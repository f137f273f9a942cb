"""Solving the denoising equation: DDIM, DPM-Solver++(2M) and PLMS, each with a table of coefficients.

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
4. PLMS (Liu et al. 2022, PNDM; the linear multistep form that Stable Diffusion samples with) extrapolates the noise
   e = (z - alpha D) / sigma instead: with e_1 of this level, e_2 of the one before and so on the step goes along
   (3 e_1 - e_2) / 2, then (23 e_1 - 16 e_2 + 5 e_3) / 12, then (55 e_1 - 59 e_2 + 37 e_3 - 9 e_4) / 24. The first step
   is taken twice: along e_1 and, from the same start, along the mean of e_1 and what the network says at its end; so it
   asks the network K + 1 times. Differs from Stable Diffusion's own configuration: levels as in 1, which begin at the
   noisiest timestep and end clean.

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
        solver: "ddim", "dpm_solver" (DPM-Solver++ 2M) or "plms" (PNDM without Runge-Kutta steps).
        steps: from pure noise; a start at level n takes its share n / T of them, at least one. A step asks the network
            once, the first one of several by "plms" twice.
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


@dataclass(frozen=True, eq=False)
class PlmsTable:
    """Coefficients of every evaluation of every sample by PLMS; rows of samples with fewer are lined up at the end.

    Attributes:
        counts: evaluations of each sample, [B].
        timesteps: int64 [K, B].
        weights: of the noise said now and in the three rows before, float64 [K, 4, B].
        keep, push: alpha' / alpha and sigma' - sigma alpha' / alpha of the step, float64 [K, B].
        again: 1 where the step starts from the very first latents once more, [K, B].
        here_signal, here_noise, signal, noise: alpha, sigma where the network is asked and where the step ends, [K, B].
    """

    counts: tuple[int, ...]
    timesteps: Tensor
    weights: Tensor
    keep: Tensor
    push: Tensor
    again: Tensor
    here_signal: Tensor
    here_noise: Tensor
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
    """Plan the steps of a batch whose sample b starts at level levels[b], by DDIM or DPM-Solver++; see the notation.

    The levels of a start at T are diffusers' "trailing" spacing: they begin with the noisiest timestep.
    """
    counts = tuple(_steps(level, schedule.num_timesteps, settings.steps) for level in levels)
    rows = max(counts, default=0)
    table = {name: torch.zeros(rows, len(counts), dtype=torch.float64) for name in _COLUMNS}
    timesteps = torch.zeros(rows, len(counts), dtype=torch.long)
    for column, (level, count) in enumerate(zip(levels, counts, strict=True)):
        if count == 0:
            continue
        path = _path(level, count)
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


def plms_table(schedule: NoiseSchedule, levels: Sequence[int], settings: SamplerSettings) -> PlmsTable:
    """Plan the evaluations of a batch whose sample b starts at level levels[b], by PLMS; see the module's notation."""
    steps = [_steps(level, schedule.num_timesteps, settings.steps) for level in levels]
    counts = tuple(count + (count > 1) for count in steps)
    rows = max(counts, default=0)
    table = {name: torch.zeros(rows, len(counts), dtype=torch.float64) for name in _PLMS_COLUMNS}
    weights = torch.zeros(rows, len(_PLMS_WEIGHTS[0]), len(counts), dtype=torch.float64)
    timesteps = torch.zeros(rows, len(counts), dtype=torch.long)
    for column, (level, count, asked) in enumerate(zip(levels, steps, counts, strict=True)):
        if count == 0:
            continue
        path = _path(level, count)
        # where the network is asked, where the step starts, where it ends
        at, start, end = path[:-1], path[:-1], path[1:]
        if count > 1:
            at, start, end = [at[0], at[1], *at[1:]], [at[0], *at], [end[0], *end]
        late = slice(rows - asked, rows)
        timesteps[late, column] = torch.tensor(at) - 1
        table["here_signal"][late, column], table["here_noise"][late, column] = signal_and_noise(at, schedule)
        signal, noise = signal_and_noise(start, schedule)
        table["signal"][late, column], table["noise"][late, column] = signal_and_noise(end, schedule)
        table["keep"][late, column] = table["signal"][late, column] / signal
        table["push"][late, column] = table["noise"][late, column] - noise * table["keep"][late, column]
        table["again"][rows - asked + 1 : rows - count + 1, column] = 1.0
        for place, row in enumerate(range(rows - asked, rows)):
            weights[row, :, column] = torch.tensor(_PLMS_WEIGHTS[min(place, len(_PLMS_WEIGHTS) - 1)])
    return PlmsTable(counts, timesteps, weights=weights, **table)


_COLUMNS = ("keep", "clean", "extrapolate", "signal", "noise")
_PLMS_COLUMNS = ("keep", "push", "again", "here_signal", "here_noise", "signal", "noise")
# Of e_1 to e_4 in evaluations 1, 2, ... of a sample; the second one's e_2 is what the first one said.
_PLMS_WEIGHTS = (
    (1.0, 0.0, 0.0, 0.0),
    (1 / 2, 1 / 2, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _path(level: int, count: int) -> list[int]:
    """`count` + 1 levels, evenly spaced from `level` down to 0."""
    path: list[int] = np.round(level - np.arange(count + 1) * (level / count)).astype(int).tolist()
    return path


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
    plan: Callable[..., StepTable | PlmsTable] = plms_table if settings.solver == "plms" else step_table
    table = plan(schedule, levels, settings)
    order = torch.argsort(torch.tensor(table.counts), descending=True, stable=True)
    latents = noisy[order.to(noisy.device)]
    step = _PlmsSteps(table, order, latents) if isinstance(table, PlmsTable) else _Steps(table, order, latents)
    timesteps = table.timesteps[:, order]
    ends = [value[:, order].to(latents) for value in (table.signal, table.noise)]
    blend = None if known is None else Known(*(part[order].to(latents) for part in _parts(known)))
    counts = np.asarray(table.counts)[order.numpy()]
    for row in range(len(timesteps)):
        active = int(np.count_nonzero(counts >= len(timesteps) - row))
        clean = model(latents[:active], timesteps[row, :active], order[:active])
        moved = step(row, latents[:active], clean)
        if blend is not None:
            signal, noise = (value[row, :active].reshape(-1, 1, 1, 1) for value in ends)
            old = signal * blend.latents[:active] + noise * blend.noise[:active]
            moved = blend.redraw[:active] * moved + (1.0 - blend.redraw[:active]) * old
        latents = torch.cat([moved, latents[active:]])
    return latents[torch.argsort(order).to(latents.device)]


class _Steps:
    """The steps of DDIM and DPM-Solver++, one call each, for the first samples of the ordered batch."""

    def __init__(self, table: StepTable, order: Tensor, latents: Tensor) -> None:
        columns = (table.keep, table.clean, table.extrapolate)
        self._columns = [column[:, order].to(latents)[..., None, None, None] for column in columns]
        self._before = torch.zeros_like(latents)

    def __call__(self, row: int, current: Tensor, clean: Tensor) -> Tensor:
        """Latents after this row's step, given those before it and the estimate of z_0, [b, C, h, w] each."""
        active = len(current)
        keep, pull, more = (column[row, :active] for column in self._columns)
        moved = keep * current + pull * (clean + more * (clean - self._before[:active]))
        self._before[:active] = clean
        return moved


class _PlmsSteps:
    """The same by PLMS."""

    def __init__(self, table: PlmsTable, order: Tensor, latents: Tensor) -> None:
        columns = (table.here_signal, table.here_noise, table.keep, table.push, table.again)
        self._columns = [column[:, order].to(latents)[..., None, None, None] for column in columns]
        self._weights = table.weights[:, :, order].to(latents)[..., None, None, None]
        self._earlier = torch.zeros(self._weights.shape[1] - 1, *latents.shape).to(latents)
        self._start = latents

    def __call__(self, row: int, current: Tensor, clean: Tensor) -> Tensor:
        """See `_Steps`."""
        active = len(current)
        here_signal, here_noise, keep, push, again = (column[row, :active] for column in self._columns)
        said = torch.cat([((current - here_signal * clean) / here_noise)[None], self._earlier[:, :active]])
        along = (self._weights[row, :, :active] * said).sum(dim=0)
        moved = keep * torch.where(again > 0.0, self._start[:active], current) + push * along
        self._earlier[:, :active] = torch.where(again > 0.0, self._earlier[:, :active], said[:-1])
        return moved


def _parts(known: Known) -> tuple[Tensor, Tensor, Tensor]:
    return known.latents, known.noise, known.redraw
