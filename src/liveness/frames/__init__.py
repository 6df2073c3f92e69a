"""A video's frames and what a member sees of them: decoding, faces, the preprocessing contract, views."""
