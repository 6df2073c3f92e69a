"""The drawn persons and clips of the demo set. Nothing else needs this room."""
