"""`gengeo imagery`: show the contents of a source of imagery."""

from gengeo_hf.cli.registry import INDEX, add_group, import_commands

imagery = add_group("imagery", "Show the contents of a source of imagery.", panel=INDEX)
import_commands(__name__, __path__)
