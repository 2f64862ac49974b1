"""The command line under ``torchrun`` or Slurm: one run made of several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

# Long enough for a rank that loads data or measures speed while the others wait.
_TIMEOUT = timedelta(minutes=30)


@contextmanager
def all_ranks() -> Iterator[None]:
    """Joins the process group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, when there is one.

    ``GLYPTIC_TIMEOUT`` (seconds) says how long a process waits for the others before it gives up.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1 or "MASTER_ADDR" not in os.environ:
        yield
        return
    import torch
    import torch.distributed as dist

    from . import _C

    seconds = os.environ.get("GLYPTIC_TIMEOUT")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group(backend, timeout=timedelta(seconds=float(seconds)) if seconds else _TIMEOUT)
    try:
        group = dist.group.WORLD
        assert group is not None
        _C.set_ranks(group.group_name, dist.get_rank(), size)
        yield
    finally:
        _C.set_ranks("", 0, 1)
        dist.destroy_process_group()
