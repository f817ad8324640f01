"""The public names of Sortline: submit images, wait for their results, handle the errors.

    from sortline import LineProducer, load_settings, wait_for

`__init__.pyi` lists the names. Each is imported from its package when it is first used, so `import sortline` by itself
loads none of numpy, redis or TensorFlow. The command line is `sortline.cli`.
"""

from shared.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
