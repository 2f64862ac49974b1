"""Makes the subset of MNIST that ships with Glyptic out of the four original files.

    python make_subset.py FOLDER_WITH_MNIST [OUTPUT_FOLDER]

Keeps, in the original order, the first 600 training and the first 100 test images of each digit. The output depends
on the input alone (and, in its compressed form, on the version of zlib).
"""

import gzip
import pathlib
import struct
import sys


def read(folder: pathlib.Path, name: str) -> bytes:
    packed = folder / f"{name}.gz"
    return gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()


def write(path: pathlib.Path, content: bytes) -> None:
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(content)


def main() -> None:
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).parent
    for part, per_class in (("train", 600), ("t10k", 100)):
        images = read(source, f"{part}-images-idx3-ubyte")
        labels = read(source, f"{part}-labels-idx1-ubyte")
        magic, count, height, width = struct.unpack(">4i", images[:16])
        assert magic == 0x803 and struct.unpack(">2i", labels[:8]) == (0x801, count)
        taken = [0] * 10
        chosen = []
        for index, label in enumerate(labels[8:]):
            if taken[label] < per_class:
                taken[label] += 1
                chosen.append(index)
        assert taken == [per_class] * 10
        area = height * width
        pixels = b"".join(images[16 + area * i : 16 + area * (i + 1)] for i in chosen)
        digits = bytes(labels[8 + i] for i in chosen)
        write(target / f"{part}-images-idx3-ubyte.gz", struct.pack(">4i", magic, len(chosen), height, width) + pixels)
        write(target / f"{part}-labels-idx1-ubyte.gz", struct.pack(">2i", 0x801, len(chosen)) + digits)


if __name__ == "__main__":
    main()
