"""Small videos for tests, written with PyAV."""

import av
import numpy as np


def write_video(path, pictures, fps=10, created=None, rotation=None, codec="mpeg4", quality=2):
    """A video of uint8 RGB arrays, one key frame in ten.

    Args:
        rotation: degrees that a player turns it by, counter-clockwise.
        quality: quantiser of MPEG-4, 1 is the best.
    """
    with av.open(str(path), "w") as container:
        if created:
            container.metadata["creation_time"] = created
        stream = container.add_stream(codec, rate=fps, options={"qmin": str(quality), "qmax": str(quality)})
        height, width = pictures[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 10
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path
