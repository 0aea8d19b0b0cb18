"""Exit codes of every command; success is 0."""

FAILURE = 1  # an error, or an incomplete result
USAGE = 2  # wrong options or arguments
INTERRUPTED = 130  # Ctrl-C, as shells report it
