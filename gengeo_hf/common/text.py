"""Text from files and libraries, made safe to print in a terminal."""


def printable(text: object) -> str:
    """Return the text as one line: line breaks and other characters that are not printable become spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
