"""The demo's page: numbers, curves, answers as strips, what the head kept, a map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gengeo_hf.common.html import Figure, Page, Section, Table, write_page
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain import (
    clusters_figure,
    explain_match,
    explain_preference,
    match_figure,
    preference_figure,
    regions_figure,
    selection_figure,
    top_patches,
)
from gengeo_hf.localization.localizer import Answer

RIGHT, WRONG, INK, SOFT = (11, 110, 79), (179, 38, 30), (28, 36, 48), (91, 102, 117)
KS = ("recall@1", "recall@5", "recall@10", "recall@1%")


def write_demo_report(
    folder: Path,
    world: Any,
    encoder: Encoder,
    answers: list[Answer],
    results: dict[str, dict[str, float]],
    map_page: str,
    next_commands: str,
    machine: str,
) -> None:
    """Write `report.html` into the demo's folder."""
    main = next(iter(results))
    headline = [
        (f"{results[main][key]:.1%}", label) for key, label in zip(KS, ("R@1", "R@5", "R@10", "R@1%"), strict=True)
    ]
    rows = [[name, *(f"{row[k]:.1%}" for k in KS), f"{row['gallery_size']:,}"] for name, row in results.items()]
    chance = 1 / results[main]["gallery_size"]
    page = Page(
        title="Where was this photo taken?",
        lead=f"A small GenGeo model, trained from random weights on the synthetic urban world, and asked for "
        f"{len(world.queries):,} places of regions that it has never seen.",
        notice="Everything on this page is the synthetic world: generated places with invented coordinates. It shows "
        "that the whole path works, and says nothing about how well a model finds real photos.",
        headline=headline,
        table=Table(
            ["synthetic world", "R@1", "R@5", "R@10", "R@1%", "tiles"],
            rows,
            note=f"R@k: share of photos whose true tile is among the k most similar. Chance at R@1 is {chance:.1%}. "
            "Ties count against the model.",
        ),
        sections=[
            Section("How it learned", figures=[curves(folder / "run" / "log.jsonl")]),
            Section(
                "A few photos and their five most similar tiles",
                "Each strip is a panorama (north in the middle) and, best first, the tiles that the model takes for "
                "its place, with their cosine. Green is right, red is wrong.",
                [answer_figure(world, answer) for answer in answers],
            ),
            Section(
                "What the head kept",
                "Bright patches reach the descriptor, dark ones went to the dustbin.",
                [kept_figure(encoder, world, answers[:2])],
            ),
            Section(
                "Which patches match",
                "The score of a photo and its true tile, taken apart exactly: what each pair of patches adds. "
                "gengeo explain draws this for any pair.",
                [figure for answer in answers[:2] for figure in match_figures(encoder, world, answer)],
            ),
            Section(
                "Position and heading inside the tile",
                "A pose head on the frozen model, in the off-centre domain, which neither has seen. Green: where the "
                "photo stood. Red: the answer. Yellow: how probable each position is.",
                [Figure(Image.open(folder / "pose.png"), pose_caption(folder / "pose.json"))],
            ),
            Section(
                "Why a tile wins that is not the true one",
                "What the two tiles' scores owe to each part of the photo.",
                [worst_answer_figure(encoder, world)],
            ),
            Section(
                "What the clusters collect",
                "A cluster that stands for a kind of thing shows that thing on both sides; one that stands for a "
                "direction has one bright spot in its map.",
                [cluster_figure(encoder, world)],
            ),
            Section(
                "On the map",
                "The true places and the places found. The map works without internet: its imagery is the synthetic "
                "world's own.",
                map=map_page,
            ),
        ],
        next_commands=next_commands.strip(),
        footer=f"Made by make demo on {machine}.",
    )
    write_page(page, folder / "report.html")


def pose_caption(path: Path) -> str:
    """The figures of the pose head in one sentence."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"In its true tile a photo is found within {found['median_m']:.1f} m in the median (the tile's centre: "
        f"{found['centre_median_m']:.1f} m), {found['within_5_m']:.0f} % within 5 m. Among all tiles of the gallery, "
        f"{found['fused_within_10_m']:.1f} % of all photos are found within 10 m, against "
        f"{found['centre_within_10_m']:.1f} % by the centre of the best tile."
    )


def curves(log: Path) -> Figure:
    """Loss at each logged step and recall on the validation places, on one time axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    loss = np.array([(line["step"], line["loss"]) for line in lines if "loss" in line]).reshape(-1, 2)
    recall = np.array(
        [(line["step"], line["validation/recall@1"]) for line in lines if "validation/recall@1" in line]
    ).reshape(-1, 2)
    figure, left = pyplot.subplots(figsize=(10, 3.2), dpi=110, layout="constrained")
    left.plot(*loss.T, color="#8a94a3", linewidth=1.3)
    left.set(xlabel="step", ylabel="training loss (InfoNCE)")
    left.yaxis.label.set_color("#5b6675")
    right = left.twinx()
    right.plot(recall[:, 0], 100 * recall[:, 1], color="#0b6e4f", marker="o", markersize=4, linewidth=2)
    right.set(ylabel="R@1 on validation places (%)", ylim=(0, 102))
    right.yaxis.label.set_color("#0b6e4f")
    for axis in (left, right):
        axis.spines[["top"]].set_visible(False)
    mined = next((line["step"] for line in lines if "batches/hardest_negative" in line), None)
    if mined is not None:
        left.axvline(mined, color="#d99a00", linewidth=1, linestyle="--")
        left.text(
            mined, left.get_ylim()[1], " from here on, batches of look-alikes", va="top", fontsize=8, color="#9a6d00"
        )
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())  # type: ignore[attr-defined]
    pyplot.close(figure)
    return Figure(
        picture,
        "Grey: loss of the batches, which grows harder when batches turn from neighbours on the map to places that "
        "the model itself confuses. Green: share of unseen validation places found at the first guess.",
    )


def answer_figure(world: Any, answer: Answer, height: int = 150) -> Figure:
    """A panorama and its five best tiles, right and wrong marked."""
    query_row = query_of(world, answer)
    truth = world.queries[query_row]["positive"]
    ground = scaled(GroundImages(world)[query_row], height)
    tiles = AerialImages(world)
    row_of = {tile: row for row, tile in enumerate(world.gallery["tile_id"][:])}
    gap, label = 10, 26
    sheet = Image.new("RGB", (ground.width + len(answer.places) * (height + gap), height + label), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    sheet.paste(ground, (0, 0))
    draw.text((0, height + 6), "photo, north in the middle", SOFT, font)
    for number, place in enumerate(answer.places):
        x = ground.width + gap + number * (height + gap)
        right = place.tile_id == truth
        colour = RIGHT if right else WRONG
        sheet.paste(scaled(tiles[row_of[place.tile_id]], height), (x, 0))
        draw.rectangle((x, 0, x + height - 1, height - 1), outline=colour, width=5)
        draw.text((x, height + 6), f"{place.rank}. {'right' if right else 'wrong'}  {place.score:.2f}", colour, font)
    ranks = [place.rank for place in answer.places if place.tile_id == truth]
    found = f"found at rank {ranks[0]}" if ranks else "not among the first five"
    return Figure(sheet, f"{Path(answer.photo).stem}: {found}; the best guess is {answer.exif_distance_m:.0f} m away.")


def pair(world: Any, query_row: int) -> tuple[Image.Image, Image.Image]:
    """A panorama and its true tile."""
    return GroundImages(world)[query_row], AerialImages(world)[int(world.positive_rows()[query_row])]


def kept_figure(encoder: Encoder, world: Any, answers: list[Answer]) -> Figure:
    """Panorama and true tile, feature norms, and what the head kept."""
    pairs = [pair(world, query_of(world, answer)) for answer in answers]
    return Figure(
        selection_figure(encoder, pairs, [Path(answer.photo).stem for answer in answers], side=130),
        "Three rows for each photo and its true tile: the pictures, how strong the features of each patch are, and "
        "which patches reach the descriptor (gengeo figure selection, the paper's Figures 4-6).",
    )


def match_figures(encoder: Encoder, world: Any, answer: Answer) -> tuple[Figure, Figure]:
    """Panorama and true tile, linked where they agree; and the strongest link's two regions in terms of clusters."""
    match = explain_match(encoder, *pair(world, query_of(world, answer)))
    links = Figure(match_figure(match), f"{Path(answer.photo).stem}: the score is {match.score:.3f}.")
    patches = match.strongest(1)[0][:2]
    boxes = [around(side.grid, patch) for side, patch in zip((match.ground, match.aerial), patches, strict=True)]
    regions = Figure(
        regions_figure(match.ground, boxes[0], match.aerial, boxes[1]),
        "The patches around both ends of the first line, and to which clusters they go (gengeo figure regions, the "
        "paper's Figure 7).",
    )
    return links, regions


def around(grid: tuple[int, int], patch: int) -> tuple[float, float, float, float]:
    """The box of a patch and its neighbours, in shares of width and height."""
    row, column = divmod(patch, grid[1])
    left, top = max(0, column - 1) / grid[1], max(0, row - 1) / grid[0]
    return left, top, min(grid[1], column + 2) / grid[1], min(grid[0], row + 2) / grid[0]


def worst_answer_figure(encoder: Encoder, world: Any) -> Figure:
    """The photo that is furthest from its true tile, compared with the best other one, by parts of the photo."""
    photos, tiles, truth = GroundImages(world), AerialImages(world), world.positive_rows()
    scores = encoder.encode(photos, "ground") @ encoder.encode(tiles, "aerial").T
    rows = np.arange(len(scores))
    true_scores = scores[rows, truth]
    scores[rows, truth] = -np.inf
    row = int((scores.max(axis=1) - true_scores).argmax())
    preference = explain_preference(encoder, photos[row], tiles[int(scores[row].argmax())], tiles[int(truth[row])])
    what = "The most mistaken of all answers" if preference.gap > 0 else "No answer was wrong; this is the narrowest"
    return Figure(
        preference_figure(preference, ("the best other tile", "the true tile")),
        f"{what}: {world.queries[row]['query_id']} (gengeo explain --instead-of).",
    )


def cluster_figure(encoder: Encoder, world: Any, count: int = 100) -> Figure:
    """What each cluster takes most of, in both views."""
    (ground, ground_plan), (aerial, aerial_plan) = (
        top_patches(encoder, images[:count], view, 6)  # type: ignore[arg-type]  # a Literal in a loop
        for images, view in ((GroundImages(world), "ground"), (AerialImages(world), "aerial"))
    )
    return Figure(
        clusters_figure(ground, aerial, (ground_plan, aerial_plan), most=8),
        f"Over {min(count, len(world.queries))} photos and as many tiles (gengeo figure clusters).",
    )


def query_of(world: Any, answer: Answer) -> int:
    """Row of the photo that an answer belongs to; the demo names its files by query id."""
    names = [name.replace("/", "-") for name in world.queries["query_id"][:]]
    return names.index(Path(answer.photo).stem)


def scaled(image: Image.Image, height: int) -> Image.Image:
    """A picture at a given height; small ones keep their pixels square and visible."""
    width = round(image.width * height / image.height)
    return image.resize((width, height), Image.Resampling.BICUBIC)
