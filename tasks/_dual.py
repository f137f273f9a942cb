"""What generate_pairs does for DualAnoDiff; apart, so that the control arms need not wait for torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from anosynth.diffusion.devices import memory_shortage_is_temporary
from anosynth.diffusion.dual_adapters import SavedDual, open_dual, read_dual
from anosynth.diffusion.dual_sample import two_branches
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.errors import BackboneError
from anosynth.features import foreground
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import BackboneSpec, ComputeParams, DualAnoDiffMethod
from anosynth.pools import cutpaste, dual_pairs
from anosynth.pools.dual_terms import terms_from_json
from anosynth.pools.real import RealNormal, RealPair
from anosynth.progress import track
from anosynth.samples import ShardJob
from anosynth.shards.store import ShardStore


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
    """The adapter that personalize_pairs wrote."""
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
        dual = open_dual(opened.unet, adapter, backbone=opened.identity, text=opened.text)
        with two_branches(opened, dual):
            generator = dual_pairs.prepare(
                opened,
                parents,
                shots,
                adapter=adapter.digest,
                terms=terms_from_json(adapter.terms),
                defect=first.defect,
                with_backgrounds=adapter.shape.background != "off",
                decoder=dual.decoder,
            )
            for job in track(missing, total=len(missing), doing=what, unit="shard"):
                store.put(job, dual_pairs.samples(job, generator, spec, max_attempts=max_attempts))
