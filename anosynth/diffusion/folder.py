"""Backbones on disk: folders in diffusers format, safetensors only."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.components import Components, factor_of
from anosynth.diffusion.embedded import AUTOENCODER, TEXT_ENCODER, TEXT_FOLDER
from anosynth.diffusion.minilm import FILES, MiniLMTextEncoder, package_folder, text_digest
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.text import ClipText, TextEncoder
from anosynth.errors import BackboneError
from anosynth.fingerprint import digest_file, digest_value

INDEX = "model_index.json"
CARD = ("README.md", "LICENSE", "training.json")
"""What lies beside a model and says what it is; no part of its identity."""

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
_STEMS = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "text_encoder": "model"}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_TEXTS = (".json", ".txt", ".model")
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True)
class BackboneFolder:
    """A folder with model_index.json that holds the parts we need, each in a format we read.

    Attributes:
        path: the folder.
        index: what model_index.json says of each part: (library, class).
        files: the files that make the model, relative to the folder, sorted; README, other parts and other number
            formats of the same weights are not among them.
        half: True if the weights are stored as fp16 files only.
    """

    path: Path
    index: Mapping[str, tuple[str, str]]
    files: tuple[str, ...]
    half: bool

    def identity(self) -> str:
        """Digest of the names and bytes of `files`: the identity of the backbone."""
        return digest_value({name: digest_file(self.path / name) for name in self.files})


def inspect_folder(path: Path) -> BackboneFolder:
    """Look at a folder without loading weights.

    Raises:
        BackboneError: if the folder, its index, a part, or a part's safetensors file is missing.
    """
    index = _read_index(path)
    files, halves = [INDEX], set()
    for part in PARTS:
        folder = path / part
        if not folder.is_dir():
            raise BackboneError(f"{path}: the part {part}/ is missing; a backbone has {', '.join(PARTS)}")
        files += [f"{part}/{file.name}" for file in sorted(folder.iterdir()) if file.suffix in _TEXTS]
        if part in _STEMS and index[part] != TEXT_ENCODER:
            weights, half = _weights(folder, _STEMS[part])
            files += [f"{part}/{file.name}" for file in weights]
            halves.add(half)
    if len(halves) > 1:
        raise BackboneError(f"{path}: some parts are stored as fp16 files and some are not; use one kind for all")
    return BackboneFolder(path, index, tuple(sorted(files)), half=halves == {True})


def read_folder(path: Path, *, dtype: torch.dtype) -> Components:
    """Open a Stable-Diffusion-1.x-shaped model from disk; weights are converted to `dtype` while they are read.

    Raises:
        BackboneError: if a part is missing, damaged, pickled, of another class, or has missing or unexpected weights.
    """
    folder = inspect_folder(path)
    vae_kinds = {("diffusers", "AutoencoderKL"): AutoencoderKL, AUTOENCODER: UnshuffleAutoencoder}
    vae_kind = vae_kinds.get(folder.index["vae"])
    fits = {"vae": vae_kind is not None, "unet": folder.index["unet"] == ("diffusers", "UNet2DConditionModel")}
    for part, wanted in (("vae", "diffusers.AutoencoderKL"), ("unet", "diffusers.UNet2DConditionModel")):
        if not fits[part]:
            raise BackboneError(
                f"{path / INDEX}: {part} is {'.'.join(folder.index[part])}, not {wanted}; only "
                "Stable-Diffusion-1.x-shaped models fit"
            )
    assert vae_kind is not None
    vae = _load(vae_kind, folder, "vae", dtype)
    return Components(
        vae=vae,
        unet=_load(UNet2DConditionModel, folder, "unet", dtype),
        text=_read_text(folder, dtype),
        schedule=_read_schedule(path / "scheduler" / "scheduler_config.json"),
        factor=factor_of(vae),
        identity=folder.identity(),
    )


def write_folder(components: Components, path: Path) -> None:
    """Write a backbone as a diffusers folder that `read_folder` and diffusers itself can open.

    Raises:
        BackboneError: if its text encoder is not a CLIP one (others are part of this package, not of a folder).
    """
    text = components.text
    if not isinstance(text, ClipText):
        raise BackboneError(f"{path}: a {type(text).__name__} cannot be written as a diffusers text encoder")
    path.mkdir(parents=True, exist_ok=True)
    components.vae.save_pretrained(path / "vae", safe_serialization=True)
    components.unet.save_pretrained(path / "unet", safe_serialization=True)
    text.model.save_pretrained(path / "text_encoder")
    text.tokenizer.save_pretrained(path / "tokenizer")
    (path / "scheduler").mkdir(exist_ok=True)
    _write_json(path / "scheduler" / "scheduler_config.json", components.schedule.config)
    _write_json(
        path / INDEX,
        {
            "_class_name": "StableDiffusionPipeline",
            "vae": ["diffusers", "AutoencoderKL"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", str(components.schedule.config.get("_class_name", "DDIMScheduler"))],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
        },
    )


def copy_folder(source: Path, target: Path) -> None:
    """Copy a backbone's files, its card and, where its text encoder is a package's, that package's files and card too.

    The copy has the identity of the original: adapters made for one fit the other.

    Raises:
        BackboneError: if the source is no complete backbone.
    """
    folder = inspect_folder(source)
    for name in folder.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    _copy_card(source, target)
    if folder.index["text_encoder"] == TEXT_ENCODER:
        own = Path("text_encoder") / TEXT_FOLDER
        text = source / own if (source / own).is_dir() else package_folder()
        (target / own).mkdir()
        for name in FILES:
            shutil.copyfile(text / name, target / own / name)
        _copy_card(text, target / own)


def _copy_card(source: Path, target: Path) -> None:
    for name in CARD:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _read_text(folder: BackboneFolder, dtype: torch.dtype) -> TextEncoder:
    match (folder.index["text_encoder"], folder.index["tokenizer"]):
        case (("transformers", "CLIPTextModel"), ("transformers", "CLIPTokenizer" | "CLIPTokenizerFast")):
            where = folder.path / "tokenizer"
            transformers_logging.disable_progress_bar()
            try:
                tokenizer = CLIPTokenizer.from_pretrained(where, local_files_only=True)
            except _LOADING_ERRORS as error:
                raise BackboneError(f"{where}: the tokenizer cannot be read ({_first_line(error)})") from error
            return ClipText(tokenizer, _load(CLIPTextModel, folder, "text_encoder", dtype))
        case (text_encoder, tokenizer) if text_encoder == tokenizer == TEXT_ENCODER:
            return _read_minilm(folder.path / "text_encoder", dtype)
        case (text_encoder, tokenizer):
            raise BackboneError(
                f"{folder.path / INDEX}: text encoder {'.'.join(text_encoder)} with tokenizer {'.'.join(tokenizer)} is "
                "not known; known is transformers.CLIPTextModel with transformers.CLIPTokenizer"
            )


def _read_minilm(where: Path, dtype: torch.dtype) -> MiniLMTextEncoder:
    own = where / TEXT_FOLDER
    source = own if own.is_dir() else package_folder()
    wanted, found = _read_json(where / "config.json").get("digest"), text_digest(source)
    if wanted != found:
        raise BackboneError(
            f"{source}: the text encoder's digest is {found[:12]}, but the U-Net was trained with "
            f"{str(wanted)[:12]}; install the version of the package that constraints.txt names"
        )
    text = MiniLMTextEncoder(source)
    text.move(device=torch.device("cpu"), dtype=dtype)
    return text


def _read_schedule(path: Path) -> NoiseSchedule:
    config = _read_json(path)
    return NoiseSchedule.from_config(config, name=str(path))


def _load(kind: type, folder: BackboneFolder, part: str, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """Load one network by its library; missing or unexpected weights are errors, where the libraries only warn."""
    where = folder.path / part
    try:
        model, report = kind.from_pretrained(  # type: ignore[attr-defined]
            where,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=dtype,
            variant="fp16" if folder.half else None,
            output_loading_info=True,
        )
    except _LOADING_ERRORS as error:
        raise BackboneError(f"{where}: the weights cannot be read ({_first_line(error)}); fetch them again") from error
    wrong = {
        "missing": sorted(report["missing_keys"]),
        # Old CLIP files store this constant; the library computes it.
        "unexpected": sorted(key for key in report["unexpected_keys"] if not key.endswith(".position_ids")),
        "of another size": sorted(str(entry) for entry in report.get("mismatched_keys", ())),
    }
    for what, keys in wrong.items():
        if keys:
            raise BackboneError(
                f"{where}: {len(keys)} weights are {what}, the first is {keys[0]}; config.json and weights do not match"
            )
    return model


def _read_index(path: Path) -> dict[str, tuple[str, str]]:
    if not path.is_dir():
        raise BackboneError(f"the backbone folder {path} does not exist; give a folder in diffusers format")
    file = path / INDEX
    if not file.is_file():
        pickles = sorted(found.name for found in path.iterdir() if found.suffix in (*_PICKLES, ".safetensors"))
        hint = f"; {pickles[0]} is a single-file checkpoint, convert it to a folder with diffusers" if pickles else ""
        raise BackboneError(f"{path} holds no {INDEX}, so it is no model in diffusers format{hint}")
    raw = _read_json(file)
    index = {}
    for part in PARTS:
        entry = raw.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)):
            raise BackboneError(f"{file}: {part} is {entry!r}; it must name a library and a class")
        index[part] = (entry[0], entry[1])
    return index


def _weights(folder: Path, stem: str) -> tuple[list[Path], bool]:
    """The safetensors files of one part and whether they are the fp16 variant; plain files win where both exist."""
    shard = r"(-\d{5}-of-\d{5})?"
    plain, half = (
        re.compile(rf"{stem}{shard}\.safetensors"),
        re.compile(rf"{stem}(\.fp16{shard}|{shard}\.fp16)\.safetensors"),
    )
    names = sorted(folder.iterdir())
    for pattern, is_half in ((plain, False), (half, True)):
        found = [file for file in names if pattern.fullmatch(file.name)]
        if found:
            return found, is_half
    pickles = [file.name for file in names if file.suffix in _PICKLES]
    if pickles:
        raise BackboneError(
            f"{folder} holds {pickles[0]} but no safetensors file; pickled weights can run code when opened and are "
            "refused, convert the model to safetensors"
        )
    raise BackboneError(f"{folder}: {stem}.safetensors is missing")


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"{path} is missing") from None
    except ValueError as error:
        raise BackboneError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise BackboneError(f"{path} holds {type(value).__name__}, not an object")
    return value


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(dict(value), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
