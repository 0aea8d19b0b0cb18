"""Column names that are recognised in users' own tables."""

SIDES = ("west", "south", "east", "north")
ANGLES = ("heading", "fov", "vertical_fov", "pitch", "roll")  # of the camera, degrees
# Recognised names of each column, in order of preference; case and punctuation are ignored.
NAMES = {
    "ground": (
        "ground groundimage groundpath groundfilename photo photopath query panorama pano streetview image".split()
    ),
    "aerial": "aerial aerialimage aerialpath aerialfilename satellite sat tile overhead reference".split(),
    "lat": "lat latitude groundlat querylat".split(),
    "lon": "lon lng long longitude groundlon querylon".split(),
    "tile_lat": "tilelat aeriallat satlat satellitelat".split(),
    "tile_lon": "tilelon aeriallon satlon satellitelon satlng tilelng".split(),
    "heading": "heading compassangle compass bearing azimuth yaw".split(),
    "fov": "fov hfov horizontalfov fieldofview".split(),
    "vertical_fov": "verticalfov vfov".split(),
    "pitch": "pitch tilt".split(),
    "roll": "roll".split(),
    "projection": "projection projectiontype cameratype".split(),
    "area": "area city region place".split(),
    "query_id": "queryid groundid photoid".split(),
    "tile_id": "tileid aerialid satid".split(),
    "extra_positives": "extrapositives semipositives otherpositives".split(),
    "split": "split subset fold".split(),
    "west": "west minlon xmin minx".split(),
    "south": "south minlat ymin miny".split(),
    "east": "east maxlon xmax maxx".split(),
    "north": "north maxlat ymax maxy".split(),
}
NUMBERS = ("lat", "lon", "tile_lat", "tile_lon", *ANGLES, *SIDES)
