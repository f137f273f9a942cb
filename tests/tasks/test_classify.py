import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from anosynth.sources.procedural import DEFECTS
from tasks import classify
from tests.tasks.measured import call, change, make_measured
from tests.toy.project import toy_params

TYPES = sorted(DEFECTS["washer"])[:3]
PAIRS = {f"washer-{defect}-perlin": {"category": "washer", "defect": defect, "method": "perlin"} for defect in TYPES}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with three defect types."""
    root = tmp_path_factory.mktemp("classify") / "project"
    grid = {"pairs": PAIRS}
    arms = {
        name: {**arm, "methods": [method for method in arm.get("methods", []) if method == "perlin"]}
        for name, arm in toy_params()["arms"].items()  # type: ignore[attr-defined]
    }
    arms["none"] = {"real_normals": True, "real_pairs": False, "methods": []}
    return make_measured(root, {"grid": grid, "arms": arms})


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def test_every_arm_and_seed_is_measured_on_the_real_test_images(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "classify", {"arms": ["real", "perlin", "none"], "views": 2})
    change(project, "fit_detector", {"seeds": [0, 1]})
    layout = call(classify.run, project, category="washer")
    path = layout.classification("washer") / "classification.json"
    first = path.read_bytes()
    found = json.loads(first)
    assert found["classes"] == TYPES
    assert found["test_images"] == dict.fromkeys(TYPES, 4)
    assert set(found["arms"]) == {"real", "perlin"}
    assert found["arms_left_out"] == {"none": f"no pairs of {', '.join(TYPES)}"}
    checked = 0
    for arm in found["arms"].values():
        for seed in arm["seeds"].values():
            counts = np.array(seed["confusion"])
            assert counts.sum(axis=1).tolist() == [4, 4, 4]
            assert seed["accuracy"] == pytest.approx(np.trace(counts) / 12, abs=1e-6)
            checked += 1
        mean = np.mean([seed["macro_f1"] for seed in arm["seeds"].values()])
        assert arm["macro_f1"]["value"] == pytest.approx(mean, abs=1e-5)
    assert checked == 4
    assert found["arms"]["real"]["trained_on"]["counts"]["real_pairs"] == 6
    assert set(found["arms"]["perlin"]["gain_over_real"]) == {"accuracy", "macro_f1"}
    assert (layout.classification("washer") / "perlin-1" / "weights.safetensors").is_file()
    assert "2 arms x 2 seeds tell 3 defect types of washer apart on 12 real test images" in capsys.readouterr().out
    call(classify.run, project, category="washer")
    assert path.read_bytes() == first


def test_a_category_with_one_defect_type_says_that_there_is_nothing_to_tell_apart(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["grid"]["pairs"] = dict(list(PAIRS.items())[:1])
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    layout = call(classify.run, project, category="washer")
    found = json.loads((layout.classification("washer") / "classification.json").read_text(encoding="utf-8"))
    assert "nothing to tell apart" in found["note"]
    assert found["arms"] == {}
    assert "washer is left out (1 defect type" in capsys.readouterr().out
