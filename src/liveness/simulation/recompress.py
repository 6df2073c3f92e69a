"""What sending a video on does to one frame: a lossy H.264 round trip, in memory.

    worse = h264_round_trip(frame, crf=35)       # uint8 RGB HxWx3 -> the same shape

Nothing is read or written. The frame is coded as the first of a video (intra), without neighbours.
"""

from fractions import Fraction

import cv2
import numpy as np

# One thread and no look-ahead: the same input gives the same bytes, and one frame in is one frame out.
OPTIONS = {"preset": "superfast", "tune": "zerolatency"}


def h264_round_trip(rgb: np.ndarray, crf: int) -> np.ndarray:
    """Encode (libx264, 4:2:0, constant rate factor ``crf``: 18 good .. 51 worst) and decode one frame.

    uint8 RGB HxWx3 of any size -> uint8 RGB of the same shape. 320 x 240 takes about 3 ms.
    """
    import av

    height, width = rgb.shape[:2]
    # 4:2:0 needs even sides; the row or column that is added is cut off again.
    even = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = even.shape[1], even.shape[0], "yuv420p"
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    encoder.options = {**OPTIONS, "crf": str(crf)}
    packets = encoder.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"))
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return frames[0].to_ndarray(format="rgb24")[:height, :width]
