"""The formulas behind the made-up weights and inputs: numpy only, the same numbers on every machine.

A number is drawn by name: the generator's seed is (SEED, crc32 of the name), so a tensor's values do not
depend on the order in which a network is built.
"""

from __future__ import annotations

import math
import re
import zlib
from typing import Any, Literal

import numpy as np

SEED = 2102

# What becomes of a standard normal x, by the tensor's full name; the first pattern found decides.
# (scale, shift) gives scale * x + shift; "keep" leaves what the model builds.
_Rule = tuple[float, float] | Literal["keep", "variance", "absolute"]
_RULES: tuple[tuple[str, _Rule], ...] = (
    (r"num_batches_tracked$|(^|\.)kernel$", "keep"),
    (r"running_mean$", (0.1, 0)),
    (r"running_var$", "variance"),
    (r"noises\.noise_\d+$|input\.input$", (1, 0)),  # stored noise, the generator's constant
    (r"noise\.weight$", (0.1, 0)),
    (r"latent_avg$", (0.3, 0)),
    (r"(^|\.)style\.\d+\.weight$", (100, 0)),  # mapping network: raw values, multiplied by 0.01 in use
    (r"(^|\.)style\.\d+\.bias$", (10, 0)),
    (r"modulation\.bias$", (0.1, 1)),
    (r"modulation\.weight$", (1, 0)),
    (r"styles\.\d+\.linear\.weight$", (0.3, 0)),
    (r"bias$", (0.1, 0)),
    (r"(^|\.)lin\d\.", "absolute"),  # LPIPS layer weights are never negative
    (r"to_rgb\S*conv\.weight$", (0.3, 0)),  # keeps the image near [-1, 1]
    (r"(^|\.)conv\.weight$|^convs\.\d|^final_", (1, 0)),  # modulated and discriminator weights
)


def standard_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that belong to a name, float32."""
    return _generator(name).standard_normal(shape, dtype=np.float32)


def filled_tensor(name: str, shape: tuple[int, ...], *, of_batch_norm: bool) -> np.ndarray | None:
    """The weights of one tensor.

    Args:
        name: full name in the official file.
        shape: its shape.
        of_batch_norm: whether the tensor's module also has running statistics; tells the weight of a
            batch norm from a PReLU's, both one-dimensional.
    Returns:
        float32 array, or None where the model keeps what it builds.
    """
    rule = next((rule for pattern, rule in _RULES if re.search(pattern, name)), None)
    if rule is None:
        rule = _weight_rule(name, shape, of_batch_norm)
    if rule == "keep":
        return None
    x = standard_normal(name, shape)
    if rule == "variance":
        return np.float32(0.5) + np.float32(0.5) * np.abs(x)
    if rule == "absolute":
        return np.abs(x)
    scale, shift = rule
    return np.float32(scale) * x + np.float32(shift)


def _weight_rule(name: str, shape: tuple[int, ...], of_batch_norm: bool) -> tuple[float, float]:
    if len(shape) == 1:
        return (0.1, 1) if of_batch_norm else (0.05, 0.25)
    # IR-SE trunks add their residuals up, so their layers get half the gain of a rectified network's.
    gain = 1 if re.search(r"(input_layer|body|output_layer)\.", name) else 2
    return math.sqrt(gain / math.prod(shape[1:])), 0


def picture_u8(name: str, count: int, height: int, width: int) -> np.ndarray:
    """Pictures (count, 3, height, width), uint8: a smooth colour field with noise, in integer arithmetic."""
    generator = _generator(name)
    grid = generator.integers(0, 256, (count, 3, height // 16 + 2, width // 16 + 2))
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    top, down, left, right = y // 16, y % 16, x // 16, x % 16
    field = (
        grid[..., top, left] * (16 - down) * (16 - right)
        + grid[..., top + 1, left] * down * (16 - right)
        + grid[..., top, left + 1] * (16 - down) * right
        + grid[..., top + 1, left + 1] * down * right
    ) // 256
    noise = generator.integers(-24, 25, (count, 3, height, width))
    return np.clip(field + noise, 0, 255).astype(np.uint8)


def picture(name: str, count: int, height: int, width: int) -> np.ndarray:
    """`picture_u8` in [-1, 1], float32: divided by 255, then (p - 0.5) / 0.5, each step in float32."""
    unit = picture_u8(name, count, height, width).astype(np.float32) / np.float32(255)
    return (unit - np.float32(0.5)) / np.float32(0.5)


def made_input(recipe: dict[str, Any]) -> np.ndarray:
    """An input from its recipe: kind (normal, image, image_u8), name, shape, and optional scale or ages.

    `ages` appends one constant channel per image, already divided by 100.
    """
    kind, name, shape = recipe["kind"], recipe["name"], tuple(recipe["shape"])
    if kind == "normal":
        return standard_normal(name, shape) * np.float32(recipe.get("scale", 1))
    count, _, height, width = shape
    if kind == "image_u8":
        return picture_u8(name, count, height, width)
    images = picture(name, count, height, width)
    if "ages" not in recipe:
        return images
    ages = np.asarray(recipe["ages"], np.float32).reshape(-1, 1, 1, 1)
    return np.concatenate([images, np.broadcast_to(ages, (count, 1, height, width))], axis=1)


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])
