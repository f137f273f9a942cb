"""Make one pool of anomaly pairs: synthetic images of one defect type, with masks, by one method."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from anosynth.errors import DataError
from anosynth.features import foreground
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import (
    BackboneSpec,
    ComputeParams,
    CutPasteMethod,
    DualAnoDiffMethod,
    GeneratePairsParams,
    ImageParams,
    MethodSpec,
    PerlinMethod,
)
from anosynth.pools import dual_terms, pairs
from anosynth.pools.real import RealNormal, RealPair
from anosynth.progress import track
from anosynth.samples import Record
from anosynth.screening.ceiling import unlike_shots
from anosynth.shards.manifest import seal
from anosynth.shards.plan import plan_shards
from anosynth.shards.store import ShardStore
from anosynth.sources.lock import OpenShots, open_shots
from tasks._bind import main

if TYPE_CHECKING:
    from anosynth.diffusion.dual_adapters import SavedDual


def run(
    *,
    layout: Layout,
    category: str,
    defect: str,
    method: str,
    seed: int,
    compute: ComputeParams,
    image: ImageParams,
    backbone: BackboneSpec,
    method_spec: MethodSpec,
    generate_pairs: GeneratePairsParams,
    only: slice | None = None,
) -> None:
    """Write data/pairs/<category>/<defect>/<method>; with `only`, put these shards into the store and seal nothing."""
    shots = open_shots(layout.shots(category), layout.index(category))
    anomalous_records = [shot.record for shot in shots.lock.anomalous.get(defect, ())]
    normal_records = _parent_records(shots, generate_pairs.parents, anomalous_records)
    adapter: SavedDual | None = None
    match method_spec:
        case DualAnoDiffMethod():
            from tasks import _dual

            adapter = _dual.read_adapter(layout, category, defect, method)
            shape = dual_terms.drawing_values(method_spec)
            upstream = _dual.upstream(adapter, backbone, root=layout.root)
        case PerlinMethod() | CutPasteMethod():
            shape = method_spec.model_dump(mode="json")
            upstream = {
                "shots": digest_value([[record.sha256, record.licence] for record in anomalous_records]),
                "foreground": digest_value(foreground.ALGORITHM),
            }
        case _:
            assert_never(method_spec)
    jobs = plan_shards(
        stage="generate_pairs",
        pool="pairs",
        category=category,
        defect=defect,
        method=method,
        n=generate_pairs.n,
        shard_rows=generate_pairs.shard_rows,
        batch_size=generate_pairs.batch_size,
        seed=seed,
        shape={"size_px": image.size_px, **shape},
        compute=compute,
        upstream={
            "parents": digest_value([[record.sha256, record.licence] for record in normal_records]),
            **upstream,
        },
        algorithm=pairs.algorithm(method_spec),
    )
    store = ShardStore(layout.store_url())
    missing = [job for job in jobs[only or slice(None)] if job.fingerprint not in store]
    if missing:
        images = shots.images
        parents = [RealNormal(images.image(record), record.sha256, record.licence) for record in normal_records]
        defective = [
            RealPair(images.image(record), images.mask(record), record.sha256, record.licence)
            for record in anomalous_records
        ]
        if isinstance(method_spec, DualAnoDiffMethod):
            assert adapter is not None
            _dual.draw(
                missing,
                parents,
                defective,
                adapter,
                method_spec,
                store=store,
                max_attempts=generate_pairs.max_attempts,
                compute=compute,
                backbone=backbone,
                root=layout.root,
            )
        else:
            for job in track(missing, total=len(missing), doing=f"{method} pairs of {category} {defect}", unit="shard"):
                made = pairs.samples(
                    job,
                    spec=method_spec,
                    parents=parents,
                    shots=defective,
                    max_attempts=generate_pairs.max_attempts,
                    size_px=image.size_px,
                )
                store.put(job, made)
    what = f"{method} pairs of {category} with {defect}"
    if only is not None:
        print(f"generate_pairs: {len(missing)} of the {len(jobs[only])} shards asked for were made now ({what})")
        return
    folder = layout.pairs(category, defect, method)
    manifest = seal(jobs, store, folder)
    print(f"generate_pairs: {manifest.rows} {what} in {len(jobs)} shards ({len(missing)} made now), in {folder}")


def _parent_records(shots: OpenShots, parents: str, anomalous: list[Record]) -> list[Record]:
    """Records of the real normals that defects are put into, in a fixed order.

    Raises:
        DataError: if no normal is unlike the shots.
    """
    if parents == "shots":
        return [shot.record for shot in shots.lock.normal]
    trains = (one for one in shots.images.records if one.role == "train" and one.defect is None)
    records = sorted(trains, key=lambda record: record.path)
    if parents == "train":
        return records
    images = shots.images
    kept = unlike_shots(
        [images.image(one) for one in records],
        [images.image(one) for one in anomalous],
        [one.group for one in anomalous],
    )
    if not kept:
        raise DataError(
            f"each of the {len(records)} training normals resembles an anomalous shot more than shots of different "
            "groups resemble each other; set generate_pairs.parents to train"
        )
    return [records[at] for at in kept]


if __name__ == "__main__":
    main(run)
