"""The adapter under test, as files: listing, lint report, config and factors. No model is loaded.

The files that are linted are those that are loaded later: a private copy, made when the run began.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_checks.check_base import (
    BaseReport,
    check_base,
    unreadable,
    use_of_template,
)
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.config import LoraAdapterConfig, read_config
from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.adapter.lint_report import LintReport
from phi3_lora_qa.adapter.parent_adapter import open_parent
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.adapter_factors import open_weights, read_factors
from phi3_lora_qa.gate.prepare import AdapterJob
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.models.base_download import download_base


class AdapterUnderTest:
    """The files of one adapter. Each property is read from the private copy on first use.

    Attributes:
        job: What to gate, and with which base.
        copy: The private copy's folder.
        selection: The lint rules that are run.
        uses: What the run does with the base.
    """

    def __init__(
        self,
        job: AdapterJob,
        copy: Path,
        selection: Selection,
        uses: frozenset[BaseUse] = frozenset(),
    ) -> None:
        self.job, self.copy, self.selection, self.uses = job, copy, selection, uses

    @cached_property
    def folder(self) -> AdapterFolder:
        """The private copy, with the listing of the user's folder.

        Only files that the gate needs were copied. The listing also contains the rest of the folder
        (links, pickles, programs), so that the rules on files see it.
        """
        copied = AdapterFolder.open(self.copy)
        return replace(copied, entries={**self.job.listing.entries, **copied.entries})

    @cached_property
    def base_report(self) -> BaseReport | None:
        """What is wrong with the base itself; None if its files are not on this machine."""
        try:
            base, folder = self.job.base, self._base_folder
            if base is None or folder is None:
                return None
            prompts = [tuple(turn.role for turn in item.prompt) for item in self.job.items]
            view = BaseView(folder, id=base.id, prompts=prompts)
            uses = self.uses | use_of_template(view, self.folder)
            return check_base(view, self.selection, uses)
        except BaseModelError as error:
            return unreadable(error)

    @cached_property
    def _base_folder(self) -> Path | None:
        """The folder with the base's files, which are downloaded if a stage of the run needs them.

        Otherwise the rules on the base would not run before the stage that downloads it.
        """
        base = self.job.base
        if base is None or base.folder is not None or BaseUse.LOADING not in self.uses:
            return base.folder if base else None
        return download_base(base.id)

    @property
    def unseen_items(self) -> str:
        """How many items have a turn that no model sees, as a sentence; empty for none."""
        unseen = {roles for roles, _ in self.base_report.unseen} if self.base_report else set()
        items = self.job.items
        count = sum(tuple(turn.role for turn in item.prompt) in unseen for item in items)
        if not count:
            return ""
        return (
            f"the base's chat template leaves out a turn of {count} of {len(items)} items, so that "
            "no model sees it"
        )

    @cached_property
    def lint_report(self) -> LintReport:
        """The lint report, compared with the base's files where they can be compared."""
        base, report = self.job.base, self.base_report
        files = None
        if base and report and report.is_readable and self._base_folder:
            files = BaseFiles.open(self._base_folder, id=base.id)
        parent = open_parent(self.job.parent) if self.job.parent else None
        return lint(self.folder, files, self.selection, any_base=self.job.any_base, parent=parent)

    @property
    def refusal(self) -> str:
        """Why no model may run with this base and adapter; empty if no error was found."""
        if refused := self._base_error:
            return f"the base cannot be used ({refused})"
        errors = [f for f in self.lint_report.findings if f.severity is Severity.ERROR]
        return f"the static stage refused the adapter ({errors[0].rule})" if errors else ""

    @property
    def refusal_fix(self) -> str:
        """What must be fixed before a model may run."""
        return "fix the base first" if self._base_error else "fix the adapter's files first"

    @property
    def _base_error(self) -> str:
        errors = self.base_report.errors if self.base_report else ()
        return errors[0].rule if errors else ""

    @cached_property
    def config(self) -> LoraAdapterConfig:
        """The adapter's config, which the static stage accepted."""
        return read_config(self.folder)

    @cached_property
    def weights(self) -> SafetensorsFile:
        """The adapter's weights file, opened."""
        return open_weights(self.folder)

    @cached_property
    def factors(self) -> Mapping[str, Factors]:
        """Every module's factors from the file, by the module's path in the base."""
        return read_factors(self.folder)

    @cached_property
    def stored_factors(self) -> Mapping[str, Factors]:
        """The same factors in the layout and dtype of the file."""
        return read_factors(self.folder, stored=True)
