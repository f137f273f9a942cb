"""A saved One-to-Normal detector opened for serving: the bundle says itself which encoder and generator it needs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from anosynth.detectors.one_to_normal import OneToNormal
from anosynth.detectors.personalizer import TwinSource
from anosynth.detectors.state import SETTINGS_FILE
from anosynth.diffusion.adapters import Adapter
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.errors import BackboneError, ParamsError
from anosynth.features.aligned import build_aligned
from anosynth.params import AlignedSpec, BackboneSpec, ComputeParams, OneToNormalSpec

_ALIGNED: TypeAdapter[AlignedSpec] = TypeAdapter(AlignedSpec)
_BACKBONE: TypeAdapter[BackboneSpec] = TypeAdapter(BackboneSpec)
OPENED = ("aligned", "backbone", "compute")


def open_bundle(folder: Path, *, root: Path = Path(), cascade: tuple[float, float] | None = None) -> OneToNormal:
    """Open a saved detector and its encoder, and (when the first twin is drawn) its generator.

    Torch is set to the number of threads that the detector was fitted with.

    Args:
        folder: what `OneToNormal.save` wrote: detector.json and weights.safetensors.
        root: folder that the backbone's relative path starts from.
        cascade: draw twins only for queries whose S_N + S_text lie in this band; see `OneToNormalSpec.cascade`.

    Returns:
        The detector.

    Raises:
        BackboneError: if the folder holds no One-to-Normal bundle, or encoder or backbone are not those it was fitted
            with.
        ParamsError: if a cascade is asked for and the detector has no branch that it could decide by.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        kind = settings["kind"]
        if kind != "one_to_normal":
            raise BackboneError(f"{folder} holds a detector of kind {kind!r}; only one_to_normal can be served")
        opening = {name: settings[f"open_{name}"] for name in OPENED}
        given = {**json.loads(settings["spec"]), "arms": ["bundle"]}
        spec = OneToNormalSpec.model_validate(given)
        aligned, backbone = _ALIGNED.validate_json(opening["aligned"]), _BACKBONE.validate_json(opening["backbone"])
        compute = ComputeParams.model_validate_json(opening["compute"])
        name, size_px = str(settings["name"]), int(settings["size_px"])
    except FileNotFoundError:
        raise BackboneError(f"{path} is missing; name the folder of one fit, <detector>/<arm>-<seed>") from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"{path} is damaged or of another version ({reason}); fit the detector again") from error

    if cascade is not None:
        if set(spec.branches) == {"personalized"}:
            raise ParamsError(
                f"{folder}: a cascade decides by S_N and S_text which queries get a twin, but this detector was fitted "
                "with S_P alone (branches: personalized); leave --cascade out"
            )
        spec = OneToNormalSpec.model_validate({**given, "cascade": cascade})

    def no_adapter() -> Adapter:
        raise BackboneError(f"{folder} is a fitted bundle; it carries its own adapter")

    source = TwinSource(
        open_backbone=lambda: open_backbone(backbone, compute=compute, root=root),
        backbone_identity=lambda: backbone_identity(backbone, root=root),
        read_adapter=no_adapter,
        size_px=size_px,
    )
    detector = OneToNormal(
        build_aligned(aligned, compute=compute), source, spec=spec, name=name, seed=0, opening=opening
    )
    torch.set_num_threads(compute.threads)
    detector.load(folder)
    return detector
