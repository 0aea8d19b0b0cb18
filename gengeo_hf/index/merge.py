"""Merges indexes of one model without encoding: a new manifest lists their segments."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder
from gengeo_hf.index.build import joined_left_out
from gengeo_hf.index.edit import Edit, check_output, sweep
from gengeo_hf.index.manifest import LeftOut, Manifest, read_manifest, write_manifest
from gengeo_hf.index.version import Version, is_in, open_version


def merge_indexes(parts: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Manifest:
    """Merge the parts of a divided build, or any indexes of one model.

    Files are hard links if the file system supports them, else copies. For tiles with the same id the last part wins.

    Args:
        parts: Directories of indexes, for example of `gengeo index ... --shard 0/4` to `3/4`.
        out: Directory of the new index.
        overwrite: Replace an existing index.

    Returns:
        Manifest of the new index.

    Raises:
        GenGeoError: A part is missing, damaged, given twice, or belongs to another model or divided build; or the disk
            is full. Nothing is then written.
    """
    check_output(out, overwrite, whole=True)
    manifests = [read_manifest(part) for part in parts]
    _check_parts(parts, manifests)
    versions = [open_version(part) for part in parts]
    first = manifests[0]
    try:
        with atomic_folder(out) as folder:
            empty = replace(first, segments=[], version=0, history=[], shard=None, work=[], sources=[], bounds=None)
            write_manifest(folder, replace(empty, left_out=LeftOut()))
            edit = Edit(folder, Version(folder))
            for part, version in zip(parts, versions, strict=True):
                _take(edit, Path(part), version)
            edit.tidy()
            known = {source.name: source for manifest in manifests for source in manifest.sources}
            work = [manifest.shard.work for manifest in manifests[:1] if manifest.shard]
            fusion = next((manifest.fusion for manifest in manifests if manifest.fusion), "")
            partly_empty = sum(manifest.partly_empty for manifest in manifests)
            merged = replace(
                edit.manifest, sources=list(known.values()), work=work, fusion=fusion, partly_empty=partly_empty
            )
            tiles = sum(record.live for record in edit.segments)
            edit.commit(merged.with_event("merged", parts=len(parts), tiles=tiles))
            sweep(folder)
    except OSError as error:
        raise GenGeoError(f"the index could not be written to {out}: {error.strerror or error}") from error
    return read_manifest(out)


def _take(edit: Edit, part: Path, version: Version) -> None:
    """Add the segments and the left-out tiles of a part."""
    ids = version.tiles()["tile_id"]
    if edit.segments:
        edit.remove(lambda table: is_in(table["tile_id"], ids))
    edit.left_out = joined_left_out(edit.left_out, version.left_out, version.tiles())
    for reason, count in version.manifest.left_out.reasons.items():
        edit.reasons[reason] = edit.reasons.get(reason, 0) + count
    edit.take(version.manifest.segments, part)


def _check_parts(parts: Sequence[str | Path], manifests: Sequence[Manifest]) -> None:
    """Check that the parts can be merged.

    Raises:
        GenGeoError: See `merge_indexes`.
    """
    if not parts:
        raise GenGeoError("there is nothing to merge: give the directories of at least one index")
    first = manifests[0]
    seen: dict[object, str | Path] = {}
    for part, manifest in zip(parts, manifests, strict=True):
        if manifest.model.fingerprint != first.model.fingerprint or manifest.dim != first.dim:
            raise GenGeoError(f"{part} was made by another model than {parts[0]}: index its imagery again")
        if (manifest.shard is None) != (first.shard is None):
            whole = part if manifest.shard is None else parts[0]
            raise GenGeoError(f"{whole} is not a part of a divided build, unlike the others: merge it separately")
        if (
            manifest.shard
            and first.shard
            and (manifest.shard.work, manifest.shard.count) != (first.shard.work, first.shard.count)
        ):
            raise GenGeoError(
                f"{part} is a part of another build than {parts[0]}: imagery, tile size or number of parts differ"
            )
        key: object = str(part)  # for an index whose tiles were all removed
        if manifest.shard:
            key = manifest.shard.number
        elif manifest.segments:
            key = manifest.segments[0].name
        if key in seen:
            name = f"shard {manifest.shard.number}" if manifest.shard else "the same index"
            raise GenGeoError(f"{seen[key]} and {part} are both {name}: give each part once")
        seen[key] = part
    count = first.shard.count if first.shard else 0
    if missing := sorted(set(range(count)) - {number for number in seen if isinstance(number, int)}):
        raise GenGeoError(
            f"shard {missing[0]} of {count} is missing (in all {len(missing)}): run "
            f"gengeo index ... --shard {missing[0]}/{count} first"
        )
