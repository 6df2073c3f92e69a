"""A prepared set: labels, groups, folds, extraction of frames and faces, tables."""
