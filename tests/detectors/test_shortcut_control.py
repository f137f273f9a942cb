"""A generator's trace planted in the pairs: the control finds the shortcut, round trips among the normals mend it."""

from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from anosynth.detectors.batches import Augmentation
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.unet import UNetLocalizer
from anosynth.metrics.detection import image_metrics
from tests.detectors.planted import SIZE_PX, planted

CATEGORY, DEFECT = "cast_metal", "stain"


def traced(item: LabelledImage) -> LabelledImage:
    """What an autoencoder does to an image: it takes the finest grain away, of all of it."""
    image = gaussian_filter(item.image.astype(np.float32), (1.0, 1.0, 0.0)).round().astype(np.uint8)
    return LabelledImage(item.name, image, item.mask, synthetic=True)


@cache
def shortcut_auroc(*, mended: bool) -> float:
    """Fit on sharp normals and traced pairs, with traced normals if mended; compare unseen normals with their trace."""
    normals = planted(CATEGORY, None, "fit", 16)
    pairs = tuple(traced(item) for item in planted(CATEGORY, DEFECT, "fit", 16))
    detector = UNetLocalizer(
        channels=8,
        size_px=SIZE_PX,
        steps=120,
        batch_size=8,
        lr=3e-3,
        normal_ratio=0.5,
        synthetic_ratio=0.5,
        synthetic_until=1.0,
        augmentation=Augmentation(flip=True, quarter_turns=True, brightness=0.1, contrast=0.1),
        init_seed=1,
        draw_seed=2,
        dtype=torch.float32,
        device=torch.device("cpu"),
        name="shortcut",
    )
    detector.fit([*normals, *map(traced, normals if mended else ())], pairs)
    unseen = planted(CATEGORY, None, "test", 24)
    asked = [("", item.image) for item in (*unseen, *map(traced, unseen))]
    scores = np.array([answer.score for answer in detector.predict(asked)])
    return image_metrics(scores, np.repeat([False, True], len(unseen))).auroc


def test_a_detector_that_learned_the_generators_trace_is_found_out() -> None:
    assert shortcut_auroc(mended=False) > 0.75


def test_round_trips_among_the_normals_mend_it() -> None:
    assert shortcut_auroc(mended=True) <= 0.6
