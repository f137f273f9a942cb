"""Pass real normal images of one category through the autoencoder and the sampler, for arms that train on them."""

from __future__ import annotations

import torch

from anosynth.diffusion.adapters import read_adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.devices import memory_shortage_is_temporary
from anosynth.diffusion.latent import backbone_identity, open_backbone
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import BackboneSpec, ComputeParams, ImageParams, ObjectParams, RoundTripParams
from anosynth.pools import round_trips
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
    round_trip: RoundTripParams,
    only: slice | None = None,
) -> None:
    """Write data/round_trips/<category>; with `only`, put these shards into the store and seal nothing."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    records = [shot.record for shot in shots.lock.normal]
    adapter = read_adapter(layout.normal_adapter(category))
    name = objects[category].name
    jobs = plan_shards(
        stage="round_trip",
        pool="normals",
        category=category,
        defect=None,
        method=round_trips.METHOD,
        n=round_trip.n,
        shard_rows=round_trip.shard_rows,
        batch_size=round_trip.batch_size,
        seed=seed,
        shape={
            "size_px": image.size_px,
            "name": name,
            **round_trip.model_dump(mode="json", exclude={"n", "shard_rows", "batch_size"}),
        },
        compute=compute,
        upstream={
            "shots": digest_value([[record.sha256, record.licence] for record in records]),
            "backbone": backbone_identity(backbone, root=layout.root),
            "adapter": adapter.digest,
        },
        algorithm=round_trips.ALGORITHM,
    )
    store = ShardStore(layout.store_url())
    wanted = jobs[only or slice(None)]
    missing = [job for job in wanted if job.fingerprint not in store]
    if missing:
        shown = [RealNormal(shots.images.image(record), record.sha256, record.licence) for record in records]
        parents = resize_normals(shown, size_px=image.size_px)
        with memory_shortage_is_temporary(f"passing normals of {category} through the generator"):
            opened = open_backbone(backbone, compute=compute, root=layout.root)
            with personalized(opened, adapter):
                trip = round_trips.prepare(opened, adapter=adapter.digest, name=name, settings=round_trip)
                for job in track(missing, total=len(missing), doing=f"round_trip {category}", unit="shard"):
                    store.put(job, round_trips.samples(job, trip, parents))
    if only is not None:
        print(f"round_trip: {len(wanted)} shards of {category} are in the store ({len(missing)} made now)")
        return
    manifest = seal(jobs, store, layout.round_trips(category))
    print(
        f"round_trip: {manifest.rows} round trips of {len(records)} normal shots of {category} "
        f"({len(missing)} of {len(jobs)} shards made now), in {layout.round_trips(category)}"
    )


if __name__ == "__main__":
    main(run)
