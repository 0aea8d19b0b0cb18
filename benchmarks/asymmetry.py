"""Kept mass of the head by class, in ground and aerial images: does the dustbin reject sky and cars?

The synthetic world has the class of every pixel. For each view the script reports the class's share of the area, its
share of the kept mass, their ratio (1: no preference) with a 95 % interval over images, and the kept mass relative to
the average at the same positions in the image (1: only the position matters, not the class). If cameras are at the
centre of their tiles, also the error of direction of linked patches (random: 90 degrees). A model with random weights
is measured as a control.

    python benchmarks/asymmetry.py --model demo/gengeo-world-urban --places 150
    python benchmarks/asymmetry.py --model runs/world_any_view/model --heading unknown

With `--heading unknown` each panorama is rolled by a random number of patches, so that a class has no typical position.
"""

import argparse
from typing import Any

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.errors import exit_on_error
from gengeo_hf.common.files import write_json, write_text
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain.attribution import require_dustbin
from gengeo_hf.explain.classes import ClassPreference, asymmetry, class_preference, class_shares
from gengeo_hf.explain.clusters import attributions
from gengeo_hf.explain.links import link_direction_error, match_attributions
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.world import CLASS_NAMES, build_world
from gengeo_hf.world.pixel_classes import aerial_classes, ground_classes

RARE = 5e-4  # share of all pixels below which a class is not reported


def true_shares(
    world: Any, rows: list[int], grids: dict[str, tuple[int, int]], sizes: dict[str, tuple[int, int]]
) -> Any:
    """Share of each class in each patch, for every image of both views."""
    draw = {"ground": (world.queries, "query_id", ground_classes), "aerial": (world.gallery, "tile_id", aerial_classes)}
    return {
        view: [class_shares(kinds(table[row][key], sizes[view]), grids[view], len(CLASS_NAMES)) for row in rows]
        for view, (table, key, kinds) in draw.items()
    }


def rolled(image: Image.Image, patches: int, columns: int) -> Image.Image:
    """Roll a panorama of `columns` patches to the right by some patches."""
    return Image.fromarray(np.roll(np.asarray(image), round(patches * image.width / columns), axis=1))


def measure(
    encoder: Encoder, world: Any, rows: list[int], shares: Any, turns: np.ndarray, columns: int
) -> dict[str, ClassPreference]:
    """Preference of each view; row i of the gallery is not necessarily the tile of row i of the queries."""
    ground, aerial = GroundImages(world), AerialImages(world)
    photos = attributions(encoder, (rolled(ground[row], turns[row], columns) for row in rows), "ground")
    tiles = attributions(encoder, (aerial[row] for row in rows), "aerial")
    found = {"ground": photos, "aerial": tiles}
    return {view: class_preference([x.kept for x in kept], shares[view]) for view, kept in found.items()}


def pointing(encoder: Encoder, world: Any, rows: list[int]) -> float:
    """Mean error of direction of linked patches over true pairs, degrees."""
    tiles = world.positive_rows()
    ground, aerial = GroundImages(world), AerialImages(world)
    photos = attributions(encoder, (ground[row] for row in rows), "ground")
    answers = attributions(encoder, (aerial[int(tiles[row])] for row in rows), "aerial")
    return float(
        np.mean([link_direction_error(match_attributions(*pair)) for pair in zip(photos, answers, strict=True)])
    )


def format_table(name: str, found: dict[str, ClassPreference]) -> list[str]:
    """Format the table of one model."""
    lines = [name, " " * 9 + "".join(f"|{view:^39}" for view in found)]
    lines.append(" " * 9 + "|   area   kept  ratio  (95 %)     beyond" * 2)
    for number, label in enumerate(CLASS_NAMES):
        cells = []
        for view in found.values():
            if view.area[number] < RARE:
                cells.append(f"|{'-':>7}{'':32}")
                continue
            interval = f"{view.low[number]:.2f}-{view.high[number]:.2f}"
            shares = f"|{view.area[number]:7.1%}{view.kept[number]:7.1%}{view.preference[number]:7.2f}"
            cells.append(f"{shares}  {interval:<11}{view.beyond_position[number]:6.2f}")
        lines.append(f"{label:<9}" + "".join(cells))
    apart, areas = asymmetry(found["ground"], found["aerial"], [CLASS_NAMES.index("sky")])
    lines.append(f"asymmetry of the views, sky left out: {apart:.2f} of the kept mass, {areas:.2f} of the areas")
    shares = ", ".join(f"{value.position_share:.0%} ({view})" for view, value in found.items())
    lines.append(f"variance of the kept mass explained by the position alone: {shares}")
    return lines


def plain(found: dict[str, ClassPreference]) -> dict[str, Any]:
    """Convert to values for JSON; None for rare classes."""
    fields = {key: key for key in ("area", "kept", "preference", "low", "high")} | {"beyond_place": "beyond_position"}
    classes = {
        view: {
            label: {key: round(float(getattr(value, name)[n]), 4) for key, name in fields.items()}
            if value.area[n] >= RARE
            else None
            for n, label in enumerate(CLASS_NAMES)
        }
        for view, value in found.items()
    }
    apart, areas = asymmetry(found["ground"], found["aerial"], [CLASS_NAMES.index("sky")])
    places = {view: value.position_share for view, value in found.items()}
    return {"classes": classes, "asymmetry": apart, "asymmetry_of_areas": areas, "place_share": places}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo/gengeo-world-urban", help="a checkpoint with a SALAD head and dustbin")
    parser.add_argument("--domain", default="urban", help="urban, rural or offcenter")
    parser.add_argument("--places", type=int, default=150)
    parser.add_argument("--heading", choices=("known", "unknown"), default="known", help="unknown rolls each panorama")
    parser.add_argument("--world", default=None, help="directory of rendered worlds, such as demo/world")
    parser.add_argument("--table", default=None, help="also write the output to this Markdown file")
    parser.add_argument("--json", default=None, help="also write the values to this JSON file")
    given = parser.parse_args()
    encoder = Encoder.from_pretrained(given.model, device="cpu")
    require_dustbin(encoder)
    sizes = {view: (size["height"], size["width"]) for view, size in encoder.processor.view_sizes.items()}
    patch = encoder.model.config.backbone_config.patch_size
    grids = {view: (size[0] // patch, size[1] // patch) for view, size in sizes.items()}
    world = build_world(
        given.domain,
        "test",
        given.places,
        ground_size=sizes["ground"],
        aerial_size=sizes["aerial"],
        cache_dir=given.world,
    )
    rows = list(range(given.places))
    shares = true_shares(world, rows, grids, sizes)
    known, (high, wide) = given.heading == "known", grids["ground"]
    turns = np.zeros(given.places, int) if known else np.random.default_rng(0).integers(0, wide, given.places)
    shares["ground"] = [
        np.roll(part.reshape(high, wide, -1), turn, axis=1).reshape(high * wide, -1)
        for part, turn in zip(shares["ground"], turns, strict=True)
    ]
    torch.manual_seed(0)  # the same random weights in every run
    blank = Encoder(GenGeoModel(GenGeoConfig.from_pretrained(given.model)), encoder.processor, device="cpu")
    about = f"world/{given.domain}/test, {given.places} places, heading {given.heading}, model {given.model}"
    results, lines = {}, [about]
    for name, model in (("trained", encoder), ("random weights", blank)):
        found = measure(model, world, rows, shares, turns, wide)
        results[name] = plain(found)
        lines += ["", *format_table(name, found)]
        if given.domain != "offcenter" and known:
            error = results[name]["link_direction_error"] = pointing(model, world, rows)
            lines.append(f"mean error of direction of linked patches: {error:.0f} degrees (chance: 90)")
    print("\n".join(lines))
    if given.json:
        write_json(
            given.json,
            {"model": given.model, "domain": given.domain, "places": given.places, "heading": given.heading, **results},
        )
    if given.table:
        write_text(given.table, "```text\n" + "\n".join(lines) + "\n```\n")


if __name__ == "__main__":
    with exit_on_error():
        main()
