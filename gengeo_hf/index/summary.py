"""Summary of an index as text and JSON, for `gengeo info`."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from gengeo_hf.common.text import printable
from gengeo_hf.index.adapt import adaptation_of
from gengeo_hf.index.manifest import Manifest
from gengeo_hf.index.search import whole_depth

MOST = 5  # maximum number of listed sources, sizes and unreadable tiles


def summary(path: str, manifest: Manifest, left_out: pa.Table) -> str:
    """Format tiles, model, search, extent, sources, left-out tiles and history, in about fifteen lines.

    Args:
        path: Name of the index.
        manifest: Manifest of the version in use.
        left_out: Table of tiles that could not be read, `LEFT_OUT_SCHEMA`.
    """
    count = manifest.tiles
    size = sum(file.bytes for file in manifest.checked_files().values())
    model = manifest.model
    lines = [
        f"index        {path}, created {manifest.created or 'unknown'}, version {manifest.version}",
        f"tiles        {count:,} of {manifest.dim} dimensions, {size / 1e6:,.1f} MB"
        + (f", {size / count / 1000:.1f} kB a tile" if count else ""),
        f"segments     {len(manifest.segments)}"
        + (f"; {manifest.deleted:,} removed tiles still take disk space: gengeo compact" if manifest.deleted else ""),
        f"model        {model.name or 'unnamed'}, fingerprint {model.fingerprint[:16]}"
        + (f", computed by {model.computed_by}" if model.computed_by else ""),
        f"search       {search_text(manifest)}",
    ]
    if name := adaptation_of(manifest).name:
        lines.insert(4, f"adapted      {name}" + (f", from {manifest.means.images} images" if manifest.means else ""))
    if manifest.bounds:
        west, south, east, north = manifest.bounds
        sizes = ", ".join(f"{s.width_m:.0f} x {s.height_m:.0f} m ({s.tiles:,})" for s in manifest.tile_sizes[:MOST])
        lines.append(f"ground       west {west:.5f}, south {south:.5f}, east {east:.5f}, north {north:.5f} (WGS84)")
        lines.append(f"tile size    {sizes or 'unknown'}")
    lines += _sources(manifest)
    if manifest.fusion:
        lines.append(f"fusion       {manifest.fusion} of the scores of the tiles around one centre")
    if manifest.partly_empty:
        lines.append(f"partly empty {manifest.partly_empty:,} tiles had pixels without data when they were built")
    for reason, number in manifest.left_out.reasons.items():
        lines.append(f"left out     {number:,} tiles: {reason}")
    lines += [f"             {row['tile_id']}: {row['reason']}" for row in left_out.slice(0, MOST).to_pylist()]
    if manifest.build.seconds:
        lines.append(f"build        {manifest.build.seconds:.1f} s in its last run")
    for event in manifest.history[:1] + manifest.history[1:][-MOST:]:
        details = [f"{key} {value}" for key, value in event.details.items()]
        lines.append(f"{event.what:<12} {event.when} {', '.join(details)}")
    return "\n".join(printable(line) for line in lines)  # names and ids are untrusted text of the imagery


def _sources(manifest: Manifest) -> list[str]:
    lines = []
    if len(manifest.sources) > 1 and manifest.sources[0].tiles == 1:  # a table: each tile is a file
        return [f"sources      {len(manifest.sources):,} of one tile each, first {manifest.sources[0].name}"]
    for source in manifest.sources[:MOST]:
        rights = [text for text in (source.attribution, source.licence, source.acquired) if text]
        lines.append(
            f"source       {source.name or 'unnamed'} ({source.tiles:,} tiles){'; ' * bool(rights)}" + ", ".join(rights)
        )
    if len(manifest.sources) > MOST:
        lines.append(f"             and {len(manifest.sources) - MOST:,} more sources")
    return lines


def search_text(manifest: Manifest) -> str:
    """Format the kind of search and its recall against exact search."""
    scans = [segment.scan for segment in manifest.segments if segment.scan]
    if not scans:
        return "exact"
    scanned = sum(segment.tiles for segment in manifest.segments if segment.scan)
    worst = min(scans, key=lambda scan: scan.recall_at_10)
    return (
        f"compressed scan of {scanned:,} tiles, the best {search_depth(manifest):,} scored exactly; measured "
        f"against exact search on {worst.samples} synthetic queries: recall@1 {worst.recall_at_1:.3f}, recall@10 "
        f"{worst.recall_at_10:.3f}"
    )


def search_depth(manifest: Manifest) -> int:
    """Number of tiles that are scored exactly for ten requested tiles."""
    return whole_depth([segment.scan.depth for segment in manifest.segments if segment.scan])


def as_json(manifest: Manifest) -> dict[str, Any]:
    """JSON object of `gengeo info --json`.

    Args:
        manifest: Manifest of the version in use.
    """
    scans = [segment.scan for segment in manifest.segments if segment.scan]
    attributions = dict.fromkeys(source.attribution for source in manifest.sources if source.attribution)
    licences = dict.fromkeys(source.licence for source in manifest.sources if source.licence)
    return {
        "tiles": manifest.tiles,
        "bounds": manifest.bounds,
        "left_out": dict(manifest.left_out.reasons),
        "partly_empty": manifest.partly_empty,
        "fusion": manifest.fusion or None,
        "sources": [source.name for source in manifest.sources],
        "source_details": [asdict(source) for source in manifest.sources],
        "attribution": "; ".join(attributions) or None,
        "licence": "; ".join(licences) or None,
        "model": asdict(manifest.model) | {"name": manifest.model.name or None},
        "dimensions": manifest.dim,
        "version": manifest.version,
        "segments": len(manifest.segments),
        "removed": manifest.deleted,
        "bytes": sum(file.bytes for file in manifest.checked_files().values()),
        "tile_sizes": [asdict(size) for size in manifest.tile_sizes],
        "search": {
            "kind": "scan" if scans else "exact",
            "depth": search_depth(manifest) if scans else None,
            "recall_at_1": min((scan.recall_at_1 for scan in scans), default=1.0),
            "recall_at_10": min((scan.recall_at_10 for scan in scans), default=1.0),
            "samples": min((scan.samples for scan in scans), default=0),
        },
        "created": manifest.created,
        "changed": manifest.changed,
        "history": [asdict(event) for event in manifest.history],
    }
