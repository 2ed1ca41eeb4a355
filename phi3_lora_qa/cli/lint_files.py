"""Command ``lint-files``: lints the adapters to which some files belong, for pre-commit."""

from collections.abc import Sequence
from pathlib import Path

from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS
from phi3_lora_qa.cli.lint import LintOptions, lint_command


def lint_files_command(files: Sequence[Path], options: LintOptions) -> int:
    """Lint each adapter folder that one of the files is in, once, and print the reports.

    A file belongs to an adapter if its own folder has an adapter's config or weights; others are
    skipped.

    Args:
        files: Files, such as those of a commit.
        options: The base, and the selection of rules.

    Returns:
        The exit status: 0 if every adapter is accepted, or none is named; 1 if one is rejected.

    Raises:
        InputError: A rule is unknown, or an adapter's folder cannot be read at all.
        BaseModelError: The base is unknown, not on this machine, or unreadable.
    """
    rejected = False
    for number, folder in enumerate(adapter_folders(files)):
        if number:
            print()
        rejected = bool(lint_command(folder, options)) or rejected
    return 1 if rejected else 0


def adapter_folders(files: Sequence[Path]) -> list[Path]:
    """Return the distinct folders of the files that contain an adapter's config or weights."""
    folders = dict.fromkeys(file.parent for file in files)
    return [folder for folder in folders if any((folder / n).exists() for n in (CONFIG, WEIGHTS))]
