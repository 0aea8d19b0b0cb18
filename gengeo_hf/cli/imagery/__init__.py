"""`gengeo imagery`: look at imagery by address before it is used."""

from gengeo_hf.cli.registry import INDEX, add_group, import_commands

imagery = add_group("imagery", "Look at imagery by address.", panel=INDEX)
import_commands(__name__, __path__)
