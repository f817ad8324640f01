"""The commands of the model store: `train`, `evaluate`, `classify`, and the group `models`."""

from __future__ import annotations

import typer

from model_store.commands import (
    backbones,
    canary,
    classify,
    compare,
    dataset,
    evaluate,
    import_classifier,
    models,
    recipes,
    show,
    signing,
    train,
    versions,
)


def add_to(app: typer.Typer) -> None:
    """Add all commands of the model store."""
    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("classify")(classify.classify)
    group = typer.Typer(no_args_is_help=True, help="The published models.")
    app.add_typer(group, name="models")
    group.command("list")(models.list_models)
    group.command("verify")(models.verify_models)
    group.command("show")(show.show_model)
    group.command("compare")(compare.compare)
    group.command("check-dataset")(dataset.check_dataset)
    group.command("publish")(versions.publish_folder)
    group.command("promote")(versions.promote)
    group.command("rollback")(versions.rollback)
    group.command("prune")(versions.prune)
    group.command("keygen")(signing.keygen)
    group.command("sign")(signing.sign)
    group.command("canary")(canary.canary)
    group.command("fetch-backbone")(backbones.fetch_backbone)
    group.command("compare-recipes")(recipes.compare_recipes)
    group.command("time-head")(recipes.time_head)
    group.command("import-classifier")(import_classifier.import_classifier)
