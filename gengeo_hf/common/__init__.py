"""Errors, files, geodesy, images, tables and the data schema. This package imports no other package of `gengeo_hf`."""
