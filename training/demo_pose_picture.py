"""Figure of the pose step of the demo: photos and their tiles, with posterior, estimate and true position."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from gengeo_hf.common.drawing import FAINT, INK, PAPER, RIGHT, SCALE, WRONG, paste_rounded, to_rgb, write
from gengeo_hf.common.files import atomic_file

SHOWN, SIDE, GAP, HEAD = 4, 220, 14, 34  # photos in the figure; side of a tile, gap and height of the legend in pixels
WIDE = 620  # width of a photo in pixels
YELLOW = (255, 214, 0)


@torch.inference_mode()
def draw_poses(path: Path, encoder: Any, head: Any, world: Any) -> None:
    """Draw some photos with the posterior of their position in the true tile.

    Args:
        path: PNG file to write.
        encoder: `Encoder` of the model.
        head: `PoseHead` for a known heading.
        world: Data set with positions and bounds, such as the off-centre test domain.
    """
    rows, posterior, found, truth, side_m = _predict(encoder, head, world)
    mass = posterior.position_mass()
    height = HEAD + len(rows) * (SIDE + GAP)
    canvas = Image.new("RGB", ((WIDE + GAP + SIDE) * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas)
    _legend(draw)
    tiles = {tile_id: row for row, tile_id in enumerate(world.gallery["tile_id"])}
    for number, row in enumerate(rows):
        top = (HEAD + number * (SIDE + GAP)) * SCALE
        query = world.queries[int(row)]
        photo = to_rgb(query["ground"])
        tall = round(WIDE * photo.height / photo.width)
        photo = photo.resize((WIDE * SCALE, tall * SCALE), Image.Resampling.BICUBIC)
        error = np.linalg.norm(found[number] - truth[number])
        write(draw, f"{error:.1f} m from the true position", (0, top / SCALE + tall + 8), 14, INK)
        tile = to_rgb(world.gallery[tiles[query["positive"]]]["aerial"])
        tile = tile.resize((SIDE * SCALE, SIDE * SCALE), Image.Resampling.BICUBIC)
        _draw_posterior(tile, side_m, posterior.positions, mass[number], found[number], truth[number])
        paste_rounded(canvas, photo, (0, top), 6 * SCALE)
        paste_rounded(canvas, tile, ((WIDE + GAP) * SCALE, top), 6 * SCALE)
    with atomic_file(path) as temporary:
        canvas.resize((canvas.width // SCALE, canvas.height // SCALE), Image.Resampling.LANCZOS).save(temporary)


def _predict(encoder: Any, head: Any, world: Any) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray, Any]:
    """Estimate poses in the true tiles: rows, posterior, estimated and true positions (n, 2), sides; in metres."""
    from gengeo_hf.pose.geometry import positions_of
    from gengeo_hf.pose.posterior import poses_of, to_posterior
    from gengeo_hf.pose.samples import PosePairs, draw_samples, plain_plans

    pairs = PosePairs.of(world, encoder.processor)
    rows = np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).astype(int)
    plan = plain_plans(pairs, rows)[0]
    samples = draw_samples(encoder, head, pairs, plan, np.random.default_rng(0))
    queries, keys = head.queries(samples.ground.float()), head.keys(samples.aerial.float())
    scores = head.scores(queries, keys, samples.layout, samples.azimuths, samples.headings)
    posterior = to_posterior(scores, positions_of(samples.layout), samples.headings)
    side_m = (samples.layout.width_m, samples.layout.height_m)
    return plan.rows, posterior, poses_of(posterior).offset_m, samples.offset_m.numpy(), side_m


def _legend(draw: ImageDraw.ImageDraw) -> None:
    """Draw the legend of the symbols."""
    write(draw, "Photo and its true tile", (0, 8), 14, FAINT)
    x = WIDE - 190
    for text, colour, shape in (
        ("probability", YELLOW, "square"),
        ("estimate", WRONG, "cross"),
        ("true position", RIGHT, "ring"),
    ):
        _symbol(draw, (x * SCALE, 16 * SCALE), shape, colour)
        write(draw, text, (x + 13, 8), 14, INK)
        x += 36 + 8 * len(text)


def _symbol(draw: ImageDraw.ImageDraw, centre: tuple[float, float], shape: str, colour: Any) -> None:
    """Draw one symbol with a white outline."""
    (x, y), radius = centre, 7 * SCALE
    if shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "ring":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", width=4 * SCALE)
        inner = radius - SCALE * 0.75
        draw.ellipse((x - inner, y - inner, x + inner, y + inner), outline=colour, width=int(2.5 * SCALE))
    else:
        for width, line in ((5 * SCALE, "white"), (int(2.5 * SCALE), colour)):
            draw.line((x - radius, y - radius, x + radius, y + radius), fill=line, width=width)
            draw.line((x - radius, y + radius, x + radius, y - radius), fill=line, width=width)


def _draw_posterior(
    tile: Image.Image, side_m: tuple[float, float], positions: np.ndarray, mass: np.ndarray, answer: Any, truth: Any
) -> None:
    """Draw the posterior, the true position and the estimate into a tile."""
    draw = ImageDraw.Draw(tile, "RGBA")

    def pixel(offset: Any) -> tuple[float, float]:
        return (0.5 + offset[0] / side_m[0]) * tile.width, (0.5 - offset[1] / side_m[1]) * tile.height

    step = abs(positions[1, 0] - positions[0, 0]) / side_m[0] * tile.width / 2
    for position, weight in zip(positions, mass / mass.max(), strict=True):
        x, y = pixel(position)
        draw.rectangle((x - step, y - step, x + step, y + step), fill=(*YELLOW, int(190 * weight)))
    _symbol(draw, pixel(truth), "ring", RIGHT)
    _symbol(draw, pixel(answer), "cross", WRONG)
