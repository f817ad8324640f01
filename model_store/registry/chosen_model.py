"""Chooses the model of a command: the one that the user names, else the default, else the only one in the store.

In: settings and a store. Out: NAME or NAME@VERSION, or NotFound with the flags to choose from. Called by every command
that goes by the setting `model`: `classify`, `evaluate`, `models show`, `bench` and the worker.
"""

from __future__ import annotations

from model_store.registry.reader import ReadableStore, first_of
from shared.errors import NotFound
from shared.settings import Settings


def chosen_model(settings: Settings, store: ReadableStore, *, flag: str = "--model ") -> str:
    """The model to use. A model that the user named is not looked up: loading it raises if it doesn't exist.

    Args:
        flag: the text before each model's name in the message.

    Raises:
        NotFound: the user named no model, the default one doesn't exist, and the store has no or several others.
        StoreUnavailable: the store can't be read.
    """
    if "model" in settings.model_fields_set or store.version_numbers(settings.model):
        return settings.model
    names = store.names()
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFound(store.not_found_message(f"the default model {settings.model!r} doesn't exist"))
    choices = first_of([f"{flag}{name}" for name in names])
    raise NotFound(
        f"no model is named, and none of the {len(names)} models in the model store {store.location} is called "
        f"{settings.model!r}, the default. Choose one: {choices}; or set SORTLINE_MODEL."
    )
