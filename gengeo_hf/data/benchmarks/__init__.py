"""The published benchmarks: each module loads one from a folder as people have it, and says what is missing.

`load(root, split, **options)` gives a `CrossViewDataset`; `check(root)` gives a `Report` for `gengeo data check`.
No images come with this package: ask the authors of each data set.
"""
