"""What all parts of Sortline share: settings, errors, schemas, Redis keys, image decoding.

Imports no other package of the project. Every other package may import it.
"""
