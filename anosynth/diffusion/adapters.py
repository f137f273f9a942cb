"""LoRA adapters: added to a U-Net, saved alone, loaded whole or not at all (Hu et al. 2021, LoRA)."""

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
from anosynth.seeding import seed_for, torch_generator

FORMAT = 1
NAME = "default"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
WEIGHTS_FILE = "adapter.safetensors"
FACTS_FILE = "adapter.json"
_DECODER = "decoder:"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A trained LoRA, apart from any U-Net: W = W_0 + (alpha / rank) B A for every attention projection.

    Attributes:
        rank, alpha: r and alpha.
        targets: names of the projections, in every self- and cross-attention layer.
        backbone: identity of the backbone it was trained on; it fits no other.
        tensors: float32 on the CPU, `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r].
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


def add_lora(unet: UNet2DConditionModel, *, rank: int, alpha: float, seed: int) -> dict[str, nn.Parameter]:
    """Put trainable low-rank matrices beside the q, k, v and output projections of every attention layer.

    A is uniform in +-1/sqrt(in), B is zero, so at first nothing changes. Base weights stay frozen. The new matrices are
    float32 whatever the base weights are.

    Args:
        unet: changed in place.
        rank: r.
        alpha: the update is scaled by alpha / r.
        seed: of A; each matrix has its own generator.

    Returns:
        The trainable parameters by name (`<layer>.lora_A.weight`, ...), in a fixed order.

    Raises:
        ValueError: if the U-Net already carries an adapter.
    """
    _inject(unet, rank=rank, alpha=alpha)
    parameters = lora_parameters(unet)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                parameter.zero_()
                continue
            generator = torch_generator(seed_for(seed, name))
            bound = parameter.shape[1] ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
    return parameters


def lora_parameters(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters, by the names they are saved under, sorted."""
    found = {
        name.replace(f".{NAME}.", "."): parameter for name, parameter in unet.named_parameters() if ".lora_" in name
    }
    return dict(sorted(found.items()))


def take_adapter(
    unet: UNet2DConditionModel, *, rank: int, alpha: float, backbone: str, facts: Mapping[str, object]
) -> Adapter:
    """Copy the adapter out of a U-Net."""
    tensors = {name: value.detach().float().cpu().clone() for name, value in lora_parameters(unet).items()}
    return Adapter(rank, alpha, TARGETS, backbone, tensors, dict(facts))


def load_adapter(unet: UNet2DConditionModel, adapter: Adapter, *, backbone: str) -> str:
    """Put an adapter into a U-Net, ready to be trained on or sampled with.

    Args:
        unet: changed in place; it carries no adapter yet.
        adapter: what to load.
        backbone: identity of the backbone that the U-Net belongs to.

    Returns:
        The adapter's digest.

    Raises:
        BackboneError: if the adapter belongs to another backbone, or a matrix is missing, unexpected or of wrong size.
        ValueError: if the U-Net already carries an adapter.
    """
    _check_fits(unet, adapter, backbone=backbone)
    _inject(unet, rank=adapter.rank, alpha=adapter.alpha)
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
    scale, kept = adapter.alpha / adapter.rank, {}
    try:
        with torch.no_grad():
            for layer in _target_layers(unet):
                weight = unet.get_parameter(f"{layer}.weight")
                kept[layer] = weight.detach().clone()
                down, up = (adapter.tensors[f"{layer}.lora_{side}.weight"].to(weight.device).double() for side in "AB")
                weight.copy_(weight.double() + scale * (up @ down))
        yield
    finally:
        with torch.no_grad():
            for layer, old in kept.items():
                unet.get_parameter(f"{layer}.weight").copy_(old)


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


def _inject(unet: UNet2DConditionModel, *, rank: int, alpha: float) -> None:
    if lora_parameters(unet):
        raise ValueError("the U-Net already carries an adapter; remove it first")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGETS))  # type: ignore[arg-type]
    # peft initializes from torch's global generator; that is left as it was, and every matrix is overwritten.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, unet, adapter_name=NAME)
    unet.requires_grad_(False)
    for parameter in lora_parameters(unet).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def _target_layers(unet: UNet2DConditionModel) -> list[str]:
    ending = re.compile(rf"(?:.*\.)?(?:{'|'.join(re.escape(target) for target in TARGETS)})")
    return [name for name, module in unet.named_modules() if isinstance(module, nn.Linear) and ending.fullmatch(name)]


def _check_fits(unet: UNet2DConditionModel, adapter: Adapter, *, backbone: str) -> None:
    if adapter.backbone != backbone:
        raise BackboneError(
            f"the adapter was trained on the backbone {adapter.backbone[:12]} and this one is {backbone[:12]}; "
            "train it again on this backbone, or set the backbone it was trained on"
        )
    if lora_parameters(unet):
        raise ValueError("the U-Net already carries an adapter; remove it first")
    wanted = {}
    for layer in _target_layers(unet):
        linear = unet.get_submodule(layer)
        assert isinstance(linear, nn.Linear)
        wanted[f"{layer}.lora_A.weight"] = [adapter.rank, linear.in_features]
        wanted[f"{layer}.lora_B.weight"] = [linear.out_features, adapter.rank]
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
