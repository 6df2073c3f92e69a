"""Recapture physics: simulated attacks, cameras, codecs and the stressors of the shift laboratory."""
