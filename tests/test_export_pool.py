from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.imaging import decode_image, decode_mask
from anosynth.looking.export_pool import export_mvtec
from anosynth.params import MVTecSource, ObjectParams
from anosynth.samples import Verdict
from anosynth.shards.manifest import seal
from anosynth.shards.read import read_samples
from anosynth.shards.store import ShardStore
from anosynth.sources.open import open_source
from tests.shards.small_pools import make_jobs, make_sample


def sealed(root: Path, *, pool: str, n: int, method: str = "", licences: tuple[str, ...] = ("CC0-1.0",)) -> Path:
    jobs = make_jobs(n, pool=pool, method=method)  # type: ignore[arg-type]
    store = ShardStore(str(root / "store"))
    for job in jobs:
        store.put(job, (make_sample(spec, licence=licences[spec.index % len(licences)]) for spec in job.specs()))
    seal(jobs, store, root / pool / (method or "pool"))
    return root / pool / (method or "pool")


def test_kept_samples_become_a_folder_that_the_mvtec_source_reads(tmp_path: Path) -> None:
    normals = sealed(tmp_path, pool="normals", n=5)
    pools = tuple(sealed(tmp_path, pool="pairs", n=4, method=method) for method in ("perlin", "cutpaste"))
    samples = {sample.sample_id: sample for pool in (normals, *pools) for sample in read_samples(pool)}
    refused = [next(read_samples(pool)).sample_id for pool in (normals, pools[0])]
    verdicts = {name: Verdict(name, "mask_ratio" if name in refused else "", {}) for name in samples}
    exported = export_mvtec(tmp_path / "out" / "washer", normals=normals, pairs={"scratch": pools}, verdicts=verdicts)
    assert (exported.normals, dict(exported.pairs)) == (4, {"scratch": 7})
    source = MVTecSource(kind="mvtec", root=str(tmp_path / "out"), licence="CC0-1.0")
    obj = ObjectParams(name="washer")
    items = list(open_source(source, category="washer", obj=obj, defects=(), root=tmp_path, seed=0))
    assert sorted(item.defect or "good" for item in items) == ["good"] * 4 + ["scratch"] * 7
    kept = {sample.image.tobytes(): sample for name, sample in samples.items() if name not in refused}
    for item in items:
        sample = kept.pop(decode_image(item.read_image(), name=item.path).image.tobytes())
        assert (sample.mask is None) == (item.defect is None)
        if item.read_mask is not None:
            np.testing.assert_array_equal(decode_mask(item.read_mask(), name=item.path), sample.mask)
    assert not kept
    with pytest.raises(DataError, match="exists already"):
        export_mvtec(tmp_path / "out" / "washer", normals=normals, pairs={}, verdicts=verdicts)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["washer"]


def test_the_manifest_names_licence_seed_prompt_and_parent_of_every_image(tmp_path: Path) -> None:
    normals = sealed(tmp_path, pool="normals", n=3)
    pool = sealed(tmp_path, pool="pairs", n=4, licences=("CC-BY-4.0", "CC-BY-NC-SA-4.0"))
    samples = {sample.sample_id: sample for one in (normals, pool) for sample in read_samples(one)}
    verdicts = {name: Verdict(name, "", {}) for name in samples}
    out = tmp_path / "out"
    export_mvtec(out, normals=normals, pairs={"scratch": (pool,)}, verdicts=verdicts)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["version"], manifest["licence"]) == (1, "CC-BY-NC-SA-4.0")
    paths = [path for part in ("train", "test") for path in sorted((out / part).rglob("*.png"))]
    assert [entry["file"] for entry in manifest["images"]] == [path.relative_to(out).as_posix() for path in paths]
    assert len(paths) == 7
    for entry in manifest["images"]:
        sample = samples[entry["sample_id"]]
        written = decode_image((out / entry["file"]).read_bytes(), name=entry["file"]).image
        np.testing.assert_array_equal(written, sample.image)
        made = sample.provenance
        assert (entry["seed"], entry["prompt"]) == (sample.spec.seed, made.prompt)
        assert (entry["parent_id"], entry["licence"]) == (made.parent_id, made.licence)
