"""Fetching weights and data sets: what there is, servers, transfers that go on where they stopped, archives."""
