"""What recording or sending on does to a frame: a lossy H.264 round trip, in memory.

    worse = reencode([frame], crf=35)       # uint8 RGB HxWx3 -> the same shape

Nothing is read or written.
"""

from fractions import Fraction

import cv2
import numpy as np

# Quality (x264's constant rate factor) of what a second camera records of a print or a screen, best and worst.
RECORDED_CRF = (18, 28)


def reencode(frames: list[np.ndarray], crf: int, preset: str = "superfast") -> np.ndarray:
    """Encode consecutive frames as H.264 (libx264, 4:2:0) and decode them: the last one.

    frames: uint8 RGB HxWx3 of any one size; crf: constant rate factor, 18 good .. 51 worst. The first frame is coded
    whole and the others from their predecessors, as in a video that is sent on. One thread and no look-ahead: equal
    frames give equal bytes, and one frame in is one frame out. A frame of 320 x 240 takes about 3 ms.
    """
    import av

    height, width = frames[-1].shape[:2]
    encoder = av.CodecContext.create("libx264", "w")
    # 4:2:0 needs even sides; the row or column that is added is cut off again.
    encoder.width, encoder.height, encoder.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    encoder.options = {"preset": preset, "tune": "zerolatency", "crf": str(crf)}
    packets = []
    for number, frame in enumerate(frames):
        even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even, np.uint8), format="rgb24")
        picture.pts = number
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return np.ascontiguousarray(decoded[-1].to_ndarray(format="rgb24")[:height, :width])
