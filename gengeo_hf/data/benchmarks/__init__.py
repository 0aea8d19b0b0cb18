"""Loaders of the published benchmarks, one module each, for the directory layouts in common use.

`load(root, split, **options)` returns a `CrossViewDataset`; `check(root)` returns a `Report` for `gengeo data check`.
The package contains no images: request them from the authors of each data set.
"""
