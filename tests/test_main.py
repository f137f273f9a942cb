from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from anosynth.__main__ import main
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import decode_image, encode_png
from anosynth.layout import Layout
from anosynth.looking.sheet import OUTLINE_RGB, Tile, contact_sheet, evenly, outlined
from anosynth.params import load_params
from anosynth.samples import Record, Role, Sample, SampleSpec, Shot, Verdict
from anosynth.shards.manifest import seal
from anosynth.shards.read import write_verdicts
from anosynth.shards.store import ShardStore
from anosynth.sources.index import IndexEntry, write_index
from anosynth.sources.lock import ShotsLock, write_lock
from anosynth.sources.lock import seal as seal_records
from tests.shards.small_pools import make_jobs, make_sample
from tests.toy import make_project

COMMANDS = ("params", "verify", "inspect", "doctor", "leaks", "promote", "detect")


def _entry(at: int, role: Role, defect: str | None) -> IndexEntry:
    rng = np.random.default_rng(at)
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    mask = np.zeros((24, 32), np.uint8)
    mask[4:9, 6:16] = 255
    record = Record(
        path=f"{role}/{at:03d}.png",
        category="washer",
        defect=defect,
        mask_path=None if defect is None else f"{role}/{at:03d}_mask.png",
        role=role,
        group=f"part {at}",
        licence="CC0-1.0",
        sha256=digest_pixels(image),
        phash="0" * 16,
        height=24,
        width=32,
    )
    return IndexEntry(record, encode_png(image), None if defect is None else encode_png(mask))


@pytest.fixture
def project(tmp_path: Path) -> Layout:
    """A finished little project: index, lock, three pools, verdicts."""
    layout = Layout(make_project(tmp_path / "project"))
    roles: list[tuple[Role, str | None]] = [("train", None)] * 3 + [("train", "scratch")] * 2
    roles += [("test", None)] * 2 + [("test", "scratch")] * 2
    entries = [_entry(at, role, defect) for at, (role, defect) in enumerate(roles)]
    records = [entry.record for entry in entries]
    write_index(layout.index("washer"), entries)
    lock = ShotsLock(
        category="washer",
        method="random",
        seed=0,
        normal=tuple(Shot(record, rank, "normal") for rank, record in enumerate(records[:3])),
        anomalous={"scratch": tuple(Shot(record, rank, "anomalous") for rank, record in enumerate(records[3:5]))},
        sealed=seal_records(records),
    )
    write_lock(lock, layout.shots("washer"))
    ids = []
    store = ShardStore(layout.store_url())
    for pool, method, folder in (
        ("normals", "sample", layout.normals("washer")),
        ("pairs", "perlin", layout.pairs("washer", "scratch", "perlin")),
        ("pairs", "cutpaste", layout.pairs("washer", "scratch", "cutpaste")),
    ):
        jobs = make_jobs(6, shard_rows=3, pool=pool, method=method)  # type: ignore[arg-type]
        for job in jobs:
            store.put(job, (_made_from(spec, records) for spec in job.specs()))
            ids += [spec.sample_id for spec in job.specs()]
        seal(jobs, store, folder)
    write_verdicts(layout.verdicts("washer"), [Verdict(name, "", {}) for name in ids])
    return layout


def _made_from(spec: SampleSpec, records: list[Record]) -> Sample:
    return make_sample(spec, shot_ids=tuple(record.sha256 for record in records[:5]), parent_id=records[0].sha256)


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_whole_project_is_verified(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 0, out
    assert out.count("ok  ") == 5
    assert "3 normal and 2 anomalous shots, none of 4 sealed images" in out
    assert "6 rows in 2 shards" in out
    assert "18 of 18 samples kept" in out
    assert out.endswith("5 of 5 verified\n")


def test_a_damaged_pool_fails_with_one_line_and_exit_1(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project.pairs("washer", "scratch", "perlin")
    path = folder / "pairs-00001.parquet"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    for arguments in (("--root", project.root), (folder,), (project.root / "data",)):
        code, out, _ = _run(capsys, "verify", *arguments)
        assert code == 1
        problems = [line for line in out.splitlines() if line.startswith("PROBLEM")]
        assert len(problems) == 1
        assert str(path) in problems[0]
        assert problems[0].endswith("run: dvc repro generate_pairs@washer-scratch-perlin")


def test_a_missing_pool_is_a_problem(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    (project.normals("washer") / "manifest.json").unlink()
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 1
    assert "the pool is not finished; run: dvc repro generate_normals@washer" in out
    assert out.count("PROBLEM") == 1
    code, out, _ = _run(capsys, "verify", project.root / "data" / "normals")
    assert code == 1


def test_a_sample_made_from_a_test_image_is_found(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    leaked = _entry(7, "test", "scratch").record
    jobs = make_jobs(6, shard_rows=3, method="perlin", algorithm=2)
    store = ShardStore(project.store_url())
    for job in jobs:
        store.put(
            job,
            (make_sample(s, parent_id=leaked.sha256 if s.index == 4 else "c" * 64) for s in job.specs()),
        )
    seal(jobs, store, project.pairs("washer", "scratch", "perlin"))
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 1
    assert out.count("PROBLEM") == 1
    assert "perlin/000004 was made from test/007.png, which is a test image" in out


def test_a_pool_in_the_wrong_place_is_found(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    perlin, cutpaste = (project.pairs("washer", "scratch", method) for method in ("perlin", "cutpaste"))
    for path in (*perlin.iterdir(), *cutpaste.iterdir()):
        if path.parent == perlin:
            path.unlink()
        else:
            path.rename(perlin / path.name)
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 1
    assert "holds another pool, that of generate_pairs@washer-scratch-cutpaste" in out


def test_a_changed_lock_is_found(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    path = project.shots("washer")
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 1
    assert "changed after it was written" in out


def test_unscreened_and_unknown_samples_are_found(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("normals/washer/-/sample/000000", "normals/washer/-/sample/000099")
    write_verdicts(project.verdicts("washer"), [Verdict(name, "", {}) for name in names])
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 1
    assert "17 samples have no verdict" in out
    assert "1 verdicts are on no sample, the first on normals/washer/-/sample/000099" in out


def test_verifying_a_folder_without_pools_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "verify", tmp_path)
    assert (code, out) == (2, "")
    assert err == f"anosynth: {tmp_path} holds no pool (manifest.json and shards); name a folder below data/\n"


def test_params_are_printed_as_they_are_resolved(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "params", "--root", project.root)
    assert code == 0
    assert yaml.safe_load(out) == load_params(project.params()).model_dump(mode="json")
    assert "max_pixels" in out or "phash_bits" in out


def test_all_wrong_parameters_are_told_at_once(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load(project.params().read_text())
    values["generate_normals"]["strenght"] = [0.1, 0.2]
    values["generate_pairs"]["n"] = 0
    project.params().write_text(yaml.safe_dump(values))
    code, out, err = _run(capsys, "params", "--root", project.root)
    assert (code, out) == (2, "")
    assert "generate_normals.strenght" in err
    assert "generate_pairs.n" in err


def test_a_folder_without_params_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capsys, "verify", "--root", tmp_path)
    assert code == 2
    assert "params.yaml does not exist" in err


def test_inspect_says_what_a_thing_is(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    pool = project.pairs("washer", "scratch", "perlin")
    adapter = project.normal_adapter("washer")
    adapter.mkdir(parents=True)
    (adapter / "adapter.json").write_text(json.dumps({"rank": 4, "digest": "f" * 32}))
    (adapter / "adapter.safetensors").write_bytes(b"x" * 2000)
    things: dict[Path, str] = {
        pool: "remade by: dvc repro generate_pairs@washer-scratch-perlin",
        pool / "manifest.json": "opacity: [0.3, 0.9]",
        pool / "pairs-00001.parquet": "samples [3, 6) of pairs/washer/scratch/perlin",
        project.verdicts("washer"): "18 kept",
        project.index("washer"): "2 test, scratch",
        project.shots("washer"): "2 scratch",
        project.shots("washer").parent: "chosen by random",
        adapter: 'digest: "ffff',
    }
    for path, text in things.items():
        code, out, _ = _run(capsys, "inspect", path)
        assert code == 0
        assert text in out
    assert len(things) == 8


@pytest.mark.parametrize("name", ["nothing", "empty", "notes.txt"])
def test_inspecting_something_else_is_wrong_input(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    code, out, err = _run(capsys, "inspect", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith(f"anosynth: {tmp_path / name} ")
    assert len(err.splitlines()) == 1


def test_a_contact_sheet_shows_the_images_with_their_masks(
    project: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (project.pairs("washer", "scratch", "perlin"), project.index("washer")):
        sheet = tmp_path / "sheet.png"
        code, out, _ = _run(capsys, "inspect", path, "--sheet", sheet, "--images", 5)
        assert code == 0
        assert "5 images drawn" in out
        image = decode_image(sheet.read_bytes(), name="sheet").image
        assert np.any(np.all(image == OUTLINE_RGB, axis=2))
        assert _run(capsys, "inspect", path, "--sheet", sheet, "--images", 5, "--plain")[0] == 0
        image = decode_image(sheet.read_bytes(), name="sheet").image
        assert not np.any(np.all(image == OUTLINE_RGB, axis=2))
    code, _, err = _run(capsys, "inspect", project.shots("washer"), "--sheet", tmp_path / "no.png")
    assert code == 2
    assert "is a lock and holds no images" in err


def test_an_outline_lies_just_outside_the_foreground() -> None:
    image, mask = np.full((8, 8, 3), 9, np.uint8), np.zeros((8, 8), np.uint8)
    mask[3:5, 0:2] = 255
    drawn = np.all(outlined(image, mask, size_px=8) == OUTLINE_RGB, axis=2)
    expected = [
        "........",
        "........",
        "##......",
        "..#.....",
        "..#.....",
        "##......",
        "........",
        "........",
    ]
    assert ["".join("#" if cell else "." for cell in row) for row in drawn] == expected


def test_a_sheet_has_a_place_for_every_tile() -> None:
    tiles = [Tile(np.full((10, 20, 3), shade, np.uint8), None, f"tile {shade}") for shade in range(0, 200, 20)]
    sheet = contact_sheet(tiles, columns=4, tile_px=40)
    assert sheet.shape == (3 * (40 + 14 + 4) + 4, 4 * 44 + 4, 3)
    for at, tile in enumerate(tiles):
        top, left = 4 + at // 4 * 58, 4 + at % 4 * 44
        assert np.all(sheet[top : top + 20, left : left + 40] == tile.image[0, 0])
    assert evenly(10, at_most=4) == [0, 2, 5, 7]
    assert evenly(3, at_most=4) == [0, 1, 2]


def test_the_doctor_prunes_what_no_result_names(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    store = ShardStore(project.store_url())
    (stray,) = make_jobs(3, algorithm=9)
    store.put(stray, (make_sample(spec) for spec in stray.specs()))
    kept = [name for name in store.fingerprints() if name != stray.fingerprint]

    code, out, _ = _run(capsys, "doctor", "--root", project.root)
    assert code == 0, out
    assert "young: 2 entries" in out
    assert "exclusive create: yes" in out
    assert "torch pair: torch 2" in out
    assert stray.fingerprint in store

    code, out, _ = _run(capsys, "doctor", "--root", project.root, "--grace-s", 0, "--prune")
    assert code == 0
    assert "pruned 2 entries" in out
    assert ShardStore(project.store_url()).fingerprints() == kept
    assert len(kept) == 6
    code, out, _ = _run(capsys, "verify", "--root", project.root)
    assert code == 0


def test_the_doctor_finds_wrong_parameters(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    project.params().write_text("seed: -1")
    code, out, _ = _run(capsys, "doctor", "--root", project.root)
    assert code == 1
    assert "PROBLEM  params.yaml" in out


def test_pools_are_exported_as_an_mvtec_folder_with_their_manifest(
    project: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, said, _ = _run(capsys, "export", "--format", "mvtec", "--root", project.root, out)
    assert (code, said) == (0, f"6 normals and 12 pairs of washer written to {out}\n")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["licence"] == "CC0-1.0"
    assert len(manifest["images"]) == len(list(out.glob("t*/*/*.png"))) == 18
    assert len(list((out / "ground_truth" / "scratch").iterdir())) == 12
    code, _, err = _run(capsys, "export", "--format", "mvtec", "--category", "cog", "--root", project.root, out)
    assert (code, err) == (2, "anosynth: --category is 'cog'; it must be one of washer\n")


def test_leaks_counts_what_published_rules_would_have_leaked(
    project: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run(capsys, "leaks", "--root", project.root)
    assert code == 0
    assert "AnomalyDiffusion" in out
    assert out.count("\n| ") == 3


def test_every_command_has_help_that_ends_with_two_runnable_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ((), *((name,) for name in COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        assert caught.value.code == 0
        lines = capsys.readouterr().out.rstrip().splitlines()
        assert lines[-3] == "examples:"
        for line in lines[-2:]:
            found = re.fullmatch(r"  python -m anosynth (\w+).*", line)
            assert found is not None
            assert found[1] in COMMANDS
            assert command in ((), (found[1],))


def test_the_command_line_starts_without_torch(repository: Path) -> None:
    script = (
        "import sys, time; started = time.process_time(); import anosynth.__main__ as m; m._parser(); "
        "taken = time.process_time() - started; "
        "import anosynth.looking.verify, anosynth.looking.describe; "
        "print(taken, [name for name in ('torch', 'prefect', 'dvc', 'diffusers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, timeout=60)
    taken, heavy = run.stdout.split(" ", 1)
    assert float(taken) < 1.5
    assert heavy.strip() == "[]"


def test_a_reader_of_the_output_may_leave_early(project: Layout, repository: Path) -> None:
    run = subprocess.run(
        f"{sys.executable} -m anosynth params --root {project.root} | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert run.stdout.splitlines()[-1] == "0"
