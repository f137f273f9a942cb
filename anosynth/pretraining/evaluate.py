"""What the embedded backbone can do, measured: `python -m anosynth.pretraining.evaluate --folder ... --bsdata ...`.

Five questions, one function each: does the autoencoder keep real images, does text decide what is drawn, can it be
personalized to real photographs, does image-to-image repair a part, do other sizes work. Needs the extra [dev]
(scikit-image's textures).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data as textures

from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.personalize import Subject, personalize
from anosynth.diffusion.sample import text_to_image
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.views import NormalViews
from anosynth.features.encoder import PatchFeatures, build_features
from anosynth.metrics.synthesis import kid_lite
from anosynth.params import ComputeParams, EmbeddedFeatures, PersonalizeNormalsParams, PretrainedBackbone
from anosynth.pretraining.rendering import render
from anosynth.pretraining.repair import Repair, SecondPass, scratch_removal
from anosynth.pretraining.sheets import MEMORY, SIZE_PX, Image8, round_trip, sheet
from anosynth.screening.ceiling import similarity_ceiling
from anosynth.screening.memorization import MAX_REFERENCES, NearestShot
from anosynth.seeding import numpy_rng, seed_for, torch_generators
from anosynth.shards.store import ShardStore
from anosynth.sources.groups import read_groups
from anosynth.sources.procedural.demo import NAMES

SAMPLER = SamplerSettings("dpm_solver", 20, 5.0)
SIZES_PX = (96, 128, 160, 192)
REPAIRED = {
    "cast_metal": "cast metal",
    "brushed_metal": "brushed metal",
    "washer": "steel washer",
    "leather": "leather",
    "pill": NAMES["pill"],
    "wood": NAMES["wood"],
    "tile": NAMES["tile"],
}
"""Demo categories that can be scratched, as prompts call them."""
PARTS = ("vae", "text", "lora", "repair", "sizes")


def psnr_db(image: Image8, reference: Image8) -> float:
    """10 log10(255^2 / MSE) over all pixels and channels; infinite for equal images."""
    error = float(np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return float("inf") if error == 0.0 else float(10.0 * np.log10(255.0**2 / error))


def ssim(image: Image8, reference: Image8) -> float:
    """Structural similarity, mean over pixels and channels (Wang et al. 2004: Gaussian window of sigma 1.5 px)."""
    x, y = image.astype(np.float64), reference.astype(np.float64)

    def window(field: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(field, (1.5, 1.5, 0.0), truncate=3.5))

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = window(x), window(y)
    vx, vy, vxy = window(x * x) - mx * mx, window(y * y) - my * my, window(x * y) - mx * my
    score = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(score[5:-5, 5:-5].mean())


def read_square(path: Path, size_px: int) -> Image8:
    """An image file as uint8 RGB [size_px, size_px, 3], area-averaged."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size_px, size_px), Image.Resampling.BOX))


def fidelity(backbone: LatentDiffusion, images: Sequence[Image8]) -> dict[str, float]:
    """Mean PSNR and SSIM of the autoencoder's round trip."""
    back = round_trip(backbone, images)
    return {
        "psnr_db": round(float(np.mean([psnr_db(b, a) for a, b in zip(images, back, strict=True)])), 2),
        "ssim": round(float(np.mean([ssim(b, a) for a, b in zip(images, back, strict=True)])), 4),
        "images": len(images),
    }


def texture_images() -> dict[str, Image8]:
    """scikit-image's brick, grass and gravel: resized as a whole, and a window at full resolution."""
    images = {}
    for name in ("brick", "grass", "gravel"):
        whole = Image.fromarray(getattr(textures, name)()).convert("RGB")
        images[f"{name}_resized"] = np.asarray(whole.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))
        images[f"{name}_window"] = np.asarray(whole)[192 : 192 + SIZE_PX, 192 : 192 + SIZE_PX]
    return images


def read_prompts(name: Literal["eval", "dev"]) -> dict[str, str]:
    """subject -> prompt: the twenty that were committed before training, or twenty others that choices are made on."""
    text = (files("anosynth.pretraining") / f"prompts_{name}.txt").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines() if line)


def draw(
    backbone: LatentDiffusion,
    prompts: Sequence[str],
    *,
    seed: int,
    size_px: int = SIZE_PX,
    settings: SamplerSettings = SAMPLER,
) -> Image8:
    """One image per prompt, eight at once; image i depends on (seed, i) and its prompt."""
    blank = backbone.embed([""])
    parts = []
    for start in range(0, len(prompts), 8):
        part = prompts[start : start + 8]
        seeds = [seed_for(seed, "evaluate", start + index) for index in range(len(part))]
        parts.append(
            text_to_image(
                backbone,
                backbone.embed(part),
                size_px=size_px,
                settings=settings,
                generators=torch_generators(seeds),
                blank=blank,
            )
        )
    return np.concatenate(parts)


def recognition(
    backbone: LatentDiffusion,
    features: PatchFeatures,
    prompts: Mapping[str, str],
    *,
    sampler: SamplerSettings,
    per_prompt: int,
    renders_per_class: int,
    seed: int,
    size_px: int = SIZE_PX,
) -> tuple[dict[str, object], Image8]:
    """Share of drawn images whose nearest render, by the cosine of Lite2 features, is of the material asked for.

    Args:
        backbone: what draws.
        features: of the nearest-neighbour classifier.
        prompts: subject -> prompt.
        sampler: how images are drawn.
        per_prompt: images of each prompt.
        renders_per_class: that the classifier knows.
        seed: root seed of images and renders.
        size_px: side of images and renders, a multiple of the latent factor.

    Returns:
        (figures by prompt, the drawn images in the order of the prompts).
    """
    asked = [prompt for prompt in prompts.values() for _ in range(per_prompt)]
    drawn = draw(backbone, asked, seed=seed, size_px=size_px, settings=sampler)
    figures = recognized(drawn, features, list(prompts), renders_per_class=renders_per_class, seed=seed)
    return figures, drawn


def recognized(
    drawn: Image8, features: PatchFeatures, names: Sequence[str], *, renders_per_class: int, seed: int
) -> dict[str, object]:
    """Share of images whose nearest render is of the subject that they should show.

    Args:
        drawn: uint8 [N * k, S, S, 3], k of every subject in the order of `names`.
        features: of the nearest-neighbour classifier.
        names: the N subjects.
        renders_per_class: that the classifier knows, of the images' size.
        seed: root seed of the renders.
    """
    renders = [
        render(numpy_rng(seed, "evaluate_renders", name, index), drawn.shape[1], subject=name, damage=None)[0]
        for name in names
        for index in range(renders_per_class)
    ]
    bank = _unit(features.pooled(renders))
    labels = np.repeat(np.arange(len(names)), renders_per_class)
    wanted = np.repeat(np.arange(len(names)), len(drawn) // len(names))
    found = labels[(_unit(features.pooled(list(drawn))) @ bank.T).argmax(axis=1)]
    per_class = {name: round(float((found[wanted == row] == row).mean()), 2) for row, name in enumerate(names)}
    return {"recognized": round(float((found == wanted).mean()), 4), "per_class": per_class, "images": len(drawn)}


def cost(backbone: LatentDiffusion, *, size_px: int) -> dict[str, float]:
    """Processor milliseconds per image, batches of eight, best of three: a U-Net evaluation, and encode with decode."""
    images = [np.full((size_px, size_px, 3), 100, np.uint8)] * 8
    latents, text = backbone.encode(images), backbone.embed(["a photo of rusty iron"] * 8)
    at = torch.full((8,), 500)
    kinds: dict[str, Callable[[], object]] = {
        "evaluation_ms": lambda: backbone.predict(latents, at, text),
        "round_trip_ms": lambda: round_trip(backbone, images),
    }
    best = dict.fromkeys(kinds, float("inf"))
    with torch.inference_mode():
        for _ in range(3):
            for name, run in kinds.items():
                began = time.process_time()
                run()
                best[name] = min(best[name], time.process_time() - began)
    return {name: round(1e3 * seconds / 8, 1) for name, seconds in best.items()}


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def personalization(
    backbone: LatentDiffusion,
    features: PatchFeatures,
    shots: Sequence[Image8],
    groups: Sequence[str],
    held_out: Sequence[Image8],
    *,
    compute: ComputeParams,
    settings: PersonalizeNormalsParams,
    sampler: SamplerSettings,
    name: str,
    num_samples: int,
    seed: int,
) -> tuple[dict[str, object], Image8]:
    """KID-Lite to held-out real normals: personalized, unpersonalized, floor, and the shots themselves augmented.

    Each with its standard deviation over subsets of 80 % (`kid_lite`; no bootstrap), and `memorization` of the samples.

    Returns:
        (figures, personalized samples).
    """
    prompts = [settings.prompt.format(name=name)] * num_samples
    plain = draw(backbone, prompts, seed=seed, settings=sampler)
    subject = Subject(
        "evaluation", name, NormalViews(), tuple(map(str, range(len(shots)))), SIZE_PX, backbone.identity, seed
    )
    began = time.process_time()
    adapter = personalize(backbone, shots, subject, settings, compute=compute, store=ShardStore(MEMORY))
    cpu_s = time.process_time() - began
    with personalized(backbone, adapter):
        drawn = draw(backbone, prompts, seed=seed, settings=sampler)
    rng = numpy_rng(seed, "evaluate_personalization")
    real = features.pooled(held_out)
    order = rng.permutation(len(real))
    repeated = [_jittered(shots[index % len(shots)], rng) for index in range(num_samples)]
    kids = {
        "personalized": kid_lite(features.pooled(list(drawn)), real, rng=rng),
        "unpersonalized": kid_lite(features.pooled(list(plain)), real, rng=rng),
        "floor_two_halves": kid_lite(real[order[: len(real) // 2]], real[order[len(real) // 2 :]], rng=rng),
        "shots_augmented": kid_lite(features.pooled(repeated), real, rng=rng),
    }
    figures: dict[str, object] = {key: [round(kid.value, 5), round(kid.sd, 5)] for key, kid in kids.items()}
    figures |= {"lora_cpu_s": round(cpu_s, 1), "shots": len(shots)}
    return figures | {"memorization": memorization(list(drawn), shots, groups, held_out)}, drawn


def _jittered(image: Image8, rng: np.random.Generator) -> Image8:
    shifted = np.roll(image, tuple(rng.integers(-8, 9, 2)), axis=(0, 1))
    mirrored = shifted[:, ::-1] if rng.random() < 0.5 else shifted
    return np.clip(mirrored * np.exp(rng.normal(0.0, 0.05)), 0, 255).astype(np.uint8)


def memorization(
    drawn: Sequence[Image8], shots: Sequence[Image8], groups: Sequence[str], held_out: Sequence[Image8]
) -> dict[str, object]:
    """How many images are more like a shot than shots of different groups are like each other.

    By the measure that judges pools (`anosynth.screening.ceiling`), the first held-out normals regressed out.

    Args:
        drawn: generated images, uint8 RGB.
        shots: what the generator saw; of at least two groups.
        groups: group of each shot.
        held_out: real normals that no generator saw, more than are regressed out; the others say what share real
            pictures have.

    Raises:
        ValueError: if all shots come from one group.
    """
    others, real = held_out[:MAX_REFERENCES], held_out[MAX_REFERENCES:]
    ceiling = similarity_ceiling(shots, groups, others=others)
    if ceiling is None:
        raise ValueError("all shots come from one group; a ceiling needs two")
    nearest = NearestShot(shots, others=others)
    found: dict[str, object] = {"ceiling": round(ceiling.value, 3), "ceiling_of_nearest": round(ceiling.nearest, 3)}
    for name, images in (("drawn", drawn), ("held_out", real)):
        likeness = np.array([nearest.match(image).similarity for image in images])
        found[name] = {
            "above_ceiling": round(float(np.mean(likeness > ceiling.value)), 4),
            "above_ceiling_of_nearest": round(float(np.mean(likeness > ceiling.nearest)), 4),
            "median": round(float(np.median(likeness)), 3),
            "max": round(float(likeness.max()), 3),
        }
    return found


def _adapting(steps: int, decoder_steps: int = 0) -> PersonalizeNormalsParams:
    return PersonalizeNormalsParams.model_validate(
        {
            "target_layers": "blocks",
            "rank": 32,
            "alpha": 32.0,
            "lr": 3e-3,
            "falling": True,
            "steps": steps,
            "batch_size": 4,
            "prior_weight": 0.0,
            "prior_images": 0,
            "decoder_steps": decoder_steps,
        }
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anosynth.pretraining.evaluate",
        description=__doc__,
        epilog="examples:\n  python -m anosynth.pretraining.evaluate --folder anosynth/embedded --only vae sizes\n"
        "  python -m anosynth.pretraining.evaluate --only text --prompts dev --guidance 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--folder", type=Path, default=Path(".anosynth/pretrain/export"), help="the backbone, in diffusers' layout")
    add("--bsdata", type=Path, help="folder with ball_screw/train/good; its lines are left out without")
    add("--out", type=Path, default=Path(".anosynth/pretrain/evaluation"), help="folder of figures and contact sheets")
    add(
        "--only",
        nargs="+",
        choices=PARTS,
        help="what is measured; default: all, without --bsdata all but lora",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="number format of networks' passes")
    add("--prompts", choices=("eval", "dev"), default="eval", help="dev: to choose guidance by")
    add("--guidance", type=float, default=SAMPLER.guidance, help="text: scale of classifier-free guidance; 1: none")
    add("--per-prompt", type=int, default=10, help="text: images of each prompt")
    add("--lora-steps", type=int, default=400, help="lora: of training on eight shots")
    add("--lora-decoder-steps", type=int, default=150, help="lora: of the decoder's training on them; 0: none")
    add("--samples", type=int, default=64, help="lora: images drawn with the adapter, and as many without")
    add("--cases", type=int, default=100, help="repair: scratched renders in all, at least; the categories share them")
    add(
        "--repair-categories",
        nargs="+",
        choices=tuple(REPAIRED),
        default=("cast_metal", "brushed_metal", "washer", "leather"),
        help="repair: washer and pill are parts, the others surfaces; default: a part and three surfaces",
    )
    add("--lora-guidance", type=float, default=1.0, help="lora: scale of classifier-free guidance; 1: none")
    add("--strength", type=float, default=0.3, help="repair: share of T that a part is re-noised by")
    add("--repair-steps", type=int, default=10, help="repair: solver steps of a full path; strength takes its share")
    add("--repair-draws", type=int, default=8, help="repair: draws of a part, whose median is taken")
    add("--repair-lora-steps", type=int, default=400, help="repair: of training on sound parts first; 0: none")
    add("--repair-sound", type=int, default=8, help="repair: sound parts to learn from and to compare with")
    add(
        "--repair-cells", type=float, default=0.45, help="repair: share of cells that is drawn twice; 0: no second pass"
    )
    add("--repair-again", type=float, default=0.3, help="repair: strength of the second pass")
    add("--threads", type=int, default=2, help="of torch")
    add("--seed", type=int, default=7, help="root seed of renders, noise and the choice of shots")
    return parser


def main() -> None:
    """Measure, print one JSON object, write contact sheets."""
    parser = _parser()
    arguments = parser.parse_args()
    if "lora" in (arguments.only or ()) and not arguments.bsdata:
        parser.error("--only lora: it learns from photographs; add --bsdata FOLDER")
    if arguments.repair_sound < 1:
        parser.error(f"--repair-sound: {arguments.repair_sound} sound parts; allowed: 1 or more")
    torch.set_num_threads(arguments.threads)
    compute = ComputeParams(threads=arguments.threads, dtype=arguments.dtype, device="cpu")
    backbone = open_backbone(
        PretrainedBackbone(kind="pretrained", path=str(arguments.folder.absolute())), compute=compute
    )
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "model": "lite2"}), compute=compute)
    arguments.out.mkdir(parents=True, exist_ok=True)
    normals: list[Image8] = []
    groups: list[str] = []
    paths: list[Path] = []
    if arguments.bsdata:
        root = arguments.bsdata / "ball_screw"
        paths = sorted((root / "train" / "good").iterdir())
        normals = [read_square(path, SIZE_PX) for path in paths]
        by_path = read_groups(root / "groups.csv", root=root).by_path
        groups = [by_path[path.relative_to(root).as_posix()] for path in paths]
    order = numpy_rng(arguments.seed, "evaluate_shots").permutation(len(normals))
    shots, held_out = [normals[i] for i in order[:8]], [normals[i] for i in order[8:]]

    def save(name: str, images: Sequence[Image8], columns: int) -> None:
        Image.fromarray(sheet(images, columns)).save(arguments.out / f"{name}.png")

    def vae() -> dict[str, object]:
        fine = texture_images()
        save("vae_textures", [*fine.values(), *round_trip(backbone, list(fine.values()))], len(fine))
        figures: dict[str, object] = {"textures": {name: fidelity(backbone, [image]) for name, image in fine.items()}}
        for kind in ("resized", "window"):
            chosen = [image for name, image in fine.items() if name.endswith(kind)]
            figures[f"textures_{kind}"] = fidelity(backbone, chosen)
        if normals:
            figures["bsdata_train_good"] = fidelity(backbone, normals)
            save("vae_bsdata", [*normals[:8], *round_trip(backbone, normals[:8])], 8)
        return figures

    def text() -> dict[str, object]:
        figures, drawn = recognition(
            backbone,
            features,
            read_prompts(arguments.prompts),
            sampler=replace(SAMPLER, guidance=arguments.guidance),
            per_prompt=arguments.per_prompt,
            renders_per_class=40,
            seed=arguments.seed,
        )
        save("text", list(drawn), arguments.per_prompt)
        return figures

    def lora() -> dict[str, object]:
        figures, drawn = personalization(
            backbone,
            features,
            shots,
            [groups[i] for i in order[:8]],
            held_out,
            compute=compute,
            settings=_adapting(arguments.lora_steps, arguments.lora_decoder_steps),
            sampler=SamplerSettings("dpm_solver", 20, arguments.lora_guidance),
            name="worn steel ball screw",
            num_samples=arguments.samples,
            seed=arguments.seed,
        )
        save("lora", [*shots, *round_trip(backbone, shots), *drawn[:24]], 8)
        return figures

    def repair() -> dict[str, object]:
        categories = {category: REPAIRED[category] for category in arguments.repair_categories}
        adapting = _adapting(arguments.repair_lora_steps) if arguments.repair_lora_steps else None
        figures, rows = scratch_removal(
            backbone,
            categories=categories,
            per_category=-(-arguments.cases // len(categories)),
            repair=Repair(
                arguments.strength,
                SamplerSettings("dpm_solver", arguments.repair_steps, 1.0),
                arguments.repair_draws,
                adapting,
                SecondPass(arguments.repair_cells, arguments.repair_again, 8) if arguments.repair_cells else None,
                arguments.repair_sound,
            ),
            features=build_features(
                EmbeddedFeatures.model_validate({"kind": "embedded", "size_px": 256}), compute=compute
            ),
            compute=compute,
            seed=arguments.seed,
        )
        save("repair", [rows], 1)
        return figures

    def sizes() -> dict[str, object]:
        found: dict[str, object] = {}
        for size_px in SIZES_PX:
            known, drawn = recognition(
                backbone,
                features,
                read_prompts(arguments.prompts),
                sampler=replace(SAMPLER, guidance=arguments.guidance),
                per_prompt=2,
                renders_per_class=20,
                seed=arguments.seed,
                size_px=size_px,
            )
            save(f"size_{size_px}", list(drawn[::2]), 10)
            figures = {"recognized": known["recognized"], **cost(backbone, size_px=size_px)}
            if normals:
                figures |= fidelity(backbone, [read_square(path, size_px) for path in paths])
            found[f"{size_px}_px"] = figures
        return found

    parts: dict[str, Callable[[], dict[str, object]]] = {
        "vae": vae, "text": text, "lora": lora, "repair": repair, "sizes": sizes
    }  # fmt: skip
    for name in arguments.only or [part for part in PARTS if normals or part != "lora"]:
        began = time.perf_counter()
        figures = parts[name]() | {"wall_s": round(time.perf_counter() - began, 1)}
        (arguments.out / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
        print(json.dumps({name: figures}), flush=True)


if __name__ == "__main__":
    main()
