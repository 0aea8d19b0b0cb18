"""Corrects the answers for successive frames of a drive by the distance that a car can travel between them.

Motion model: a car can be anywhere within its top speed, and all directions are equally probable. Each frame has some
candidate places. A path chooses one of them for each frame, or leaves the frame out, with these costs in nats:

    a candidate      SHARPNESS x (score of the frame's best candidate - its score), as votes are weighted in answers.py
    a step           0 within reach, else (distance - reach) / reach; reach = top speed x time + both radii
    a frame left out `left_out` (4: the cost of a cosine lower by 0.2)

The path of least cost is the most probable one (the Viterbi path of a hidden Markov model, as in map matching: Newson
and Krumm 2009). It is the shortest path in a directed acyclic graph, which scipy finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.localization.answers import SHARPNESS, Answer, Place

LEAST_REACH_M = 10.0  # minimum reach of a step, for small speeds and tiles
IN_A_ROW = 4  # maximum number of consecutive frames that are left out


@dataclass(frozen=True)
class Motion:
    """Parameters of a drive.

    Args:
        top_speed: Maximum speed, metres per second.
        interval_s: Seconds between frames, used if their EXIF data have no times.
        left_out: Cost of leaving a frame out, in nats.

    Raises:
        GenGeoError: A value is not positive.
    """

    top_speed: float = 20.0
    interval_s: float = 1.0
    left_out: float = 4.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise GenGeoError(f"{name} of a drive must be a positive number, found {value}")


def order_frames(answers: Sequence[Answer], interval_s: float) -> tuple[list[Answer], np.ndarray]:
    """Sort frames in the order of the drive, with the time of each.

    If every readable frame has a time in EXIF, frames are sorted by it, and an unreadable frame stays behind the frame
    that was given before it. Else (or if only some times have a time zone) frames of one video have their seconds in
    it, and photos keep the given order with `interval_s` between them.

    Args:
        answers: Answer for each frame.
        interval_s: Seconds between frames.

    Returns:
        The answers, and float64 (frames,) seconds since the first frame.
    """
    times = [answer.time for answer in answers if answer.time is not None]
    comparable = len({time.tzinfo is None for time in times}) == 1
    if not comparable or any(answer.time is None and not answer.error for answer in answers):
        video = [answer.video_s for answer in answers if answer.video_s is not None]
        if len(video) == len(answers) and video == sorted(video):
            return list(answers), np.array(video)
        return list(answers), np.arange(len(answers)) * interval_s
    time, timed = times[0], []
    for answer in answers:
        time = answer.time or time
        timed.append((time, answer))
    timed.sort(key=lambda pair: pair[0])
    seconds = [(time - timed[0][0]).total_seconds() for time, _ in timed]
    return [answer for _, answer in timed], np.array(seconds)


def correct_drive(
    answers: Sequence[Answer], seconds: Sequence[float] | np.ndarray, motion: Motion, threshold: float = 0.0
) -> list[Answer]:
    """Reorder the places of each answer so that the place on the most probable path is first.

    Args:
        answers: Answer for each frame, in the order of the drive; answers without places are skipped.
        seconds: (frames,) time of each frame in seconds, not decreasing.
        motion: Parameters of the motion model.
        threshold: Confidence below which a frame is not `known`, see `GeoLocalizer.locate_many`.

    Returns:
        The answers. A frame that was left out is not `known`. A frame whose best place changed has a note, and is
        `known` if the confidence of the new best place reaches the threshold.
    """
    frames = [number for number, answer in enumerate(answers) if answer.places]
    if not frames:
        return list(answers)
    chosen = _shortest_path([answers[f].places for f in frames], np.asarray(seconds, dtype=float)[frames], motion)
    out = list(answers)
    for frame, pick in zip(frames, chosen, strict=True):
        out[frame] = _with_first(answers[frame], pick, threshold)
    return out


def _with_first(answer: Answer, pick: int | None, threshold: float) -> Answer:
    """Move a place of an answer to the front; None for `pick` leaves the frame out."""
    if pick is None:
        note = "left out of the drive: none of its places is within reach of the frames around it"
        return replace(answer, known=False, notes=(*answer.notes, note))
    if pick == 0:
        return answer
    order = [pick, *(number for number in range(len(answer.places)) if number != pick)]
    places = [replace(answer.places[number], rank=rank) for rank, number in enumerate(order, 1)]
    known = (places[0].confidence or 0.0) >= threshold
    note = f"place {pick + 1} by score; first in the drive"
    return replace(answer, places=places, known=known, notes=(*answer.notes, note))


def _shortest_path(candidates: Sequence[Sequence[Place]], seconds: np.ndarray, motion: Motion) -> list[int | None]:
    """Index of each frame's candidate on the path of least cost, None for a frame that is left out."""
    counts = [len(places) for places in candidates]
    first = np.concatenate([[0], np.cumsum(counts)]) + 1  # node 0 is the start, then the candidates frame by frame
    end = int(first[-1])
    own = [SHARPNESS * (max(p.score for p in places) - np.array([p.score for p in places])) for places in candidates]
    tails, heads, costs = [], [], []

    def edges(tail: np.ndarray, head: np.ndarray, cost: np.ndarray, frames: int) -> None:
        tails.append(np.repeat(tail, len(head)).astype(np.int32))  # SciPy 1.14 needs int32
        heads.append(np.tile(head, len(tail)).astype(np.int32))
        # `frames` adds the same to every path: a sparse graph has no edges of weight 0
        costs.append((cost + (frames - 1) * motion.left_out + frames).ravel())

    nodes = [np.arange(first[f], first[f + 1]) for f in range(len(counts))]
    start, goal = np.array([0]), np.array([end])
    for f in range(len(counts)):
        if f <= IN_A_ROW:
            edges(start, nodes[f], own[f][None, :], f + 1)
        if len(counts) - 1 - f <= IN_A_ROW:
            edges(nodes[f], goal, np.zeros((counts[f], 1)), len(counts) - f)
        for g in range(f + 1, min(f + 2 + IN_A_ROW, len(counts))):
            step = _step_cost(candidates[f], candidates[g], float(seconds[g] - seconds[f]), motion)
            edges(nodes[f], nodes[g], step + own[g][None, :], g - f)
    shape = (end + 1, end + 1)
    from scipy.sparse import coo_array  # here because single photos do not need it
    from scipy.sparse.csgraph import dijkstra

    graph = coo_array((np.concatenate(costs), (np.concatenate(tails), np.concatenate(heads))), shape=shape).tocsr()
    before = dijkstra(graph, indices=0, return_predecessors=True)[1]
    picks: list[int | None] = [None] * len(counts)
    node = int(before[end])
    while node > 0:
        frame = int(np.searchsorted(first, node, side="right")) - 1
        picks[frame] = node - int(first[frame])
        node = int(before[node])
    return picks


def _step_cost(here: Sequence[Place], there: Sequence[Place], seconds: float, motion: Motion) -> np.ndarray:
    """Costs of the steps between the candidates of two frames: (here, there) in nats."""
    lat, lon, radius = (
        [np.array([getattr(p, name) or 0.0 for p in places]) for places in (here, there)]
        for name in ("lat", "lon", "uncertainty_m")
    )
    distance = great_circle_m(lat[0][:, None], lon[0][:, None], lat[1][None, :], lon[1][None, :])
    reach = np.maximum(motion.top_speed * max(seconds, 0.0) + radius[0][:, None] + radius[1][None, :], LEAST_REACH_M)
    return np.maximum(0.0, distance - reach) / reach
