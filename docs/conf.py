"""Sphinx settings: pages in Markdown, the reference from docstrings.

    python -m sphinx -b html --fail-on-warning docs build/docs

Nothing is fetched: the pages open without internet. Every object is described once, in the module that defines it; a
package lists what can be imported from it.
"""

import importlib
import importlib.metadata
import pkgutil

import gengeo_hf

project = "gengeo_hf"
author = "the gengeo_hf authors"
copyright = f"{author}, Apache-2.0"
release = importlib.metadata.version("gengeo_hf")
html_title = f"{project} {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
default_role = "literal"  # docstrings put code between single backticks
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}  # .rst: what autosummary writes
exclude_patterns = ["*_table.md"]  # included by other pages
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
templates_path = ["_templates"]

autosummary_generate = True
autosummary_ignore_module_all = True


def offered() -> dict[str, list[tuple[str, str]]]:
    """For each package, the names that it takes in from its modules, each with where it is described."""
    found = {}
    for module in pkgutil.walk_packages(gengeo_hf.__path__, "gengeo_hf."):
        if module.ispkg and not module.name.startswith(("gengeo_hf.cli", "gengeo_hf.serving")):  # not in the reference
            package = importlib.import_module(module.name)
            names = {name: getattr(package, name) for name in getattr(package, "__all__", [])}
            homes = {name: getattr(thing, "__module__", None) for name, thing in names.items()}
            found[module.name] = [(n, f"{home}.{n}") for n, home in homes.items() if home and home != module.name]
    return found


autosummary_context = {"offered": offered()}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports = ["gradio", "pymilvus", "qdrant_client"]  # not needed to read what their users' modules do
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path: list[str] = []
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
