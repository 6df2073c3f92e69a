"""Scoring many videos on the machines of a Ray cluster, or on this one; optional."""
