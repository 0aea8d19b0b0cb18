"""Damaged copies of files, with a flipped bit or a missing end, and the outcomes of reading them."""

import random

from gengeo_hf.common.errors import GenGeoError


def choose_offsets(size, count, rng):
    """Sorted byte offsets in a file: at its start and end, and a random one in each of `count` equal parts."""
    edges = {offset for offset in (0, 1, 4, 8, 12, size - 1, size - 4, size - 8, size - 12) if 0 <= offset < size}
    parts = min(count, size)
    inside = {min(size - 1, int((part + rng.random()) * size / parts)) for part in range(parts)}
    return sorted(edges | inside)


def damaged_copies(content, count, rng):
    """(damage, bytes) of copies with one flipped bit at each chosen offset, and of truncated copies at some offsets."""
    for offset in choose_offsets(len(content), count, rng):
        changed = bytearray(content)
        changed[offset] ^= 1 << rng.randrange(8)
        yield f"flipped bit at {offset}", bytes(changed)
    for offset in choose_offsets(len(content), count // 4 + 1, rng):
        yield f"truncated at {offset}", content[:offset]


def count_outcomes(file, read, expected, count, seed=0):
    """Damage a file in many ways, and count the outcomes of reading it.

    Args:
        file: Path of the file; its content is restored at the end.
        read: Function that reads the file and returns a value.
        expected: Value of `read` for the undamaged file.
        count: Number of flipped bits; there are a quarter as many truncated copies.
        seed: Seed of the damage.

    Returns:
        Dictionary with the numbers of `trials`, of `refused` files (GenGeoError of one line) and of `unharmed` files
        (expected value), and lists of messages about `wrong` values and `unclear` errors.
    """
    content, rng = file.read_bytes(), random.Random(f"{seed} {file.name}")
    outcomes = {"trials": 0, "refused": 0, "unharmed": 0, "wrong": [], "unclear": []}
    for damage, changed in damaged_copies(content, count, rng):
        outcomes["trials"] += 1
        file.unlink()  # a new file, because `expected` may be a memory map of the old one
        file.write_bytes(changed)
        try:
            value = read()
        except GenGeoError as error:
            lines = str(error).splitlines()
            if len(lines) == 1:
                outcomes["refused"] += 1
            else:
                outcomes["unclear"].append(f"{file.name}, {damage}: {len(lines)} lines: {error}"[:300])
        except Exception as error:
            outcomes["unclear"].append(f"{file.name}, {damage}: {type(error).__name__} {error}"[:300])
        else:
            if value == expected:
                outcomes["unharmed"] += 1
            else:
                outcomes["wrong"].append(f"{file.name}, {damage}")
    file.unlink()
    file.write_bytes(content)
    return outcomes
