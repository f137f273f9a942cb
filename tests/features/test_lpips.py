"""LPIPS on random weights, against its definition taken pair by pair."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from anosynth.errors import BackboneError
from anosynth.features import lpips
from anosynth.features.lpips import LpipsFeatures
from tests.features.random_weights import heads_state, trunk_state, write_lpips

SIZE_PX = 64
# (position of the convolution, stride, padding), "pool", and "tap" behind every layer that LPIPS compares.
ALEX = [(0, 4, 2), "tap", "pool", (3, 1, 2), "tap", "pool", (6, 1, 1), "tap", (8, 1, 1), "tap", (10, 1, 1), "tap"]
VGG = [
    (0, 1, 1), (2, 1, 1), "tap", "pool", (5, 1, 1), (7, 1, 1), "tap", "pool",
    (10, 1, 1), (12, 1, 1), (14, 1, 1), "tap", "pool", (17, 1, 1), (19, 1, 1), (21, 1, 1), "tap", "pool",
    (24, 1, 1), (26, 1, 1), (28, 1, 1), "tap",
]  # fmt: skip


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    monkeypatch.setattr(lpips, "INPUT_PX", SIZE_PX)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8) for _ in range(2)]
    return [*noise, np.full((SIZE_PX, SIZE_PX, 3), 90, np.uint8)]


def layers(trunk: str, image: np.ndarray) -> list[Tensor]:
    state, found = trunk_state(trunk), []
    x = torch.tensor(image).permute(2, 0, 1)[None].float() / 255.0 * 2.0 - 1.0
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (x - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    for step in ALEX if trunk == "alex" else VGG:
        if step == "tap":
            found.append(x[0])
        elif step == "pool":
            x = functional.max_pool2d(x, 3 if trunk == "alex" else 2, stride=2)
        else:
            at, stride, padding = step
            weight, bias = state[f"features.{at}.weight"], state[f"features.{at}.bias"]
            x = functional.relu(functional.conv2d(x, weight, bias, stride=stride, padding=padding))
    return found


def distance(trunk: str, a: np.ndarray, b: np.ndarray) -> float:
    """Mean over cells of the weighed squared difference of unit features, summed over layers."""
    total = 0.0
    for weight, x, y in zip(heads_state(trunk).values(), layers(trunk, a), layers(trunk, b), strict=True):
        x, y = (one / (one.square().sum(dim=0).sqrt() + 1e-10) for one in (x, y))
        total += float((weight[0] * (x - y).square()).sum(dim=0).mean())
    return total


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_squared_distances_of_descriptions_are_the_published_distance(
    trunk: str, tmp_path: Path, images: list[np.ndarray]
) -> None:
    rows = LpipsFeatures(write_lpips(tmp_path, trunk), trunk=trunk).perceptual(images).astype(np.float64)  # type: ignore[arg-type]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        expected = distance(trunk, images[a], images[b])
        assert expected > 0.01
        assert np.square(rows[a] - rows[b]).sum() == pytest.approx(expected, rel=1e-4)


def test_images_of_any_size_are_compared_at_256_px(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sizes = ((256, 256, 3), (40, 30, 3))
    rows = LpipsFeatures(write_lpips(tmp_path, "alex"), trunk="alex").perceptual(
        [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    )
    assert rows.shape == (2, 63 * 63 * 64 + 31 * 31 * 192 + 15 * 15 * (384 + 256 + 256))


def test_the_classifier_may_be_there_and_both_hashes_are_told(tmp_path: Path, images: list[np.ndarray]) -> None:
    bare = LpipsFeatures(write_lpips(tmp_path / "a", "alex"), trunk="alex")
    folder = write_lpips(tmp_path / "b", "alex")
    (folder / "alexnet.pth").unlink()
    save_file({**trunk_state("alex"), "classifier.6.bias": torch.zeros(1000)}, folder / "alexnet.safetensors")
    whole = LpipsFeatures(folder, trunk="alex")
    np.testing.assert_array_equal(bare.perceptual(images), whole.perceptual(images))
    assert whole.sha256 == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("alexnet.safetensors", "lin_alex.pth")
    }


def test_other_files_are_refused(tmp_path: Path) -> None:
    folder = write_lpips(tmp_path, "alex")
    with pytest.raises(BackboneError, match=r"^measure\.lpips: of vgg16\.safetensors and vgg16\.pth .* neither"):
        LpipsFeatures(folder, trunk="vgg")
    torch.save(trunk_state("vgg"), folder / "alexnet.pth")
    with pytest.raises(BackboneError, match=r"alexnet\.pth is not torchvision's state dict of alexnet; keys are"):
        LpipsFeatures(folder, trunk="alex")
    write_lpips(folder, "alex")
    torch.save(heads_state("vgg"), folder / "lin_alex.pth")
    with pytest.raises(BackboneError, match=r"not the heads of LPIPS 0\.1 for alex; keys are 4 of another size \(lin1"):
        LpipsFeatures(folder, trunk="alex")
    torch.save({key: -one for key, one in heads_state("alex").items()}, folder / "lin_alex.pth")
    with pytest.raises(BackboneError, match="holds a negative weight; a distance has none"):
        LpipsFeatures(folder, trunk="alex")
