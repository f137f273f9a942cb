"""What the stages build detectors from: encoders and generator of one category, opened once a process when needed."""

from __future__ import annotations

import json
from functools import cache

from anosynth.detectors.build import DetectorParts
from anosynth.detectors.personalizer import TwinSource
from anosynth.diffusion.adapters import read_adapter
from anosynth.diffusion.latent import LatentDiffusion, backbone_identity, open_backbone
from anosynth.features.aligned import AlignedFeatures, build_aligned
from anosynth.features.encoder import PatchFeatures, build_features
from anosynth.layout import Layout
from anosynth.params import AlignedSpec, BackboneSpec, ComputeParams, FeatureSpec


def detector_parts(
    layout: Layout,
    category: str,
    *,
    object_name: str,
    size_px: int,
    compute: ComputeParams,
    features: FeatureSpec,
    aligned: AlignedSpec,
    backbone: BackboneSpec,
) -> DetectorParts:
    """Say how to open everything; nothing is opened here.

    Args:
        layout: the folders; the adapter is read from the category's.
        category: slug.
        object_name: as said in a prompt.
        size_px: working size of the generator.
        compute: device and number format.
        features: encoder of patches.
        aligned: encoders of patches and text.
        backbone: the generator.
    """

    @cache
    def open_features() -> PatchFeatures:
        return build_features(features, compute=compute)

    @cache
    def open_aligned() -> AlignedFeatures:
        return build_aligned(aligned, compute=compute)

    @cache
    def open_generator() -> LatentDiffusion:
        return open_backbone(backbone, compute=compute, root=layout.root)

    specs = {"aligned": aligned, "backbone": backbone, "compute": compute}
    return DetectorParts(
        open_features=open_features,
        open_aligned=open_aligned,
        twins=TwinSource(
            open_backbone=open_generator,
            backbone_identity=cache(lambda: backbone_identity(backbone, root=layout.root)),
            read_adapter=cache(lambda: read_adapter(layout.normal_adapter(category))),
            size_px=size_px,
        ),
        object_name=object_name,
        opening={name: json.dumps(spec.model_dump(mode="json"), sort_keys=True) for name, spec in specs.items()},
    )
