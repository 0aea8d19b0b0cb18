"""`gengeo imagery`: show what a source of imagery holds before it is used."""

from gengeo_hf.cli.registry import INDEX, add_group, import_commands

imagery = add_group("imagery", "Show what a source of imagery holds.", panel=INDEX)
import_commands(__name__, __path__)
