"""Find where a photo was taken by matching it with aerial imagery.

`import gengeo_hf` makes `AutoModel`, `AutoConfig`, `AutoImageProcessor` and `pipeline` know GenGeo.
"""

__version__ = "0.1.0"
