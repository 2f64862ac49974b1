"""Corruptions beside plain float64 NumPy, their statistics, and what they promise about seeds and bad input."""

import colorsys
import itertools
import math
import os
import pathlib

import glyptic
import numpy as np
import pytest
import torch
from glyptic.data import corrupt, corruption_names, corruption_parameters

NAMES = corruption_names()
RANDOM = [
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
    "elastic_transform", "speckle_noise", "spatter",
]  # fmt: skip
NOISE = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]


def frost_folder():
    here = pathlib.Path(__file__).resolve().parents[2]
    for root in (os.environ.get("GLYPTIC_DATA"), here / "../shared/data", "../shared/data"):
        if root and (pathlib.Path(root) / "frost/frost1.png").exists():
            return str(pathlib.Path(root) / "frost")
    return None


FROST = frost_folder()


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    """The real textures, or five of the same sizes made up, so that every test runs everywhere."""
    if FROST:
        return FROST
    image = pytest.importorskip("PIL.Image", reason="no frost textures and no way to write some")
    folder = tmp_path_factory.mktemp("frost")
    for i, (w, h) in enumerate([(900, 600), (560, 315), (560, 315), (527, 350), (660, 495)]):
        name = f"frost{i + 1}.{'png' if i < 3 else 'jpg'}"
        noise = np.random.default_rng(i).integers(0, 256, (h // 5 + 1, w // 5 + 1, 3), dtype=np.uint8)
        image.fromarray(np.kron(noise, np.ones((5, 5, 1), np.uint8))[:h, :w]).save(folder / name)
    return str(folder)


def pictures(n=4, c=3, h=32, w=32, seed=0):
    """Smooth shapes with edges and a little texture: uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w] / max(h, w)
    out = []
    for _ in range(n * c):
        a, b, p, q = rng.uniform(2, 9, 4)
        wave = 110 + 70 * np.sin(a * x + b * y + p) + 40 * (np.hypot(x - 0.4, y - 0.3) < q / 20)
        out.append(np.clip(wave + rng.normal(0, 6, (h, w)), 0, 255))
    return torch.from_numpy(np.array(out).reshape(n, c, h, w).astype(np.uint8))


def cut(values):
    """0..255 in float64 -> uint8; a value that rounding put just below an integer counts as it."""
    return np.floor(np.clip(values, 0, 255) + 1 / 4096).astype(np.uint8)


def p(name, severity, table=32):
    return list(corruption_parameters(name, severity, table).values())


# --- oracles in float64, one image [H, W, C] in 0..1 at a time, written from the specification


def oracle_gaussian(x, sigma):
    radius = int(4 * sigma + 0.5)
    k = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2)) if radius else np.ones(1)
    k /= k.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(x, pad, mode="edge")
        n = x.shape[axis]
        x = sum(k[i] * np.take(padded, range(i, i + n), axis) for i in range(2 * radius + 1))
    return x


def oracle_defocus(x, radius, alias):
    line = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
    xx, yy = np.meshgrid(line, line)
    disc = (xx**2 + yy**2 <= radius**2).astype(float)
    disc /= disc.sum()
    reach = 1 if radius <= 8 else 2
    g = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * alias**2))
    g = np.outer(g, g) / g.sum() ** 2
    padded = np.pad(disc, reach, mode="reflect")
    n = len(line)
    kernel = sum(g[i, j] * padded[i : i + n, j : j + n] for i in range(2 * reach + 1) for j in range(2 * reach + 1))
    half = n // 2
    image = np.pad(x, ((half, half), (half, half), (0, 0)), mode="reflect")
    h, w = x.shape[:2]
    return sum(kernel[i, j] * image[i : i + h, j : j + w] for i in range(n) for j in range(n))


def zoomed(x, z):
    axes = []
    for n in x.shape[:2]:
        crop = math.ceil(n / z)
        top, out = (n - crop) // 2, round(crop * z)
        trim = (out - n) // 2
        axes.append([top + (i + trim) * (crop - 1) / (out - 1) for i in range(n)])
    for axis, positions in enumerate(axes):
        low = np.minimum(np.array(positions).astype(int), x.shape[axis] - 2)
        weight = (np.array(positions) - low).reshape([-1 if a == axis else 1 for a in range(3)])
        x = (1 - weight) * np.take(x, low, axis) + weight * np.take(x, low + 1, axis)
    return x


def oracle_zoom(x, stop, step):
    factors = np.arange(1, stop, step)
    return (x + sum(zoomed(x, z) for z in factors)) / (len(factors) + 1)


def per_pixel_hsv(x, change):
    out = np.empty_like(x)
    for i, j in np.ndindex(x.shape[:2]):
        out[i, j] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*x[i, j])))
    return out


def oracle_brightness(x, add):
    return per_pixel_hsv(x, lambda h, s, v: (h, s, min(max(v + add, 0), 1)))


def oracle_saturate(x, factor, add):
    return per_pixel_hsv(x, lambda h, s, v: (h, min(max(s * factor + add, 0), 1), v))


def oracle_contrast(x, c):
    m = x.mean((0, 1), keepdims=True)
    return (x - m) * c + m


def box(x8, size, axis):
    """Pillow's box filter: pixels whose centre lies in the cell, averaged and rounded to 8 bits."""
    n = x8.shape[axis]
    scale = n / size
    rows = []
    for i in range(size):
        inside = [j for j in range(n) if i * scale < j + 0.5 < (i + 1) * scale] if scale > 1 else [int((i + 0.5) * scale)]
        rows.append(np.take(x8, inside, axis).astype(float).mean(axis, keepdims=True))
    return np.floor(np.concatenate(rows, axis) + 0.5 + 1e-7)


def oracle_pixelate(x, scale):
    h, w = x.shape[:2]
    small = box(box(np.round(x * 255), int(w * scale), 1), int(h * scale), 0)
    return box(box(small, w, 1), h, 0) / 255


DETERMINISTIC = {
    "gaussian_blur": oracle_gaussian,
    "defocus_blur": oracle_defocus,
    "zoom_blur": oracle_zoom,
    "brightness": oracle_brightness,
    "saturate": oracle_saturate,
    "contrast": oracle_contrast,
    "pixelate": oracle_pixelate,
}


# Even sides: with odd ones an edge of pixelate's cells can fall on the middle of a pixel, where rounding decides.
@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (64, 40)])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_equals_the_float64_oracle(name, shape):
    images = pictures(1, 3, *shape)
    x = images[0].permute(1, 2, 0).double().numpy() / 255
    for severity in (1, 2, 3, 4, 5):
        wanted = DETERMINISTIC[name](x, *p(name, severity)) * 255
        got = corrupt(images, name, severity, quantize="none")[0].permute(1, 2, 0).double().numpy() * 255
        # float32 against float64: up to 27 sums of numbers to 255, each off by 2^-24 of them.
        assert np.abs(got - np.clip(wanted, 0, 255)).max() < 2e-3, severity
        whole = corrupt(images, name, severity, table=32)[0].permute(1, 2, 0).numpy()
        off = np.abs(whole.astype(int) - cut(wanted).astype(int))
        assert off.max() <= 1 and (off > 0).mean() < 2e-3  # only where float32 lands across an integer


@pytest.mark.parametrize("side", [32, 57, 64, 99, 224])
def test_pixelate_has_the_bits_of_pillow(side):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    x = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for scale in (0.95, 0.9, 0.85, 0.75, 0.65, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2):
        small = image.fromarray(x).resize((int(side * scale),) * 2, image.BOX)
        wanted = np.asarray(small.resize((side, side), image.BOX))
        got = corrupt(torch.from_numpy(x).permute(2, 0, 1)[None], "pixelate", param=scale)[0].permute(1, 2, 0)
        assert np.array_equal(got.numpy(), wanted), scale


def test_oracle_at_large_radii():
    images = pictures(1, 1, 70, 61, seed=3)
    x = images[0].permute(1, 2, 0).double().numpy() / 255
    for name, severity in (("gaussian_blur", 5), ("defocus_blur", 4), ("defocus_blur", 5)):
        wanted = DETERMINISTIC[name](x, *p(name, severity, 224)) * 255
        got = corrupt(images, name, severity, table=224, quantize="none")[0].permute(1, 2, 0).double().numpy() * 255
        assert np.abs(got - wanted).max() < 2e-3


def test_jpeg_is_baseline_420_of_its_quality():
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    import io

    images = pictures(2, 3, 40, 56)
    for quality in (7, 25, 58, 80):
        got = corrupt(images, "jpeg_compression", param=quality)
        for one, result in zip(images, got, strict=True):
            buffer = io.BytesIO()
            image.fromarray(one.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
            decoded = np.asarray(image.open(buffer)).astype(int)
            # Pillow brings its own libjpeg-turbo, whose transforms may round another way.
            assert np.abs(decoded - result.permute(1, 2, 0).numpy().astype(int)).max() <= 3


def test_jpeg_loses_more_at_lower_quality_and_grey_stays_one_channel():
    images = pictures(4, 1)
    errors = [(corrupt(images, "jpeg_compression", param=q).float() - images).square().mean() for q in (95, 50, 20, 5)]
    assert all(a < b for a, b in itertools.pairwise(errors))
    assert corrupt(images, "jpeg_compression", 5).shape == images.shape


# --- numbers of the specification


def impulse_response(name, severity, size=17, at=None, **options):
    x = torch.zeros(1, 1, size, size)
    at = at or (size // 2, size // 2)
    x[0, 0, at[0], at[1]] = 1
    return corrupt(x, name, severity, quantize="none", table=32, **options)[0, 0].double().numpy()


def test_kernels_that_the_specification_lists():
    near = dict(abs=6e-5)  # four digits are printed
    for severity, (centre, edge, corner) in enumerate(
        [(0.8450, 0.0371, 0.00163), (0.6194, 0.0838, 0.0113), (0.4452, 0.1110, 0.0277)], 1
    ):
        k = impulse_response("defocus_blur", severity)[7:10, 7:10]
        assert k[1, 1] == pytest.approx(centre, **near) and k[0, 0] == pytest.approx(corner, **near)
        assert k[0, 1] == k[1, 0] == pytest.approx(edge, **near)
    plus = impulse_response("defocus_blur", 4)[6:11, 6:11]
    # The plus is softened by a Gaussian of sigma .2 (3e-6 beside the centre).
    assert plus[2, 1:4] == pytest.approx([0.2] * 3, abs=1e-4) and plus[1:4, 2] == pytest.approx([0.2] * 3, abs=1e-4)
    assert impulse_response("defocus_blur", 5)[7:10, 7:10] == pytest.approx(np.full((3, 3), 1 / 9), abs=1e-4)

    row = impulse_response("gaussian_blur", 1)[8]
    assert row[7:10] == pytest.approx([0.0371, 0.8450, 0.0371], **near) and row[6] == pytest.approx(3e-6, abs=1e-6)
    corner = impulse_response("gaussian_blur", 5, at=(0, 0))
    assert corner[0, :4] == pytest.approx([0.489, 0.210, 0.041, 0.0032], abs=6e-4)


def test_zoom_factors_and_sizes():
    for table, counts, lasts in (
        (32, (7, 12, 16, 21, 26), (1.06, 1.11, 1.15, 1.20, 1.25)),
        (224, (12, 16, 11, 13, 11), (1.11, 1.15, 1.20, 1.24, 1.30)),
    ):
        for severity, (count, last) in enumerate(zip(counts, lasts, strict=True), 1):
            factors = np.arange(1, *p("zoom_blur", severity, table))
            assert len(factors) == count and factors[-1] == pytest.approx(last)
            # A pixel in the corner is seen by itself and by factor 1 alone, as long as it falls out of the others.
            x = torch.zeros(1, 1, 224, 224)
            x[0, 0, 0, 0] = 1
            got = corrupt(x, "zoom_blur", severity, table=table, quantize="none")[0, 0, 0, 0].item()
            inside = sum(zoomed_corner(224, z) for z in factors)
            assert got == pytest.approx((1 + inside) / (count + 1), rel=1e-5)
    # 224 by 1.3: a crop of 173 from 25 on becomes 225, and none of it is trimmed before the end.
    assert math.ceil(224 / 1.3) == 173 and (224 - 173) // 2 == 25 and round(173 * 1.3) == 225


def zoomed_corner(n, z):
    """The weight of pixel (0, 0) in output (0, 0)."""
    crop = math.ceil(n / z)
    top, out = (n - crop) // 2, round(crop * z)
    position = top + ((out - n) // 2) * (crop - 1) / (out - 1)
    return max(0.0, 1 - position) ** 2


def test_pixelate_sizes():
    for table, sizes in ((32, (30, 28, 27, 24, 20)), (64, (57, 51, 44, 38, 32)), (224, (134, 112, 89, 67, 56))):
        ramp = torch.arange(table, dtype=torch.uint8).expand(1, 1, table, table)
        for severity, size in enumerate(sizes, 1):
            assert len(corrupt(ramp, "pixelate", severity)[0, 0, 0].unique()) == size


@pytest.mark.parametrize(
    ("name", "param", "mean", "sd"),
    [
        ("gaussian_noise", 0.04, 99.5, 10.2),
        ("gaussian_noise", 0.38, 105.0, 79.5),
        ("shot_noise", 60, 99.6, 20.6),
        ("shot_noise", 3, 96.7, 83.5),
        ("speckle_noise", 0.6, 100.7, 57.2),
    ],
)
def test_noise_statistics_on_a_flat_image(name, param, mean, sd):
    # 10^6 pixels: the mean's own deviation is sd / 1000, and one digit is printed.
    images = torch.full((1, 1, 1000, 1000), 100, dtype=torch.uint8)
    x = corrupt(images, name, param=param, seed=5).double()
    assert x.mean().item() == pytest.approx(mean, abs=0.06 + 4 * sd / 1000)
    assert x.std().item() == pytest.approx(sd, abs=0.06 + 4 * sd / 1000)
    if name == "shot_noise" and param == 3:
        assert (x == 255).double().mean().item() == pytest.approx(0.116, abs=0.0005 + 4 * 0.32 / 1000)
    floating = corrupt(images.float() / 255, name, param=param, seed=5)
    assert torch.equal((floating * 255).round().byte(), x.byte())  # 8-bit values in floats draw the same


def test_impulses():
    images = torch.full((1, 3, 600, 600), 100, dtype=torch.uint8)
    x = corrupt(images, "impulse_noise", param=0.17, seed=2)[0]
    n = 600 * 600
    for value in (0, 255):
        assert (x == value).double().mean().item() == pytest.approx(0.085, abs=5 * (0.085 / (3 * n)) ** 0.5)
    all_three = (x != 100).all(0).double().mean().item()
    assert all_three == pytest.approx(0.17**3, abs=5 * (0.17**3 / n) ** 0.5)
    assert set(x.unique().tolist()) == {0, 100, 255}
    assert torch.equal(corrupt(images, "impulse_noise", param=0.0), images)
    assert set(corrupt(images, "impulse_noise", param=1.0).unique().tolist()) == {0, 255}


@pytest.mark.parametrize("photons", [0.7, 12.0, 500.0])
def test_shot_noise_is_poisson(photons):
    for value in (1, 200) if photons == 500 else (1, 37, 200):
        flat = torch.full((1, 1, 500, 500), value, dtype=torch.uint8)
        mean = photons * value / 255
        limit = math.ceil(photons)
        counts = (corrupt(flat, "shot_noise", param=photons, quantize="none").double() * photons).round()
        k = np.arange(limit)
        pmf = np.exp(k * math.log(mean) - mean - np.array([math.lgamma(i + 1) for i in k]))
        seen = np.array([(counts == i).double().mean().item() for i in k])
        # Five deviations of a frequency among 250,000, over up to 500 counts.
        assert (np.abs(seen - pmf) < 5 * np.sqrt(pmf / 250_000) + 2e-5).all()


def test_shot_noise_of_values_between_the_levels():
    flat = torch.full((1, 1, 700, 700), 10.6 / 255)
    counts = corrupt(flat, "shot_noise", param=60.0, quantize="none").double() * 60
    mean = 60 * 10.6 / 255
    assert counts.mean().item() == pytest.approx(mean, abs=5 * (mean / 490_000) ** 0.5)
    assert counts.var().item() == pytest.approx(mean, rel=0.02)


def test_fog_maps():
    """With c huge a black image but for one white pixel shows the map itself."""
    maps = {}
    for decay in (3.0, 2.5, 2.0, 1.75):
        x = torch.full((400, 1, 32, 32), 1e-3)
        x[:, 0, 0, 0] = 1
        f = corrupt(x, "fog", param=(100.0, decay), seed=9, quantize="none")[:, 0].double()
        m = (f * (1 + 100) - x[:, 0]) / 100
        assert m.amax((1, 2)).min() > 1 - 1e-3 and m.amin((1, 2)).max() < 1e-3  # it touches both ends
        maps[decay] = m
    # Of 400 maps: the mean of means has a deviation of .094 / 20; the second figure is printed with 2 digits.
    assert maps[3.0].mean().item() == pytest.approx(0.50, abs=0.005 + 4 * 0.094 / 20)
    assert maps[3.0].mean((1, 2)).std().item() == pytest.approx(0.094, rel=0.16)
    for decay, step in ((3.0, 0.0198), (2.5, 0.0205), (2.0, 0.0246), (1.75, 0.0281)):
        # The printed figures are means over some maps, and one map's own figure has a deviation of .006.
        assert (maps[decay][:, 1:] - maps[decay][:, :-1]).abs().mean().item() == pytest.approx(step, abs=1.5e-3)


def test_fog_by_the_formula():
    x = torch.rand(3, 3, 32, 48)
    a = corrupt(x, "fog", 3, quantize="none").double()
    black = x.clone()
    black[:, :, 1:, 1:] = 0
    b = corrupt(black, "fog", 3, quantize="none").double()
    for i in range(3):
        big, small = x[i].max().item(), black[i].max().item()
        # The same map: what is left of x once both are unscaled differs by the images alone.
        left = a[i] * (big + 0.75) / big - x[i]
        right = b[i] * (small + 0.75) / small - black[i]
        free = (a[i] < 1) & (b[i] < 1)
        assert (left - right)[free].abs().max() < 1e-5
        assert (left[0] - left[1])[(a[i][0] < 1) & (a[i][1] < 1)].abs().max() < 1e-5  # one map for all channels
    assert corrupt(torch.zeros(1, 3, 32, 32), "fog", 5).max() == 0


def test_glass_copies_and_swaps():
    rng = np.random.default_rng(0)
    grey = torch.from_numpy(rng.permutation(1024).astype(np.float32) / 1023).reshape(1, 1, 32, 32)
    eight = torch.from_numpy((rng.permutation(1024) // 4).astype(np.uint8)).reshape(1, 1, 32, 32)
    options = dict(param=(0.0, 1, 1), seed=4)
    swapped = corrupt(eight, "glass_blur", glass_exchange="swap", **options)
    assert torch.equal(swapped.flatten().sort().values, eight.flatten().sort().values)  # nothing is lost
    assert torch.equal(corrupt(eight, "glass_blur", **options), swapped)  # one channel: an exchange
    copied = corrupt(eight, "glass_blur", glass_exchange="copy", **options)
    assert len(copied.unique()) < len(eight.unique()) and not torch.equal(copied, swapped)
    colour = eight.expand(1, 3, 32, 32).contiguous()
    assert torch.equal(corrupt(colour, "glass_blur", **options)[:, :1], copied)  # three: a copy, together
    assert grey.shape == eight.shape


@pytest.mark.parametrize("exchange", ["copy", "swap"])
def test_glass_is_some_sequence_of_neighbours(exchange):
    """Every pixel comes from nearby: row H - 1 and column W - 1 are reached, row and column 0 never."""
    rows = torch.arange(32, dtype=torch.uint8).reshape(1, 1, 32, 1).expand(1, 1, 32, 32) * 7
    got = corrupt(rows, "glass_blur", param=(0.0, 1, 1), glass_exchange=exchange, seed=1)[0, 0]
    moved = (got.int() - rows[0, 0].int()) // 7
    assert (moved[0] == 0).all() and (moved[:, 0] == 0).all()
    # The first pixel visited is (31, 31); offsets are -1 and 0, so a pixel is read from above or in place, and
    # an exchange carries values down at most as long as the walk goes up.
    assert moved.max() <= (0 if exchange == "copy" else 31) and moved.min() >= -1
    assert (moved < 0).double().mean() > 0.3


def test_motion_blur_is_a_half_gaussian_on_a_line():
    x = torch.zeros(40, 1, 65, 65)
    x[:, 0, 32, 32] = 1
    k = np.exp(-(np.arange(13) ** 2) / (2 * 8.0**2))
    k /= k.sum()
    # Every kernel that an angle from -45 to 45 degrees can give.
    lines = {}
    for angle in np.radians(np.linspace(-45, 45, 9001)):
        steps = [(-math.ceil(i * math.sin(angle) - 0.5), -math.ceil(i * math.cos(angle) - 0.5)) for i in range(13)]
        lines.setdefault(tuple(steps), angle)
    angles = []
    for got in corrupt(x, "motion_blur", param=(6, 8.0), quantize="none")[:, 0].double().numpy():
        assert got.sum() == pytest.approx(1, abs=1e-5)
        ways = [a for steps, a in lines.items() if np.abs(drawn(steps, k) - got).max() < 1e-6]
        assert ways  # different angles may give one kernel
        angles.append(ways[0])
    assert min(angles) < -0.5 and 0.5 < max(angles)
    flat = torch.full((2, 3, 32, 48), 100, dtype=torch.uint8)
    assert (corrupt(flat, "motion_blur", 5).int() - 100).abs().max() <= 1


def drawn(steps, weights):
    line = np.zeros((65, 65))
    for (dy, dx), weight in zip(steps, weights, strict=True):
        line[32 + dy, 32 + dx] += weight
    return line


def test_snow_by_the_formula():
    """Without flakes (a threshold that no value reaches) the image is whitened; flakes come with their half turn."""
    x = torch.rand(2, 3, 32, 48)
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    white = 0.8 * x + 0.2 * torch.maximum(x, 1.5 * grey + 0.5)
    none = corrupt(x, "snow", param=(0.0, 0.0, 1.5, 0.5, 10, 4, 0.8), quantize="none")
    assert (none - white.clamp(0, 1)).abs().max() < 1e-5
    dark = torch.zeros(2, 1, 33, 47)
    flakes = corrupt(dark, "snow", param=(0.1, 0.3, 2.0, 0.6, 10, 4, 1.0), quantize="none")
    assert (flakes - flakes.flip(2, 3)).abs().max() < 1e-5 and flakes.max() > 0
    # A layer of ones everywhere: 1 after every step, so twice 1 on top.
    assert corrupt(dark, "snow", param=(1.0, 0.0, 2.0, 0.6, 10, 4, 1.0), quantize="none").min() == 1


def test_elastic_by_an_oracle_of_its_parts():
    # No displacement and no jitter: the image itself.
    x = pictures(2)
    assert torch.equal(corrupt(x, "elastic_transform", param=(0, 0, 0)), x)
    # The affine part maps planes to planes: a ramp stays one, up to what the border reflects.
    y, xx = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ramp = ((0.5 * xx + 0.25 * y) / 64)[None, None]
    got = corrupt(ramp, "elastic_transform", param=(0, 0, 3.0), quantize="none")[0, 0, 16:48, 16:48].double()
    second = (got[2:] - 2 * got[1:-1] + got[:-2]).abs().max(), (got[:, 2:] - 2 * got[:, 1:-1] + got[:, :-2]).abs().max()
    assert max(second) < 1e-5 and (got - ramp[0, 0, 16:48, 16:48]).abs().max() > 1e-3
    # Displacements: |shift| <= alpha because the Gaussian averages numbers in [-1, 1].
    moved = corrupt(ramp, "elastic_transform", param=(2.0, 1.5, 0), quantize="none")[0, 0, 8:56, 8:56].double()
    change = (moved - ramp[0, 0, 8:56, 8:56]) * 64
    assert 0.05 < change.std() and change.abs().max() <= 2.0 * 0.75 + 1e-3
    # Their variance: that of U(-1, 1), 1/3, times the sum of squares of the kernel on both axes.
    k = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    k /= k.sum()
    many = corrupt(ramp.expand(30, 1, 64, 64), "elastic_transform", param=(2.0, 1.5, 0), quantize="none")
    change = (many[:, 0, 8:56, 8:56].double() - ramp[0, 0, 8:56, 8:56]) * 64
    wanted = (0.25 + 0.0625) * 4 / 3 * (k**2).sum() ** 2
    assert change.var().item() == pytest.approx(wanted, rel=0.1)


def test_frost_by_the_formula(textures):
    black, white = torch.zeros(30, 3, 32, 48), torch.ones(30, 3, 32, 48)
    low = corrupt(black, "frost", 3, quantize="none", frost_folder=textures).double()
    high = corrupt(white, "frost", 3, quantize="none", frost_folder=textures).double()
    a, b = p("frost", 3)
    texture = low / b * 255
    assert (texture - texture.round()).abs().max() < 1e-3  # whole levels of a texture
    free = high < 1
    assert (high - low - a)[free].abs().max() < 1e-5
    assert len({tuple(t.flatten()[:50].tolist()) for t in low}) > 20  # other crops
    assert corrupt(pictures(1, 3, 700, 400), "frost", 1, frost_folder=textures).shape == (1, 3, 700, 400)  # enlarged


def test_frost_without_textures_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(glyptic.MissingFileError, match=r"frost: its textures frost1.png.*frost5.jpg") as error:
        corrupt(pictures(1), "frost", 1, frost_folder=tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setenv("GLYPTIC_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        corrupt(pictures(1), "frost", 1)


def test_spatter_mud_and_water():
    dark, bright = torch.zeros(6, 3, 32, 32), torch.ones(6, 3, 32, 32)
    mud = corrupt(dark, "spatter", 4, quantize="none").double()
    covered = corrupt(bright, "spatter", 4, quantize="none").double()
    colour = torch.tensor([63.0, 42, 20]).reshape(1, 3, 1, 1) / 255
    m = mud[:, :1] / colour[:, :1]
    assert (mud - m * colour).abs().max() < 1e-6 and (covered - (1 - m + m * colour)).abs().max() < 1e-6
    assert 0 < (m > 0).double().mean() < 0.7 and (m[m > 0] >= 0.8 - 1e-6).all()
    water = corrupt(dark, "spatter", 2, quantize="none").double()
    assert (water[:, 1] - water[:, 2]).abs().max() < 1e-6
    assert (water[:, 0] * 238 - water[:, 1] * 175).abs().max() < 1e-4
    # The strongest drop of every image has the full strength, 0.5.
    assert water[:, 1].amax((1, 2)).tolist() == pytest.approx([0.5 * 238 / 255] * 6, abs=1e-6)
    # A layer below the threshold everywhere: nothing is divided by zero.
    same = pictures(2)
    assert torch.equal(corrupt(same, "spatter", param=(0.1, 0.0, 1, 0.7, 0.5, 0)), same)
    assert torch.equal(corrupt(same, "spatter", param=(0.1, 0.0, 1, 0.7, 0.5, 1)), same)


# --- what holds for all


def run(name, images, severity=3, *, textures=None, **options):
    return corrupt(images, name, severity, frost_folder=textures if name == "frost" else None, **options)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_seed_and_index_decides(name, textures):
    images = pictures(7, 3, 32, 40)
    whole = run(name, images, textures=textures, seed=11, threads=1)
    assert torch.equal(run(name, images, textures=textures, seed=11, threads=3), whole)
    parts = [run(name, images[i:j], textures=textures, seed=11, first_index=i) for i, j in ((0, 3), (3, 4), (4, 7))]
    assert torch.equal(torch.cat(parts), whole)
    order = torch.tensor([4, 0, 6, 2])
    assert torch.equal(run(name, images[order], textures=textures, seed=11, indices=order), whole[order])
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(run(name, strided, textures=textures, seed=11), whole)
    # Equal images get results of their own, at whatever index.
    indices = [0, 1, 2, 5, 1000, 2**32, 2**40 + 1]
    same = run(name, images[:1].expand(7, 3, 32, 40), textures=textures, seed=11, indices=indices)
    assert len({image.numpy().tobytes() for image in same}) == (7 if name in RANDOM else 1)
    others = [run(name, images[:1], s, textures=textures, seed=11, param=p(name, 3)) for s in (1, 2, 3)]
    assert len({image.numpy().tobytes() for image in others}) == (3 if name in RANDOM else 1)
    assert torch.equal(run(name, images, textures=textures, seed=12), whole) == (name not in RANDOM)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_type_and_channel(name, textures):
    for shape in ((3, 32, 32), (1, 28, 28), (3, 32, 48), (3, 50, 33), (1, 70, 41), (3, 224, 224)):
        images = pictures(1, *shape)
        for severity in (1, 5) if shape[1] < 100 else (3,):
            got = run(name, images, severity, textures=textures)
            assert got.shape == images.shape and got.dtype == torch.uint8
            assert not torch.equal(got, images) or (name == "saturate" and shape[0] == 1)
            if shape[1] > 40:
                continue
            floating = run(name, images.float() / 255, severity, textures=textures)
            assert floating.dtype == torch.float32 and 0 <= floating.min() and floating.max() <= 1
            levels = (floating * 255).round()
            assert torch.allclose(levels / 255, floating, atol=1e-6)
            # The same values as from 8 bits, up to where v / 255 * 255 is not v in float32.
            off = (levels - got).abs()
            assert off.max() <= 1 and (off > 0).float().mean() < 0.01
    half = run(name, pictures(1).half() / 255, textures=textures)
    assert half.dtype == torch.float16
    assert run(name, torch.empty(0, 3, 32, 32, dtype=torch.uint8), textures=textures).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_quantize(name, textures):
    images = pictures(2)
    exact = run(name, images, textures=textures, quantize="none").double() * 255
    assert exact.dtype == torch.float64 and run(name, images, textures=textures, quantize="none").dtype == torch.float32
    low, near = run(name, images, textures=textures), run(name, images, textures=textures, quantize="round")
    assert (exact - low).min() > -2e-3 and (exact - low).max() < 1 + 1e-3
    assert (exact - near).abs().max() < 0.5 + 1e-3


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur",
                                  "contrast", "pixelate", "elastic_transform"])  # fmt: skip
def test_a_flat_image_stays(name):
    for value in (0, 100, 255):
        flat = torch.full((1, 3, 32, 48), value, dtype=torch.uint8)
        for severity in range(1, 6):
            assert torch.equal(corrupt(flat, name, severity), flat)


def test_a_flat_image_stays_flat_under_jpeg():
    for value in (0, 100, 255):
        for severity in range(1, 6):
            got = corrupt(torch.full((1, 3, 32, 48), value, dtype=torch.uint8), "jpeg_compression", severity)
            # The mean of a block is coded in steps of at most 20 / 8 levels at these qualities, chroma included.
            assert len(got.unique()) <= 3 and (got.int() - value).abs().max() <= 2


def test_grey_stays_grey():
    grey = pictures(2, 1).expand(2, 3, 32, 32).contiguous()
    for name in ("brightness", "contrast", "gaussian_blur"):
        for severity in range(1, 6):
            got = corrupt(grey, name, severity)
            assert torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])
    still = corrupt(grey, "saturate", 1)  # nothing is added
    assert torch.equal(still, grey)
    red = corrupt(grey, "saturate", 5, quantize="none").double() * 255  # hue 0, and .2 is added to a saturation of 0
    wanted = grey.double() * torch.tensor([1.0, 0.8, 0.8], dtype=torch.float64).reshape(1, 3, 1, 1)
    assert (red - wanted).abs().max() < 1e-4


def test_distance_grows_with_severity(textures):
    """At 32 pixels, but for those whose parameters do not rise: see docs/corruptions.md."""
    images = pictures(48, seed=5)
    falls = {}
    for name in NAMES:
        distance = [
            (run(name, images, s, textures=textures).double() - images).square().mean((1, 2, 3)).sqrt().mean().item()
            for s in range(1, 6)
        ]
        falls[name] = [s + 1 for s in range(4) if distance[s + 1] < distance[s]]
    # motion_blur's 3 and 4 are one kernel but for its tail; the others' parameters go up and down.
    uneven = {"glass_blur", "saturate", "elastic_transform", "spatter", "snow", "frost", "motion_blur"}
    assert {name for name, where in falls.items() if where} <= uneven
    assert falls["glass_blur"] and falls["saturate"]


def test_one_channel_is_the_luma_of_three_equal_ones(textures):
    x = torch.rand(3, 1, 32, 32)
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    for name in ("frost", "spatter", "saturate"):
        for severity in (2, 5):
            grey = run(name, x, severity, textures=textures, quantize="none")
            colour = run(name, x.expand(3, 3, 32, 32).contiguous(), severity, textures=textures, quantize="none")
            assert (grey - (colour * weights).sum(1, keepdim=True)).abs().max() < 1e-5


# --- tables, names, bad input


def test_names_and_tables():
    assert len(NAMES) == 19 and NAMES[3] == "defocus_blur" and NAMES[10] == "brightness" and NAMES[15] == "speckle_noise"
    assert corruption_names("common") == NAMES[:15] and corruption_names("validation") == NAMES[15:]
    assert corruption_names("weather") == ["snow", "frost", "fog", "brightness"]
    assert sum((corruption_names(f) for f in ("noise", "blur", "weather", "digital")), []) == NAMES[:15]
    # One number of every row and table of the specification that no test above names.
    for name, severity, table, wanted in (
        ("gaussian_noise", 5, 224, [0.38]), ("shot_noise", 1, 299, [50]), ("impulse_noise", 4, 224, [0.17]),
        ("speckle_noise", 5, 299, [0.61]), ("gaussian_blur", 5, 299, [6.5]), ("defocus_blur", 4, 64, [2.5, 0.01]),
        ("glass_blur", 5, 299, [1.6, 5, 2]), ("motion_blur", 5, 299, [22, 16]), ("zoom_blur", 5, 299, [1.31, 0.03]),
        ("fog", 3, 224, [2.5, 1.7]), ("frost", 5, 299, [0.6, 0.75]), ("brightness", 3, 32, [0.15]),
        ("contrast", 5, 32, [0.15]), ("saturate", 5, 64, [30, 0.2]), ("saturate", 5, 224, [20, 0.2]),
        ("jpeg_compression", 5, 299, [5]), ("pixelate", 5, 299, [0.2]),
        ("elastic_transform", 1, 224, [488, 170.8, 24.4]), ("elastic_transform", 5, 299, [43.2, 3.6, 7.2]),
        ("elastic_transform", 2, 32, [1.6, 6.4, 2.24]), ("snow", 4, 224, [0.55, 0.3, 4.5, 0.85, 12, 8, 0.65]),
        ("snow", 3, 64, [0.15, 0.3, 1.75, 0.55, 10, 4, 0.7]), ("spatter", 5, 299, [0.67, 0.4, 1.2, 0.65, 1.8, 1]),
    ):  # fmt: skip
        assert list(corruption_parameters(name, severity, table).values()) == pytest.approx(wanted)
    for name in NAMES:
        for severity in range(1, 6):
            assert p(name, severity, 299) == p(name, severity, 224) or name in (
                *NOISE, "gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "fog", "jpeg_compression",
                "pixelate", "spatter", "elastic_transform",
            )  # fmt: skip


def test_table_follows_the_shorter_side():
    x = pictures(1, 3, 64, 90)
    assert torch.equal(corrupt(x, "contrast", 1), corrupt(x, "contrast", param=0.4))
    assert torch.equal(corrupt(x, "contrast", 1, table=32), corrupt(x, "contrast", param=0.75))


def test_severity_zero_is_the_identity():
    x = pictures(2)
    for name in NAMES:
        assert torch.equal(corrupt(x, name, 0), x)
    assert torch.equal(corrupt(x, "fog", 0, quantize="none"), x.float() / 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="gausian_noise"), r"'gausian_noise'.*gaussian_noise"),
        (dict(severity=6), "severity is 6, expected 1 to 5"),
        (dict(severity=-1), "severity is -1"),
        (dict(severity=2.5), "severity is 2.5, expected a whole number"),
        (dict(severity=True), "expected a whole number"),
        (dict(severity=None), "give a severity"),
        (dict(images=torch.zeros(1, 3, 32, 32, dtype=torch.int32)), "expected uint8, or a floating"),
        (dict(images=torch.zeros(3, 32, 32)), r"expected a dense \[N, C, H, W\]"),
        (dict(images=torch.zeros(1, 2, 32, 32)), "1 or 3 channels"),
        (dict(images=torch.zeros(1, 3, 7, 32)), "7 x 32 pixels, expected sides of 8"),
        (dict(images=torch.full((1, 3, 32, 32), 1.5)), "values from 1.5 to 1.5, expected 0 to 1"),
        (dict(images=torch.full((1, 3, 32, 32), float("nan"))), "expected 0 to 1"),
        (dict(param=(1, 2)), "param has 2 numbers, expected 1"),
        (dict(param=()), "param is empty"),
        (dict(param=float("nan")), "std is nan"),
        (dict(param=-0.1), "std is -0.1, expected 0 to 10"),
        (dict(name="jpeg_compression", param=50.5), "quality is 50.5, expected a whole number from 1 to 100"),
        (dict(name="glass_blur", images=torch.zeros(1, 3, 8, 8), param=(1, 4, 1)), "too small for a distance of 4"),
        (dict(table=33), "table is 33, expected 32, 64, 224 or 299"),
        (dict(quantize="ceil"), "quantize is 'ceil'"),
        (dict(glass_exchange="both"), "glass_exchange is 'both'"),
        (dict(first_index=-1), "first_index is -1"),
        (dict(indices=[0, 1]), "indices has 2 numbers for 1 images"),
        (dict(indices=[-3]), "an index is -3"),
        (dict(threads=-1), "threads is -1"),
        (dict(seed="x"), "seed cannot be 'x'"),
    ],
)
def test_bad_input(arguments, message):
    call = dict(images=torch.zeros(1, 3, 32, 32), name="gaussian_noise", severity=1) | arguments
    with pytest.raises(glyptic.ArgumentError, match=message) as error:
        corrupt(**call)
    assert "\n" not in str(error.value)


def test_unknown_subset():
    with pytest.raises(glyptic.ArgumentError, match="'weathr'.*weather"):
        corruption_names("weathr")


# --- data sets and files


def test_dataset_wraps_any_set():
    images = pictures(5)
    labels = torch.arange(5)
    base = torch.utils.data.TensorDataset(images, labels)
    wrapped = glyptic.data.CorruptedDataset(base, "glass_blur", 4, seed=8)
    whole = corrupt(images, "glass_blur", 4, seed=8)
    assert len(wrapped) == 5
    for i in (3, 0, -1):
        image, label = wrapped[i]
        assert torch.equal(image, whole[i]) and label == labels[i]
    with pytest.raises(glyptic.ArgumentError):
        glyptic.data.CorruptedDataset(base, "glas_blur", 4)


def test_cifar_c_layout(tmp_path):
    images, labels = pictures(6), torch.tensor([3, 1, 4, 1, 5, 9])
    glyptic.data.write_cifar_c(tmp_path, images, labels, ["impulse_noise", "contrast"], seed=2)
    stored = np.load(tmp_path / "impulse_noise.npy")
    assert stored.shape == (30, 32, 32, 3) and stored.dtype == np.uint8
    assert np.load(tmp_path / "labels.npy").tolist() == labels.tolist() * 5
    for severity in range(1, 6):
        wanted = corrupt(images, "impulse_noise", severity, seed=2)
        assert np.array_equal(stored[6 * (severity - 1) : 6 * severity], wanted.permute(0, 2, 3, 1).numpy())
        got, got_labels = glyptic.data.load_cifar_c(tmp_path, "impulse_noise", severity)
        assert torch.equal(got, wanted) and torch.equal(got_labels, labels)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["contrast.npy", "impulse_noise.npy", "labels.npy"]
    with pytest.raises(glyptic.MissingFileError, match="fog.npy"):
        glyptic.data.load_cifar_c(tmp_path, "fog", 1)
    np.save(tmp_path / "labels.npy", np.zeros(29, np.uint8))
    with pytest.raises(glyptic.DataError, match="one for each image"):
        glyptic.data.load_cifar_c(tmp_path, "contrast", 1)
    np.save(tmp_path / "labels.npy", np.full(30, 10, np.int64))
    with pytest.raises(glyptic.DataError, match="labels from 10 to 10, expected 0 to 9"):
        glyptic.data.load_cifar_c(tmp_path, "contrast", 1)
    np.save(tmp_path / "contrast.npy", np.zeros((31, 32, 32, 3), np.uint8))
    with pytest.raises(glyptic.DataError, match=r"expected uint8 \[5 N, H, W, C\]"):
        glyptic.data.load_cifar_c(tmp_path, "contrast", 1)
    with pytest.raises(glyptic.ArgumentError, match="no corruption"):
        glyptic.data.write_cifar_c(tmp_path, images, labels, ["fogg"])
    assert not list(tmp_path.glob("*fogg*"))


def test_imagenet_c_layout(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="nothing here writes a PNG")
    picture = pictures(1, 3, 40, 50)[0]
    for name in ("b", "a"):
        folder = tmp_path / "fog" / "2" / name
        folder.mkdir(parents=True)
        image_module.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / "x.png")
    images = glyptic.data.ImageNetC(tmp_path, "fog", 2, size=32)
    assert len(images) == 2 and images.num_classes == 2
    image, label = images[1]
    assert label == 1 and torch.equal(image, picture[:, 4:36, 9:41])  # cut out, not resized
    with pytest.raises(glyptic.DataError, match="too few for a centre of 64"):
        glyptic.data.ImageNetC(tmp_path, "fog", 2, size=64)[0]


# --- metrics


def test_corruption_errors():
    metrics = glyptic.metrics
    names = corruption_names("common")
    alexnet = metrics.alexnet_errors()
    assert list(alexnet[n] for n in names) == [
        0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592,
        0.853204, 0.646056, 0.717840, 0.606500,
    ]  # fmt: skip
    assert metrics.mean_corruption_error(alexnet) == 1
    rng = np.random.default_rng(0)
    errors = {n: rng.uniform(0.1, 0.9, 5).tolist() for n in names}
    wanted = np.mean([sum(errors[n]) / (5 * alexnet[n]) for n in names])
    assert metrics.mean_corruption_error(errors) == pytest.approx(wanted, rel=1e-14)
    assert metrics.mean_corruption_error(errors, None) == pytest.approx(np.mean(list(errors.values())), rel=1e-14)
    base = {n: rng.uniform(0.5, 0.9, 5).tolist() for n in names}
    relative = np.mean([sum(e - 0.1 for e in errors[n]) / sum(b - 0.3 for b in base[n]) for n in names])
    assert metrics.relative_mean_corruption_error(errors, 0.1, base, 0.3) == pytest.approx(relative, rel=1e-12)
    summary = metrics.corruption_summary(errors, 0.1)
    worst = max(errors, key=lambda n: np.mean(errors[n]))
    assert summary["worst"] == worst and summary["worst_error"] == pytest.approx(np.mean(errors[worst]))
    assert summary["families"]["noise"] == pytest.approx(np.mean([errors[n] for n in names[:3]]))
    assert set(summary["families"]) == {"noise", "blur", "weather", "digital"}
    assert summary["drops"]["fog"] == pytest.approx(np.mean(errors["fog"]) - 0.1)


@pytest.mark.parametrize(
    ("errors", "baseline", "message"),
    [
        ({}, None, "no corruption is given"),
        ({"fog": []}, None, "no severity"),
        ({"fog": [40.0]}, None, "not percent"),
        ({"fog": [float("nan")]}, None, "not percent"),
        ({"spatter": [0.4]}, "alexnet", "no errors of 'spatter'"),
        ({"fog": [0.4]}, "resnet", "expected 'alexnet'"),
        ({"fog": [0.4, 0.5]}, {"fog": [0.4, 0.5, 0.6]}, "2 severities, its baseline 3"),
        ({"fog": [0.4]}, {"fog": [0.0]}, "expected more than 0"),
    ],
)
def test_bad_errors(errors, baseline, message):
    with pytest.raises(glyptic.ArgumentError, match=message):
        glyptic.metrics.mean_corruption_error(errors, baseline)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_gives_the_bits_of_the_cpu(name, textures):
    for images in (pictures(3, 3, 32, 41), pictures(2).float() / 255 * 0.97):
        here, there = (run(name, x, textures=textures, seed=3, first_index=2) for x in (images, images.cuda()))
        assert there.is_cuda and torch.equal(there.cpu(), here)


# --- the page and the command


def test_the_snippets_of_the_page(tmp_path):
    import re

    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "corruptions.md"
    scope = {"torch": torch, "glyptic": glyptic, "folder": tmp_path}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(page), "exec"), scope)


def test_the_command_writes_a_set(tmp_path):
    import subprocess

    build = os.environ.get("GLYPTIC_BUILD")
    command = pathlib.Path(build or "") / "bin" / "glyptic"
    if not build or not command.exists():
        pytest.skip("GLYPTIC_BUILD does not name a build with the command")

    def call(*arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("GLYPTIC_DATA", None)
        return subprocess.run([command, "corrupt", *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path)

    out = tmp_path / "new" / "mnist-c"
    done = call("--data", "mnist", "--limit", "12", "--out", str(out), "--name", "noise", "contrast", "--seed", "4")
    assert done.returncode == 0, done.stderr
    written = ["contrast", "gaussian_noise", "impulse_noise", "labels", "shot_noise"]
    assert sorted(f.stem for f in out.iterdir()) == written and len(done.stdout.split()) == 4
    clean, labels = glyptic.data.load_cifar_c(out, "contrast", 1)
    assert clean.shape == (12, 1, 28, 28) and len(labels) == 12
    noisy = np.load(out / "shot_noise.npy")
    assert noisy.shape == (60, 28, 28, 1)
    for arguments, code, message in (
        (("--data", "mnist", "--out", str(tmp_path / "x"), "--name", "contrst"), 2, "did you mean 'contrast'"),
        (("--data", "mnist",), 2, "--out"),
        (("--data", "mnst", "--out", str(tmp_path / "x")), 2, "no data set is called 'mnst'"),
        (("--data", "mnist", "--limit", "2", "--out", str(tmp_path / "x"), "--name", "frost"), 3, "frost: its textures"),
        (("--data", "mnist", "--limit", "2", "--out", str(tmp_path / "x"), "--table", "31"), 2, "table is 31"),
    ):
        failed = call(*arguments)
        assert failed.returncode == code and message in failed.stderr and failed.stderr.count("\n") == 1
    assert not list((tmp_path / "x").glob("*frost*"))
