"""The one place where a detector's spec becomes a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import assert_never

import torch

from anosynth.detectors import one_to_normal, padim, patchcore, unet, winclip
from anosynth.detectors.batches import Augmentation
from anosynth.detectors.one_to_normal import OneToNormal
from anosynth.detectors.padim import PaDiM
from anosynth.detectors.patchcore import PatchCore
from anosynth.detectors.personalizer import TwinSource
from anosynth.detectors.protocol import Detector
from anosynth.detectors.unet import UNetLocalizer
from anosynth.detectors.winclip import WinClip
from anosynth.diffusion import twins
from anosynth.errors import ParamsError
from anosynth.features.aligned import AlignedFeatures
from anosynth.features.encoder import PatchFeatures
from anosynth.features.projection import projection_licence
from anosynth.licences import most_restrictive
from anosynth.params import (
    AlignedSpec,
    AnomalibSpec,
    ArmParams,
    ComputeParams,
    DetectorSpec,
    OneToNormalSpec,
    PaDiMSpec,
    PatchCoreSpec,
    UNetSpec,
    WinClipSpec,
)

FeaturesOpener = Callable[[], PatchFeatures]


@dataclass(frozen=True)
class DetectorParts:
    """What detectors of one category are built from; everything is opened when a detector asks for it.

    Attributes:
        open_features: opens the encoder of patches.
        open_aligned: opens the encoders of patches and text.
        twins: opens the generator of normal twins.
        object_name: the object as said in a prompt.
        opening: how a bundle opens encoder and generator again, JSON texts by name.
    """

    open_features: FeaturesOpener
    open_aligned: Callable[[], AlignedFeatures]
    twins: TwinSource
    object_name: str
    opening: Mapping[str, str]


def build_detector(
    spec: DetectorSpec,
    *,
    parts: DetectorParts,
    compute: ComputeParams,
    init_seed: int = 0,
    draw_seed: int = 0,
    name: str,
) -> Detector:
    """Build an unfitted detector.

    Args:
        spec: entry of `detectors` in params.yaml.
        parts: encoders and generator; opened only for detectors that use them.
        compute: device and dtype of training.
        init_seed: of initial weights; equal for the arms of one comparison. Means nothing before `load`.
        draw_seed: of everything drawn while fitting. Means nothing before `load`.
        name: for progress, log and errors.

    Raises:
        ParamsError: if the device is not there, or a package that the detector is made of.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("compute.device is cuda, but this process sees no CUDA device; set it to cpu")
    match spec:
        case PatchCoreSpec():
            return PatchCore(
                parts.open_features(),
                coreset_ratio=spec.coreset_ratio,
                neighbours=spec.neighbours,
                synthetic_weight=spec.synthetic_weight,
                seed=draw_seed,
            )
        case PaDiMSpec():
            return PaDiM(
                parts.open_features(),
                channels=spec.channels,
                shrinkage=spec.shrinkage,
                ridge=spec.ridge,
                synthetic_weight=spec.synthetic_weight,
                seed=draw_seed,
            )
        case WinClipSpec():
            return WinClip(
                parts.open_aligned(),
                name=parts.object_name,
                windows=spec.windows,
                max_rows=spec.max_rows,
                text_weight=spec.text_weight,
                synthetic_weight=spec.synthetic_weight,
                seed=draw_seed,
            )
        case UNetSpec():
            return UNetLocalizer(
                channels=spec.channels,
                size_px=spec.size_px,
                steps=spec.steps,
                batch_size=spec.batch_size,
                lr=spec.lr,
                normal_ratio=spec.normal_ratio,
                synthetic_ratio=spec.synthetic_ratio,
                synthetic_until=spec.synthetic_until,
                augmentation=Augmentation(
                    flip=spec.augment.flip,
                    quarter_turns=spec.augment.quarter_turns,
                    brightness=spec.augment.brightness,
                    contrast=spec.augment.contrast,
                ),
                init_seed=init_seed,
                draw_seed=draw_seed,
                dtype=getattr(torch, compute.dtype),
                device=torch.device(compute.device),
                name=name,
            )
        case OneToNormalSpec():
            return OneToNormal(
                parts.open_aligned(),
                parts.twins,
                spec=spec,
                name=parts.object_name,
                seed=draw_seed,
                opening=parts.opening,
            )
        case AnomalibSpec():
            _anomalib_version()
            from anosynth.detectors.anomalib_model import AnomalibModel

            return AnomalibModel(spec, seed=draw_seed, device=torch.device(compute.device), name=name)
        case _:
            assert_never(spec)


def _anomalib_version() -> str:
    """Version of anomalib, which is a part of every fit.

    Raises:
        ParamsError: if this environment has none.
    """
    try:
        return version("anomalib")
    except PackageNotFoundError:
        raise ParamsError(
            "a detector of kind anomalib is asked for, and this environment has no anomalib; run the pipeline in one "
            "made with constraints/anomalib.txt and the extra [anomalib], or take the detector out of grid.detectors"
        ) from None


def used_by(spec: DetectorSpec, arm: ArmParams) -> ArmParams:
    """What of an arm a detector looks at: a one-class detector sees no pairs, so they neither shape nor license it."""
    match spec:
        case PatchCoreSpec() | PaDiMSpec() | WinClipSpec() | OneToNormalSpec() | AnomalibSpec():
            return arm.model_copy(update={"real_pairs": False, "methods": []})
        case UNetSpec():
            return arm
        case _:
            assert_never(spec)


def licence_of(spec: DetectorSpec, aligned: AlignedSpec, *, data: str) -> str:
    """Licence of a fitted detector: that of its training images and of what its text projection was trained on.

    Args:
        spec: entry of `detectors` in params.yaml.
        aligned: section `aligned`, which may name a projection; detectors that compare with text alone use it.
        data: licence of the training images.

    Raises:
        BackboneError: if the projection is missing or damaged.
    """
    if isinstance(spec, WinClipSpec | OneToNormalSpec) and aligned.projection is not None:
        return most_restrictive([data, projection_licence(Path(aligned.projection))])
    return data


def spec_for(spec: DetectorSpec, arm: ArmParams) -> DetectorSpec:
    """The spec with what the arm sets otherwise: its share of synthetic images, where the detector draws batches."""
    if isinstance(spec, UNetSpec) and arm.synthetic_ratio is not None:
        return spec.model_copy(update={"synthetic_ratio": arm.synthetic_ratio})
    return spec


def shaping_values(spec: DetectorSpec, *, parts: DetectorParts) -> dict[str, object]:
    """Everything about a detector, beside its data and seeds, that shapes what fitting gives: for fingerprints.

    Returns:
        JSON values: the spec without its list of arms, the revision of the module, identities of encoder, backbone and
        adapter if used.
    """
    values: dict[str, object] = {"spec": spec.model_dump(mode="json", exclude={"arms"})}
    match spec:
        case PatchCoreSpec():
            return {**values, "algorithm": patchcore.ALGORITHM, "features": parts.open_features().identity}
        case PaDiMSpec():
            return {**values, "algorithm": padim.ALGORITHM, "features": parts.open_features().identity}
        case WinClipSpec():
            values |= {"algorithm": winclip.ALGORITHM, "features": parts.open_aligned().identity}
            return {**values, "name": parts.object_name}
        case UNetSpec():
            return {**values, "algorithm": unet.ALGORITHM}
        case OneToNormalSpec():
            values |= {"algorithm": one_to_normal.ALGORITHM, "features": parts.open_aligned().identity}
            values |= {"name": parts.object_name, "opening": dict(parts.opening)}
            if "personalized" in spec.branches:
                values |= {
                    "twins": twins.ALGORITHM,
                    "backbone": parts.twins.backbone_identity(),
                    "adapter": parts.twins.read_adapter().digest,
                    "size_px": parts.twins.size_px,
                }
            return values
        case AnomalibSpec():
            return {**values, "anomalib": _anomalib_version()}
        case _:
            assert_never(spec)
