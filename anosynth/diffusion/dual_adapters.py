"""Dual adapters, saved alone: everything that a subject's two branches need beside the backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from anosynth.diffusion.adapters import FACTS_FILE, WEIGHTS_FILE, decoder_named, without_decoder
from anosynth.diffusion.dual import DualAdapter, DualShape, attention_layers
from anosynth.diffusion.text import TextEncoder
from anosynth.errors import BackboneError
from anosynth.fingerprint import canonical_json, digest_bytes, digest_value
from anosynth.seeding import torch_generator

FORMAT = 1
KIND = "dual"
_TEXT = "text:"


@dataclass(frozen=True, eq=False)
class SavedDual:
    """A trained dual adapter, apart from any U-Net.

    Attributes:
        shape: sizes.
        backbone: identity of the backbone it was trained on; it fits no other.
        tensors: on the CPU, all float32 or all float16, by `<attention layer>:<part>` and, of the text encoder's LoRA,
            `text:<projection>.<part>`.
        terms: what drawing with it needs, JSON values (prompts, neutral colour, mask rule); part of the digest.
        facts: how it was trained, JSON values; not part of the digest.
        decoder: weights of the subject's decoder, float16 on the CPU, by their names in it; none: the backbone's own.
    """

    shape: DualShape
    backbone: str
    tensors: Mapping[str, Tensor]
    terms: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    decoder: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Content digest of everything that acts on an image."""
        weights = {
            name: [str(value.dtype), list(value.shape), digest_bytes(value.contiguous().numpy().tobytes())]
            for name, value in {**self.tensors, **decoder_named(self.decoder)}.items()
        }
        return digest_value({**_head(self), "weights": weights})


def take_dual(
    adapter: DualAdapter,
    *,
    backbone: str,
    half_precision: bool,
    terms: Mapping[str, object],
    facts: Mapping[str, object],
    decoder: Mapping[str, Tensor] | None = None,
) -> SavedDual:
    """Copy the weights out of an adapter.

    Args:
        adapter: trained.
        backbone: identity of the backbone it was trained on.
        half_precision: keep float16: half the size, weights rounded by less than one part in two thousand.
        terms: what drawing with it needs, JSON values.
        facts: how it was trained, JSON values.
        decoder: weights of the subject's decoder, if it has one.
    """
    dtype = torch.float16 if half_precision else torch.float32
    tensors = {name: value.detach().cpu().to(dtype).clone() for name, value in _named(adapter).items()}
    return SavedDual(adapter.shape, backbone, tensors, dict(terms), dict(facts), dict(decoder or {}))


def open_dual(
    unet: UNet2DConditionModel, saved: SavedDual, *, backbone: str, text: TextEncoder | None = None
) -> DualAdapter:
    """Make the adapter for a U-Net, ready for `dual.attach` or `dual.attach_merged`, float32 on the U-Net's device.

    Args:
        unet: only looked at.
        saved: what to load.
        backbone: identity of the backbone that the U-Net belongs to.
        text: its text encoder, only looked at; needed by an adapter with a LoRA of it.

    Raises:
        BackboneError: if the adapter belongs to another backbone, or does not fit the attention layers of this U-Net
            or text encoder.
        ValueError: if the text encoder is needed and missing.
    """
    if saved.backbone != backbone:
        raise BackboneError(
            f"the pair adapter was trained on the backbone {saved.backbone[:12]} and this one is {backbone[:12]}; "
            "run personalize_pairs again, or set the backbone it was trained on"
        )
    attention_layers(unet)
    adapter = DualAdapter(unet, saved.shape, generator=torch_generator(0), text=text)
    wanted = _named(adapter)
    strange = sorted(
        name
        for name in wanted.keys() | saved.tensors.keys()
        if name not in wanted or name not in saved.tensors or wanted[name].shape != saved.tensors[name].shape
    )
    if strange:
        network = "text encoder" if strange[0].startswith(_TEXT) else "U-Net"
        raise BackboneError(
            f"the pair adapter does not fit this {network}: {strange[0]} is missing, unexpected or of another size "
            f"(and {len(strange) - 1} more are); run personalize_pairs again on this backbone"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved.tensors[name])
    adapter.decoder = saved.decoder
    return adapter.to(unet.device)


def dual_to_bytes(saved: SavedDual) -> bytes:
    """One safetensors file with everything in it; equal adapters give equal bytes."""
    text = canonical_json({**_head(saved), "facts": dict(saved.facts)}).decode()
    return tensors_to_bytes({**saved.tensors, **decoder_named(saved.decoder)}, metadata={"anosynth": text})


def dual_from_bytes(data: bytes, *, name: str) -> SavedDual:
    """Read `dual_to_bytes`.

    Raises:
        BackboneError: naming `name`, if the bytes are damaged, no pair adapter, or of another format version.
    """
    try:
        tensors, decoder = without_decoder(tensors_from_bytes(data))
        length = int.from_bytes(data[:8], "little")
        head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["anosynth"])
        if head["kind"] != KIND:
            raise BackboneError(f"{name} is an adapter of kind {head['kind']!r}, not of pairs")
        if head["format"] != FORMAT:
            raise BackboneError(f"{name} has pair adapter format {head['format']}; this version reads {FORMAT}")
        return SavedDual(
            DualShape(**head["shape"]),
            str(head["backbone"]),
            tensors,
            head["terms"],
            head["facts"],
            decoder,
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{name} is damaged or no pair adapter ({error}); train it again") from error


def save_dual(saved: SavedDual, folder: Path) -> str:
    """Write adapter.safetensors and, last, adapter.json (the same facts for people, with the digest).

    Returns:
        The digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = saved.digest
    facts = {**_head(saved), "facts": dict(saved.facts), "digest": digest}
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    for name, data in ((WEIGHTS_FILE, dual_to_bytes(saved)), (FACTS_FILE, text.encode())):
        temporary = folder / f".{name}.part"
        temporary.write_bytes(data)
        temporary.replace(folder / name)
    return digest


def read_dual(folder: Path) -> SavedDual:
    """Read an adapter folder and check it against the digest in its adapter.json.

    Raises:
        BackboneError: if a file is missing or damaged, or the digest differs.
    """
    weights, facts = folder / WEIGHTS_FILE, folder / FACTS_FILE
    try:
        saved = dual_from_bytes(weights.read_bytes(), name=str(weights))
        promised = json.loads(facts.read_text(encoding="utf-8"))["digest"]
    except FileNotFoundError as error:
        raise BackboneError(f"{error.filename} is missing; run the stage personalize_pairs") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{facts} is damaged ({error}); run personalize_pairs again") from error
    if saved.digest != promised:
        raise BackboneError(
            f"{weights} does not have the digest that {facts.name} promises; run personalize_pairs again"
        )
    return saved


def _head(saved: SavedDual) -> dict[str, object]:
    shape = asdict(saved.shape)
    if not saved.shape.text_rank:
        del shape["text_rank"]  # as adapters were written before there was a LoRA of the text encoder
    return {
        "format": FORMAT,
        "kind": KIND,
        "shape": shape,
        "backbone": saved.backbone,
        "terms": dict(saved.terms),
    }


def _named(adapter: DualAdapter) -> dict[str, Tensor]:
    """The adapter's parameters by attention layer or text projection, sorted by name."""
    found = {
        f"{layer}:{name}": parameter
        for layer, part in adapter.by_name().items()
        for name, parameter in part.named_parameters()
    }
    for projection, update in {} if adapter.text is None else adapter.text.by_name().items():
        found |= {f"{_TEXT}{projection}.{name}": parameter for name, parameter in update.named_parameters()}
    return dict(sorted(found.items()))
