"""The public function that lints an adapter: opens the folder and the base, and runs the rules."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_checks.check_base import (
    BaseReport,
    check_base,
    use_of_template,
)
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.adapter.lint_report import LintReport
from phi3_lora_qa.adapter.parent_adapter import StoredAdapter, open_parent
from phi3_lora_qa.adapter.rule_selection import Selection, read_selection
from phi3_lora_qa.errors import AdapterError, InputError
from phi3_lora_qa.function_arguments import require_path, require_texts
from phi3_lora_qa.settings import reject_if_inside

__all__ = ["lint_adapter"]


def lint_adapter(  # noqa: PLR0913 - all but the first are optional
    adapter: str | Path,
    base: str | Path | None = None,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    levels: Sequence[str] = (),
    any_base: bool = False,
    parent: str | Path | None = None,
) -> LintReport:
    """Check the files of an adapter, without torch and without running a model.

    Args:
        adapter: The adapter's folder. Nothing in it is trusted, and no code in it runs.
        base: The base model: the name or hub id of a known base, any hub id, or a folder. Without
            it, rules that compare the adapter with its base do not run.
        select: Ids or families of the rules to run; if empty, all.
        ignore: Ids or families of the rules not to run.
        levels: Severities that replace the rules' own, such as ``files-code=error``.
        any_base: Whether to accept a base that is not a Phi-3: Llama, Mistral, Qwen2, Qwen3 or
            Gemma.
        parent: The folder of the adapter that this one was trained from, or of the last one that
            was shipped. An adapter that equals it is rejected.

    Returns:
        The report: the findings, the rules that ran, and those that could not.

    Raises:
        InputError: An argument has a wrong type, a rule or a level is unknown, the base or
            the parent is inside the adapter's folder, or the parent cannot be read.
        AdapterError: The adapter's folder cannot be read, or is not an adapter folder.
        BaseModelError: The base is unknown, not on this machine, not a Phi-3, or cannot be read.
        MissingDependencyError: There is no verdict without a package that is not installed.
        MachineError: The machine ran out of memory, file handles or the like.

    Example:
        >>> from importlib.resources import files
        >>> report = lint_adapter(str(files("phi3_lora_qa") / "bundled/tiny/adapter"), "tiny")
        >>> report.accepted, report.findings
        (True, ())
    """
    place = require_path(adapter, "adapter")
    selection = read_selection(
        require_texts(select, "select"),
        require_texts(ignore, "ignore"),
        require_texts(levels, "levels"),
    )
    folder = AdapterFolder.open(place)
    base_files = None if base is None else _open_base(str(require_path(base, "base")))
    about_base = BaseReport()
    if base_files:
        about_base = _require_usable(base_files, folder, selection, any_base=any_base)
        reject_if_inside([place], base_files.path, "files of the base", "pass a base outside of it")
    start = None if parent is None else open_parent_of([place], require_path(parent, "parent"))
    report = lint(folder, base_files, selection, any_base=any_base, parent=start)
    return replace(
        report,
        base_findings=about_base.findings,
        ignored=(*report.ignored, *about_base.ignored),
    )


def open_parent_of(adapters: Sequence[Path], parent: Path) -> StoredAdapter:
    """Open the parent of some adapters, which must not be inside any of them.

    Raises:
        InputError: It is inside an adapter's folder, or its weights cannot be read.
    """
    reject_if_inside(adapters, parent, "weights of the parent", "pass a parent outside of it")
    try:
        folder = AdapterFolder.open(parent)
    except AdapterError as error:
        raise InputError(f"the parent: {error}") from error
    return open_parent(folder)


def _open_base(reference: str) -> BaseFiles:
    from phi3_lora_qa.models.hub_base import is_hub_id, open_hub_base
    from phi3_lora_qa.models.registry import find_known, resolve_base

    if is_hub_id(reference) and not Path(reference).exists() and not find_known(reference):
        return open_hub_base(reference)
    ref = resolve_base(reference)
    return open_hub_base(ref.id) if ref.folder is None else BaseFiles.open(ref.folder, id=ref.id)


def _require_usable(
    base: BaseFiles, adapter: AdapterFolder, selection: Selection, *, any_base: bool
) -> BaseReport:
    """Return what is wrong with a base that can be used."""
    from phi3_lora_qa.models.registry import require_phi_files

    view = BaseView(base.path, id=base.id, files=base, is_thorough=False)
    report = check_base(view, selection, use_of_template(view, adapter))
    report.require_usable()
    if not any_base:
        require_phi_files(base, "--any-base")
    return report
