"""Download open data sets, and make pairs of your own city. Each result is an own-data table beside its images."""
