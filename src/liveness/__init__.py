"""Face liveness (presentation attack detection) on short selfie videos.

The modules at this level are the verbs; each is run as ``python -m liveness.<verb> -h``. From Python:
``liveness.Detector(DIR).score("clip.mp4")`` scores with an exported ensemble (prediction/detector.py).
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liveness.prediction.detector import LivenessDetector as Detector

# Threads that wait for work by spinning starve the loader and decoder processes beside them: measured
# on 2 busy cores, a training step took 6 times as long. Both must be set before torch and NumPy are imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# NumPy's threads always spin: on a loaded machine small products in two forked processes took 100 times as
# long. Where large matrices are multiplied (sets/duplicates.py, sets/identities.py) it is undone for that while.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# ONNX Runtime's wheels tell their maker of their use as soon as they are imported, and keep a number of this machine in
# the home folder. Prediction sends nothing anywhere; ``disable_telemetry_events`` of that library comes too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.2.0"

__all__ = ["Detector", "__version__"]


def __getattr__(name: str) -> Any:
    """``Detector``, imported when it is asked for: no verb needs it, and all of them import this module."""
    if name == "Detector":
        from liveness.prediction.detector import LivenessDetector

        return LivenessDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
