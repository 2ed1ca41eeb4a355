"""`pytest --phi3-layers`: the properties of LoRA layers, run on the installed libraries."""

import importlib.util
import shlex
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.properties.layer_kinds import LayerKind, layer_kinds
from phi3_lora_qa.properties.layer_property import Property
from phi3_lora_qa.properties.property_runner import PROFILES, Profile, PropertyFailed, run_property
from phi3_lora_qa.pytest_plugin.virtual_items import VirtualItem, hang_in_front, take_ids

ROOT = "phi3::layers"


class PropertyItem(VirtualItem):
    """One property of one kind of layer."""

    tested: Property
    kind: LayerKind
    plan: "Layers"

    def runtest(self) -> None:
        """Draw cases; a property that the library is known to break is expected to fail."""
        if importlib.util.find_spec(self.kind.library) is None:
            pytest.skip(f"{self.kind.library} is not installed; pip install {self.kind.library}")
        known = self.kind.under_test.known_failures.get(self.tested.id)
        try:
            held = run_property(
                self.tested,
                self.kind.under_test,
                examples=self.plan.profile.examples,
                seed=self.plan.seed,
                shrink=known is None,
                rerun_command=self.plan.command(self.nodeid),
            )
        except PropertyFailed:
            if known is None:
                raise
            pytest.xfail(known)
        if not held.cases:
            pytest.skip("no case was drawn to which the property applies")
        self.user_properties += [("cases", held.cases), ("largest_error_over_bound", held.ratio)]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show a broken property by its own message: a traceback is long, and slow to make."""
        if not isinstance(excinfo.value, (PropertyFailed, pytest.xfail.Exception)):
            return super().repr_failure(excinfo, style)
        return str(excinfo.value)


class LayersCollector(pytest.Collector):
    """The virtual collector ``phi3::layers``."""

    plan: "Layers"

    def collect(self) -> Iterable[pytest.Item]:
        """Yield an item for each kind and property that were chosen."""
        for kind in layer_kinds():
            for tested in kind.properties():
                nodeid = f"{ROOT}::{tested.id}[{kind.name}]"
                if self.plan.ids and nodeid not in self.plan.ids:
                    continue
                item: PropertyItem = PropertyItem.from_parent(
                    self, name=f"{tested.id}[{kind.name}]", nodeid=nodeid
                )
                item.tested, item.kind, item.plan = tested, kind, self.plan
                yield item


class Layers:
    """The hooks of a session that tests the libraries' layers."""

    def __init__(self, config: pytest.Config, *, seed: int, only: bool) -> None:
        """Take the suite's own ids out of pytest's arguments.

        Raises:
            InputError: An id names no property, or no kind of layer that has it.
        """
        self.seed = seed
        self.profile = profile_of(config)
        self.ids, rest = take_ids(config.args, ROOT)
        known = {
            f"{ROOT}::{p.id}[{kind.name}]" for kind in layer_kinds() for p in kind.properties()
        }
        if self.ids == [ROOT]:
            self.ids = []
        elif wrong := [name for name in self.ids if name not in known]:
            raise InputError(
                f"there is no property {escape(wrong[0], 120)}; "
                "list them with pytest --phi3-layers --phi3-only --collect-only -q"
            )
        if only:
            config.args = []
        elif len(rest) < len(config.args):
            config.args = rest

    def command(self, nodeid: str) -> str:
        """Return the command line that runs one item again, with the same draws."""
        words = ["pytest", "--phi3-layers", "--phi3-only", nodeid]
        if self.seed:
            words.append(f"--phi3-seed={self.seed}")
        if self.profile.name != "default":
            words.append(f"--hypothesis-profile={self.profile.name}")
        return shlex.join(words)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Hang the virtual collector into the session."""
        report = yield
        if isinstance(collector, pytest.Session):
            node: LayersCollector = LayersCollector.from_parent(collector, name=ROOT, nodeid=ROOT)
            node.plan = self
            return hang_in_front(report, node)
        return report

    def pytest_report_header(self) -> str:
        """Say which versions are tested, and how thoroughly."""
        from importlib.metadata import PackageNotFoundError, version

        found = []
        for library in ("torch", "peft", "loralib"):
            try:
                found.append(f"{library} {version(library)}")
            except PackageNotFoundError:
                found.append(f"no {library}")
        return (
            f"phi3-lora-qa: properties of LoRA layers in {', '.join(found)}; "
            f"{self.profile.examples} cases each, seed {self.seed}"
        )


def register_profiles() -> None:
    """Make hypothesis know the names of our profiles, before it is asked for one."""
    import hypothesis

    for profile in PROFILES.values():
        if profile.name != "default":
            hypothesis.settings.register_profile(profile.name, max_examples=profile.examples)


def profile_of(config: pytest.Config) -> Profile:
    """Return the profile that ``--hypothesis-profile`` names; the default one for any other."""
    name: Sequence[str] | None = config.getoption("--hypothesis-profile", default=None)
    return PROFILES.get(str(name), PROFILES["default"])
