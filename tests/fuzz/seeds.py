"""Writes the seeds of the corpora, small files of every kind that the readers take, into tests/fuzz/corpus.

usage: GLYPTIC_BUILD=build/release PYTHONPATH=build/release/python python tests/fuzz/seeds.py

They are committed: run this only to change them. The other files there are inputs that fuzzing made, small ones that
reach code which the rest does not (`cover-*`, copied there by `cmake/fuzz.sh PYTHON merge`), and inputs that were
findings (`found-*`).
"""

import gzip
import io
import json
import os
import pathlib
import struct
import subprocess
import tempfile

import glyptic
import torch
from glyptic import pruning
from PIL import Image

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]

TINY = """
threads: 1
data: {name: shapes, train_limit: 64, test_limit: 20, size: 12, classes: 3}
model: {name: vgg_small, width: 0.03125}
train: {epochs: 1, batch_size: 16, eval_batch_size: 20}
throughput: {enabled: false}
sparsity: {method: chase, density: 0.3, update_every: 2, channel_sparsity: 0.4}
"""


def put(target: str, name: str, content: bytes | str) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(content.encode() if isinstance(content, str) else content)


def safetensors(work: pathlib.Path) -> None:
    path = work / "x.safetensors"
    kinds = (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
    )
    tensors = [(str(kind).split(".")[1], torch.arange(6).reshape(2, 3).to(kind)) for kind in kinds]
    tensors += [("mask", torch.tensor([True, False])), ("scalar", torch.tensor(7)), ("empty", torch.zeros(0, 3))]
    glyptic.save_safetensors(str(path), tensors, {"format": "pt"})
    put("safetensors", "ours", path.read_bytes())
    header = '{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"m":{"dtype":"BOOL","shape":[2],"data_offsets":[4,6]}}'
    put("safetensors", "foreign", struct.pack("<Q", len(header)) + header.encode() + bytes([0, 0, 128, 63, 1, 0]))
    put("safetensors", "empty", struct.pack("<Q", 2) + b"{}")
    put("safetensors", "short", b"\x10\0\0")


def configs() -> None:
    put("config", "tiny.yaml", TINY)
    put(
        "config",
        "lists.yaml",
        "model: {name: mlp, widths: [12, 0x7]}\nlr:\n  milestones: [0.5, 1e-3, .75]\nsparsity:\n  exclude: ['fc*', \"a\\nb\"]\n  custom_density: {fc1.weight: 0.5}\n",
    )
    put("config", "anchors.yaml", "train: &t {epochs: 2}\nlr: *t\n<<: *t\n? [a]\n: b\n")
    put(
        "config",
        "text.yaml",
        "name: |\n  two\n  lines\npaper: {title: 'it''s', differs: [a: b]}\nseed: 18446744073709551615\n---\nx: 1\n",
    )
    put("config", "include.yaml", "include: [a.yaml, config.yaml]\n")
    for index, text in enumerate((
        "train.epochs=2", "sparsity.exclude=[a, 'b c']", "sparsity.custom_density={a: 0.5}", "model.widths=[1,2]",
        "name=\"x\\ty\"", "optimizer.lr=1e-3", "seed=-1", "optimizer.nesterov=true", "train.epoch=", "lr.milestones=[.5,.inf,.nan]",
    )):  # fmt: skip
        put("set", str(index), text)


def data() -> None:
    idx = bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 3, 4) + bytes(range(24))
    put("idx", "images", idx)
    put("idx", "images.gz", gzip.compress(idx, mtime=0))
    put("idx", "labels", bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes(range(5)))
    put("idx", "bomb.gz", gzip.compress(bytes([0, 0, 8, 2]) + struct.pack(">II", 1000, 1000) + bytes(10**6), mtime=0))
    put("cifar", "10", b"\0" + (b"\3" + bytes(3072)) * 2)
    put("cifar", "100", b"\1" + b"\0\x63" + bytes(3072))
    image = Image.new("RGB", (9, 5))
    image.putdata([(x * 28, y * 50, (x * y) % 256) for y in range(5) for x in range(9)])
    for name, picture, options in (
        ("rgb.png", image, {"format": "PNG"}), ("grey.png", image.convert("L"), {"format": "PNG"}),
        ("palette.png", image.quantize(8), {"format": "PNG"}), ("bit.png", image.convert("1"), {"format": "PNG"}),
        ("alpha.png", image.convert("RGBA"), {"format": "PNG"}), ("deep.png", image.convert("I;16"), {"format": "PNG"}),
        ("rgb.jpg", image, {"format": "JPEG", "quality": 60}), ("grey.jpg", image.convert("L"), {"format": "JPEG"}),
        ("cmyk.jpg", image.convert("CMYK"), {"format": "JPEG"}),
        ("progressive.jpg", image, {"format": "JPEG", "progressive": True, "quality": 40}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        picture.save(buffer, **options)
        put("image", name, buffer.getvalue())


def documents(work: pathlib.Path) -> None:
    config = work / "tiny.yaml"
    config.write_text(TINY)
    command = [pathlib.Path(os.environ["GLYPTIC_BUILD"]) / "bin" / "glyptic", "run", config, "--out", work / "run"]
    subprocess.run(command, check=True, capture_output=True)
    run = work / "run"
    put("graph", "vgg.json", (run / "extracted" / "graph.json").read_bytes())
    plan = json.loads((run / "extracted" / "plan.json").read_text())
    put("extraction_plan", "vgg.json", json.dumps(plan))
    put("graph", "mlp.json", json.dumps({
        "format": plan["graph"]["format"], "version": 1, "model": "m",
        "nodes": [{"name": "x", "op": "input", "inputs": [], "attributes": {"shape": [2]}},
                  {"name": "fc", "op": "linear", "inputs": [0], "tensors": {"weight": "fc.weight"}}],
        "tensors": [{"name": "fc.weight", "shape": [1, 2], "trainable": True, "init": "zeros"}],
    }))  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    results["environment"] = {}
    results["extraction"] = None
    put("results", "run.json", json.dumps(results))
    small = {"format": "glyptic results 1", "data": "d", "model": "m", "paper": "p", "differs": ["x"],
             "columns": [{"key": str(i), "title": f"t{i}", "format": f} for i, f in enumerate(("text", "fixed2", "fixed3", "grouped", "si"))],
             "rows": [{str(i): 1.5e9 for i in range(5)}, {"0": "a,\"b", "1": None, "2": [], "3": -1, "4": 0.1, "network": "masked", "method": "m", "source": "s"}]}  # fmt: skip
    put("results", "small.json", json.dumps(small))
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    made = pruning.plan(network, torch.zeros(1, 4), ratio=0.5)
    made = getattr(made, "plan", made)
    put("prune_plan", "mlp.json", made.to_json())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        safetensors(work)
        configs()
        data()
        documents(work)


if __name__ == "__main__":
    main()
