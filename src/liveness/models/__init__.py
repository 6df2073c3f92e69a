"""A network and its forward pass: building, losses, drop path, scoring."""
