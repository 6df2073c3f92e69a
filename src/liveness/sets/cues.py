"""What of a prepared set's videos may tell the classes apart without any sign of liveness, a row per video."""

from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.tables import read_table
from liveness.sets.quality import measure_set_quality


def read_cues(folder: Path) -> pd.DataFrame:
    """label (int), camera ("" for none) and the columns of ``cameras.CUES`` (nan where not known) of data/<set>.

    A row for every labelled video that is not left out. brightness, contrast, sharpness and face_width are measured
    on stored frames (``measure_set_quality``); resolution is the root of width x height, pixels.
    """
    videos = read_table(folder / "labels_video.csv", ["video_id", "label", "status", "width", "height"])
    videos = videos[(videos["status"] != "left_out") & videos["label"].isin(["0", "1"])]
    width, height = (pd.to_numeric(videos[side], errors="coerce") for side in ("width", "height"))
    table = videos.assign(
        label=videos["label"].astype(int),
        camera=videos.get("camera", ""),
        resolution=np.sqrt(width * height),
    )
    return table[["video_id", "label", "camera", "resolution"]].merge(measure_set_quality(folder), "left", "video_id")
