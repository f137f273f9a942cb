"""What the two stages of pairs do for DualAnoDiff; apart, so that the control arms need not wait for torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from anosynth.diffusion.devices import memory_shortage_is_temporary
from anosynth.diffusion.dual_adapters import SavedDual, open_dual, read_dual, save_dual
from anosynth.diffusion.dual_sample import two_branches
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.errors import BackboneError
from anosynth.features import foreground
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import BackboneSpec, ComputeParams, DualAnoDiffMethod, ImageParams, ObjectParams
from anosynth.pools import cutpaste, dual_pairs
from anosynth.pools.dual_fit import PairSubject, fit, stored_dual
from anosynth.pools.dual_terms import terms_from_json
from anosynth.pools.real import RealNormal, RealPair
from anosynth.progress import track
from anosynth.samples import ShardJob
from anosynth.shards.store import ShardStore
from anosynth.sources.lock import OpenShots


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
    records = {defect: [shot.record for shot in shots.lock.anomalous.get(defect, ())] for defect in defects}
    category = shots.lock.category
    subject = PairSubject(
        category=category,
        name=described.name,
        defects=tuple((defect, described.defect_names.get(defect, defect.replace("_", " "))) for defect in defects),
        mirror=described.mirror,
        shot_ids={defect: tuple(record.sha256 for record in chosen) for defect, chosen in records.items()},
        size_px=image.size_px,
        backbone=backbone_identity(backbone, root=layout.root),
        seed=seed,
    )
    saved = stored_dual(subject.fingerprint(spec, compute), store)
    how = "found in the store"
    if saved is None:
        pairs = {
            defect: [
                RealPair(shots.images.image(record), shots.images.mask(record), record.sha256, record.licence)
                for record in chosen
            ]
            for defect, chosen in records.items()
        }
        with memory_shortage_is_temporary(f"training pairs of {category}"):
            opened = open_backbone(backbone, compute=compute, root=layout.root)
            saved = fit(opened, pairs, subject, spec, compute=compute, store=store)
        how = f"{spec.steps} steps on {sum(len(chosen) for chosen in pairs.values())} shots"
    digest = save_dual(saved, folder)
    return f"adapter {digest[:12]}, {how}"


def upstream(adapter: SavedDual, backbone: BackboneSpec, *, root: Path) -> dict[str, str]:
    """Digests of what the shards are drawn with.

    Raises:
        BackboneError: if the adapter was trained on another backbone, before any weights are loaded.
    """
    identity = backbone_identity(backbone, root=root)
    if adapter.backbone != identity:
        raise BackboneError(
            f"the pair adapter was trained on the backbone {adapter.backbone[:12]} and params.yaml names "
            f"{identity[:12]}; run personalize_pairs again"
        )
    planting = [cutpaste.ALGORITHM, foreground.ALGORITHM]
    return {"adapter": adapter.digest, "backbone": identity, "planting": digest_value(planting)}


def read_adapter(layout: Layout, category: str, defect: str, method: str) -> SavedDual:
    """The adapter that `train` wrote."""
    return read_dual(layout.pair_adapter(category, defect, method))


def draw(
    missing: Sequence[ShardJob],
    parents: Sequence[RealNormal],
    shots: Sequence[RealPair],
    adapter: SavedDual,
    spec: DualAnoDiffMethod,
    *,
    store: ShardStore,
    max_attempts: int,
    compute: ComputeParams,
    backbone: BackboneSpec,
    root: Path,
) -> None:
    """Draw the shards that the store lacks, all of one pool, at least one."""
    torch.set_num_threads(compute.threads)
    first = missing[0]
    assert first.defect is not None
    what = f"{first.method} pairs of {first.category} {first.defect}"
    with memory_shortage_is_temporary(f"drawing {what}"):
        opened = open_backbone(backbone, compute=compute, root=root)
        dual = open_dual(opened.unet, adapter, backbone=opened.identity)
        generator = dual_pairs.prepare(
            opened,
            parents,
            shots,
            adapter=adapter.digest,
            terms=terms_from_json(adapter.terms),
            defect=first.defect,
            with_backgrounds=adapter.shape.background != "off",
        )
        with two_branches(opened, dual):
            for job in track(missing, total=len(missing), doing=what, unit="shard"):
                store.put(job, dual_pairs.samples(job, generator, spec, max_attempts=max_attempts))
