"""Which rank this is, on which device, and its process group.

One rank needs no launcher, no address and no port; several are started by
`torchrun`, which says so in the environment. gloo on CPU, NCCL on GPUs.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist

from errors import UserError


@dataclass(frozen=True)
class Place:
    """This rank among ``world_size``, and its device."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device


def join(device: str = "auto") -> Place:
    """Join the default process group, creating it if there is none.

    Args:
        device: ``auto`` (cuda when there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: cuda was asked for and there is none.
    """
    kind = choose_device(device)
    hush()
    if not dist.is_initialized():
        # gloo stays at hand beside NCCL: checkpoints are written from copies in host memory.
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        if "TORCHELASTIC_RUN_ID" in os.environ or "MASTER_ADDR" in os.environ:
            dist.init_process_group(backend)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    place = torch.device(kind)
    if kind == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    world_size = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    return Place(dist.get_rank(), world_size, local, place)


def hush() -> None:
    """Keep to ourselves what the libraries say of their own insides at every start."""
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in (r"torch\.", r"torchrec\.", r"trainers\."):
        warnings.filterwarnings("ignore", module=module)


def choose_device(device: str) -> str:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(
            "device = cuda, but PyTorch sees no GPU here; use device = cpu, "
            "or install requirements/gpu.txt on a machine with an NVIDIA driver"
        )
    if device == "auto":
        return "cuda" if available else "cpu"
    return device
