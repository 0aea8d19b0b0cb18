"""Fetching open data, and making pairs of one's own: every result is one own-data table beside its images."""
