"""Train the embedded backbone by pretrain.yaml: pictures, autoencoder, denoiser, decoder; outside the default graph.

Run the command again to go on after a stop; the finished folder is `.anosynth/pretrain/export`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.minilm import MiniLMTextEncoder
from anosynth.errors import TrainingError
from anosynth.layout import Layout
from anosynth.pretraining import autoencoder, decoder, denoiser
from anosynth.pretraining.corpus import CorpusSpec, open_corpus, render_corpus
from anosynth.pretraining.export import averaged, averaged_unet, export
from anosynth.pretraining.looks import round_trips, samples, write_sheet
from anosynth.pretraining.recipe import Recipe, load_recipe
from anosynth.pretraining.state import (
    Origin,
    StepReport,
    TrainingState,
    append_log,
    check_origin,
    cut_log,
    digest_weights,
    steps_taken,
)
from tasks._bind import main

STAGES = ("autoencoder", "denoiser", "decoder")
LOG_EVERY = 10
SAVE_EVERY_S = 120.0


def run(*, layout: Layout) -> None:
    """Do whatever of the recipe is not done yet; losses and sheets to look at go to `.anosynth/pretrain`."""
    recipe = load_recipe(layout.pretrain_recipe())
    torch.set_num_threads(1 if recipe.device == "cpu" else recipe.threads)
    threads = recipe.threads if recipe.device == "cpu" else 1
    seed, device, size_px = recipe.seed, recipe.device, recipe.denoiser.size_px
    work = layout.pretraining()
    work.mkdir(parents=True, exist_ok=True)
    shape = recipe.corpus
    spec = CorpusSpec(seed, shape.num_images, shape.size_px, shape.damage_ratio)
    origins = {stage: _origin(recipe, stage, spec) for stage in STAGES}
    _check_checkpoints(work, recipe, origins)
    pixels = work / f"corpus-{spec.version}"
    render_corpus(spec, pixels, processes=recipe.threads)
    corpus = open_corpus(spec, pixels)

    vae_state = autoencoder.start(recipe.autoencoder, seed=seed, device=device)

    def averaged_vae() -> UnshuffleAutoencoder:
        network = averaged(vae_state)
        assert isinstance(network, UnshuffleAutoencoder)
        return network

    def look_at_autoencoder() -> None:
        pictures = round_trips(averaged_vae(), corpus, size_px=size_px)
        write_sheet(work / "sheets", f"autoencoder-{vae_state.step:06d}", pictures)

    rows = autoencoder.train(vae_state, corpus, recipe.autoencoder, seed=seed, device=device, threads=threads)
    _follow(vae_state, rows, work, recipe, "autoencoder", origins["autoencoder"], look_at_autoencoder)
    vae = averaged_vae()
    vae_digest = digest_weights(vae.state_dict())
    latents = work / f"latents-{spec.version}-{vae_digest[:16]}"
    seen = open_corpus(replace(spec, num_images=recipe.denoiser.num_images), pixels)
    for _ in denoiser.encode_pieces(vae, seen, latents):
        pass
    text = MiniLMTextEncoder()
    cached = denoiser.open_latents(seen, latents, text)
    unet_state = denoiser.start(
        recipe.denoiser,
        latent_channels=recipe.autoencoder.latent_channels,
        text_width=text.width,
        seed=seed,
        device=device,
    )

    def export_now() -> None:
        export(work / "export", vae=vae, unet_state=unet_state, recipe=recipe, corpus_version=spec.version)

    def export_and_look() -> None:
        export_now()
        pictures = samples(vae, averaged_unet(unet_state), text, seed=seed, size_px=size_px)
        write_sheet(work / "sheets", f"denoiser-{unet_state.step:06d}", pictures)

    rows = denoiser.train(unet_state, cached, recipe.denoiser, seed=seed, device=device, threads=threads)
    origin = {**origins["denoiser"], "autoencoder (weights)": vae_digest}
    _follow(unet_state, rows, work, recipe, "denoiser", origin, export_and_look)
    unet = averaged_unet(unet_state)
    origin = {**origins["decoder"], "autoencoder (weights)": vae_digest}
    origin["denoiser (weights)"] = digest_weights(unet.state_dict())
    decoder_state = decoder.start(vae, recipe.decoder)

    def look_at_decoder() -> None:
        looked_at = copy.deepcopy(vae)
        looked_at.decoder.load_state_dict(decoder_state.ema_network_state())
        pictures = round_trips(looked_at, corpus, size_px=size_px)
        pictures += samples(looked_at, unet, text, seed=seed, size_px=size_px)
        write_sheet(work / "sheets", f"decoder-{decoder_state.step:06d}", pictures)

    rows = decoder.train(
        decoder_state,
        vae,
        unet,
        text.embed([""]),
        seen,
        recipe.decoder,
        seed=seed,
        device=device,
        threads=threads,
    )
    _follow(decoder_state, rows, work, recipe, "decoder", origin, look_at_decoder)
    vae.decoder.load_state_dict(decoder_state.ema_network_state())
    export_now()
    print(
        f"pretrain_backbone: {vae_state.step} + {unet_state.step} + {decoder_state.step} steps, exported to "
        f"{work / 'export'}; to ship it, put a copy of that folder in the place of anosynth/embedded"
    )


def _origin(recipe: Recipe, stage: str, spec: CorpusSpec) -> Origin:
    """What shapes a stage's weights, by name; steps, threads and device may change between runs."""
    values = getattr(recipe, stage).model_dump(mode="json", exclude={"steps", "decay_steps"})
    facts: dict[str, object] = {"seed": recipe.seed, "corpus (version)": spec.version}
    if stage == "autoencoder":
        facts["corpus.num_images"] = spec.num_images
    else:
        facts["denoiser.num_images"] = recipe.denoiser.num_images
    return {**facts, **{f"{stage}.{name}": value for name, value in values.items()}}


def _check_checkpoints(work: Path, recipe: Recipe, origins: Mapping[str, Origin]) -> None:
    """Refuse, before any work is done, checkpoints that this recipe would not go on with.

    Raises:
        TrainingError: if one was trained with other values, or belongs to weights of an earlier stage that will change.
    """
    files = {stage: work / f"{stage}.safetensors" for stage in STAGES}
    for index, stage in enumerate(STAGES):
        if files[stage].exists():
            check_origin(files[stage], origins[stage])
        taken, steps = steps_taken(files[stage]), getattr(recipe, stage).steps
        later = [str(files[after]) for after in STAGES[index + 1 :] if files[after].exists()]
        if taken < steps and later:
            raise TrainingError(
                f"{' and '.join(later)}: trained on the weights of a finished {stage}, but {files[stage]} holds "
                f"{taken} of the {steps} steps of {stage}.steps; put that back as it was, or remove what was trained "
                "on it to train it anew"
            )


def _follow(
    state: TrainingState,
    reports: Iterable[StepReport],
    work: Path,
    recipe: Recipe,
    stage: str,
    origin: Origin,
    now_and_then: Callable[[], None],
) -> None:
    """Run a training to its end, resuming it first; log some steps, save every two minutes, look less often."""
    checkpoint, log = work / f"{stage}.safetensors", work / f"{stage}.jsonl"
    if checkpoint.exists():
        state.load(checkpoint, origin)
    begun = state.step
    cut_log(log, begun)
    saved = shown = time.monotonic()
    for report in reports:
        if report.step % LOG_EVERY == 0:
            append_log(log, {**report.row(), "time_s": round(time.time())})
        if time.monotonic() - saved > SAVE_EVERY_S:
            state.save(checkpoint, origin)
            saved = time.monotonic()
            if saved - shown > 60 * recipe.minutes_between_exports:
                now_and_then()
                shown = time.monotonic()
    state.save(checkpoint, origin)
    if state.step > begun:
        now_and_then()


if __name__ == "__main__":
    main(run)
