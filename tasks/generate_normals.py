"""Make the pool of synthetic normal images of one category (One-to-Normal, Li et al. 2024)."""

from __future__ import annotations

import torch

from anosynth.diffusion.adapters import read_adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.devices import memory_shortage_is_temporary
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import BackboneSpec, ComputeParams, GenerateNormalsParams, ImageParams, ObjectParams
from anosynth.pools import normals
from anosynth.pools.real import RealNormal, resize_normals
from anosynth.progress import track
from anosynth.shards.manifest import seal
from anosynth.shards.plan import plan_shards
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
    generate_normals: GenerateNormalsParams,
    only: slice | None = None,
) -> None:
    """Write data/normals/<category>; with `only`, put these shards into the store and seal nothing."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    records = [shot.record for shot in shots.lock.normal]
    adapter = read_adapter(layout.normal_adapter(category))
    name = objects[category].name
    jobs = plan_shards(
        stage="generate_normals",
        pool="normals",
        category=category,
        defect=None,
        method=normals.METHOD,
        n=generate_normals.n,
        shard_rows=generate_normals.shard_rows,
        batch_size=generate_normals.batch_size,
        seed=seed,
        shape={
            "size_px": image.size_px,
            "name": name,
            **generate_normals.model_dump(mode="json", exclude={"n", "shard_rows", "batch_size"}),
        },
        compute=compute,
        upstream={
            "shots": digest_value([[record.sha256, record.licence] for record in records]),
            "backbone": backbone_identity(backbone, root=layout.root),
            "adapter": adapter.digest,
        },
        algorithm=normals.ALGORITHM,
    )
    store = ShardStore(layout.store_url())
    wanted = jobs[only or slice(None)]
    missing = [job for job in wanted if job.fingerprint not in store]
    if missing:
        shown = [RealNormal(shots.images.image(record), record.sha256, record.licence) for record in records]
        with memory_shortage_is_temporary(f"generating normals of {category}"):
            opened = open_backbone(backbone, compute=compute, root=layout.root)
            with personalized(opened, adapter):
                generator = normals.prepare(
                    opened,
                    resize_normals(shown, size_px=image.size_px),
                    adapter=adapter.digest,
                    name=name,
                    settings=generate_normals,
                )
                for job in track(missing, total=len(missing), doing=f"generate_normals {category}", unit="shard"):
                    store.put(job, normals.samples(job, generator, generate_normals))
    if only is not None:
        print(f"generate_normals: {len(wanted)} shards of {category} are in the store ({len(missing)} made now)")
        return
    manifest = seal(jobs, store, layout.normals(category))
    print(
        f"generate_normals: {manifest.rows} normals of {category} in {len(jobs)} shards ({len(missing)} made now), "
        f"in {layout.normals(category)}"
    )


if __name__ == "__main__":
    main(run)
