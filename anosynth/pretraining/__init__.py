"""Training of the embedded backbone: rendered corpus with captions, autoencoder, denoiser, evaluation."""
