"""Videos to rows: the engine, the operating point, partial results, the order of a submission."""
