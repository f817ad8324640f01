"""A camera: from light to a JPEG, with blur, vignetting, exposure, color cast, sensor noise and compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from bench.rendering.colors import GAMMA, light_of
from bench.rendering.noise import resized
from bench.rendering.random_choices import Choices, Range
from bench.rendering.values import Values
from shared.images.arrays import Pixels


@dataclass(frozen=True, slots=True)
class Camera:
    """Bounds of what one camera's frames differ in."""

    exposure: Range = (0.9, 1.2)
    # Noise that is always there, and noise that grows with the light, as shares of full white.
    read_noise: Range = (0.002, 0.006)
    shot_noise: Range = (0.0005, 0.002)
    blur_px: Range = (0.3, 0.7)
    motion_px: Range = (0.0, 1.5)
    vignette: Range = (0.0, 0.25)
    # How far the red and blue channels are from neutral.
    cast: Range = (-0.05, 0.05)
    warmth: float = 0.0
    saturation: Range = (0.85, 1.1)
    contrast: Range = (0.95, 1.1)
    quality: tuple[int, int] = (80, 92)


def photograph(light: Values, camera: Camera, choices: Choices, *, size_px: int) -> bytes:
    """A picture of linear light [n * size, n * size, 3] as a JPEG of the camera's size."""
    light = _moved(light, choices.between(camera.motion_px) * len(light) / size_px, choices.between((0, np.pi)))
    light = _reduced(light, size_px)
    across = np.linspace(-1, 1, size_px, dtype=np.float32)
    edge = (across[None, :] ** 2 + across[:, None] ** 2)[..., None]
    light = light * (1 - choices.between(camera.vignette) * edge) * choices.between(camera.exposure)
    red, blue = choices.between(camera.cast) + camera.warmth, choices.between(camera.cast) - camera.warmth
    light = light * np.array([1 + red, 1, 1 + blue], np.float32)
    light = np.clip(_blurred(light, choices.between(camera.blur_px)), 0, 1)
    light = light + _sensor_noise(light, camera, choices)
    screen = np.clip(light, 0, 1) ** (1 / GAMMA)
    gray = screen.mean(axis=-1, keepdims=True)
    screen = gray + (screen - gray) * choices.between(camera.saturation)
    screen = 0.45 + (screen - 0.45) * choices.between(camera.contrast)
    pixels = (np.clip(screen, 0, 1) * 255 + 0.5).astype(np.uint8)
    return _as_jpeg(pixels, choices.whole(*camera.quality))


def _moved(light: Values, length_px: float, angle: float) -> Values:
    """Motion blur: the mean of the picture at several places along a line."""
    steps = int(length_px)
    if steps < 1:
        return light
    total = light.copy()
    for step in range(1, steps + 1):
        shift = (round(step * np.sin(angle)), round(step * np.cos(angle)))
        total += np.roll(light, shift, axis=(0, 1))
    return total / (steps + 1)


def _reduced(light: Values, size_px: int) -> Values:
    return resized(np.clip(light, 0, 4), size_px, Image.Resampling.BOX)


def _blurred(light: Values, radius_px: float) -> Values:
    """Blur of the lens. Two bytes a channel would be finer, but noise follows anyway."""
    if radius_px < 0.2:
        return light
    screen = (np.clip(light, 0, 1) ** (1 / GAMMA) * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(screen).filter(ImageFilter.GaussianBlur(radius_px))
    return light_of(np.asarray(image))


def _sensor_noise(light: Values, camera: Camera, choices: Choices) -> Values:
    read, shot = choices.between(camera.read_noise), choices.between(camera.shot_noise)
    gray = choices.generator.standard_normal((*light.shape[:2], 1), np.float32)
    colored = choices.generator.standard_normal(light.shape, np.float32)
    return np.sqrt(read**2 + shot * light) * (0.8 * gray + 0.5 * colored)


def _as_jpeg(pixels: Pixels, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
