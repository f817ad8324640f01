"""Images: which are accepted, how they are decoded, and what that may cost."""
