"""Text of others, made fit for a terminal."""


def printable(text: object) -> str:
    """One line without control characters: what cannot be printed, also a line break, becomes a space."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
