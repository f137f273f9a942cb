"""What personalize_pairs does for DualAnoDiff; apart, so that the control arms need not wait for torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from anosynth.diffusion.devices import memory_shortage_is_temporary
from anosynth.diffusion.dual_adapters import save_dual
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.layout import Layout
from anosynth.params import BackboneSpec, ComputeParams, DualAnoDiffMethod, ImageParams, ObjectParams
from anosynth.pools.dual_fit import PairSubject, fit, stored_dual
from anosynth.pools.real import RealNormal, RealPair
from anosynth.shards.store import ShardStore
from anosynth.sources.lock import OpenShots
from tasks import _choosing


def train(
    layout: Layout,
    shots: OpenShots,
    defects: Sequence[str],
    spec: DualAnoDiffMethod,
    folder: Path,
    *,
    seed: int,
    compute: ComputeParams,
    image: ImageParams,
    described: ObjectParams,
    backbone: BackboneSpec,
) -> str:
    """Write the adapter of some defect types of a category into a folder; returns what was done, for the last line."""
    torch.set_num_threads(compute.threads)
    store = ShardStore(layout.store_url())
    chosen = {defect: shots.lock.anomalous.get(defect, ()) for defect in defects}
    normals = [shot.record for shot in shots.lock.normal]
    category = shots.lock.category
    subject = PairSubject(
        category=category,
        name=described.name,
        defects=tuple((defect, described.defect_names.get(defect, defect.replace("_", " "))) for defect in defects),
        mirror=described.mirror,
        max_turn_deg=described.max_turn_deg,
        shot_ids={defect: tuple(shot.record.sha256 for shot in of_it) for defect, of_it in chosen.items()},
        size_px=image.size_px,
        backbone=backbone_identity(backbone, root=layout.root),
        seed=seed,
        chosen_by=_choosing.named(spec, normals=[record.sha256 for record in normals]),
    )
    saved = stored_dual(subject.fingerprint(spec, compute), store)
    how = "found in the store"
    if saved is None:
        pairs = {
            defect: [
                RealPair(shots.images.image(one), shots.images.mask(one), one.sha256, one.licence)
                for one in (shot.record for shot in of_it)
            ]
            for defect, of_it in chosen.items()
        }
        with memory_shortage_is_temporary(f"training pairs of {category}"):
            opened = open_backbone(backbone, compute=compute, root=layout.root)
            choose = _choosing.chooser(
                opened,
                subject,
                spec,
                parents=[RealNormal(shots.images.image(one), one.sha256, one.licence) for one in normals],
                shots=pairs,
                groups={defect: [shot.record.group for shot in of_it] for defect, of_it in chosen.items()},
                compute=compute,
            )
            saved = fit(opened, pairs, subject, spec, compute=compute, store=store, choose=choose)
        how = f"{saved.facts.get('kept_step', spec.steps)} steps on {sum(map(len, pairs.values()))} shots"
    digest = save_dual(saved, folder)
    return f"adapter {digest[:12]}, {how}"
