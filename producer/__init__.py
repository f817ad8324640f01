"""Cameras, uploads and the simulator: images onto the queues, results back. Imports only `shared` of ours.

Users import the names in `__init__.pyi` from `sortline`. They stay here for code that was written before that package
was there.
"""

from shared.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
