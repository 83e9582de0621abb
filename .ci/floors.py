"""The lower bounds of pyproject.toml as pip constraints: ``torch>=2.11`` becomes ``torch==2.11.*``."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for told in [*project["dependencies"], *project["optional-dependencies"]["train"]]:
    name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:;.*)?", told).groups()
    if name != "protobuf":  # of which each sentencepiece refuses what is older than itself
        print(f"{name}=={version}.*")
