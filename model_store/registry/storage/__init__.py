"""Where a registry lies: a folder, or an object store."""
