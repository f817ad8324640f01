"""Forged jobs and keys, as anybody with access to the server can write them."""
