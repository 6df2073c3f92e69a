"""A member is a recipe and a fold: its name, its weights' file, its out-of-fold scores, its ensemble."""
