"""Sphinx settings: pages in Markdown, the reference from docstrings.

    python -m sphinx -b html docs build/docs

Nothing is fetched: the pages open without internet.
"""

import importlib.metadata

project = "gengeo_hf"
author = "the gengeo_hf authors"
release = importlib.metadata.version("gengeo_hf")
html_title = f"{project} {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}  # .rst: what autosummary writes
exclude_patterns = ["sensitivity_table.md", "asymmetry_table.md"]  # included by other pages
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
templates_path = ["_templates"]

autosummary_generate = True
autosummary_ignore_module_all = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports = ["gradio", "pymilvus", "qdrant_client"]  # not needed to read what their users' modules do
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path: list[str] = []
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
