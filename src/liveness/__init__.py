"""Face liveness (presentation attack detection) on short selfie videos.

The modules at this level are the verbs; each is run as ``python -m liveness.<verb> -h``.
"""

import os

# Threads that wait for work by spinning starve the loader and decoder processes beside them: measured
# on 2 busy cores, a training step took 6 times as long. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
