"""Normal twins: a query re-noised in part and drawn again by a generator that knows only normal parts.

One-to-Normal (Li et al. 2024), section 3: z_t = sqrt(abar_t) z_q + sqrt(1 - abar_t) eps at t = r T, then one clean
picture per normal-state prompt. Every (query, prompt) is a row; rows of all queries go through the U-Net in
micro-batches of one fixed size, the last one padded. A row's noise comes from the digest of the query's pixels and the
prompt's index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.sample import draw_again
from anosynth.diffusion.solver import SamplerSettings, level_of
from anosynth.diffusion.text import TextEmbedding
from anosynth.fingerprint import digest_pixels
from anosynth.seeding import seed_for, torch_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 2
"""Raised whenever equal values give other twins."""


@dataclass(frozen=True, eq=False)
class TwinPainter:
    """A backbone that carries the category's adapter, and everything about its twins that no query changes.

    Attributes:
        backbone: personalized on normal pictures.
        text: the n normal-state prompts.
        blank: embedding of the empty prompt, or None if guidance is 1.
        sampler: solver, steps of a full path, guidance.
        micro_batch: rows per U-Net evaluation, at least 1; short batches are padded to it.
        seed: root of the noise.
    """

    backbone: LatentDiffusion
    text: TextEmbedding
    blank: TextEmbedding | None
    sampler: SamplerSettings
    micro_batch: int
    seed: int

    @property
    def num_prompts(self) -> int:
        """How many twins a query gets."""
        return len(self.text)

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Latents of queries, [Q, C, h, w]; each picture goes through the VAE alone, so that no companion rounds it.

        Args:
            images: uint8 RGB [H, W, 3] each, one size.
        """
        return torch.cat([self.backbone.encode([image]) for image in images])

    @torch.inference_mode()
    def round_trip(self, latents: Tensor) -> NDArray[np.uint8]:
        """What the VAE alone makes of the queries, uint8 RGB [Q, H, W, 3]: the limit of a twin for r -> 0."""
        return np.concatenate([self.backbone.decode(one[None]) for one in latents])

    @torch.inference_mode()
    def twins(self, images: Sequence[NDArray[np.uint8]], latents: Tensor, *, ratio: float) -> NDArray[np.uint8]:
        """Draw one twin per query and prompt.

        Args:
            images: the queries as the VAE saw them, uint8 RGB [H, W, 3] each; their pixels seed the noise.
            latents: of the queries, from `encode`.
            ratio: r, share of T a query is re-noised by, [0, 1]. At 0 the twins are the VAE's round trip and the U-Net
                is not asked; near 1 the query is forgotten.

        Returns:
            uint8 RGB [Q, n, H, W, 3].
        """
        rows = [(query, prompt) for query in range(len(images)) for prompt in range(self.num_prompts)]
        seeds = self._seeds(images, rows, "twin")
        queries, prompts = [query for query, _ in rows], [prompt for _, prompt in rows]
        if level_of(ratio, self.backbone.schedule) == 0:
            return np.repeat(self.round_trip(latents)[:, None], self.num_prompts, axis=1)
        drawn = self._draw(latents[queries], prompts=prompts, seeds=seeds, ratio=ratio)
        return drawn.reshape(len(images), self.num_prompts, *drawn.shape[1:])

    @torch.inference_mode()
    def repaired(
        self,
        images: Sequence[NDArray[np.uint8]],
        latents: Tensor,
        redraw: Tensor,
        *,
        prompts: Sequence[int],
        ratio: float,
    ) -> NDArray[np.uint8]:
        """Draw a part of each query anew and keep the rest of its latents: the second pass over what looked suspicious.

        Args:
            images: as in `twins`.
            latents: as in `twins`.
            redraw: 1 where latent cells are drawn anew, 0 where they are kept, [Q, 1, h, w].
            prompts: index of the prompt of each query.
            ratio: share of T that the drawn part starts from, (0, 1].

        Returns:
            uint8 RGB [Q, H, W, 3].
        """
        seeds = self._seeds(images, list(enumerate(prompts)), "repair")
        return self._draw(latents, prompts=prompts, seeds=seeds, ratio=ratio, redraw=redraw)

    def _draw(
        self,
        latents: Tensor,
        *,
        prompts: Sequence[int],
        seeds: Sequence[int],
        ratio: float,
        redraw: Tensor | None = None,
    ) -> NDArray[np.uint8]:
        """One picture per row of latents, in micro-batches of one size."""
        pictures: list[NDArray[np.uint8]] = []
        for rows, real in micro_batches(len(latents), size=self.micro_batch):
            drawn = draw_again(
                self.backbone,
                latents[rows],
                self.text.rows([prompts[row] for row in rows]),
                strengths=[ratio] * len(rows),
                settings=self.sampler,
                generators=torch_generators([seeds[row] for row in rows]),
                blank=self.blank,
                redraw=None if redraw is None else redraw[rows],
            )
            pictures.append(self.backbone.decode(drawn)[:real])
        return np.concatenate(pictures)

    def _seeds(self, images: Sequence[NDArray[np.uint8]], rows: Sequence[tuple[int, int]], what: str) -> list[int]:
        digests = [digest_pixels(image) for image in images]
        return [seed_for(self.seed, what, digests[query], prompt) for query, prompt in rows]


def twin_painter(
    backbone: LatentDiffusion,
    prompts: Sequence[str],
    *,
    sampler: SamplerSettings,
    micro_batch: int,
    seed: int,
) -> TwinPainter:
    """Embed the prompts once.

    Args:
        backbone: what draws; its adapter is merged by whoever calls the painter.
        prompts: normal states of the object, at least one.
        sampler: solver, steps, guidance.
        micro_batch: rows per U-Net evaluation.
        seed: root of the noise.

    Raises:
        ValueError: if there is no prompt or the micro-batch is empty.
    """
    if not prompts or micro_batch < 1:
        raise ValueError(f"{len(prompts)} prompts and micro-batches of {micro_batch}; both are at least 1")
    blank = None if sampler.guidance == 1.0 else backbone.embed([""])
    return TwinPainter(backbone, backbone.embed(prompts), blank, sampler, micro_batch, seed)


def micro_batches(count: int, *, size: int) -> Iterator[tuple[list[int], int]]:
    """Cut rows 0 to count - 1 into batches of exactly `size`; the last row is repeated to fill the last batch.

    Yields:
        Row indices, `size` of them, and how many of them are no padding.
    """
    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        yield rows + [rows[-1]] * (size - len(rows)), len(rows)
