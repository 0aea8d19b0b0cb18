"""Sections of the report: each calls the benchmark of that name, at three sizes where growth is measured."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import draw_world
import epoch_plan
import extraction
import head
import input_scale
import int8
import mining
import numpy as np
import ranks
import search_million
import startup
from measuring import Figure, growth, in_own_process, in_turns

from gengeo_hf.encoding.encoder import Encoder

FULL_PAIRS = 105_214  # of VIGOR; the goals of sampler and mining refer to it


@dataclass(frozen=True)
class Sizes:
    """Sizes at which the sections measure; the defaults take 20 minutes on two idle cores."""

    width: str = "base"
    onnx: bool = True
    batches: tuple[int, ...] = (1, 8)
    rounds: int = 5  # other processes share the bfloat16 units: readings vary by 20 %
    starts: int = 7
    head_rounds: int = 5  # readings vary by 10 %
    head_batch: int = 8
    head_memory_batch: int = 32
    pairs: tuple[int, int, int] = (10_000, 30_000, FULL_PAIRS)
    mined: tuple[int, int, int] = (5_000, 10_000, 20_000)
    ranked: tuple[int, int, int] = (5_000, 10_000, 20_000)
    tiles: tuple[int, int, int] = (10_000, 30_000, 100_000)
    dim: int = 1024
    queries: int = 128
    regions: tuple[int, int, int] = (150, 300, 600)

    @classmethod
    def quick(cls) -> "Sizes":
        """Return sizes small enough for a test."""
        return cls(
            "tiny",
            False,
            (1, 2),
            1,
            1,
            1,
            1,
            8,
            (400, 800, 1600),
            (300, 600, 1200),
            (300, 600, 1200),
            (2_000, 4_000, 8_000),
            64,
            32,
            (4, 8, 12),
        )

    @property
    def whole(self) -> bool:
        """Whether the goals, which refer to full sizes, can be checked."""
        return self.width == "base"

    def goal(self, words: str) -> str:
        """Return a goal, or an empty string at other sizes than the one it refers to."""
        return words if self.whole else ""


def start(sizes: Sizes) -> list[Figure]:
    """Measure start-up."""
    return startup.figures(sizes.starts)


def extract(sizes: Sizes) -> list[Figure]:
    """Measure JPEG to descriptor with each backend."""
    with tempfile.TemporaryDirectory() as name:
        folder = extraction.random_checkpoint(sizes.width, Path(name), sizes.onnx)
        return extraction.figures(folder, None, list(sizes.batches), sizes.rounds, sizes.whole)


def answer(sizes: Sizes) -> list[Figure]:
    """Compare the time from JPEG to best tiles with the forward pass of torch in float32."""
    from gengeo_hf.index.scan import build_scan
    from gengeo_hf.index.search import Part, Searcher

    with tempfile.TemporaryDirectory() as name:
        folder = extraction.random_checkpoint(sizes.width, Path(name), onnx=False)
        plain = Encoder.from_pretrained(folder, device="cpu", backend="torch", compute_dtype="float32")
        chosen = Encoder.from_pretrained(folder, device="cpu", backend="auto", compute_dtype="auto")
        vectors = search_million.descriptors(sizes.tiles[-1], plain.dim, Path(name) / "descriptors.npy")
        search = Searcher([Part(vectors, scan=build_scan(vectors) if sizes.whole else ())]).search
        photo = extraction.jpegs(1200, 1)
        pixels = chosen.processor([extraction._opened(photo)[0]], view="ground", return_tensors="pt")["pixel_values"]
        turns = in_turns(
            {
                "forward": lambda: plain.encode_pixels(pixels, "ground"),
                "answer": lambda: search(chosen.encode(photo, "ground"), 10)[1],
            },
            max(sizes.rounds, 1),
        )
    ratio = float(np.median([a / b for a, b in zip(turns.cpu["answer"], turns.cpu["forward"], strict=False)]))
    what = f"1200 x 1200 JPEG to ten of {sizes.tiles[-1]:,} tiles, by {chosen.computed_by}"
    reason = chosen.choice.reason
    clock, cpu = turns.medians("answer")
    return [Figure("answer", what, ratio, "x the forward of torch float32", clock, cpu, sizes.goal("<= 0.6"), reason)]


def eight_bits(sizes: Sizes) -> list[Figure]:
    """Compare int8 graphs with torch in float32."""
    with tempfile.TemporaryDirectory() as name:
        return int8.figures(int8.int8_checkpoint(sizes.width, Path(name)), sizes.rounds, sizes.whole)


def scaled(sizes: Sizes) -> list[Figure]:
    """Measure the forward pass at smaller image sizes, with fewer tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = extraction.random_checkpoint(sizes.width, Path(name), onnx=False)
        return input_scale.figures(folder, [*input_scale.SCALES], [], sizes.rounds, sizes.whole)


def head_cost(sizes: Sizes, device: str = "cpu") -> list[Figure]:
    """Compare the time of the head with the backbone, and its memory with the expanded formulation."""
    rows = []
    for view, size in head.SIZES.items():
        if sizes.whole:
            found = head.forward_ratio(size, sizes.head_batch, sizes.head_rounds, device)
            what = f"ViT-B/14 with head, {view}, batch {sizes.head_batch}"
            rows.append(Figure("head", what, found["ratio"], "x the backbone", None, found["model"], "<= 1.06"))
        held = {kind: head.peak_in_own_process(kind, view, sizes.head_memory_batch, device) for kind in head.KINDS}
        what = f"memory of a step of the head, {view}, batch {sizes.head_memory_batch}"
        ratio = held["ours"] / max(held["expanded"], 1)
        rows.append(Figure("head", what, ratio, "x the expanded formulation", goal=sizes.goal("<= 0.2")))
    return rows


def sampler(sizes: Sizes) -> list[Figure]:
    """Measure the epoch plan and the table of neighbours."""
    found = [epoch_plan.measure(pairs, names=["our rules"]) for pairs in sizes.pairs]
    plans = [value["plans"]["our rules"]["cpu_s"] for value in found]
    tables = [value["table_cpu_s"] for value in found]
    shown = f"{sizes.pairs[-1]:,} pairs"
    plan_goal, table_goal = (sizes.goal(f"<= {goal}") for goal in (epoch_plan.PLAN_GOAL, epoch_plan.TABLE_GOAL))
    return [
        Figure("sampler", f"epoch plan, {shown}", plans[-1], "CPU s", cpu_s=plans[-1], goal=plan_goal),
        Figure("sampler", f"GPS neighbours, {shown}", tables[-1], "CPU s", cpu_s=tables[-1], goal=table_goal),
        growth("sampler", "the plan with pairs", [*sizes.pairs], plans),
        growth("sampler", "the table with pairs", [*sizes.pairs], tables),
    ]


def mined(sizes: Sizes, device: str = "cpu") -> list[Figure]:
    """Measure mining of neighbours by descriptor."""
    found = [in_own_process(mining.measure, pairs, sizes.dim, pool=64, device=device) for pairs in sizes.mined]
    last, shown = found[-1], f"{sizes.mined[-1]:,} x {sizes.dim}"
    goal = f"<= {mining.MEMORY_GOAL}"
    return [
        Figure("mining", f"memory beyond descriptors, {shown}", last["added_mb"], "MB", goal=goal),
        Figure("mining", f"all neighbours, {shown}", last["cpu_s"], "CPU s", last["clock_s"], last["cpu_s"]),
        growth("mining", "mining with pairs", [*sizes.mined], [value["cpu_s"] for value in found]),
    ]


def ranked(sizes: Sizes, device: str = "cpu") -> list[Figure]:
    """Compare streamed ranks with the matrix product of the same blocks."""
    seconds, ratios = [], []
    for count in sizes.ranked:
        found = ranks.measure(count, count, sizes.dim, device_name=device)
        seconds.append(float(found["ranks"][:, 1].sum()))
        ratios.append(float(np.median(found["ranks"][:, 1] / found["bare"][:, 1])))
    what, clock = f"ranks and top-5, {sizes.ranked[-1]:,} x {sizes.ranked[-1]:,}", float(found["ranks"][:, 0].sum())
    return [
        Figure("ranks", what, ratios[-1], "x the bare product", clock, seconds[-1], sizes.goal("<= 1.3")),
        growth("ranks", "ranks with queries and tiles", [*sizes.ranked], seconds),
    ]


def search(sizes: Sizes) -> list[Figure]:
    """Compare index build and search with exact FAISS and usearch."""
    rows, built, asked = [], [], []
    for tiles in sizes.tiles:
        last = tiles == sizes.tiles[-1]
        skip = () if last else ("faiss flat", "usearch")
        found = {row["kind"]: row for row in search_million.measure(tiles, sizes.dim, sizes.queries, 20, skip)}
        built.append(found["compressed scan"]["build_cpu_s"])
        asked.append(found["compressed scan"]["cpu_ms_one"] / 1000)
    base = found["faiss flat"]["cpu_ms_one"]
    for name, row in found.items():
        note = (
            f"recall@1 {row['recall_at_1']:.3f}, built in {row['build_cpu_s']:.1f} CPU-s, {row['bytes_a_tile']:.0f} "
            "bytes a tile"
        )
        what, cpu = f"{name}, one query of {sizes.tiles[-1]:,} tiles", row["cpu_ms_one"] / 1000
        rows.append(Figure("search", what, base / cpu / 1000, "times as fast as FAISS flat", cpu_s=cpu, note=note))
    rows.append(growth("search", "building the compressed scan with tiles", [*sizes.tiles], built))
    return [*rows, growth("search", "one query of the compressed scan with tiles", [*sizes.tiles], asked)]


def world(sizes: Sizes) -> list[Figure]:
    """Measure rendering of the synthetic world with one process per core."""
    draw_world.built("urban", 2)  # fills the file cache for the measurements below
    seconds = [draw_world.built("urban", pairs) for pairs in sizes.regions]
    rate, pairs = sizes.regions[-1] / seconds[-1], sizes.regions[-1]
    goal = sizes.goal(">= 60")
    return [
        Figure("world", f"{pairs} pairs, start included", rate, "pairs/s", seconds[-1], goal=goal, note="two cores"),
        growth("world", "drawing with pairs", [*sizes.regions], seconds),
    ]


SECTIONS: dict[str, Callable[[Sizes], list[Figure]]] = {
    "start": start,
    "extraction": extract,
    "answer": answer,
    "int8": eight_bits,
    "input scale": scaled,
    "head": head_cost,
    "sampler": sampler,
    "mining": mined,
    "ranks": ranked,
    "search": search,
    "world": world,
}
GPU_SECTIONS: dict[str, Callable[[Sizes], list[Figure]]] = {
    "head, GPU": lambda sizes: head_cost(sizes, "cuda"),
    "mining, GPU": lambda sizes: mined(sizes, "cuda"),
    "ranks, GPU": lambda sizes: ranked(sizes, "cuda"),
}
