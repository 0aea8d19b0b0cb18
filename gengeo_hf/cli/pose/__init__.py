"""`gengeo pose`: heads that find position and heading inside a tile."""

from gengeo_hf.cli.registry import LOCATE, add_group, import_commands

pose = add_group("pose", "Fit heads that find position and heading inside a tile.", panel=LOCATE)

import_commands(__name__, __path__)
