"""Function that writes small test videos with PyAV."""

import av
import numpy as np


def write_video(path, frames, fps=10, created=None, rotation=None, codec="mpeg4", quality=2):
    """Write a video with a key frame every ten frames.

    Args:
        path: File to write; its suffix selects the container format.
        frames: Frames as uint8 RGB arrays of shape (height, width, 3).
        fps: Frames per second.
        created: Creation time in the metadata, in ISO 8601; default: none.
        rotation: Display rotation in degrees counter-clockwise; default: none.
        codec: Name of the video codec.
        quality: Quantiser of MPEG-4; 1 is the best.

    Returns:
        `path`.
    """
    with av.open(str(path), "w") as container:
        if created:
            container.metadata["creation_time"] = created
        stream = container.add_stream(codec, rate=fps, options={"qmin": str(quality), "qmax": str(quality)})
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 10
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path
