"""Two branches on one frozen U-Net: a LoRA for each, and an exchange after every attention layer (DualAnoDiff).

Jin et al., CVPR 2025, sections 3.1 and 3.2. Branch 0 draws the whole image, branch 1 the anomaly part; both are one
batch, branch-major: [all of branch 0 | all of branch 1], samples in the same order. Guidance stays inside a branch:
[whole without text, whole with text | part without text, part with text].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from anosynth.diffusion.attention import attend
from anosynth.diffusion.background import (
    PUBLISHED_HIDDEN,
    BackgroundFeatures,
    BackgroundMap,
    FoldedBackgroundMap,
    SeesBackground,
)
from anosynth.diffusion.interaction import NUM_BRANCHES, FoldedInteraction, Interaction
from anosynth.diffusion.text_lora import TextLoRA
from anosynth.errors import BackboneError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention, AttnProcessor
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from anosynth.diffusion.text import TextEncoder

PROJECTIONS = ("q", "k", "v", "out")


@dataclass(frozen=True)
class DualShape:
    """Size of a subject's dual adapter.

    Attributes:
        mode: "paper": the exchange has the layer's full width and starts at random (124 M parameters on SD 1.5).
            "default": a bottleneck of width `inner` with zero-initialised output.
        rank: of each branch's LoRA.
        alpha: LoRA scale is alpha / rank. The published code has none, which is alpha = rank.
        inner: bottleneck width of mode "default"; ignored by "paper".
        background: form of background compensation, or "off": no parameters, no background pass.
        text_rank: of the text encoder's one LoRA, scaled like the branches'; 0: none.
    """

    mode: Literal["paper", "default"]
    rank: int
    alpha: float
    inner: int
    background: Literal["off", "paper", "code"] = "off"
    text_rank: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.inner < 1 or self.alpha <= 0:
            raise ValueError(f"rank {self.rank}, inner {self.inner} and alpha {self.alpha} must be positive")
        if self.text_rank < 0:
            raise ValueError(f"text_rank is {self.text_rank}; it must be 0 (no LoRA of the text encoder) or more")

    @property
    def scale(self) -> float:
        """Factor of every low-rank update."""
        return self.alpha / self.rank


class BranchLoRA(nn.Module):
    """One low-rank update per branch of one frozen linear map: y_f = W x_f + scale * B_f A_f x_f.

    Both branches are one grouped matrix product, so the cost in launches is that of a single LoRA.
    A starts as N(0, 1/rank^2), B at zero (as in the published code).
    """

    def __init__(self, fan_in: int, fan_out: int, shape: DualShape, generator: torch.Generator) -> None:
        """Create the update for a map from `fan_in` to `fan_out` channels."""
        super().__init__()
        self.scale = shape.scale
        down = torch.randn(NUM_BRANCHES, shape.rank, fan_in, generator=generator) / shape.rank
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(NUM_BRANCHES, fan_out, shape.rank))

    def forward(self, features: Tensor, mapped: Tensor) -> Tensor:
        """Add the update.

        Args:
            features: input of the frozen map, [2 B, n, fan_in], branch-major.
            mapped: its output, [2 B, n, fan_out].
        """
        low = torch.bmm(_grouped(features), self.down.transpose(1, 2))
        total = torch.baddbmm(_grouped(mapped), low, self.up.transpose(1, 2), alpha=self.scale)
        return total.view_as(mapped)

    def whole(self, features: Tensor, mapped: Tensor) -> Tensor:
        """Add branch 0's update alone: `features` [B, n, fan_in] and `mapped` [B, n, fan_out] are all of branch 0."""
        return mapped + self.scale * (features @ self.down[0].T @ self.up[0].T)

    def merged(self, base: nn.Linear) -> Tensor:
        """W + scale * B_f A_f for both branches, [2, fan_out, fan_in], summed in float64 and cast last."""
        update = torch.bmm(self.up.double(), self.down.double()) * self.scale
        return (base.weight.double() + update).to(base.weight.dtype).detach()


class DualAttention(nn.Module):
    """What is trained beside one attention layer: four branch LoRAs, the exchange, and what reads the background.

    Attributes:
        background: only in self-attention layers, and None where background compensation is off.
    """

    lora: nn.ModuleDict
    interaction: Interaction
    background: BackgroundMap | None

    def __init__(self, attention: Attention, shape: DualShape, generator: torch.Generator) -> None:
        """Size the parts after the frozen layer `attention`."""
        super().__init__()
        width = _bases(attention)[-1][1].out_features
        self.lora = nn.ModuleDict(
            {
                name: BranchLoRA(base.in_features, base.out_features, shape, generator)
                for name, base in _bases(attention)
            }
        )
        paper = shape.mode == "paper"
        inner = width if paper else min(shape.inner, width)
        self.interaction = Interaction(width, inner, zero_output=not paper, generator=generator)
        if shape.background == "off" or attention.is_cross_attention:
            self.background = None
        else:
            hidden = PUBLISHED_HIDDEN if paper else inner
            zero_output = not paper and shape.background == "paper"
            self.background = BackgroundMap(
                width, hidden, shape.background, zero_output=zero_output, generator=generator
            )


class DualAdapter(nn.Module):
    """All trainable parts of one subject, by the names of the U-Net's attention layers.

    Attributes:
        text: the text encoder's LoRA, one for both branches' prompts, or None without one.
        decoder: weights of the subject's decoder, trained apart; none: the backbone's own.
    """

    text: TextLoRA | None
    decoder: Mapping[str, Tensor]

    def __init__(
        self,
        unet: UNet2DConditionModel,
        shape: DualShape,
        *,
        generator: torch.Generator,
        text: TextEncoder | None = None,
    ) -> None:
        """Create an adapter for the attention layers of `unet`; the networks themselves are only looked at.

        Args:
            unet: any U-Net in Stable Diffusion 1.x topology.
            shape: sizes.
            generator: CPU generator of the initial weights; the text encoder's come last.
            text: the backbone's text encoder; needed if it gets a LoRA, and ignored otherwise.

        Raises:
            BackboneError: if an attention layer is not a plain one.
            ValueError: if the text encoder gets a LoRA and is missing.
        """
        super().__init__()
        if shape.text_rank and text is None:
            raise ValueError(f"text_rank is {shape.text_rank} and no text encoder was given")
        self.shape = shape
        self.decoder = {}
        layers = attention_layers(unet)
        self.names = tuple(layers)
        self.parts = nn.ModuleList([DualAttention(layer, shape, generator) for layer in layers.values()])
        if shape.text_rank and text is not None:
            self.text = TextLoRA(text, rank=shape.text_rank, scale=shape.scale, generator=generator)
        else:
            self.text = None

    def by_name(self) -> dict[str, DualAttention]:
        """The parts by layer name, in the U-Net's order."""
        return {
            name: part for name, part in zip(self.names, self.parts, strict=True) if isinstance(part, DualAttention)
        }


def attention_layers(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """Return the U-Net's attention layers by name, self- and cross-attention alike, in their order.

    Raises:
        BackboneError: if there is none, or one has normalisation or residuals of its own (another topology).
    """
    from diffusers.models.attention_processor import Attention

    layers = {name: module for name, module in _modules(unet) if isinstance(module, Attention)}
    if not layers:
        raise BackboneError("the U-Net has no attention layers; a backbone in Stable Diffusion 1.x topology is needed")
    for name, layer in layers.items():
        own = (layer.group_norm, layer.spatial_norm, layer.norm_q, layer.norm_k, layer.norm_cross)
        if any(part is not None and part is not False for part in own) or layer.residual_connection:
            raise BackboneError(
                f"the U-Net's layer {name} is not a plain attention layer; "
                "dual branches need a backbone in Stable Diffusion 1.x topology"
            )
    return layers


def attach(unet: UNet2DConditionModel, adapter: DualAdapter) -> None:
    """Make the U-Net run two branches with `adapter`, in the form that can be trained.

    The batch must be branch-major afterwards. `detach` undoes it; the U-Net's weights are never changed.
    """
    shared = _shared(adapter)
    _install(unet, {name: TrainableProcessor(name, part, shared) for name, part in _fitting(unet, adapter).items()})


def attach_merged(unet: UNet2DConditionModel, adapter: DualAdapter) -> None:
    """Make the U-Net run two branches with `adapter`, merged and folded: the form that samples.

    Per layer the four LoRAs become stacked weights (one product for both branches, no extra cost), the exchange
    becomes `FoldedInteraction`, and keys and values of the prompts are computed once per set of prompts.
    Later changes of `adapter` are not followed.
    """
    layers = attention_layers(unet)
    parts = _fitting(unet, adapter)
    shared = _shared(adapter)
    _install(unet, {name: MergedProcessor(name, layers[name], part, shared) for name, part in parts.items()})


def detach(unet: UNet2DConditionModel) -> None:
    """Give the U-Net its own attention back."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    _install(unet, {name: AttnProcessor2_0() for name in attention_layers(unet)})


def draws_pairs(unet: UNet2DConditionModel) -> bool:
    """True between `attach_merged` and `detach`."""
    return any(isinstance(layer.processor, MergedProcessor) for layer in attention_layers(unet).values())


class TrainableProcessor(SeesBackground):
    """Attention of both branches with loose LoRAs and the unfolded exchange; gradients flow to the adapter."""

    def __init__(self, name: str, part: DualAttention, shared: BackgroundFeatures | None) -> None:
        super().__init__(name, part.background, shared)
        self.part = part

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Diffusers' attention hook: [2 B, n, c] -> [2 B, n, c], in a background pass [B, n, c] -> [B, n, c]."""
        bases, alone = dict(_bases(attn)), self.in_background_pass

        def mapped(name: str, features: Tensor) -> Tensor:
            lora = cast(BranchLoRA, self.part.lora[name])
            return (lora.whole if alone else lora)(features, bases[name](features))

        context = self.compensated(hidden_states) if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = mapped("q", hidden_states), mapped("k", context), mapped("v", context)
        out = mapped("out", attend(attn, q, k, v, attention_mask))
        if alone:
            self.leave(before=hidden_states, after=out)
            return out
        exchanged: Tensor = self.part.interaction(out)
        return exchanged


class MergedProcessor(SeesBackground):
    """Attention of both branches with stacked merged weights and the folded exchange; no gradients."""

    def __init__(self, name: str, attn: Attention, part: DualAttention, shared: BackgroundFeatures | None) -> None:
        weights = {name: cast(BranchLoRA, part.lora[name]).merged(base) for name, base in _bases(attn)}
        biases = {name: base.bias for name, base in _bases(attn)}
        if any(biases[name] is not None for name in ("q", "k", "v")):
            raise BackboneError("the U-Net's q, k, v maps have biases; a Stable Diffusion 1.x topology has none")
        dtype = weights["out"].dtype
        reads = None if part.background is None else FoldedBackgroundMap(part.background, dtype=dtype)
        super().__init__(name, reads, shared)
        self.is_cross = attn.is_cross_attention
        apart = self.is_cross or reads is not None  # keys and values are made of something else than queries
        first, rest = (["q"], ["k", "v"]) if apart else (["q", "k", "v"], [])
        self.from_hidden = torch.cat([weights[name] for name in first], dim=1).transpose(1, 2).contiguous()
        self.from_context = (
            torch.cat([weights[name] for name in rest], dim=1).transpose(1, 2).contiguous() if rest else None
        )
        self.to_out = weights["out"].transpose(1, 2).contiguous()
        self.out_bias = biases["out"]
        self.interaction = FoldedInteraction(part.interaction).to(dtype)
        self._contexts: dict[int, tuple[Tensor, int, tuple[Tensor, ...]]] = {}

    @torch.no_grad()
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Diffusers' attention hook: [2 B, n, c] -> [2 B, n, c], in a background pass [B, n, c] -> [B, n, c]."""
        branches = 1 if self.in_background_pass else NUM_BRANCHES
        if self.from_context is None:
            q, k, v = _product(hidden_states, self.from_hidden[:branches], parts=3)
        else:
            (q,) = _product(hidden_states, self.from_hidden[:branches], parts=1)
            if self.is_cross and encoder_hidden_states is not None:
                k, v = self._keys_and_values(encoder_hidden_states, branches)
            else:
                k, v = _product(self.compensated(hidden_states), self.from_context[:branches], parts=2)
        mixed = attend(attn, q, k, v, attention_mask)
        (out,) = _product(mixed, self.to_out[:branches], parts=1)
        out = out if self.out_bias is None else out + self.out_bias
        if self.in_background_pass:
            self.leave(before=hidden_states, after=out)
            return out
        exchanged: Tensor = self.interaction(out)
        return exchanged

    def _keys_and_values(self, context: Tensor, branches: int) -> tuple[Tensor, ...]:
        """Keys and values of the prompts: computed once for as long as the very same tensor comes in."""
        kept = self._contexts.get(branches)
        if kept is None or kept[0] is not context or kept[1] != _version(context):
            assert self.from_context is not None
            kept = (context, _version(context), _product(context, self.from_context[:branches], parts=2))
            self._contexts[branches] = kept
        return kept[2]


def _shared(adapter: DualAdapter) -> BackgroundFeatures | None:
    return None if adapter.shape.background == "off" else BackgroundFeatures()


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _grouped(features: Tensor) -> Tensor:
    """[2 B, n, c] -> [2, B n, c], a view when branch-major and contiguous."""
    return features.reshape(NUM_BRANCHES, -1, features.shape[-1])


def _product(features: Tensor, weights: Tensor, *, parts: int) -> tuple[Tensor, ...]:
    """[F B, n, a] by the weights of F branches [F, a, parts * b] -> `parts` tensors [F B, n, b]."""
    grouped = features.reshape(len(weights), -1, features.shape[-1])
    out = torch.bmm(grouped, weights).view(*features.shape[:-1], weights.shape[-1])
    return out.chunk(parts, dim=-1)


def _bases(attention: Attention) -> list[tuple[str, nn.Linear]]:
    maps = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    return [(name, cast(nn.Linear, base)) for name, base in zip(PROJECTIONS, maps, strict=True)]


def _modules(unet: UNet2DConditionModel) -> Iterator[tuple[str, nn.Module]]:
    return cast(nn.Module, unet).named_modules()


def _fitting(unet: UNet2DConditionModel, adapter: DualAdapter) -> dict[str, DualAttention]:
    layers, parts = attention_layers(unet), adapter.by_name()
    if list(layers) != list(parts):
        strange = sorted(set(layers) ^ set(parts))
        raise BackboneError(
            f"the adapter was made for a U-Net with other attention layers ({len(parts)} against {len(layers)}, "
            f"for example {strange[0] if strange else next(iter(layers))}); personalize it again on this backbone"
        )
    return parts


def _install(unet: UNet2DConditionModel, processors: Mapping[str, Callable[..., Tensor]]) -> None:
    for name, layer in attention_layers(unet).items():
        layer.set_processor(cast("AttnProcessor", processors[name]))


def num_parameters(adapter: DualAdapter) -> int:
    """Trainable numbers of an adapter; times two is its size in half precision, in bytes."""
    return sum(math.prod(parameter.shape) for parameter in adapter.parameters())
