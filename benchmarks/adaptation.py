"""Effect of centring and mirror images on recall in the synthetic world, in the training domain and in others.

    python benchmarks/adaptation.py runs/seed0/model runs/seed1/model --places 500 --root cache/world

Give checkpoints of the same training with different seeds. The first 100 photos of each domain are used only to fit the
means; the others are ranked against all tiles. Differences are paired by seed. With one model they are paired by photo,
and the interval does not include the variation between trainings.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import ImageOps

from gengeo_hf.common.files import write_text
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.adaptation import Adaptation, fit_adaptation
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation.intervals import paired_interval
from gengeo_hf.evaluation.seeds import paired_differences, warn_comparisons
from gengeo_hf.world import build_world

FIT = 100  # photos that fit the means
KINDS = (
    "plain",
    "centring, gallery",
    "centring, 30 photos",
    "centring, 100 photos",
    "mirror",
    "mirror and centring, 100 photos",
)


def main() -> None:
    """Parse, measure, print and store a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints of one configuration, one for each seed")
    parser.add_argument("--domains", nargs="+", default=["urban", "rural"], help="domains of the test world")
    parser.add_argument("--places", type=int, default=500, help="test pairs of each domain")
    parser.add_argument("--root", type=Path, help="directory of rendered worlds")
    parser.add_argument("--out", type=Path, help="Markdown file of the table")
    given = parser.parse_args()
    hits = {domain: [outcomes(model, domain, given) for model in given.models] for domain in given.domains}
    table = "\n".join(lines(hits))
    print(table)
    if given.out:
        write_text(given.out, table + "\n")


def outcomes(model: Path, domain: str, given: argparse.Namespace) -> dict[str, np.ndarray]:
    """Whether each query's true tile ranks first, bool (queries,), by kind of adaptation."""
    encoder = Encoder.from_pretrained(model, device="cpu")
    world = build_world(domain, "test", given.places, cache_dir=given.root)
    photos, tiles = list(GroundImages(world)), list(AerialImages(world))
    ground = [encoder.encode(photos, "ground"), encoder.encode([ImageOps.mirror(x) for x in photos], "ground")]
    aerial = [encoder.encode(tiles, "aerial"), encoder.encode([ImageOps.mirror(x) for x in tiles], "aerial")]
    mirror = Adaptation(flip=True)
    joined = mirror.apply(ground, "ground"), mirror.apply(aerial, "aerial")
    fits = (
        Adaptation(),
        fit_adaptation(aerial[0]),
        fit_adaptation(aerial[0], ground[0][:30]),
        fit_adaptation(aerial[0], ground[0][:FIT]),
        mirror,
        fit_adaptation(joined[1], joined[0][:FIT], flip=True),
    )
    positives, found = world.positive_rows()[FIT:], {}
    for kind, adaptation in zip(KINDS, fits, strict=True):
        sides = slice(1 + adaptation.flip)
        queries = adaptation.apply([x[FIT:] for x in ground[sides]], "ground")
        scores = queries @ adaptation.apply(aerial[sides], "aerial").T
        true = scores[np.arange(len(queries)), positives]
        found[kind] = (scores >= true[:, None]).sum(axis=1) == 1  # a tie counts against the model
    return found


def lines(hits: dict[str, list[dict[str, np.ndarray]]]) -> list[str]:
    """Format the table in Markdown."""
    out = [
        "R@1 in percent, mean ± standard deviation over seeds, and the difference to plain with its 95 % interval.",
        "",
        f"| | {' | '.join(f'{domain} | difference' for domain in hits)} |",
        f"| --- | {' | '.join('---: | ---:' for _ in hits)} |",
    ]
    for kind in KINDS:
        cells = []
        for runs in hits.values():
            values = [100 * run[kind].mean() for run in runs]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells += [f"{np.mean(values):.1f}{spread}", "" if kind == KINDS[0] else difference(runs, kind)]
        out.append(f"| {kind} | {' | '.join(cells)} |")
    return [*out, "", warn_comparisons(len(hits) * (len(KINDS) - 1))]


def difference(runs: list[dict[str, np.ndarray]], kind: str) -> str:
    """Format the mean difference to plain with its interval: over seeds, or over photos of a single model."""
    if len(runs) == 1:
        plain, other = (runs[0][name].astype(float) for name in (KINDS[0], kind))
        mean, interval = paired_interval(other - plain)
        return f"{100 * mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}] (photos)"
    rows = [{seed: 100 * float(run[name].mean()) for seed, run in enumerate(runs)} for name in (KINDS[0], kind)]
    found = paired_differences(rows)[1]
    assert found is not None  # both rows have all seeds
    return f"{found.mean:+.1f} [{found.mean - found.margin:+.1f}, {found.mean + found.margin:+.1f}]"


if __name__ == "__main__":
    main()
