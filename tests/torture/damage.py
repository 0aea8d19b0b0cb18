"""Files with a flipped bit or a missing end, and what a reader makes of them."""

import random

from gengeo_hf.common.errors import GenGeoError


def places(size, count, draw):
    """Offsets over the whole file: its first and last bytes, and one at random in each of equal parts."""
    edges = {place for place in (0, 1, 4, 8, 12, size - 1, size - 4, size - 8, size - 12) if 0 <= place < size}
    parts = min(count, size)
    inside = {min(size - 1, int((part + draw.random()) * size / parts)) for part in range(parts)}
    return sorted(edges | inside)


def damaged(content, count, draw):
    """Copies of a file's bytes: one bit flipped at each of the places, and cut off at some of them."""
    for place in places(len(content), count, draw):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield f"bit at {place}", bytes(changed)
    for place in places(len(content), count // 4 + 1, draw):
        yield f"cut at {place}", content[:place]


def tried(file, read, truth, count, seed=0):
    """Damage one file in every way, and count what its reader does.

    Args:
        file: is written again and again, and put right at the end.
        read: opens it and gives what it says.
        truth: what it says undamaged.

    Returns:
        trials, refused, unharmed (damage that changed nothing said), and the wrong and unclear ones in words.
    """
    content, draw = file.read_bytes(), random.Random(f"{seed} {file.name}")
    found = {"trials": 0, "refused": 0, "unharmed": 0, "wrong": [], "unclear": []}
    for what, changed in damaged(content, count, draw):
        found["trials"] += 1
        file.unlink()  # not the same file: the truth may be mapped into memory from it
        file.write_bytes(changed)
        try:
            said = read()
        except GenGeoError as error:
            lines = str(error).splitlines()
            if len(lines) == 1:
                found["refused"] += 1
            else:
                found["unclear"].append(f"{file.name}, {what}: {len(lines)} lines: {error}"[:300])
        except Exception as error:
            found["unclear"].append(f"{file.name}, {what}: {type(error).__name__} {error}"[:300])
        else:
            if said == truth:
                found["unharmed"] += 1
            else:
                found["wrong"].append(f"{file.name}, {what}")
    file.unlink()
    file.write_bytes(content)
    return found
