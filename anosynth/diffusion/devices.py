"""Where and how precisely networks compute: from `ComputeParams` to torch and accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

import torch
from accelerate import Accelerator

from anosynth.errors import ParamsError, TemporaryError
from anosynth.params import ComputeParams


def dtype_of(compute: ComputeParams) -> torch.dtype:
    """Number format of frozen weights and activations; adapters, schedules and losses are float32 whatever it is."""
    match compute.dtype:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case _:
            assert_never(compute.dtype)


def device_of(compute: ComputeParams) -> torch.device:
    """The device, checked to be there.

    Raises:
        ParamsError: if CUDA is asked for and this process sees no CUDA device.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError(
            "compute.device is cuda, but no CUDA device is visible to this process; "
            "set it to cpu, or check the driver, the torch build and CUDA_VISIBLE_DEVICES"
        )
    return torch.device(compute.device)


def accelerator_for(compute: ComputeParams) -> Accelerator:
    """Return the Accelerator of a single-process training run: device, and bfloat16 autocast if that is the dtype.

    One adapter is trained by one process; more devices are used by training more categories at once.
    """
    return Accelerator(
        cpu=device_of(compute).type == "cpu", mixed_precision="bf16" if compute.dtype == "bfloat16" else "no"
    )


@contextmanager
def memory_shortage_is_temporary(doing: str) -> Iterator[None]:
    """Turn a shortage of device memory into a TemporaryError: another process on a shared GPU may go away.

    Args:
        doing: what is done inside, for the message ("generating normals of washer").
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TemporaryError(
            f"{doing}: the device ran out of memory; retry when it is free, or lower batch_size or image.size_px"
        ) from error
