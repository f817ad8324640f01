"""A bundle: one published version of one model, a folder that is complete or absent."""
