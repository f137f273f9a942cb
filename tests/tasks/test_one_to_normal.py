"""One-to-Normal through the pipeline's stages, and a folder of photographs judged with what they made."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anosynth.__main__ import main
from anosynth.detectors.fits import read_fits
from anosynth.diffusion.adapters import add_lora, save_adapter, take_adapter
from anosynth.diffusion.latent import open_backbone
from anosynth.imaging import decode_image, encode_png
from anosynth.layout import Layout
from anosynth.params import load_params
from anosynth.results import read_result
from anosynth.sources.index import IndexImages
from tasks import evaluate, fit_detector
from tests.tasks.measured import call, change, make_measured

SPEC = {
    "kind": "one_to_normal",
    "arms": ["real", "normals"],
    "preset": "best",
    "branches": ["personalized", "normal"],
    "steps": 4,
    "strengths": [],
    "num_prompts": 2,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted and evaluated, with an adapter that changes nothing."""
    root = make_measured(tmp_path_factory.mktemp("one_to_normal") / "project")
    change(root, "detectors", {"one_to_normal": SPEC})
    change(root, "grid", {"detectors": ["one_to_normal"]})
    params, layout = load_params(root / "params.yaml"), Layout(root)
    backbone = open_backbone(params.backbone, compute=params.compute, root=root)
    add_lora(backbone.unet, rank=2, alpha=2.0, seed=0)
    adapter = take_adapter(backbone.unet, rank=2, alpha=2.0, backbone=backbone.identity, facts={})
    save_adapter(adapter, layout.normal_adapter("washer"))
    call(fit_detector.run, root, category="washer", detector="one_to_normal")
    shutil.rmtree(layout.normal_adapter("washer"))  # from here on the bundle carries it
    call(evaluate.run, root, category="washer", detector="one_to_normal")
    return root


def test_both_arms_are_fitted_and_measured_with_the_pool_and_without(measured: Path) -> None:
    layout = Layout(measured)
    fits = read_fits(layout.detector("washer", "one_to_normal"))
    assert fits.arms["real"].counts == {"real_normals": 4}
    assert fits.arms["normals"].counts == {"real_normals": 4, "synthetic_normals": 5}
    assert fits.arms["real"].fingerprints != fits.arms["normals"].fingerprints
    result = read_result(layout.evaluation("washer", "one_to_normal") / "metrics.json")
    for arm in ("real", "normals"):
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            value = result.metrics[arm]["0"][name]
            assert value is not None
            assert 0.0 <= value <= 1.0


def test_a_folder_is_judged_with_a_table_and_a_picture_per_query(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = IndexImages(Layout(measured).index("washer"))
    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    test = [record for record in images.records if record.role == "test"]
    for at, record in enumerate((test[0], test[-1])):
        (folder / "below" / f"{at}.png").write_bytes(encode_png(images.image(record)))
    shot = next(record for record in images.records if record.role == "train" and record.defect is None)
    (folder / "shot.png").write_bytes(encode_png(images.image(shot)))
    grey = images.image(test[0])[:, :, 0]
    (folder / "grey.png").write_bytes(encode_png(grey))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.dstack([images.image(test[0]), grey])).save(folder / "alpha.png")
    (folder / "torn.png").write_bytes(b"\x89PNG")
    (folder / "wide.png").write_bytes(encode_png(np.zeros((20, 90, 3), np.uint8)))
    bundle = Layout(measured).detector("washer", "one_to_normal") / "real-0"
    arguments = ["detect", "--bundle", str(bundle), "--images", str(folder), "--out", str(out)]
    assert main(arguments) == 1  # three were refused
    assert "3 refused, 5 twins drawn" in capsys.readouterr().out
    rows = {row["file"]: row for row in csv.DictReader((out / "verdicts.csv").open(encoding="utf-8"))}
    judged = {"below/0.png": "", "below/1.png": "", "grey.png": "grey", "deep.png": "16-bit", "alpha.png": "RGBA"}
    assert set(rows) == {*judged, "shot.png", "torn.png", "wide.png"}
    for name, reason in (("shot", "one of the references"), ("torn", "not an image"), ("wide", "width over height")):
        assert rows[f"{name}.png"]["verdict"] == "refused"
        assert reason in rows[f"{name}.png"]["reason"]
    for name, kind in judged.items():
        row = rows[name]
        assert row["reason"] == (f"converted from {kind} to 8-bit RGB" if kind else "")
        assert row["verdict"] == ("anomalous" if float(row["score"]) > float(row["threshold"]) else "normal")
        picture = decode_image((out / row["picture"]).read_bytes(), name=row["picture"]).image
        assert picture.shape[1] > 5 * 160  # query, twin, two maps, fused map
        assert picture.std() > 10
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", *[".png"] * 5]


def test_the_cascade_of_the_command_line_spares_twins(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = IndexImages(Layout(measured).index("washer"))
    record = next(record for record in images.records if record.role == "test")
    (tmp_path / "one.png").write_bytes(encode_png(images.image(record)))
    bundle = Layout(measured).detector("washer", "one_to_normal") / "real-0"
    arguments = ["detect", "--bundle", str(bundle), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--cascade", "1e6", "1e7"]) == 0
    assert "0 twins drawn" in capsys.readouterr().out
    assert main([*arguments, "--cascade", "2", "1"]) == 2
    assert "a band is low before high" in capsys.readouterr().err


def test_a_cascade_without_a_branch_to_decide_by_is_refused(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = Layout(measured).detector("washer", "one_to_normal") / "real-0"
    bundle = Path(shutil.copytree(fitted, tmp_path / "alone"))
    head = json.loads((bundle / "detector.json").read_text(encoding="utf-8"))
    alone = {**json.loads(head["settings"]["spec"]), "branches": ["personalized"]}
    head["settings"]["spec"] = json.dumps(alone, sort_keys=True)
    (bundle / "detector.json").write_text(json.dumps(head), encoding="utf-8")
    arguments = ["detect", "--bundle", str(bundle), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--cascade", "-1", "6"]) == 2
    assert capsys.readouterr().err == (
        f"anosynth: {bundle}: a cascade decides by S_N and S_text which queries get a twin, but this detector was "
        "fitted with S_P alone (branches: personalized); leave --cascade out\n"
    )


def test_what_cannot_be_served_is_told_in_one_sentence(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Layout(measured).detector("washer", "one_to_normal") / "real-0"
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "detector.json").write_text('{"settings": {"kind": "one_to_normal"}}', encoding="utf-8")
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    (other / "detector.json").write_text('{"settings": {"kind": "unet"}}', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    said = []
    for place, folder in (
        (tmp_path / "nowhere", tmp_path),
        (broken, tmp_path),
        (other, tmp_path),
        (bundle, tmp_path / "empty"),
        (bundle, tmp_path / "nowhere"),
    ):
        code = main(["detect", "--bundle", str(place), "--images", str(folder), "--out", str(tmp_path / "out")])
        assert code == 2
        said.append(capsys.readouterr().err)
    for line, words in zip(
        said,
        ("is missing", "damaged or of another version", "kind 'unet'", "holds no image", "is no folder"),
        strict=True,
    ):
        assert words in line
        assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()
