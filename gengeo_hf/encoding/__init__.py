"""Encoding of images to descriptors: `Encoder`, its backends, and an engine for whole data sets."""
