"""The generator's side of One-to-Normal: a backbone, the category's adapter, and pictures made of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from anosynth.detectors.presets import Switches
from anosynth.diffusion.adapters import Adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.twins import ALGORITHM, twin_painter
from anosynth.features.ssim import lowest, similarities
from anosynth.fingerprint import digest_pixels, digest_value
from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TwinMemory(Protocol):
    """Keeps pictures between detectors that ask for the same ones.

    A key names everything that shapes them but the arithmetic: a memory belongs to one `ComputeParams`.
    """

    def get(self, key: str) -> NDArray[np.uint8] | None:
        """The pictures of a key, uint8 RGB [n, S, S, 3], or None."""
        ...

    def put(self, key: str, pictures: NDArray[np.uint8]) -> None:
        """Keep pictures under a key."""
        ...


@dataclass(frozen=True)
class TwinSource:
    """Where twins come from; nothing is opened before it is needed.

    Attributes:
        open_backbone: opens the backbone.
        backbone_identity: its identity, without loading weights.
        read_adapter: reads the category's adapter, for fitting; a fitted detector carries its own.
        size_px: working size of the generator, square.
        memory: keeps twins for other detectors; None: each draws its own.
    """

    open_backbone: Callable[[], LatentDiffusion]
    backbone_identity: Callable[[], str]
    read_adapter: Callable[[], Adapter]
    size_px: int
    memory: TwinMemory | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """One query and its twins at the generator's size S.

    Attributes:
        given: the query squashed to a square, uint8 RGB [S, S, 3].
        base: what twins are compared with: `given`, or the VAE's round trip of it.
        twins: uint8 RGB [n, S, S, 3].
        likest: index of the twin with the greatest SSIM to `given`, ties to the lowest.
        unlikest: index of the one with the least.
    """

    given: NDArray[np.uint8]
    base: NDArray[np.uint8]
    twins: NDArray[np.uint8]
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
        memory: TwinMemory | None,
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
            memory: of twins, or None.

        Raises:
            BackboneError: if the size does not fit, or a prompt holds tokens unknown to the text encoder.
        """
        backbone.latent_shape(size_px)
        self._backbone, self._adapter = backbone, adapter
        self._round_trip, self._size_px = chosen.round_trip, size_px
        self._painter = twin_painter(backbone, prompts, sampler=chosen.sampler(), micro_batch=micro_batch, seed=seed)
        self._memory = memory
        self._shaping = {
            "algorithm": ALGORITHM,
            "backbone": backbone.identity,
            "adapter": adapter.digest,
            "prompts": list(prompts),
            "sampler": asdict(chosen.sampler()),
            "micro_batch": micro_batch,
            "seed": seed,
            "size_px": size_px,
        }

    def draw(self, images: Sequence[NDArray[np.uint8]], *, strength: float) -> list[Drawn]:
        """Draw every twin of every query.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes; each is squashed to the working size.
            strength: r.
        """
        given = [resize_image(image, size_px=(self._size_px, self._size_px)) for image in images]
        drawn = []
        for one, pictures in zip(given, self._pictures(given, strength=strength), strict=True):
            twins, base = pictures[:-1], pictures[-1] if self._round_trip else one
            alike = similarities(one, list(twins))
            drawn.append(Drawn(one, base, twins, lowest(1.0 - alike), lowest(alike)))
        return drawn

    def _pictures(self, given: Sequence[NDArray[np.uint8]], *, strength: float) -> list[NDArray[np.uint8]]:
        """Of every query its twins and, last, the VAE's round trip of it: uint8 RGB [n + 1, S, S, 3]."""
        keys = [digest_value({**self._shaping, "strength": strength, "query": digest_pixels(one)}) for one in given]
        found: dict[str, NDArray[np.uint8]] = {}
        for key in keys:
            if self._memory is not None and (kept := self._memory.get(key)) is not None:
                found[key] = kept
        missing = [at for at, key in enumerate(keys) if key not in found]
        if missing:
            made = self._painted([given[at] for at in missing], strength=strength)
            for at, pictures in zip(missing, made, strict=True):
                found[keys[at]] = pictures
                if self._memory is not None:
                    self._memory.put(keys[at], pictures)
        return [found[key] for key in keys]

    def _painted(self, given: Sequence[NDArray[np.uint8]], *, strength: float) -> NDArray[np.uint8]:
        latents = self._painter.encode(given)
        with personalized(self._backbone, self._adapter):
            twins = self._painter.twins(given, latents, ratio=strength)
            trips = self._painter.round_trip(latents)
        return np.concatenate([twins, trips[:, None]], axis=1)

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
        latents = self._painter.encode([one.given for one in drawn])
        height, width = latents.shape[-2:]
        marked = torch.from_numpy(np.stack(cells)[:, None].astype(np.float32))
        redraw = functional.adaptive_max_pool2d(marked, (height, width))
        with personalized(self._backbone, self._adapter):
            return self._painter.repaired(
                [one.given for one in drawn],
                latents,
                redraw.to(latents),
                prompts=[one.likest for one in drawn],
                ratio=strength,
            )
