"""The generator's side of One-to-Normal: a backbone, the category's adapter, and pictures made of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anosynth.detectors.presets import Switches
from anosynth.diffusion.adapters import Adapter, merged
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.twins import twin_painter
from anosynth.features.ssim import lowest, similarities
from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TwinSource:
    """Where twins come from; nothing is opened before it is needed.

    Attributes:
        open_backbone: opens the backbone.
        backbone_identity: its identity, without loading weights.
        read_adapter: reads the category's adapter, for fitting; a fitted detector carries its own.
        size_px: working size of the generator, square.
    """

    open_backbone: Callable[[], LatentDiffusion]
    backbone_identity: Callable[[], str]
    read_adapter: Callable[[], Adapter]
    size_px: int


@dataclass(frozen=True, eq=False)
class Drawn:
    """One query and its twins at the generator's size S.

    Attributes:
        given: the query squashed to a square, uint8 RGB [S, S, 3].
        base: what twins are compared with: `given`, or the VAE's round trip of it.
        twins: uint8 RGB [n, S, S, 3].
        latents: of `given`, [C, h, w].
        likest: index of the twin with the greatest SSIM to `given`, ties to the lowest.
        unlikest: index of the one with the least.
    """

    given: NDArray[np.uint8]
    base: NDArray[np.uint8]
    twins: NDArray[np.uint8]
    latents: Tensor
    likest: int
    unlikest: int


class Personalizer:
    """Draws the normal twins of queries."""

    def __init__(
        self,
        backbone: LatentDiffusion,
        adapter: Adapter,
        prompts: Sequence[str],
        chosen: Switches,
        *,
        size_px: int,
        micro_batch: int,
        seed: int,
    ) -> None:
        """Embed the prompts.

        Args:
            backbone: without an adapter; it is as before after every call.
            adapter: the category's.
            prompts: normal states.
            chosen: sampler, and whether twins are compared with the round trip.
            size_px: working size, a multiple of the VAE's factor.
            micro_batch: rows per U-Net evaluation.
            seed: root of the noise.

        Raises:
            BackboneError: if the size does not fit, or a prompt holds tokens unknown to the text encoder.
        """
        backbone.latent_shape(size_px)
        self._backbone, self._adapter = backbone, adapter
        self._round_trip, self._size_px = chosen.round_trip, size_px
        self._painter = twin_painter(backbone, prompts, sampler=chosen.sampler(), micro_batch=micro_batch, seed=seed)

    def draw(self, images: Sequence[NDArray[np.uint8]], *, strength: float) -> list[Drawn]:
        """Draw every twin of every query.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes; each is squashed to the working size.
            strength: r.
        """
        given = [resize_image(image, size_px=(self._size_px, self._size_px)) for image in images]
        latents = self._painter.encode(given)
        base = list(self._painter.round_trip(latents)) if self._round_trip else given
        with merged(self._backbone.unet, self._adapter, backbone=self._backbone.identity):
            twins = self._painter.twins(given, latents, ratio=strength)
        drawn = []
        for one, compared, own, code in zip(given, base, twins, latents, strict=True):
            alike = similarities(one, list(own))
            drawn.append(Drawn(one, compared, own, code, lowest(1.0 - alike), lowest(alike)))
        return drawn

    def repair(
        self, drawn: Sequence[Drawn], cells: Sequence[NDArray[np.bool_]], *, strength: float
    ) -> NDArray[np.uint8]:
        """Draw a part of every query anew, with the prompt of its likest twin, and keep the rest.

        Args:
            drawn: from `draw`.
            cells: per query, True where a patch is suspicious, [gh, gw]; a latent cell that touches one is redrawn.
            strength: share of T that the part starts from.

        Returns:
            uint8 RGB [Q, S, S, 3].
        """
        latents = torch.stack([one.latents for one in drawn])
        height, width = latents.shape[-2:]
        marked = torch.from_numpy(np.stack(cells)[:, None].astype(np.float32))
        redraw = functional.adaptive_max_pool2d(marked, (height, width))
        with merged(self._backbone.unet, self._adapter, backbone=self._backbone.identity):
            return self._painter.repaired(
                [one.given for one in drawn],
                latents,
                redraw.to(latents),
                prompts=[one.likest for one in drawn],
                ratio=strength,
            )
