"""Every published cell, against values that were copied from the paper independently."""

from gengeo_hf.evaluation.tables import build_table, table_numbers

# Table | method | values in the order of the columns, "-" where the paper gives none.
PAPER = """
2 | TransGeo | 94.08 98.36 99.04 99.77 84.95 94.14 95.78 98.37 - - - -
2 | Sample4Geo | 98.68 99.68 99.78 99.87 90.81 96.74 97.48 98.77 71.51 92.42 94.45 98.70
2 | P-BEV | 98.71 99.70 99.78 99.86 91.90 97.23 97.84 98.84 73.68 93.53 95.11 98.80
2 | AuxGeo | 98.80 99.71 99.75 99.85 91.86 97.23 97.79 98.93 73.65 93.54 95.23 98.75
2 | GenGeo | 98.94 99.73 99.82 99.91 90.63 96.52 97.33 98.55 71.92 92.53 94.40 98.67
3 | TransGeo | 61.48 87.54 91.88 99.56 73.09 18.99 38.24 46.91 88.94 21.21
3 | Sample4Geo | 77.86 95.66 97.21 99.61 89.82 61.70 83.50 88.00 98.17 69.87
3 | P-BEV | 82.18 97.10 98.17 99.70 - 72.19 88.68 91.68 98.56 -
3 | AuxGeo | 80.34 96.25 97.57 99.67 93.78 63.94 84.98 88.98 98.02 76.25
3 | GenGeo | 77.91 96.37 97.79 99.75 91.15 63.39 86.23 90.21 98.48 73.22
4 | GeoDTR | 47.79 70.52 - 92.20 29.13 47.86 - 81.09
4 | GeoDTR (polar?) | 53.16 75.62 - 93.80 44.07 64.66 - 90.09
4 | Sample4Geo | 56.62 77.79 87.02 94.69 44.95 64.36 72.10 90.65
4 | P-BEV | 67.79 84.06 87.96 95.05 - - - -
4 | GenGeo | 71.27 87.34 90.79 96.69 55.66 74.04 80.26 94.78
5 | Sample4Geo | 0.00 0.01 0.02 3.12 0.00 3.85 10.18 14.52 37.51
5 | GenGeo | 11.38 18.61 22.15 56.95 11.57 38.28 60.14 68.22 91.38
6 | ConvNeXt | 98.68 99.68 99.78 99.87 56.62 77.79 87.02 94.69
6 | DINOv2 (CLS only) | 98.23 99.66 99.75 99.90 53.64 75.77 82.34 94.65
6 | ConvNeXt + SALAD | 98.46 99.66 99.79 99.86 48.81 72.91 79.67 93.51
7 | NetVLAD, shared | 98.65 99.71 99.80 99.90 60.68 81.11 86.33 94.76
7 | SALAD, non-shared | 97.74 99.53 99.72 99.84 48.57 72.07 79.20 93.02
7 | SALAD, no dustbin | 98.94 99.72 99.82 99.88 67.14 84.43 88.70 96.17
8 | frozen backbone | 94.65 98.80 99.34 99.86 41.56 65.45 73.76 90.33
8 | full fine-tuning | 98.45 99.59 99.74 99.86 52.85 74.10 80.75 92.91
9 | 32 | 98.77 99.72 99.82 99.89 67.41 84.52 88.83 96.14
9 | 48 | 98.89 99.71 99.80 99.90 68.54 85.93 89.72 96.68
9 | 80 | 98.78 99.68 99.79 99.89 65.87 84.41 88.45 96.05
6 | GenGeo | 98.94 99.73 99.82 99.91 71.27 87.34 90.79 96.69
7 | GenGeo | 98.94 99.73 99.82 99.91 71.27 87.34 90.79 96.69
8 | GenGeo | 98.94 99.73 99.82 99.91 71.27 87.34 90.79 96.69
9 | GenGeo | 98.94 99.73 99.82 99.91 71.27 87.34 90.79 96.69
"""
NAMES = {  # rows that the paper and our table name differently
    (4, "GeoDTR (polar?)"): "GeoDTR (polar?)",
    (6, "GenGeo"): "GenGeo (paper)",
    (9, "32"): "32 clusters",
    (9, "48"): "48 clusters",
    (9, "80"): "80 clusters",
    (9, "GenGeo"): "64 clusters, GenGeo (paper)",
}


def typed():
    """(table, name of our row): values."""
    found = {}
    for line in PAPER.strip().splitlines():
        number, method, values = (part.strip() for part in line.split("|"))
        name = NAMES.get((int(number), method), "GenGeo (paper)" if method == "GenGeo" else method)
        found[int(number), name] = [None if value == "-" else float(value) for value in values.split()]
    return found


def test_published_cells_equal_those_of_the_paper():
    shipped = {(number, name): values for number in table_numbers() for name, values in build_table(number).rows}
    paper = typed()
    assert shipped.keys() == paper.keys()
    for row, values in paper.items():
        assert shipped[row] == values, row


def test_published_clusters_have_the_order_of_the_paper():
    assert [name.split()[0] for name, _ in build_table(9).rows] == ["32", "48", "64", "80"]
