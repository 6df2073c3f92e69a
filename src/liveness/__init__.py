"""Face liveness (presentation attack detection) on short selfie videos.

The modules at this level are the verbs; each is run as ``python -m liveness.<verb> -h``.
"""

__version__ = "0.1.0"
