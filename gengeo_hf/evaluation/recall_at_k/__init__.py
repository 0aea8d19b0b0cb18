"""A folder for `evaluate.load`: recall of cross-view retrieval as an `evaluate` module."""
