"""Builders of bases with one fault: copies of the bundled tiny base with some content replaced."""

import json
import shutil
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_checks.check_base import check_base
from phi3_lora_qa.adapter.finding import Finding
from phi3_lora_qa.models.paths import bundled

CONFIG, GENERATION, TEMPLATE = "config.json", "generation_config.json", "chat_template.jinja"
TINY = bundled("tiny") / "base"
OWN_TEMPLATE = (TINY / TEMPLATE).read_text(encoding="utf-8")
WITHOUT_SYSTEM = OWN_TEMPLATE.replace("['system', 'user']", "['user']")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214\nsize 12345\n"


def copy_base(folder: Path) -> Path:
    """Return a copy of the tiny base without its hidden files."""
    return Path(shutil.copytree(TINY, folder))


def edit_json(base: Path, name: str, **fields: Any) -> Path:
    """Replace fields of a JSON file of a base; return the base."""
    content = json.loads((base / name).read_text(encoding="utf-8"))
    (base / name).write_text(json.dumps({**content, **fields}), encoding="utf-8")
    return base


def write_template(base: Path, text: str) -> Path:
    """Replace the base's chat template; return the base."""
    (base / TEMPLATE).write_text(text, encoding="utf-8")
    return base


def findings_on(
    base: Path, *uses: BaseUse, prompts: tuple[tuple[str, ...], ...] = ()
) -> list[Finding]:
    """Return the findings about a base, for a run with these uses."""
    return list(check_base(BaseView(base, prompts=prompts), uses=uses).findings)


def rules_on(base: Path, *uses: BaseUse) -> set[str]:
    """Return the ids of the rules that found something."""
    return {finding.rule for finding in findings_on(base, *uses)}
