"""FID's Inception network on random weights, against the architecture written out a second time."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision.models import inception_v3

from anosynth.errors import BackboneError
from anosynth.features.inception import InceptionFeatures
from tests.features.random_weights import inception_state

Images = list[np.ndarray]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return inception_state()


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "fid.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> InceptionFeatures:
    return InceptionFeatures(weights)


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((64, 96, 3), (299, 299, 3))]


def neighbourhood(x: Tensor, beyond: float) -> Tensor:
    """The 3 x 3 cells around every cell, [9, B, C, h, w], `beyond` outside of the map."""
    height, width = x.shape[-2:]
    padded = functional.pad(x, (1, 1, 1, 1), value=beyond)
    return torch.stack([padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)])


def mean_of_real_cells(x: Tensor) -> Tensor:
    return neighbourhood(x, 0.0).sum(0) / neighbourhood(torch.ones_like(x), 0.0).sum(0)


def largest(x: Tensor) -> Tensor:
    return neighbourhood(x, -torch.inf).amax(0)


def written_out(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Szegedy et al. 2016 with the pools of TensorFlow's network: [B, 3, 299, 299] -> [B, 2048]."""

    def conv(x: Tensor, name: str, *, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
        x = functional.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / torch.sqrt(var + 1e-3)
        return torch.relu((x - mean[:, None, None]) * scale[:, None, None] + beta[:, None, None])

    def chain(x: Tensor, block: str, *steps: str | tuple[str, tuple[int, int]]) -> Tensor:
        for step in steps:
            name, padding = (step, (0, 0)) if isinstance(step, str) else step
            x = conv(x, f"{block}.{name}", padding=padding)
        return x

    def block_a(x: Tensor, name: str) -> Tensor:
        return torch.cat(
            [
                chain(x, name, "branch1x1"),
                chain(x, name, "branch5x5_1", ("branch5x5_2", (2, 2))),
                chain(x, name, "branch3x3dbl_1", ("branch3x3dbl_2", (1, 1)), ("branch3x3dbl_3", (1, 1))),
                chain(mean_of_real_cells(x), name, "branch_pool"),
            ],
            dim=1,
        )

    def block_c(x: Tensor, name: str) -> Tensor:
        row, column = (0, 3), (3, 0)
        long = [(f"branch7x7dbl_{at}", column if at % 2 == 0 else row) for at in (2, 3, 4, 5)]
        return torch.cat(
            [
                chain(x, name, "branch1x1"),
                chain(x, name, "branch7x7_1", ("branch7x7_2", row), ("branch7x7_3", column)),
                chain(x, name, "branch7x7dbl_1", *long),
                chain(mean_of_real_cells(x), name, "branch_pool"),
            ],
            dim=1,
        )

    def block_e(x: Tensor, name: str, pool: Callable[[Tensor], Tensor]) -> Tensor:
        short = chain(x, name, "branch3x3_1")
        long = chain(x, name, "branch3x3dbl_1", ("branch3x3dbl_2", (1, 1)))
        return torch.cat(
            [
                chain(x, name, "branch1x1"),
                chain(short, name, ("branch3x3_2a", (0, 1))),
                chain(short, name, ("branch3x3_2b", (1, 0))),
                chain(long, name, ("branch3x3dbl_3a", (0, 1))),
                chain(long, name, ("branch3x3dbl_3b", (1, 0))),
                chain(pool(x), name, "branch_pool"),
            ],
            dim=1,
        )

    x = conv(conv(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3")
    x = functional.max_pool2d(conv(x, "Conv2d_2b_3x3", padding=(1, 1)), 3, stride=2)
    x = functional.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, stride=2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = block_a(x, name)
    deep = chain(x, "Mixed_6a", "branch3x3dbl_1", ("branch3x3dbl_2", (1, 1)))
    parts = [conv(x, "Mixed_6a.branch3x3", stride=2), conv(deep, "Mixed_6a.branch3x3dbl_3", stride=2)]
    x = torch.cat([*parts, functional.max_pool2d(x, 3, stride=2)], dim=1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = block_c(x, name)
    deep = chain(x, "Mixed_7a", "branch7x7x3_1", ("branch7x7x3_2", (0, 3)), ("branch7x7x3_3", (3, 0)))
    parts = [conv(chain(x, "Mixed_7a", "branch3x3_1"), "Mixed_7a.branch3x3_2", stride=2)]
    parts += [conv(deep, "Mixed_7a.branch7x7x3_4", stride=2), functional.max_pool2d(x, 3, stride=2)]
    x = block_e(torch.cat(parts, dim=1), "Mixed_7b", mean_of_real_cells)
    return block_e(x, "Mixed_7c", largest).mean(dim=(2, 3))


def network_input(image: np.ndarray) -> Tensor:
    x = torch.tensor(image).permute(2, 0, 1)[None].double()
    return (functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False) / 127.5 - 1.0).float()


def test_the_features_are_those_of_the_architecture_written_out(
    state: dict[str, Tensor], network: InceptionFeatures, images: Images
) -> None:
    rows = network.pooled(images)
    assert rows.shape == (2, 2048)
    assert np.abs(rows[0] - rows[1]).mean() > 0.1  # random weights, but not blind
    for row, image in zip(rows, images, strict=True):
        with torch.no_grad():
            expected = written_out(state, network_input(image))[0].numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-3)


def test_torchvisions_own_pooling_would_give_other_features(
    state: dict[str, Tensor], network: InceptionFeatures, images: Images
) -> None:
    with torch.device("meta"):
        plain = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    plain.load_state_dict(state, assign=True)
    plain.fc = torch.nn.Identity()
    with torch.no_grad():
        other = plain.eval()(network_input(images[1]))[0].numpy()
    assert np.abs(other - network.pooled(images[1:])[0]).max() > 0.1


def test_class_probabilities_are_a_softmax_without_the_bias(
    state: dict[str, Tensor], network: InceptionFeatures
) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (3, 2048)).astype(np.float32)
    found = network.class_probabilities(rows)
    logits = rows.astype(np.float64) @ state["fc.weight"].double().numpy().T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.shape == (3, 1008)


def test_no_images_have_no_rows(network: InceptionFeatures) -> None:
    assert network.class_probabilities(network.pooled([])).shape == (0, 1008)


def test_a_file_without_counters_as_safetensors_is_the_same_network(
    state: dict[str, Tensor], network: InceptionFeatures, tmp_path: Path, images: Images
) -> None:
    save_file({key: one for key, one in state.items() if "num_batches" not in key}, tmp_path / "fid.safetensors")
    rows = InceptionFeatures(tmp_path / "fid.safetensors").pooled(images[:1])
    np.testing.assert_array_equal(rows, network.pooled(images[:1]))


def test_opening_the_weights_draws_nothing_from_the_global_generator(weights: Path) -> None:
    before = torch.random.get_rng_state()
    InceptionFeatures(weights)
    assert torch.equal(before, torch.random.get_rng_state())


def refused(state: Mapping[str, Tensor], path: Path) -> str:
    torch.save({key: torch.zeros(()).expand(one.shape) for key, one in state.items()}, path)
    with pytest.raises(BackboneError) as caught:
        InceptionFeatures(path)
    text = str(caught.value)
    assert text.startswith(f"measure.inception: {path} is not the weight file of FID's Inception network")
    assert "\n" not in text
    return text


def test_torchvisions_imagenet_network_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        other = inception_v3(weights=None, init_weights=False).state_dict()
    text = refused(other, tmp_path / "other.pth")
    assert "not expected (AuxLogits" in text
    assert (
        "2 of another size (fc.weight [1000, 2048] instead of [1008, 2048], fc.bias [1000] instead of [1008])" in text
    )


def test_a_missing_layer_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    short = {key: one for key, one in state.items() if key != "Mixed_7c.branch_pool.conv.weight"}
    assert "keys are 1 missing (Mixed_7c.branch_pool.conv.weight)" in refused(short, tmp_path / "short.pth")
