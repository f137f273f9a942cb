"""A trained linear map from every level to the text space, the only learned part of One-to-Normal's inference.

The recipe is APRIL-GAN's (Chen et al. 2023), as One-to-Normal's specification takes it over: labelled pictures of other
objects, one linear layer per level, focal plus Dice loss on the anomaly map, Adam.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from anosynth.errors import BackboneError, DataError, TrainingError
from anosynth.features.ridge_map import normalize_rows
from anosynth.fingerprint import canonical_json, digest_file, digest_value
from anosynth.seeding import seed_for, torch_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.features.aligned import AlignedFeatures

ALGORITHM = 2
"""Raised whenever equal maps give detectors other numbers."""
FOCAL_GAMMA = 2.0
BETAS = (0.5, 0.999)
METADATA = "anosynth"
"""Key in the file's metadata that everything but the maps stands under, as JSON."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """One picture of the auxiliary set, as the encoder sees it.

    Attributes:
        levels: patches per level, float32 [gh, gw, D_l], rows of length 1.
        target: float32 [gh, gw], 1 where a cell holds any of the defect; zeros for a normal picture.
        prototypes: normal and anomalous text of its object, float32 [2, E]; see `aligned.class_prototypes`.
    """

    levels: tuple[NDArray[np.float32], ...]
    target: NDArray[np.float32]
    prototypes: NDArray[np.float32]


def cell_target(mask: NDArray[np.uint8], *, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Mark the cells of a grid that a mask touches: uint8 [H, W] in {0, 255} -> float32 [gh, gw] in {0, 1}."""
    rows, columns = grid
    touched = np.zeros(grid, np.float32)
    ys, xs = np.nonzero(mask)
    touched[ys * rows // mask.shape[0], xs * columns // mask.shape[1]] = 1.0
    return touched


class ProjectedAligned:
    """Aligned encoders whose every level has a trained map to text; satisfies `aligned.AlignedFeatures`.

    F'_l = F_l W_l + b_l, then length 1. Images as a whole, text, and which levels are compared place by place stay as
    they were.
    """

    def __init__(self, base: AlignedFeatures, weights: Sequence[NDArray[np.float32]], *, digest: str) -> None:
        """Put maps on an encoder.

        Args:
            base: the encoders that the maps were trained on.
            weights: per level [D_l + 1, E], the last row is b_l.
            digest: of the maps, part of the identity.
        """
        self._base = base
        self._weights = tuple(weights)
        self._identity = digest_value(
            {"kind": "projected", "algorithm": ALGORITHM, "base": base.identity, "projection": digest}
        )
        self.levels = base.levels
        self.local_levels = base.local_levels
        self.text_levels = tuple(range(base.levels))
        self.temperature = base.temperature

    @property
    def identity(self) -> str:
        """Digest of the encoders and of the maps."""
        return self._identity

    def patch_levels(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        """See `aligned.AlignedFeatures.patch_levels`."""
        return self._base.patch_levels(images)

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.project`."""
        if level not in self.text_levels:
            raise ValueError(f"level {level} does not exist; text_levels are {self.text_levels}")
        weight = self._weights[level]
        return np.asarray(normalize_rows(patches @ weight[:-1] + weight[-1]), np.float32)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_images`."""
        return self._base.embed_images(images)

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_text`."""
        return self._base.embed_text(prompts)


def train_projection(
    pictures: Sequence[Labelled], *, temperature: float, steps: int, batch_size: int, lr: float, seed: int
) -> tuple[NDArray[np.float32], ...]:
    """Train W_l, b_l of every level on pictures whose features are given.

        loss = sum_l focal(p_l, target) + dice(p_l, target),    p_l = softmax(temperature F'_l . F_text^T)[abnormal]

    Differs: the loss is taken on the encoder's grid, not on maps raised to the picture, which would say the same more
    slowly; W_l starts at zero with b_l at the mean of both prototypes, so that training begins undecided.

    Args:
        pictures: normal and anomalous ones, of objects other than those to be judged.
        temperature: the encoders'.
        steps: of Adam, betas (0.5, 0.999).
        batch_size: pictures per step.
        lr: constant learning rate (APRIL-GAN: 1e-3).
        seed: of the order of pictures.

    Returns:
        Per level float32 [D_l + 1, E].

    Raises:
        DataError: if there is no picture with a defect.
        TrainingError: if the loss is no longer finite.
    """
    if not any(picture.target.any() for picture in pictures):
        raise DataError("train_projection needs pictures with defects and was given none")
    levels = [torch.from_numpy(np.stack([one.levels[at] for one in pictures])) for at in range(len(pictures[0].levels))]
    targets = torch.from_numpy(np.stack([one.target for one in pictures]))
    texts = torch.from_numpy(np.stack([one.prototypes for one in pictures]))
    middle = texts.mean(dim=(0, 1))
    weights = [torch.cat([torch.zeros(level.shape[-1], len(middle)), middle[None]]) for level in levels]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, lr=lr, betas=BETAS)
    generator = torch_generator(seed_for(seed, "train_projection"))
    for step in range(steps):
        at = torch.randint(len(pictures), (batch_size,), generator=generator)
        loss = torch.zeros(())
        for level, weight in zip(levels, weights, strict=True):
            loss = loss + _loss(_logits(level[at], weight, texts[at], temperature), targets[at])
        if not torch.isfinite(loss):
            raise TrainingError(f"train_projection: the loss is {loss.item()} at step {step}; lower lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tuple(weight.detach().numpy().copy() for weight in weights)


def write_projection(path: Path, weights: Sequence[NDArray[np.float32]], *, base_identity: str, licence: str) -> None:
    """Write the maps as safetensors, with the identity of the encoders that they belong to and their licence."""
    tensors = {f"level_{at}": torch.from_numpy(weight) for at, weight in enumerate(weights)}
    facts = {"encoders": base_identity, "licence": licence}
    # One key alone: safetensors writes several in an order that changes from run to run, and the digest with it.
    data = save(tensors, metadata={METADATA: canonical_json(facts).decode()})
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    temporary.replace(path)


def open_projection(path: Path, *, base: AlignedFeatures) -> ProjectedAligned:
    """Put the maps of a file on the encoders that they were trained on.

    Raises:
        BackboneError: if the file is missing, damaged or of other encoders.
    """
    facts, weights = _read(path)
    if facts["encoders"] != base.identity:
        raise BackboneError(
            f"aligned.projection: {path} was trained on other encoders or settings than aligned names; "
            "run: python -m tasks.train_projection"
        )
    return ProjectedAligned(base, weights, digest=digest_file(path))


def projection_licence(path: Path) -> str:
    """The licence of the pictures that the maps of a file were trained on.

    Raises:
        BackboneError: if the file is missing or damaged.
    """
    return _read(path)[0]["licence"]


def _read(path: Path) -> tuple[dict[str, str], list[NDArray[np.float32]]]:
    """What a file says of its maps ("encoders", "licence"), and the maps."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[METADATA])
            weights = [file.get_tensor(f"level_{at}") for at in range(len(file.keys()))]
        return {name: str(facts[name]) for name in ("encoders", "licence")}, weights
    except FileNotFoundError:
        raise BackboneError(
            f"aligned.projection: {path} does not exist; run: python -m tasks.train_projection, or set it to null"
        ) from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BackboneError(
            f"aligned.projection: {path} is no projection of this version ({error}); "
            "run: python -m tasks.train_projection, or set it to null"
        ) from error


def _logits(patches: Tensor, weight: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Log-odds of "abnormal", [B, gh, gw]."""
    projected = functional.normalize(patches @ weight[:-1] + weight[-1], dim=-1)
    return temperature * torch.einsum("bijd,bd->bij", projected, texts[:, 1] - texts[:, 0])


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017) plus Dice loss on the abnormal channel."""
    plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = ((1.0 - torch.exp(-plain)) ** FOCAL_GAMMA * plain).mean()
    chance = torch.sigmoid(logits)
    overlap = (chance * target).sum(dim=(1, 2))
    dice = 1.0 - (2.0 * overlap + 1.0) / (chance.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + 1.0)
    return focal + dice.mean()
