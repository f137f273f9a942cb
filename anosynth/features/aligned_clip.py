"""Any vision transformer of open_clip as aligned encoders (Radford et al. 2021, "CLIP"): the papers' encoder."""

from __future__ import annotations

import difflib
import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import open_clip
import torch
from huggingface_hub.errors import HFValidationError
from open_clip.convert import convert_state_dict
from open_clip.factory import load_state_dict
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from anosynth.errors import BackboneError, ParamsError
from anosynth.features.lite import MICRO_BATCH
from anosynth.fingerprint import digest_file, digest_value
from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
QUICK_GELU = 1.702
_TEXT_BATCH = 64
_PROBE_TOLERANCE = 1e-3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OpenedClip:
    """A model with its weights, and what belongs to it.

    Attributes:
        name: of the model, for messages.
        model: open_clip's CLIP with a VisionTransformer.
        tokenize: sentences -> int64 [P, L], zero behind the end.
        mean, std: of each colour, in [0, 1], that the input is scaled by.
        quick_gelu: what the model's configuration says of its activation.
        weights_digest: of the checkpoint.
    """

    name: str
    model: open_clip.CLIP
    tokenize: Callable[[list[str]], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    quick_gelu: bool
    weights_digest: str


def open_clip_model(name: str, *, checkpoint: str) -> OpenedClip:
    """Open a model of open_clip by its name.

    open_clip itself would fit a checkpoint of another image size silently by resizing its positions; here every weight
    must have the size that the name says, because a wrong name is the likelier cause.

    Args:
        name: as in `open_clip.list_models()`, for example "ViT-L-14-336-quickgelu".
        checkpoint: a file (safetensors, or a state dict of torch, read without code), or a tag of
            `open_clip.list_pretrained()`, which is downloaded.

    Raises:
        ParamsError: if the name is unknown or its image encoder is no vision transformer, or the tag is unknown.
        BackboneError: if the checkpoint cannot be fetched or read, or is of another model.
    """
    known = open_clip.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise ParamsError(f"aligned.model: open_clip knows no model {name!r}; close names are {', '.join(close)}")
    config = open_clip.get_model_config(name)
    foreign = {"timm_model_name", "hf_model_name"} & {*config["vision_cfg"], *config["text_cfg"]}
    if foreign or config.get("custom_text") or "multimodal_cfg" in config:
        raise ParamsError(f"aligned.model: {name} is not made of CLIP's own transformers, which patches are read from")
    pretrained = open_clip.get_pretrained_cfg(name, checkpoint) or {}
    quick_gelu = bool(config.get("quick_gelu", False))
    if pretrained and bool(pretrained.get("quick_gelu", False)) != quick_gelu:
        other = _other_activation(name, quick_gelu=quick_gelu)
        raise ParamsError(f"aligned.model: the weights {checkpoint!r} were trained with the activation of {other}")
    path = _checkpoint_path(name, checkpoint, pretrained)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn from the global generator, and then replaced
        model = open_clip.CLIP(**config)
    _load_weights(model, path, name=name)
    if not pretrained:
        _say_activation(name, path, quick_gelu=quick_gelu)
    return OpenedClip(
        name=name,
        model=model,
        tokenize=open_clip.get_tokenizer(name),
        mean=tuple(pretrained.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(pretrained.get("std") or open_clip.OPENAI_DATASET_STD),
        quick_gelu=quick_gelu,
        weights_digest=digest_file(path),
    )


class ClipAligned:
    """Patch tokens of a CLIP at several depths, and its text encoder; satisfies `aligned.AlignedFeatures`.

    Level l of n is what stands behind block round((l + 1) N / n) of N: 6, 12, 18, 24 of ViT-L's 24 with n = 4 (APRIL-
    GAN's choice), without the class token. Images are squashed to a square; the learned positions are interpolated
    bicubically to its grid, and pixels beyond whole patches are cut (240 px at patch 14 are 17 x 17 patches).

    Three things that differ between versions of open_clip and its models are measured on a probe instead of taken for
    granted: on which axis the batch lies inside the transformer, that the class token of the last block, normalized and
    projected, is what the model itself answers, and the activation.
    """

    def __init__(self, opened: OpenedClip, *, size_px: int, num_levels: int, device: str = "cpu") -> None:
        """Interpolate the positions and probe the model.

        Args:
            opened: the model; its positions are replaced.
            size_px: side of the input, at least one patch.
            num_levels: n, at most the number of blocks.
            device: torch device.

        Raises:
            ParamsError: if `size_px` or `num_levels` do not fit the model.
            BackboneError: if the model does not compute what this class reads from it.
        """
        visual = opened.model.visual
        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
            raise ParamsError(f"aligned.model: {opened.name} has no class token behind a plain vision transformer")
        blocks, side = visual.transformer.resblocks, visual.patch_size[0]
        if size_px < side:
            raise ParamsError(f"aligned.size_px is {size_px}; {opened.name} needs one patch of {side} px at least")
        if not 1 <= num_levels <= len(blocks):
            raise ParamsError(f"aligned.levels is {num_levels}; {opened.name} has {len(blocks)} blocks")
        self._name, self._tokenize = opened.name, opened.tokenize
        self._device = torch.device(device)
        self._model = opened.model.float().eval().requires_grad_(False).to(self._device)
        self._visual = visual
        self._size_px, self._grid = size_px, size_px // side
        self._depths = [round((level + 1) * len(blocks) / num_levels) - 1 for level in range(num_levels)]
        positions = interpolate_positions(visual.positional_embedding.detach(), grid=self._grid)
        visual.positional_embedding = nn.Parameter(positions, requires_grad=False)
        self._mean = torch.tensor(opened.mean, device=self._device)[:, None, None]
        self._std = torch.tensor(opened.std, device=self._device)[:, None, None]
        self._batch_axis = self._probe(quick_gelu=opened.quick_gelu)
        self._identity = digest_value(
            {
                "kind": "aligned-clip",
                "model": opened.name,
                "weights": opened.weights_digest,
                "mean": list(opened.mean),
                "std": list(opened.std),
                "quick_gelu": opened.quick_gelu,
                "size_px": size_px,
                "depths": self._depths,
                "algorithm": ALGORITHM,
            }
        )

    @property
    def identity(self) -> str:
        """Digest of the checkpoint, the model's name, input scale, size, depths and this module's revision."""
        return self._identity

    @property
    def levels(self) -> int:
        """How many depths."""
        return len(self._depths)

    @property
    def text_levels(self) -> tuple[int, ...]:
        """The last alone: CLIP's own projection belongs to what stands behind its last block."""
        return (self.levels - 1,)

    @property
    def local_levels(self) -> tuple[int, ...]:
        """All but the last, if there are others."""
        return tuple(range(max(1, self.levels - 1)))

    @property
    def temperature(self) -> float:
        """The logit scale that the model learned, 100 for CLIP's."""
        return float(self._model.logit_scale.detach().exp())

    def patch_levels(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        """See `aligned.AlignedFeatures.patch_levels`."""
        parts: list[list[NDArray[np.float32]]] = []
        for pixels in self._batches(images):
            with torch.inference_mode():
                tokens = [functional.normalize(level[:, 1:], dim=-1) for level in self._tokens(pixels)[0]]
                shape = (len(pixels), self._grid, self._grid, -1)
                parts.append([level.reshape(shape).cpu().numpy() for level in tokens])
        return tuple(np.concatenate(level) for level in zip(*parts, strict=True))

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.project`: the final LayerNorm and CLIP's own projection.

        LayerNorm forgets a row's length up to its epsilon; rows get the length of a row with deviation 1 back, beside
        which the epsilon is nothing.
        """
        if level not in self.text_levels:
            raise ValueError(f"level {level} is not aligned with text; text_levels are {self.text_levels}")
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device) * patches.shape[-1] ** 0.5
            projected: NDArray[np.float32] = (
                functional.normalize(self._visual.ln_post(x) @ self._visual.proj, dim=-1).cpu().numpy()
            )
            return projected

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_images`: the projected class token."""
        with torch.inference_mode():
            parts = [self._model.encode_image(pixels, normalize=True) for pixels in self._batches(images)]
            return np.concatenate([part.cpu().numpy() for part in parts])

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_text`."""
        rows = []
        for start in range(0, len(prompts), _TEXT_BATCH):
            part = list(prompts[start : start + _TEXT_BATCH])
            tokens = self._tokenize(part)
            for prompt, count in zip(part, (tokens != 0).sum(dim=1).tolist(), strict=True):
                if count <= 2:  # start and end alone
                    raise BackboneError(f"{self._name}: the prompt {prompt!r} holds nothing that its tokenizer knows")
            with torch.inference_mode():
                rows.append(self._model.encode_text(tokens.to(self._device), normalize=True).cpu().numpy())
        return np.concatenate(rows)

    def _batches(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        if not images:
            raise ValueError("no images to describe")
        step = MICRO_BATCH[self._device.type]
        return [self._pixels(images[start : start + step]) for start in range(0, len(images), step)]

    def _pixels(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        size = (self._size_px, self._size_px)
        stacked = torch.from_numpy(np.stack([resize_image(image, size_px=size) for image in images]))
        return (stacked.to(self._device).permute(0, 3, 1, 2).float() / 255.0 - self._mean) / self._std

    def _tokens(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens [B, 1 + gh gw, D] behind every chosen block, and the image features [B, E] of the same pass."""
        raw, features = self._run(pixels)
        return [tokens.transpose(0, 1) if self._batch_axis else tokens for tokens in raw], features

    def _run(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """What hooks find behind the chosen blocks, in the transformer's own layout."""
        found: dict[int, Tensor] = {}

        def keep(depth: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
                found[depth] = output

            return hook

        blocks = self._visual.transformer.resblocks
        hooks = [blocks[depth].register_forward_hook(keep(depth)) for depth in self._depths]
        try:
            features = self._model.encode_image(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return [found[depth] for depth in self._depths], features

    def _probe(self, *, quick_gelu: bool) -> int:
        """Return the axis of the batch inside the transformer (0 or 1), after checking what this class relies on."""
        num_tokens = self._grid**2 + 1
        probe = torch.linspace(-2.0, 2.0, 3 * 3 * self._size_px**2, device=self._device).sin()
        probe = probe.reshape(3, 3, self._size_px, self._size_px)
        batch = 2 if num_tokens == 3 else 3  # another number than that of the tokens, so that shapes cannot lie
        with torch.inference_mode():
            raw, expected = self._run(probe[:batch])
            last = raw[-1]
            axis = 0 if tuple(last.shape[:2]) == (batch, num_tokens) else 1
            if last.shape[1 - axis] != num_tokens or last.shape[axis] != batch:
                raise BackboneError(
                    f"{self._name}: a block gives {list(last.shape)} for {batch} images of {num_tokens} tokens; "
                    "this version of open_clip lays tokens out in another way"
                )
            class_token = last[:, 0] if axis == 0 else last[0]
            found = self._visual.ln_post(class_token) @ self._visual.proj
            error = float((found - expected).abs().max() / expected.abs().max())
            if error > _PROBE_TOLERANCE:
                raise BackboneError(
                    f"{self._name}: the projected class token is not the model's answer (off by {error:.2g} of it); "
                    "this version of open_clip computes it in another way"
                )
            x = torch.linspace(-3.0, 3.0, 25, device=self._device)
            wanted = x * torch.sigmoid(QUICK_GELU * x) if quick_gelu else functional.gelu(x)
            for tower in (self._visual.transformer, self._model.transformer):
                if float((tower.resblocks[0].mlp.gelu(x) - wanted).abs().max()) > _PROBE_TOLERANCE:
                    raise BackboneError(f"{self._name}: its activation is not {_activation(quick_gelu)}, as it should")
        return axis


def interpolate_positions(positions: Tensor, *, grid: int) -> Tensor:
    """Resize learned positions to another grid, bicubically, as open_clip does when it loads a checkpoint.

    Args:
        positions: [1 + side * side, D], the class token's first.
        grid: patches per side wanted.

    Returns:
        [1 + grid * grid, D]; the same values if the grid is the same.
    """
    side = round((len(positions) - 1) ** 0.5)
    if side == grid:
        return positions
    maps = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(maps, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], resized[0].permute(1, 2, 0).reshape(grid * grid, -1)])


def _checkpoint_path(name: str, checkpoint: str, pretrained: dict[str, object]) -> Path:
    path = Path(checkpoint)
    if path.is_file():
        return path
    if not pretrained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ParamsError(
            f"aligned.checkpoint: {checkpoint!r} is neither a file nor weights that open_clip has for {name} ({tags})"
        )
    try:
        return Path(open_clip.download_pretrained(pretrained))
    except (OSError, HFValidationError, ValueError, RuntimeError) as error:
        raise BackboneError(
            f"aligned.checkpoint: the weights {checkpoint!r} of {name} cannot be fetched here "
            f"({type(error).__name__}); give the path of a downloaded file"
        ) from error


def _load_weights(model: open_clip.CLIP, path: Path, *, name: str) -> None:
    try:
        weights = convert_state_dict(model, load_state_dict(str(path), weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError, StopIteration) as error:
        raise BackboneError(
            f"{path} is no safetensors file or state dict that can be read without running code "
            f"({type(error).__name__}); convert it, or use the file of an open_clip tag"
        ) from error
    wanted = model.state_dict()
    weights = {key: value for key, value in weights.items() if key in wanted or not key.endswith("attn_mask")}
    for key in sorted({*weights, *wanted}):
        if key not in weights or key not in wanted:
            side = "lacks" if key not in weights else "holds"
            raise BackboneError(f"{path} does not fit the model {name}: it {side} {key}; give the name it belongs to")
        shapes = [tuple(one[key].shape) for one in (weights, wanted)]
        if shapes[0] != shapes[1] and {shapes[0], shapes[1]} != {(), (1,)}:  # a scale may be a scalar or one number
            raise BackboneError(
                f"{path} does not fit the model {name}: {key} has shape {list(weights[key].shape)}, the model needs "
                f"{list(wanted[key].shape)}; give the name it belongs to"
            )
    model.load_state_dict({key: value.reshape(wanted[key].shape) for key, value in weights.items()})


def _say_activation(name: str, path: Path, *, quick_gelu: bool) -> None:
    """Log which activation a file's weights get; warn where open_clip lists weights of that size that need the other.

    The weights themselves do not tell: they fit both.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    others = [
        tag for tag in tags if bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)) != quick_gelu
    ]
    said = f"{name}: the file {path} does not say its activation; {_activation(quick_gelu)} is used"
    if others:
        _log.warning(
            "%s; if these are the weights of %s, set aligned.model to %s",
            said,
            " or ".join(others),
            _other_activation(name, quick_gelu=quick_gelu),
        )
    else:
        _log.info("%s", said)


def _other_activation(name: str, *, quick_gelu: bool) -> str:
    return name.removesuffix("-quickgelu") if quick_gelu else f"{name}-quickgelu"


def _activation(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"
