"""`pytest --phi3-layers`: runs the properties of LoRA layers on the installed libraries."""

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

    def __init__(
        self, *, prop: Property, kind: LayerKind, layers: "LayerSession", **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.prop, self.kind, self.layers = prop, kind, layers

    def runtest(self) -> None:
        """Draw cases; a property that the library is known to fail is expected to fail."""
        if importlib.util.find_spec(self.kind.library) is None:
            pytest.skip(f"{self.kind.library} is not installed; pip install {self.kind.library}")
        known = self.kind.under_test.known_failures.get(self.prop.id)
        try:
            result = run_property(
                self.prop,
                self.kind.under_test,
                examples=self.layers.profile.examples,
                seed=self.layers.seed,
                shrink=known is None,
                rerun_command=self.layers.command(self.nodeid),
            )
        except PropertyFailed:
            if known is None:
                raise
            pytest.xfail(known)
        if not result.cases:
            pytest.skip("the property applies to none of the drawn cases")
        self.user_properties += [
            ("cases", result.cases),
            ("largest_error_over_bound", result.ratio),
        ]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show only the message of a failed property; a traceback is long and slow to build."""
        if not isinstance(excinfo.value, (PropertyFailed, pytest.xfail.Exception)):
            return super().repr_failure(excinfo, style)
        return str(excinfo.value)


class LayersCollector(pytest.Collector):
    """The virtual collector ``phi3::layers``."""

    def __init__(self, *, layers: "LayerSession", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.layers = layers

    def collect(self) -> Iterable[pytest.Item]:
        """Yield an item for each selected pair of kind and property."""
        for kind in layer_kinds():
            for prop in kind.properties():
                name = f"{prop.id}[{kind.name}]"
                nodeid = f"{ROOT}::{name}"
                if self.layers.ids and nodeid not in self.layers.ids:
                    continue
                item: PropertyItem = PropertyItem.from_parent(
                    self, name=name, nodeid=nodeid, prop=prop, kind=kind, layers=self.layers
                )
                yield item


class LayerSession:
    """The pytest hooks of a run that tests the layers of the libraries."""

    def __init__(self, config: pytest.Config, *, seed: int, only: bool) -> None:
        """Remove the ids of layer properties from pytest's arguments.

        Raises:
            InputError: An id names an unknown property, or one that does not apply to the kind.
        """
        self.seed = seed
        self.profile = profile_of(config)
        self.ids, rest = take_ids(config.args, ROOT)
        known = {
            f"{ROOT}::{p.id}[{kind.name}]" for kind in layer_kinds() for p in kind.properties()
        }
        if self.ids == [ROOT]:
            self.ids = []
        elif unknown := [name for name in self.ids if name not in known]:
            raise InputError(
                f"unknown property: {escape(unknown[0], 120)}; "
                "list the known ones with pytest --phi3-layers --phi3-only --collect-only -q"
            )
        if only:
            config.args = []
        elif len(rest) < len(config.args):
            config.args = rest

    def command(self, nodeid: str) -> str:
        """Return the command line that repeats one item with the same cases."""
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
        """Add the virtual collector to the session."""
        report = yield
        if isinstance(collector, pytest.Session):
            node: LayersCollector = LayersCollector.from_parent(
                collector, name=ROOT, nodeid=ROOT, layers=self
            )
            return hang_in_front(report, node)
        return report

    def pytest_report_header(self) -> str:
        """Return the tested versions and the number of cases."""
        from importlib.metadata import PackageNotFoundError, version

        versions = []
        for library in ("torch", "peft", "loralib"):
            try:
                versions.append(f"{library} {version(library)}")
            except PackageNotFoundError:
                versions.append(f"no {library}")
        return (
            f"phi3-lora-qa: properties of LoRA layers in {', '.join(versions)}; "
            f"{self.profile.examples} cases each, seed {self.seed}"
        )


def register_profiles() -> None:
    """Register our profiles with hypothesis before it looks one up."""
    import hypothesis

    for profile in PROFILES.values():
        if profile.name != "default":
            hypothesis.settings.register_profile(profile.name, max_examples=profile.examples)


def profile_of(config: pytest.Config) -> Profile:
    """Return the profile in ``--hypothesis-profile``; the default one for any other name."""
    name: Sequence[str] | None = config.getoption("--hypothesis-profile", default=None)
    return PROFILES.get(str(name), PROFILES["default"])
