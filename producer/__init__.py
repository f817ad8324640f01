"""Cameras, uploads and the simulator put images onto the queues and read results. Imports only `shared` of the project.

Users import the names in `__init__.pyi` from `sortline`. They are kept here for code that was written before that
package existed.
"""

from shared.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
