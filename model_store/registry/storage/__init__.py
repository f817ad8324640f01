"""Where a registry is stored: in a folder, or in an object store."""
