"""Photo files with positions in their EXIF data."""

from PIL import ExifTags, Image


def save_with_position(path, image, lat, lon):
    """Save an image as PNG with a position in degrees."""
    exif = Image.Exif()
    exif[271] = "a camera"  # PNG drops EXIF data whose first level is empty
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    for tag, value, sign in ((1, lat, "NS"), (3, lon, "EW")):
        gps[tag], gps[tag + 1] = sign[value < 0], (abs(value), 0.0, 0.0)
    image.save(path, exif=exif)
