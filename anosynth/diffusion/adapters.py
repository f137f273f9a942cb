"""Adapters: what training changed in a U-Net, saved alone, put in whole or not at all.

Most are LoRAs (Hu et al. 2021). A convolution's update is then of low rank as a matrix [out, in * k * k]: A is a
convolution of its shape to r channels, B a 1x1 convolution from there. Where the whole U-Net was trained, an adapter
holds the difference of every parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from anosynth.errors import BackboneError
from anosynth.fingerprint import canonical_json, digest_bytes, digest_value
from anosynth.params import TargetLayers
from anosynth.seeding import seed_for, torch_generator

FORMAT = 1
NAME = "default"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
BLOCKS = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut")
EVERYTHING = ("*",)
TARGETS: Mapping[TargetLayers, tuple[str, ...]] = {"attention": ATTENTION, "blocks": BLOCKS, "unet": EVERYTHING}
"""By what a user asks for, how the names of the adapted layers end."""
WEIGHTS_FILE = "adapter.safetensors"
FACTS_FILE = "adapter.json"
_DECODER = "decoder:"
_DELTA = ".delta"


@dataclass(frozen=True, eq=False)
class Adapter:
    """What training changed, apart from any U-Net: W = W_0 + (alpha / rank) B A for every adapted layer, or W_0 + D.

    Attributes:
        rank, alpha: r and alpha; 0 where every parameter has a difference of its own.
        targets: how the names of the adapted layers end, such as "to_q" in every self- and cross-attention layer;
            `EVERYTHING`: all parameters.
        backbone: identity of the backbone it was trained on; it fits no other.
        tensors: float32 on the CPU, `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r]; of a
            convolution [r, in, k, k] and [out, r, 1, 1]. Of everything: `<parameter>.delta`, float16, D.
        facts: how it was trained, JSON values; not part of the digest.
        decoder: weights of the subject's decoder, float16 on the CPU, by their names in it; none: the backbone's own.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    backbone: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object] = field(default_factory=dict)
    decoder: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Content digest of everything that acts on an image."""
        every = {**self.tensors, **decoder_named(self.decoder)}
        weights = {name: [list(value.shape), digest_bytes(_raw(value))] for name, value in every.items()}
        return digest_value({**_head(self), "weights": weights})


def decoder_named(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A decoder's weights under the names that an adapter's file keeps them by."""
    return {f"{_DECODER}{name}": value for name, value in weights.items()}


def without_decoder(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of an adapter's file, sorted: the adapter's own, and those of its decoder by their names in it."""
    own = {name: value for name, value in sorted(tensors.items()) if not name.startswith(_DECODER)}
    decoder = {name.removeprefix(_DECODER): value for name, value in sorted(tensors.items()) if name not in own}
    return own, decoder


def add_lora(
    unet: UNet2DConditionModel, *, rank: int, alpha: float, seed: int, targets: tuple[str, ...] = ATTENTION
) -> dict[str, nn.Parameter]:
    """Put trainable low-rank matrices beside layers, by default the q, k, v and output projections of all attention.

    A is uniform in +-1/sqrt(inputs of a unit), B is zero, so at first nothing changes. Base weights stay frozen. The
    new matrices are float32 whatever the base weights are.

    Args:
        unet: changed in place.
        rank: r.
        alpha: the update is scaled by alpha / r.
        seed: of A; each matrix has its own generator.
        targets: how the names of the adapted layers end.

    Returns:
        The trainable parameters by name (`<layer>.lora_A.weight`, ...), in a fixed order.

    Raises:
        ValueError: if the U-Net already carries an adapter.
    """
    _inject(unet, rank=rank, alpha=alpha, targets=targets)
    parameters = lora_parameters(unet)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                parameter.zero_()
                continue
            generator = torch_generator(seed_for(seed, name))
            bound = parameter[0].numel() ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
    return parameters


def lora_parameters(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters, by the names they are saved under, sorted."""
    found = {
        name.replace(f".{NAME}.", "."): parameter for name, parameter in unet.named_parameters() if ".lora_" in name
    }
    return dict(sorted(found.items()))


def take_adapter(
    unet: UNet2DConditionModel,
    *,
    rank: int,
    alpha: float,
    backbone: str,
    facts: Mapping[str, object],
    targets: tuple[str, ...] = ATTENTION,
) -> Adapter:
    """Copy the adapter out of a U-Net; rank, alpha and targets are those it was added with."""
    tensors = {name: value.detach().float().cpu().clone() for name, value in lora_parameters(unet).items()}
    return Adapter(rank, alpha, targets, backbone, tensors, dict(facts))


@contextmanager
def all_trainable(unet: UNet2DConditionModel) -> Iterator[tuple[dict[str, nn.Parameter], dict[str, Tensor]]]:
    """Train every parameter of a U-Net, in float32; at the end it is as it was, bit for bit.

    Yields:
        (the trainable parameters, what they were before), both by name.

    Raises:
        ValueError: if the U-Net carries an adapter.
    """
    if lora_parameters(unet):
        raise ValueError("the U-Net carries an adapter; remove it first")
    old = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    asked = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    try:
        for parameter in unet.parameters():
            parameter.data = parameter.data.float().clone()
            parameter.requires_grad_(True)
        yield dict(unet.named_parameters()), old
    finally:
        for name, parameter in unet.named_parameters():
            parameter.data = old[name]
            parameter.requires_grad_(asked[name])


def take_difference(
    unet: UNet2DConditionModel, before: Mapping[str, Tensor], *, backbone: str, facts: Mapping[str, object]
) -> Adapter:
    """The difference D of every parameter to what it was: formed in float64, rounded once, to float16.

    Args:
        unet: after training.
        before: its parameters before, by name.
        backbone: identity of the backbone as it was before.
        facts: how it was trained.

    Returns:
        An adapter with D, on the CPU, of rank and alpha 0 and the targets `EVERYTHING`.
    """
    tensors = {
        f"{name}{_DELTA}": (value.detach().double() - before[name].double()).half().cpu().contiguous()
        for name, value in sorted(unet.named_parameters())
    }
    return Adapter(0, 0.0, EVERYTHING, backbone, tensors, dict(facts))


def load_adapter(unet: UNet2DConditionModel, adapter: Adapter, *, backbone: str) -> str:
    """Put a LoRA into a U-Net, ready to be trained on or sampled with.

    Args:
        unet: changed in place; it carries no adapter yet.
        adapter: what to load; no difference of everything.
        backbone: identity of the backbone that the U-Net belongs to.

    Returns:
        The adapter's digest.

    Raises:
        BackboneError: if the adapter belongs to another backbone, or a matrix is missing, unexpected or of wrong size.
        ValueError: if the U-Net already carries an adapter.
    """
    _check_fits(unet, adapter, backbone=backbone)
    _inject(unet, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets)
    with torch.no_grad():
        for name, parameter in lora_parameters(unet).items():
            parameter.copy_(adapter.tensors[name])
    return adapter.digest


def remove_lora(unet: UNet2DConditionModel) -> None:
    """Take the adapter's layers out again; the U-Net is as it was before `add_lora` or `load_adapter`."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, LoraLayer):
            unet.set_submodule(name, module.get_base_layer())
    if hasattr(unet, "peft_config"):
        del unet.peft_config


@contextmanager
def merged(unet: UNet2DConditionModel, adapter: Adapter, *, backbone: str) -> Iterator[None]:
    """Sample with an adapter at no cost per step: its update is added to the base weights, and taken back at the end.

    The sum is formed in float64 and rounded once. At the end the old weights are put back, bit for bit.

    Args:
        unet: a U-Net without adapter layers.
        adapter: what to add.
        backbone: identity of the backbone that the U-Net belongs to.

    Raises:
        BackboneError: as `load_adapter`.
    """
    _check_fits(unet, adapter, backbone=backbone)
    kept = {}
    try:
        with torch.no_grad():
            for name in _changed(unet, adapter.targets):
                parameter = unet.get_parameter(name)
                kept[name] = parameter.detach().clone()
                parameter.copy_(parameter.double() + _update(adapter, name, like=parameter))
        yield
    finally:
        with torch.no_grad():
            for name, old in kept.items():
                unet.get_parameter(name).copy_(old)


def adapter_to_bytes(adapter: Adapter) -> bytes:
    """One safetensors file with everything in it; equal adapters give equal bytes."""
    text = canonical_json({**_head(adapter), "facts": dict(adapter.facts)}).decode()
    every = {**adapter.tensors, **decoder_named(adapter.decoder)}
    return tensors_to_bytes(every, metadata={"anosynth": text})


def adapter_from_bytes(data: bytes, *, name: str) -> Adapter:
    """Read `adapter_to_bytes`.

    Raises:
        BackboneError: naming `name`, if the bytes are damaged, no adapter of ours, or of another format version.
    """
    try:
        tensors, decoder = without_decoder(tensors_from_bytes(data))
        length = int.from_bytes(data[:8], "little")
        head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["anosynth"])
        if head["format"] != FORMAT:
            raise BackboneError(f"{name} has adapter format {head['format']}; this version reads {FORMAT}")
        return Adapter(
            int(head["rank"]),
            float(head["alpha"]),
            tuple(head["targets"]),
            str(head["backbone"]),
            tensors,
            head["facts"],
            decoder,
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{name} is damaged or no adapter of this project ({error}); train it again") from error


def save_adapter(adapter: Adapter, folder: Path) -> str:
    """Write adapter.safetensors and, last, adapter.json (the same facts for people, with the digest).

    Returns:
        The digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = adapter.digest
    facts = {**_head(adapter), "facts": dict(adapter.facts), "digest": digest}
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    for name, data in ((WEIGHTS_FILE, adapter_to_bytes(adapter)), (FACTS_FILE, text.encode())):
        temporary = folder / f".{name}.part"
        temporary.write_bytes(data)
        temporary.replace(folder / name)
    return digest


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder and check it against the digest in its adapter.json.

    Raises:
        BackboneError: if a file is missing or damaged, or the digest differs.
    """
    weights, facts = folder / WEIGHTS_FILE, folder / FACTS_FILE
    try:
        adapter = adapter_from_bytes(weights.read_bytes(), name=str(weights))
        promised = json.loads(facts.read_text(encoding="utf-8"))["digest"]
    except FileNotFoundError as error:
        raise BackboneError(f"{error.filename} is missing; run the stage that trains the adapter") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{facts} is damaged ({error}); train the adapter again") from error
    if adapter.digest != promised:
        raise BackboneError(f"{weights} does not have the digest that {facts.name} promises; train the adapter again")
    return adapter


def _head(adapter: Adapter) -> dict[str, object]:
    return {
        "format": FORMAT,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "targets": list(adapter.targets),
        "backbone": adapter.backbone,
    }


def _raw(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def _inject(unet: UNet2DConditionModel, *, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    if lora_parameters(unet):
        raise ValueError("the U-Net already carries an adapter; remove it first")
    # peft's hint asks for a whole alpha; it divides by the rank and takes any number.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))  # type: ignore[arg-type]
    # peft initializes from torch's global generator; that is left as it was, and every matrix is overwritten.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, unet, adapter_name=NAME)
    unet.requires_grad_(False)
    for parameter in lora_parameters(unet).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def _changed(unet: UNet2DConditionModel, targets: tuple[str, ...]) -> list[str]:
    """Names of the parameters that an adapter changes."""
    if targets == EVERYTHING:
        return [name for name, _ in unet.named_parameters()]
    return [f"{layer}.weight" for layer in _target_layers(unet, targets)]


def _update(adapter: Adapter, name: str, *, like: Tensor) -> Tensor:
    """What is added to a parameter, float64."""
    if adapter.targets == EVERYTHING:
        return adapter.tensors[f"{name}{_DELTA}"].to(like.device).double()
    layer = name.removesuffix(".weight")
    down, up = (adapter.tensors[f"{layer}.lora_{side}.weight"].to(like.device).double() for side in "AB")
    return (adapter.alpha / adapter.rank) * (up.flatten(1) @ down.flatten(1)).reshape(like.shape)


def _target_layers(unet: UNet2DConditionModel, targets: tuple[str, ...]) -> list[str]:
    ending = re.compile(rf"(?:.*\.)?(?:{'|'.join(re.escape(target) for target in targets)})")
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, module in unet.named_modules() if isinstance(module, kinds) and ending.fullmatch(name)]


def _check_fits(unet: UNet2DConditionModel, adapter: Adapter, *, backbone: str) -> None:
    if adapter.backbone != backbone:
        raise BackboneError(
            f"the adapter was trained on the backbone {adapter.backbone[:12]} and this one is {backbone[:12]}; "
            "train it again on this backbone, or set the backbone it was trained on"
        )
    if lora_parameters(unet):
        raise ValueError("the U-Net already carries an adapter; remove it first")
    wanted = {}
    for name in _changed(unet, adapter.targets):
        out, *inputs = unet.get_parameter(name).shape
        if adapter.targets == EVERYTHING:
            wanted[f"{name}{_DELTA}"] = [out, *inputs]
            continue
        layer = name.removesuffix(".weight")
        wanted[f"{layer}.lora_A.weight"] = [adapter.rank, *inputs]
        wanted[f"{layer}.lora_B.weight"] = [out, adapter.rank, *(1 for _ in inputs[1:])]
    found = {name: list(value.shape) for name, value in adapter.tensors.items()}
    for what, names in (
        ("lacks", sorted(wanted.keys() - found.keys())),
        ("has an unexpected", sorted(found.keys() - wanted.keys())),
        ("has the wrong size of", sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])),
    ):
        if names:
            raise BackboneError(
                f"the adapter {what} {names[0]} (and {len(names) - 1} more); it does not fit this U-Net"
            )
