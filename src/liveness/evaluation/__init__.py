"""Pure functions on arrays and tables of scores: metrics, intervals, combining, reports."""
