"""Train a category's anomaly-free generator: a LoRA, or a U-Net's difference, on its normal shots (Li et al. 2024)."""

from __future__ import annotations

import torch

from anosynth.diffusion.adapters import save_adapter
from anosynth.diffusion.devices import memory_shortage_is_temporary
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.diffusion.personalize import Subject, personalize, stored_adapter
from anosynth.diffusion.views import normal_views
from anosynth.imaging import resize_image
from anosynth.layout import Layout
from anosynth.params import BackboneSpec, ComputeParams, ImageParams, ObjectParams, PersonalizeNormalsParams
from anosynth.shards.store import ShardStore
from anosynth.sources.lock import open_shots
from tasks._bind import main


def run(
    *,
    layout: Layout,
    category: str,
    seed: int,
    compute: ComputeParams,
    image: ImageParams,
    objects: dict[str, ObjectParams],
    backbone: BackboneSpec,
    personalize_normals: PersonalizeNormalsParams,
) -> None:
    """Write models/normal/<category>; an adapter that the store already holds is copied from there."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    store = ShardStore(layout.store_url())
    subject = Subject(
        category=category,
        name=objects[category].name,
        allowed=normal_views(objects[category]),
        shot_ids=tuple(shot.record.sha256 for shot in shots.lock.normal),
        size_px=image.size_px,
        backbone=backbone_identity(backbone, root=layout.root),
        seed=seed,
    )
    adapter = stored_adapter(subject.fingerprint(personalize_normals, compute), store)
    how = "found in the store"
    if adapter is None:
        images = [resize_image(shot, size_px=(image.size_px, image.size_px)) for shot in shots.normal_images()]
        with memory_shortage_is_temporary(f"training the adapter of {category}"):
            opened = open_backbone(backbone, compute=compute, root=layout.root)
            adapter = personalize(opened, images, subject, personalize_normals, compute=compute, store=store)
        how = f"{adapter.facts['steps']} steps on {len(images) - personalize_normals.held_out} shots"
    digest = save_adapter(adapter, layout.normal_adapter(category))
    print(f"personalize_normals: adapter {digest[:12]} of {category}, {how}, in {layout.normal_adapter(category)}")


if __name__ == "__main__":
    main(run)
