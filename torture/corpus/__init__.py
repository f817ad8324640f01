"""Image files of every kind, whole, odd and hostile, made by code, each with what must become of it."""
