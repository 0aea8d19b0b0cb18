"""Download of open data sets, and data sets of your own city; each result is a table of pairs beside its images."""
