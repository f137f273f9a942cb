"""Latent diffusion: parts, objective, adapters, training, sampling."""
