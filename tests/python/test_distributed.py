"""Two processes on loopback: masks agree although each rank sees gradients of its own."""

import os
import subprocess
import sys
import time

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


# A user's script, as torchrun starts it: `ddp` wraps the model, `plain` averages gradients by hand, `ranks` makes another
# sparsifier on each rank. With `die`, rank 1 fails once; with `hang`, it stops answering. Started by itself, it is its own
# torchrun (the same agent) for one run after the other, with workers that are forked, which spares them the import.
SCRIPT = """
import os, sys, time, traceback
from datetime import timedelta

import glyptic, torch
import torch.distributed as dist
from torch import nn

torch.set_num_threads(1)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))


def train(mode, folder, modes):
    rank = dist.get_rank()
    inner = network(seed=rank)  # the ranks begin apart
    model = nn.parallel.DistributedDataParallel(inner) if mode != "plain" else inner
    if mode == "plain":
        for p in model.parameters():
            dist.broadcast(p.data, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    path, first, saved = f"{folder}/{mode}.pt", 1, None
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        first = saved["step"] + 1
        inner.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    s = glyptic.sparsity.RigL(
        model, optimizer, density=0.3, total_steps=16, update_every=3, seed=rank if mode == "ranks" else 0,
        state=saved and saved["masks"],
    )
    for t in range(first, 17):
        optimizer.zero_grad()
        x = torch.randn(12, 8, generator=torch.Generator().manual_seed(t))[rank::2]
        nn.functional.cross_entropy(model(x), torch.arange(6) % 3).backward()
        if mode == "plain":
            for p in model.parameters():
                dist.all_reduce(p.grad)
                p.grad /= 2
        s.step()
        if rank == 0 and t % 5 == 0:
            torch.save({"step": t, "model": inner.state_dict(), "optimizer": optimizer.state_dict(), "masks": s.state_dict()}, path + ".new")
            os.replace(path + ".new", path)
        if t == 8 and rank == 1 and "hang" in modes:
            time.sleep(600)
        if t == 8 and rank == 1 and "die" in modes and not os.path.exists(f"{folder}/died"):
            open(f"{folder}/died", "w").close()
            raise RuntimeError("the disk of rank 1 is full")
    torch.save({"first": first, "weights": inner.state_dict(), "masks": s.masks(), "events": s.events()}, f"{folder}/{mode}-{rank}.pt")


def main(folder, *modes):
    dist.init_process_group("gloo", timeout=timedelta(seconds=3 if "hang" in modes else 60))
    for mode in modes:
        if mode in ("ddp", "plain"):
            train(mode, folder, modes)
        if mode == "ranks":
            try:
                train(mode, folder, modes)
            except glyptic.ArgumentError as error:
                open(f"{folder}/ranks-{dist.get_rank()}.txt", "w").write(str(error))
    dist.destroy_process_group()


def loud(*arguments):
    try:
        main(*arguments)
    except BaseException:
        traceback.print_exc()  # as the interpreter does; a forked function's errors end elsewhere
        raise


if __name__ == "__main__" and "RANK" in os.environ:
    main(*sys.argv[1:])
    os._exit(0)  # Gloo's threads may still hold Python objects, and then abort an interpreter that is going away
elif __name__ == "__main__":
    import torch._dynamo  # which optimizers import otherwise, in each worker
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for run, (restarts, *modes) in enumerate([(0, "ddp", "die"), (1, "ddp", "die"), (0, "ddp", "hang")]):
        folder = f"{sys.argv[1]}/{run}"
        os.mkdir(folder)
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=2, start_method="fork", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            run_id=f"run{run}", max_restarts=restarts, monitor_interval=0.1,
        )
        begin, code = time.perf_counter(), 0
        try:
            elastic_launch(config, loud)(folder, *modes)
        except ChildFailedError as error:
            code = 1
            print(error, file=sys.stderr)
        print(f"### {code} {time.perf_counter() - begin}", file=sys.stderr, flush=True)
"""


def start(command, folder):
    (folder / "train.py").write_text(SCRIPT)
    begin = time.perf_counter()
    # Sharing the rendezvous' store leaves restarted workers the addresses of the dead ones (pytorch issue 135712).
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    run = subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=240
    )
    return run.returncode, run.stderr, time.perf_counter() - begin


def one_process():
    """Both halves of each batch, their gradients averaged: what two ranks compute between them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    s = glyptic.sparsity.RigL(model, optimizer, density=0.3, total_steps=16, update_every=3)
    for t in range(1, 17):
        optimizer.zero_grad()
        batch = torch.randn(12, 8, generator=torch.Generator().manual_seed(t))
        for rank in range(2):
            (0.5 * nn.functional.cross_entropy(model(batch[rank::2]), torch.arange(6) % 3)).backward()
        s.step()
    return model.state_dict(), s.masks(), s.events()


def assert_as_one_process(folder, mode):
    weights, masks, events = one_process()
    for rank in range(2):
        result = torch.load(folder / f"{mode}-{rank}.pt", weights_only=True)
        assert result["events"] == events
        # Bit for bit: halves are exact, and a sum of two has one order.
        assert all(torch.equal(result["weights"][n], w) for n, w in weights.items())
        assert all(torch.equal(result["masks"][n], m) for n, m in masks.items())


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no c10d")
def test_a_users_script_under_torchrun(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    code, output, _ = start([*torchrun, "train.py", ".", "ddp", "plain", "ranks"], tmp_path)
    assert code == 0, output
    assert_as_one_process(tmp_path, "ddp")
    assert_as_one_process(tmp_path, "plain")
    for rank in range(2):  # every rank refuses, none waits for the others
        text = (tmp_path / f"ranks-{rank}.txt").read_text()
        assert text.startswith("rank 1 made another sparsifier than rank 0: seed is 1 there, 0 on rank 0; give every rank")


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no c10d")
def test_a_rank_that_dies_or_hangs_ends_the_run_and_a_restart_goes_on(tmp_path):
    code, output, _ = start(["train.py", "."], tmp_path)
    assert code == 0, output
    # Each run's output, then its exit code and seconds.
    died, second, third, rest = output.split("### ")
    results = [part.split()[:2] for part in (second, third, rest)]
    # Dies: the other rank would wait 60 s for it at the next gradient.
    assert results[0][0] == "1" and float(results[0][1]) < 50
    assert "RuntimeError: the disk of rank 1 is full" in died
    assert not (tmp_path / "0" / "ddp-0.pt").exists()
    # Dies, and both are started once more.
    assert results[1][0] == "0", second
    assert (tmp_path / "1" / "died").exists()
    assert torch.load(tmp_path / "1" / "ddp-1.pt", weights_only=True)["first"] == 6
    assert_as_one_process(tmp_path / "1", "ddp")
    # Hangs: the group's timeout ends it.
    assert results[2][0] == "1"
    assert "Timed out waiting 3000ms" in third
