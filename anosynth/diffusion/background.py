"""Background compensation (BCM): the whole image takes its surroundings, and so the object's pose, from a background.

Jin et al., DualAnoDiff, CVPR 2025, section 3.3. A background I_b is a picture whose object is painted over. At every
step it is lifted to the pair's noise level and goes through the same U-Net with branch 0's adapters and prompt, without
the exchange and without gradients: the background pass. What it leaves at each self-attention layer changes what
branch 0 reads there: queries come from its own features x, keys and values from

    paper form:  s = x + g f(b),            b the layer's output in the background pass, g starts at 0.1
    code form:   s = (1 - g) x + g f(b),    b the layer's input in the background pass, g starts at 0

Branch 1 and all cross-attention are left alone. Differs from the published code, whose faults these are: backgrounds
are scaled latents like all others; f has an activation between its two maps; the object is cut out by a binary mask; a
drawn pair keeps one background noise of its own over all steps; no gradient flows through the background pass; all rows
of guidance share one background pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from anosynth.diffusion.interaction import NUM_BRANCHES, seeded_linear
from anosynth.errors import DataError

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from numpy.typing import NDArray

    from anosynth.diffusion.latent import LatentDiffusion
    from anosynth.diffusion.text import TextEmbedding

Form = Literal["paper", "code"]

PUBLISHED_HIDDEN = 320
FIRST_GATE = {"paper": 0.1, "code": 0.0}
NEUTRAL = (127, 127, 127)
"""Mid-grey: 0 in the [-1, 1] that the VAE reads, the value of the published code outside of anomaly parts."""


class BackgroundMap(nn.Module):
    """What one self-attention layer makes of the background: f(b) = Up SiLU(Down b) and the gate g."""

    def __init__(self, width: int, hidden: int, form: Form, *, zero_output: bool, generator: torch.Generator) -> None:
        """Create the module.

        Args:
            width: c, channels of the attention layer.
            hidden: channels between both maps.
            form: see the module.
            zero_output: start Up at zero, so that the paper form too leaves the base model untouched at step 0.
            generator: CPU generator of the initial weights.
        """
        super().__init__()
        self.form = form
        self.down = seeded_linear(width, hidden, generator)
        self.up = seeded_linear(hidden, width, generator)
        self.gate = nn.Parameter(torch.full((1,), FIRST_GATE[form]))
        if zero_output:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor, background: Tensor) -> Tensor:
        """Compensate what keys and values are made of.

        Args:
            features: x of branch 0, [G B, n, c]; G = 2 with guidance, the rows of one pair being B apart.
            background: b, [B, n, c]; each serves its pair's G rows.

        Returns:
            s, [G B, n, c].
        """
        read = self.gate * self.up(nn.functional.silu(self.down(background)))
        grouped = features.unflatten(0, (-1, len(background)))
        kept = grouped if self.form == "paper" else (1.0 - self.gate) * grouped
        return (kept + read).flatten(0, 1)


class FoldedBackgroundMap(nn.Module):
    """The same function with the gate multiplied into Up: the form that samples."""

    down_weight: Tensor
    down_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    keep: Tensor

    def __init__(self, source: BackgroundMap, *, dtype: torch.dtype) -> None:
        """Fold `source` in float64 and cast to `dtype`; later changes of `source` are not followed."""
        super().__init__()
        self.form = source.form
        gate = source.gate.detach().double()
        folded = {
            "down_weight": source.down.weight,
            "down_bias": source.down.bias,
            "up_weight": gate * source.up.weight.double(),
            "up_bias": gate * source.up.bias.double(),
            "keep": torch.ones_like(gate) if source.form == "paper" else 1.0 - gate,
        }
        for name, value in folded.items():
            self.register_buffer(name, value.detach().to(dtype))

    @torch.no_grad()
    def forward(self, features: Tensor, background: Tensor) -> Tensor:
        """See `BackgroundMap.forward`; no gradients."""
        hidden = nn.functional.silu(nn.functional.linear(background, self.down_weight, self.down_bias))
        read = nn.functional.linear(hidden, self.up_weight, self.up_bias)
        grouped = features.unflatten(0, (-1, len(background)))
        return torch.addcmul(read, self.keep, grouped).flatten(0, 1)


class BackgroundFeatures:
    """What the background pass leaves at each self-attention layer for the pass that draws; shared by all layers.

    Attributes:
        recording: True while a background pass runs.
    """

    def __init__(self) -> None:
        self.recording = False
        self._kept: dict[str, Tensor] = {}

    def keep(self, layer: str, features: Tensor) -> None:
        """Leave a layer's features [B, n, c], cut off from gradients."""
        self._kept[layer] = features.detach()

    def at(self, layer: str) -> Tensor:
        """Features of a layer, [B, n, c].

        Raises:
            ValueError: if there was no background pass.
        """
        if layer not in self._kept:
            raise ValueError("this adapter compensates the background, but no background was given")
        return self._kept[layer]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Take what runs inside for the background pass; features of an earlier one are forgotten."""
        self._kept = {}
        self.recording = True
        try:
            yield
        finally:
            self.recording = False


class SeesBackground:
    """An attention processor that may read a background."""

    def __init__(
        self, name: str, reads: BackgroundMap | FoldedBackgroundMap | None, shared: BackgroundFeatures | None
    ) -> None:
        """Know one's layer.

        Args:
            name: of the layer.
            reads: what it makes of a background; None in cross-attention, and where compensation is off.
            shared: of all processors of one U-Net; None if the adapter knows no backgrounds.
        """
        self.name = name
        self.reads = reads
        self.shared = shared

    @property
    def in_background_pass(self) -> bool:
        """Whether the features that come in are of backgrounds: branch 0 alone, [B, n, c]."""
        return self.shared is not None and self.shared.recording

    def leave(self, *, before: Tensor, after: Tensor) -> None:
        """In a background pass: keep what the layer's form reads, its input or its output."""
        if self.reads is not None and self.shared is not None:
            self.shared.keep(self.name, before if self.reads.form == "code" else after)

    def compensated(self, features: Tensor) -> Tensor:
        """What keys and values are made of, [2 B, n, c]: branch 0 with its background, branch 1 as it is.

        Raises:
            ValueError: if there was no background pass.
        """
        if self.reads is None or self.shared is None or self.shared.recording:
            return features
        whole, part = features.chunk(NUM_BRANCHES)
        return torch.cat([self.reads(whole, self.shared.at(self.name)), part])


def background_features(unet: UNet2DConditionModel) -> BackgroundFeatures | None:
    """What the processors of a U-Net share; None if no adapter that compensates the background is attached."""
    for processor in unet.attn_processors.values():
        if isinstance(processor, SeesBackground):
            return processor.shared
    return None


def check_backgrounds(unet: UNet2DConditionModel, *, given: bool) -> None:
    """Refuse backgrounds for an adapter that cannot read them, and an adapter that reads them without any.

    Raises:
        ValueError: if one is there without the other.
    """
    reads = background_features(unet) is not None
    if reads != given:
        raise ValueError(
            "this adapter compensates the background, but no background was given"
            if reads
            else "backgrounds were given, but the adapter was made without background compensation"
        )


@torch.no_grad()
def see_background(backbone: LatentDiffusion, noisy: Tensor, *, timesteps: Tensor, text: TextEmbedding) -> None:
    """Run the background pass: branch 0's adapters, no exchange, no gradients; see the module.

    Args:
        backbone: with a dual adapter attached that compensates the background.
        noisy: backgrounds at the pairs' noise levels, [B, C, h, w].
        timesteps: t of each pair, int64 [B].
        text: branch 0's prompt of each pair, B rows.

    Raises:
        ValueError: if no such adapter is attached.
    """
    features = background_features(backbone.unet)
    if features is None:
        raise ValueError("no adapter with background compensation is attached")
    with features.recorded():
        backbone.predict(noisy, timesteps, text)


def background_image(
    image: NDArray[np.uint8], foreground: NDArray[np.uint8], *, neutral: tuple[int, int, int] = NEUTRAL
) -> NDArray[np.uint8]:
    """I_b = (1 - M_f) I: a picture whose object is painted over.

    Args:
        image: uint8 RGB [H, W, 3].
        foreground: M_f, where the object is, uint8 [H, W] in {0, 255}, or soft: values of 128 and more count as object.
        neutral: colour that the object's place takes.

    Returns:
        uint8 RGB [H, W, 3]. All neutral if the object fills the frame: such a background tells nothing.

    Raises:
        DataError: if the sizes differ, or the foreground is empty: the defect itself would be left in the background.
    """
    if foreground.shape != image.shape[:2]:
        raise DataError(
            f"the foreground mask is {foreground.shape}, the image {image.shape[:2]}; they must be as large"
        )
    inside = foreground >= 128
    if not inside.any():
        raise DataError("the foreground mask is empty; it must cover the object, else the background shows the defect")
    return np.where(inside[:, :, None], np.array(neutral, dtype=np.uint8), image)
