"""Exit codes of every command; success is 0."""

FAILURE = 1  # an error, or a result that is not complete
USAGE = 2  # wrong options or arguments
INTERRUPTED = 130  # Ctrl-C, as shells report it
