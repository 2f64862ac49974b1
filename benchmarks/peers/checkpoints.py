"""What becomes of a checkpoint file when its writer dies in the middle, and when a byte of it rots: Glyptic beside
safetensors, torch.save, torch.distributed.checkpoint and Lightning, as they are installed, with their defaults.

    PYTHONPATH=build/release/python python benchmarks/peers/checkpoints.py

Each writer first saves the tensors of version 1, then, in a child whose files may not grow beyond half of that (the
kernel kills it there), those of version 2 over it. Then one bit in the data of the first tensor of a good file is
flipped, and a good file is cut by a byte. Prints one line for each writer: what loads afterwards.
"""

import importlib.metadata
import json
import logging
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import warnings

import glyptic
import torch

COUNT = 1 << 18  # 1 MiB of float32


def state(version):
    generator = torch.Generator().manual_seed(version)
    return {"w": torch.randn(COUNT, generator=generator), "v": torch.randn(COUNT, generator=generator)}


def glyptic_writer():
    def save(tensors, path):
        glyptic.save_safetensors(str(path), list(tensors.items()))

    return save, lambda path: dict(glyptic.load_safetensors(str(path))[0]), None


def safetensors_writer():
    from safetensors.torch import load_file, save_file

    return lambda tensors, path: save_file(tensors, str(path)), lambda path: load_file(str(path)), "safetensors"


def torch_writer():
    return torch.save, torch.load, "torch"


def distributed_writer():
    import torch.distributed.checkpoint as dcp

    def save(tensors, path):
        dcp.save(tensors, checkpoint_id=str(path))

    def load(path):
        tensors = {name: torch.zeros(COUNT) for name in ("w", "v")}
        dcp.load(tensors, checkpoint_id=str(path))
        return tensors

    return save, load, "torch"


def lightning_writer():
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    io = TorchCheckpointIO()
    return (
        lambda tensors, path: io.save_checkpoint(tensors, str(path)),
        lambda path: io.load_checkpoint(str(path), weights_only=True),
        "lightning",
    )


WRITERS = {
    "glyptic.save_safetensors": glyptic_writer,
    "safetensors.torch.save_file": safetensors_writer,
    "torch.save": torch_writer,
    "torch.distributed.checkpoint.save": distributed_writer,
    "Lightning's TorchCheckpointIO": lightning_writer,
}


def outcome(load, path):
    try:
        loaded = load(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # torch's CheckpointException is not an Exception
        return f"refused ({type(error).__name__})"
    for version in 1, 2:
        if all(torch.equal(loaded[name], tensor) for name, tensor in state(version).items()):
            return f"version {version}"
    return "loads other weights"


def biggest_file(path):
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def killed_halfway(save, path):
    """The signal that ended the child."""
    limit = biggest_file(path).stat().st_size // 2
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        try:
            save(state(2), path)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def measure(writer):
    save, load, package = writer()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "checkpoint"
        save(state(1), path)
        good = pathlib.Path(folder) / "good"
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, good)
        row = {"version": importlib.metadata.version(package) if package else "this tree"}
        died = killed_halfway(save, path)
        assert died == signal.SIGXFSZ, died
        row["killed in the middle of writing version 2"] = outcome(load, path)
        for what, change in (
            (
                "one bit of the data flipped",
                lambda b: b[: len(b) // 4] + bytes([b[len(b) // 4] ^ 1]) + b[len(b) // 4 + 1 :],
            ),
            ("last byte missing", lambda b: b[:-1]),
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            (shutil.copytree if good.is_dir() else shutil.copyfile)(good, path)
            file = biggest_file(path)
            file.write_bytes(change(file.read_bytes()))
            row[what] = outcome(load, path)
        return row


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = {name: measure(writer) for name, writer in WRITERS.items()}
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
