"""Prefect supervises the stages of dvc.yaml; it computes nothing."""
