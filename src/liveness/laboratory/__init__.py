"""Optional studies of an ensemble: shift, search, soup, cost. One may skip this room."""
