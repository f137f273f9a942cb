"""Train the embedded backbone by pretrain.yaml: pictures, autoencoder, denoiser, decoder; outside the default graph.

Run the command again to go on after a stop; the finished folder is `.anosynth/pretrain/export`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.minilm import MiniLMTextEncoder
from anosynth.layout import Layout
from anosynth.pretraining import autoencoder, decoder, denoiser
from anosynth.pretraining.corpus import CorpusSpec, open_corpus, render_pieces
from anosynth.pretraining.export import averaged_unet, export
from anosynth.pretraining.recipe import load_recipe
from anosynth.pretraining.state import TrainingState, append_log
from tasks._bind import main

LOG_EVERY = 10
SAVE_EVERY_S = 120.0


def run(*, layout: Layout) -> None:
    """Do whatever of the recipe is not done yet; steps, losses and times go to `.anosynth/pretrain/*.jsonl`."""
    recipe = load_recipe(layout.pretrain_recipe())
    torch.set_num_threads(1 if recipe.device == "cpu" else recipe.threads)
    threads = recipe.threads if recipe.device == "cpu" else 1
    work = layout.pretraining()
    work.mkdir(parents=True, exist_ok=True)
    (work / "pid").write_text(f"{os.getpid()}\n")
    shape = recipe.corpus
    spec = CorpusSpec(recipe.seed, shape.num_images, shape.size_px, shape.damage_ratio)
    pixels = work / f"corpus-{spec.version}"
    for _ in render_pieces(spec, pixels):
        pass
    corpus = open_corpus(spec, pixels)

    vae_state = autoencoder.start(recipe.autoencoder, seed=recipe.seed, device=recipe.device)
    rows = autoencoder.train(
        vae_state, corpus, recipe.autoencoder, seed=recipe.seed, device=recipe.device, threads=threads
    )
    _follow(vae_state, rows, layout, "autoencoder")
    vae = vae_state.network
    assert isinstance(vae, UnshuffleAutoencoder)
    vae.load_state_dict(vae_state.ema_network_state())
    latents = work / f"latents-{spec.version}-{vae_state.step}"
    corpus = open_corpus(replace(spec, num_images=recipe.denoiser.num_images), pixels)
    for _ in denoiser.encode_pieces(vae, corpus, latents):
        pass
    text = MiniLMTextEncoder()
    cached = denoiser.open_latents(corpus, latents, text)
    unet_state = denoiser.start(
        recipe.denoiser,
        latent_channels=recipe.autoencoder.latent_channels,
        text_width=text.width,
        seed=recipe.seed,
        device=recipe.device,
    )
    rows = denoiser.train(unet_state, cached, recipe.denoiser, seed=recipe.seed, device=recipe.device, threads=threads)
    last_export = time.monotonic()

    def export_now_and_then() -> None:
        nonlocal last_export
        if time.monotonic() - last_export > 60 * recipe.minutes_between_exports:
            export(work / "export", vae=vae, unet_state=unet_state, recipe=recipe, corpus_version=spec.version)
            last_export = time.monotonic()

    _follow(unet_state, rows, layout, "denoiser", export_now_and_then)
    decoder_state = decoder.start(vae, recipe.decoder)
    rows = decoder.train(
        decoder_state,
        vae,
        averaged_unet(unet_state),
        text.embed([""]),
        corpus,
        recipe.decoder,
        seed=recipe.seed,
        device=recipe.device,
        threads=threads,
    )
    _follow(decoder_state, rows, layout, "decoder")
    vae.decoder.load_state_dict(decoder_state.ema_network_state())
    export(work / "export", vae=vae, unet_state=unet_state, recipe=recipe, corpus_version=spec.version)
    print(
        f"pretrain_backbone: {vae_state.step} + {unet_state.step} + {decoder_state.step} steps, exported to "
        f"{work / 'export'}"
    )


def _follow(
    state: TrainingState,
    rows: Iterable[dict[str, float]],
    layout: Layout,
    name: str,
    after_save: Callable[[], None] = lambda: None,
) -> None:
    """Run a training to its end, resuming it first; log some steps, save every two minutes."""
    checkpoint = layout.pretraining() / f"{name}.safetensors"
    if checkpoint.exists():
        state.load(checkpoint)
    saved = time.monotonic()
    for row in rows:
        if row["step"] % LOG_EVERY == 0:
            append_log(layout.pretraining() / f"{name}.jsonl", {**row, "time_s": round(time.time())})
        if time.monotonic() - saved > SAVE_EVERY_S:
            state.save(checkpoint)
            after_save()
            saved = time.monotonic()
    state.save(checkpoint)


if __name__ == "__main__":
    main(run)
