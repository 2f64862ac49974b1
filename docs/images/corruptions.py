"""Draws the contact sheet of docs/corruptions.md: a painted picture under all nineteen corruptions.

    GLYPTIC_DATA=... python docs/images/corruptions.py docs/images/corruptions.png
"""

import pathlib
import sys

import glyptic
import numpy as np
import torch
from PIL import Image, ImageDraw

SIDE, GAP, TEXT = 84, 6, 14


def landscape() -> np.ndarray:
    """Sky, sun, hills, a house and grass: edges, flat areas and texture in one small picture."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.stack([120 + 90 * y, 165 + 60 * y, 235 - 20 * y], -1)
    picture[np.hypot(x - 0.76, y - 0.2) < 0.1] = (250, 214, 92)
    for height, colour in ((0.52, (96, 128, 112)), (0.64, (70, 120, 66))):
        hill = y > height - 0.09 * np.sin(5 * x + 9 * height) - 0.04 * np.sin(13 * x)
        picture[hill] = np.array(colour) + rng.normal(0, 9, (int(hill.sum()), 1))
    house = (abs(x - 0.36) < 0.14) & (abs(y - 0.66) < 0.12)
    picture[house] = (201, 92, 66)
    picture[(abs(x - 0.36) < 0.19 * (y - 0.42) / 0.12) & (y > 0.42) & (y <= 0.54)] = (92, 48, 44)
    picture[(abs(x - 0.30) < 0.035) & (abs(y - 0.63) < 0.04)] = (245, 236, 190)
    picture[(abs(x - 0.42) < 0.03) & (y > 0.64) & (y < 0.78)] = (74, 44, 30)
    return np.clip(picture, 0, 255).astype(np.uint8)


def main(out: pathlib.Path) -> None:
    clean = torch.from_numpy(landscape()).permute(2, 0, 1)[None].contiguous()
    sheets = [("clean", clean)]
    sheets += [(name, glyptic.data.corrupt(clean, name, 3, seed=2, table=64)) for name in glyptic.data.corruption_names()]
    columns, rows = 5, 4
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, image) in enumerate(sheets):
        left, top = GAP + i % columns * (SIDE + GAP), GAP + i // columns * (SIDE + TEXT + GAP)
        sheet.paste(Image.fromarray(image[0].permute(1, 2, 0).numpy()), (left, top + TEXT))
        draw.text((left, top), name.replace("_transform", "").replace("_compression", ""), fill="#24292f")
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
