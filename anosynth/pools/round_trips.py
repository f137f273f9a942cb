"""Real normals passed through the autoencoder and the sampler: a control, and the mending of what it finds.

Generated pairs carry the generator's own traces: an autoencoder's smoothness, a sampler's grain. A detector that trains
on them beside untouched normals may learn those traces in place of defects. A round trip puts the same traces on a
normal image and changes little else, so a detector should give it the score of the image it was made from; and a
detector that has seen round trips among its normals cannot use the traces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.sample import image_to_image
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.text import TextEmbedding
from anosynth.licences import most_restrictive
from anosynth.params import RoundTripParams
from anosynth.pools.real import RealNormal
from anosynth.samples import Provenance, Sample, ShardJob
from anosynth.seeding import torch_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHOD = "round_trip"
ALGORITHM = 2
"""Raised whenever equal values give other samples."""


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """A personalized backbone and how it is asked.

    Attributes:
        backbone: its U-Net carries the category's adapter (`adapters.merged`).
        adapter: digest of that adapter.
        prompt: the text.
        text: its embedding.
        blank: embedding of the empty prompt, or None if guidance is 1.
        settings: section `round_trip` of params.yaml.
    """

    backbone: LatentDiffusion
    adapter: str
    prompt: str
    text: TextEmbedding
    blank: TextEmbedding | None
    settings: RoundTripParams

    def images(self, images: Sequence[NDArray[np.uint8]], *, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Pass images of one size through; image b draws its noise from seeds[b] alone.

        Args:
            images: uint8 RGB [H, W, 3] each, at the size the generator draws.
            seeds: one per image.

        Returns:
            uint8 RGB [B, H, W, 3].
        """
        return image_to_image(
            self.backbone,
            images,
            self.text,
            strengths=[self.settings.strength] * len(images),
            settings=SamplerSettings(self.settings.solver, self.settings.steps, self.settings.guidance),
            generators=torch_generators(seeds),
            blank=self.blank,
        )


def prepare(backbone: LatentDiffusion, *, adapter: str, name: str, settings: RoundTripParams) -> RoundTrip:
    """Embed the prompt.

    Args:
        backbone: personalized.
        adapter: digest of the adapter that it carries.
        name: the object as said in a prompt.
        settings: section `round_trip` of params.yaml.
    """
    prompt = settings.prompt.format(name=name)
    blank = None if settings.guidance == 1.0 else backbone.embed([""])
    return RoundTrip(backbone, adapter, prompt, backbone.embed([prompt]), blank, settings)


def samples(job: ShardJob, trip: RoundTrip, parents: Sequence[RealNormal]) -> Iterator[Sample]:
    """Draw the samples of one shard: sample i is the round trip of parent i modulo their number, with its own noise.

    Args:
        job: which samples, and how they are cut into batches.
        trip: from `prepare`.
        parents: real normals of role train, at the generator's size.
    """
    licence = most_restrictive(parent.licence for parent in parents)
    for specs in job.batches():
        chosen = [parents[spec.index % len(parents)] for spec in specs]
        drawn = trip.images([parent.image for parent in chosen], seeds=[spec.seed for spec in specs])
        for spec, parent, image in zip(specs, chosen, drawn, strict=True):
            provenance = Provenance(
                shot_ids=tuple(one.sha256 for one in parents),
                licence=licence,
                prompt=trip.prompt,
                parent_id=parent.sha256,
                backbone=trip.backbone.identity,
                adapter=trip.adapter,
            )
            yield Sample(spec, image, None, provenance)
