"""Reading the files of deploy/: YAML, Compose variables, Dockerfiles, PromQL with Grafana's variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.kit import PROJECT

DEPLOY = PROJECT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "sortline.json"

# Everything is selected, and the ranges cover the whole test, however slow the machine is.
GRAFANA_VARIABLES = {"$__rate_interval": "10m", "$__range": "10m", "$line": ".*", "$instance": ".*"}

COMPOSE_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


def read_yaml(path: str) -> Any:
    """The one document of a file below deploy/."""
    return yaml.safe_load((DEPLOY / path).read_text())


def read_documents(path: str) -> list[Any]:
    """Every document of a file below deploy/."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


def read_compose(path: str = "compose.yaml", **variables: str) -> Any:
    """A Compose file with its variables filled in: those given, else their defaults."""

    def fill(match: re.Match[str]) -> str:
        value = variables.get(match["name"], match["default"])
        assert value is not None, f"{match[0]} has no default, so `up` without it would go wrong"
        return value

    return yaml.safe_load(COMPOSE_VARIABLE.sub(fill, (DEPLOY / path).read_text()))


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction of a Dockerfile, continuation lines joined."""

    name: str
    text: str
    stage: int

    @property
    def words(self) -> list[str]:
        """What follows the name: the JSON form's strings, else split at blanks."""
        return list(json.loads(self.text)) if self.text.startswith("[") else self.text.split()


def read_dockerfile(path: str) -> list[Instruction]:
    """The instructions of a Dockerfile below deploy/; stage 0 is the first FROM's, -1 what stands before it."""
    lines = [line for line in (DEPLOY / path).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    instructions, stage = [], -1
    for line in filter(None, joined.splitlines()):
        name, _, text = line.partition(" ")
        stage += name == "FROM"
        instructions.append(Instruction(name=name, text=text.strip(), stage=stage))
    return instructions


def dockerfile_environment(path: str) -> dict[str, str]:
    """The variables that the image sets for whoever runs it (those of the last stage)."""
    instructions = read_dockerfile(path)
    last = instructions[-1].stage
    pairs = [word for step in instructions if step.name == "ENV" and step.stage == last for word in step.words]
    return dict(pair.split("=", 1) for pair in pairs)


def password_file(folder: Path) -> Path:
    """A file in the place of the one that Compose or Kubernetes mounts."""
    path = folder / "password"
    path.write_text("secret")
    path.chmod(0o400)
    return path


@dataclass(frozen=True, kw_only=True)
class Query:
    """One PromQL expression of the dashboard."""

    panel: str
    ref: str
    expression: str
    legend: str

    @property
    def promql(self) -> str:
        """The expression as Grafana would send it."""
        text = self.expression
        for variable, value in GRAFANA_VARIABLES.items():
            text = text.replace(variable, value)
        return text

    @property
    def legend_labels(self) -> set[str]:
        """The labels that the legend shows."""
        return set(re.findall(r"\{\{(\w+)\}\}", self.legend))


def read_dashboard() -> Any:
    """The Grafana dashboard."""
    return json.loads(DASHBOARD.read_text())


def dashboard_queries() -> Iterator[Query]:
    """Every expression of the dashboard, in the order of its panels."""
    for panel in read_dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield Query(
                panel=panel["title"],
                ref=target["refId"],
                expression=target["expr"],
                legend=target["legendFormat"],
            )
