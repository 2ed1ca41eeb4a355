"""Write docs/rules from the rules themselves. Run it after changing a rule: make docs."""

from pathlib import Path

from phi3_lora_qa.adapter.rule import Rule
from phi3_lora_qa.adapter.rule_catalogue import all_rules, families

FOLDER = Path(__file__).parent / "rules"
NOTE = "<!-- Written by docs/make_rules.py; change the rules, then run `make docs`. -->"
FAMILIES = {
    "files": "What lies in the folder, before anything in it is understood.",
    "config": "What adapter_config.json says, by itself.",
    "tensors": "The file holds exactly what the config implies, in name, shape and dtype.",
    "values": "What the numbers say.",
    "base": "Agreement with the base. These need `--base`.",
    "base's tokenizer": "a base with a tokenizer",
    "tokenizer": "The tokenizer in the folder speaks the base's language.",
    "manifest": "The adapter is the one that its training recorded. These need a manifest.",
    "export": "What other programs will refuse, or leave out without a word.",
    "lint": "That the linter itself could do its work.",
}

_NEEDS = {
    "base": "a base",
    "base weights": "a base with its weights",
    "tokenizer": "a tokenizer",
    "manifest": "a manifest",
}


def pages() -> dict[str, str]:
    """Return the content of every page by its file name."""
    names = [*families(), "lint"]
    index = [NOTE, "", "# Rules", "", "| rule | level | holds when |", "|---|---|---|"]
    found = {}
    for name in names:
        rules = [rule for rule in all_rules() if rule.family == name]
        index += [
            f"| [{rule.id}]({name}.md#{rule.id}) | {rule.severity} | {rule.title} |"
            for rule in rules
        ]
        body = "\n".join(_entry(rule) for rule in rules)
        found[f"{name}.md"] = f"{NOTE}\n\n# Family {name}\n\n{FAMILIES[name]}\n{body}"
    return {"README.md": "\n".join([*index, ""]), **found}


def _entry(rule: Rule) -> str:
    needs = [_NEEDS[need] for need in rule.needs if need in _NEEDS]
    condition = f" Checked where there is {' and '.join(needs)}." if needs else ""
    return (
        f"\n## {rule.id}\n\n**{rule.severity}.** {rule.title}.{condition}\n\n"
        f"*Why it matters.* {rule.why}\n\n*How to mend it.* {rule.fix}.\n"
    )


def main() -> None:
    """Write the pages, and remove those of families that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
