"""A tiny project up to the point where detectors are fitted: index, shots, pools and verdicts, without generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from anosynth.layout import Layout
from anosynth.params import Params, load_params
from anosynth.samples import Pool, Provenance, Record, Sample, ShardJob, Shot, Verdict
from anosynth.shards.manifest import seal
from anosynth.shards.plan import plan_shards
from anosynth.shards.read import write_verdicts
from anosynth.shards.store import ShardStore
from anosynth.sources.index import IndexImages
from anosynth.sources.lock import ShotsLock, write_lock
from anosynth.sources.lock import seal as sealed_records
from tasks import index
from tasks._bind import bind, fill
from tests.toy import make_project

POOL_ROWS = 6


def call(run: Callable[..., None], root: Path, **keys: str) -> Layout:
    """Run a stage in process, as `python -m tasks.<stage>` would."""
    layout = Layout(root)
    run(layout=layout, **fill(bind(run), load_params(layout.params()), keys))
    return layout


def change(root: Path, section: str, values: Mapping[str, object]) -> None:
    """Merge values into a section of the project's params.yaml."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params[section] = {**params[section], **values}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def make_measured(root: Path, overrides: Mapping[str, object] | None = None) -> Path:
    """Make the project with rendered images, a lock of 4 normal and 2 anomalous shots, and drawn pools."""
    make_project(root, overrides)
    layout = call(index.run, root, category="washer")
    params = load_params(layout.params())
    images = IndexImages(layout.index("washer"))
    train = [record for record in images.records if record.role == "train"]
    normal = [record for record in train if record.defect is None][:4]
    anomalous = {
        defect: [record for record in train if record.defect == defect][:2]
        for defect in params.grid.defects("washer") or ("scratch",)
    }
    lock = ShotsLock(
        category="washer",
        method="first_third",
        seed=0,
        normal=_shots(normal, "normal"),
        anomalous={defect: _shots(chosen, "anomalous") for defect, chosen in anomalous.items()},
        sealed=sealed_records(images.records),
    )
    write_lock(lock, layout.shots("washer"))
    parents = [images.image(record) for record in normal]
    verdicts: list[Verdict] = []
    draw_pool(layout, params, "normals", None, "sample", parents, verdicts)
    for pair in params.grid.pair_keys("washer"):
        draw_pool(layout, params, "pairs", pair.defect, pair.method, parents, verdicts)
    layout.verdicts("washer").parent.mkdir(parents=True)
    write_verdicts(layout.verdicts("washer"), verdicts)
    return root


def draw_pool(
    layout: Layout,
    params: Params,
    pool: Pool,
    defect: str | None,
    method: str,
    parents: list[NDArray[np.uint8]],
    verdicts: list[Verdict],
) -> None:
    """Seal a pool of copies of the shots, pairs with a dark bar; the second sample of every pool is refused."""
    jobs = plan_shards(
        stage=f"generate_{pool}",
        pool=pool,
        category="washer",
        defect=defect,
        method=method,
        n=POOL_ROWS,
        shard_rows=3,
        batch_size=3,
        seed=params.seed,
        shape={"size_px": 64},
        compute=params.compute,
        upstream={},
        algorithm=1,
    )
    store = ShardStore(layout.store_url())
    for job in jobs:
        store.put(job, _samples(job, parents))
    folder = layout.normals("washer") if defect is None else layout.pairs("washer", defect, method)
    seal(jobs, store, folder)
    for spec in (spec for job in jobs for spec in job.specs()):
        verdicts.append(Verdict(spec.sample_id, "duplicate" if spec.index == 1 else "", {"area": 0.1}))


def _samples(job: ShardJob, parents: list[NDArray[np.uint8]]) -> Iterator[Sample]:
    for spec in job.specs():
        image = parents[spec.index % len(parents)].copy()
        mask = None
        if spec.pool == "pairs":
            rng = np.random.default_rng(spec.seed)
            top, left = rng.integers(8, 48, 2)
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[top : top + 3, left : left + 12] = 255
            image[mask > 0] //= 3
        yield Sample(spec, image, mask, Provenance(shot_ids=("a" * 64,), licence="CC0-1.0"))


def _shots(records: list[Record], kind: str) -> tuple[Shot, ...]:
    return tuple(
        Shot(record, rank, "normal" if kind == "normal" else "anomalous") for rank, record in enumerate(records)
    )
