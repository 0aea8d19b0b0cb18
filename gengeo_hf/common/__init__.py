"""Foundations of every other package: errors, files, geodesy, images, the data schema. It imports none of them."""
