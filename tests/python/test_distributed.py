"""Two processes on loopback: masks agree although each rank sees gradients of its own."""

import glyptic
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


def worker(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # weights agree; only growth could tell ranks apart
        s = glyptic.sparsity.RigL(
            model, optimizer, density=0.3, total_steps=100, update_every=1, seed=rank,
            process_group=dist.group.WORLD.group_name,
        )  # fmt: skip
        grads = []
        for t in range(6):
            generator = torch.Generator().manual_seed(10 * t + rank)
            optimizer.zero_grad()
            model(torch.randn(4, 8, generator=generator)).square().sum().backward()
            grads.append(model[0].weight.grad.clone())
            s.step()
            assert torch.equal(model[0].weight.grad, grads[-1])  # averaging happens on a copy
        queue.put((rank, [m.numpy() for m in s.masks().values()], [g.numpy() for g in grads]))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no c10d")
def test_two_ranks_grow_the_same_weights(unused_port):
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(rank, unused_port, queue)) for rank in range(2)]
    for p in processes:
        p.start()
    results = dict((rank, (masks, grads)) for rank, masks, grads in (queue.get(timeout=120) for _ in range(2)))
    for p in processes:
        p.join(timeout=60)
        assert p.exitcode == 0
    (masks_a, grads_a), (masks_b, grads_b) = results[0], results[1]
    assert any((a != b).any() for a, b in zip(grads_a, grads_b, strict=True))
    for a, b in zip(masks_a, masks_b, strict=True):
        assert (a == b).all()


def test_unknown_group_is_named():
    model = nn.Sequential(nn.Linear(8, 32))
    with pytest.raises(ValueError, match="no process group called 'nobody'"):
        glyptic.sparsity.RigL(model, None, density=0.3, total_steps=10, process_group="nobody")
