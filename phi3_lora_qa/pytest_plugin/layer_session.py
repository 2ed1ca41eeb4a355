"""`pytest --phi3-layers`: tests the properties of LoRA layers on the installed libraries."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.extras import extra_of, is_installed, pip_command
from phi3_lora_qa.properties.layer_kinds import LayerKind, layer_kinds
from phi3_lora_qa.properties.layer_property import Property
from phi3_lora_qa.properties.property_runner import PROFILES, Profile, PropertyFailed, run_property
from phi3_lora_qa.pytest_plugin.virtual_items import VirtualItem, VirtualRoot, split_node_ids

ROOT = "phi3::layers"


class PropertyItem(VirtualItem):
    """One property of one kind of layer."""

    def __init__(
        self, *, tested: Property, kind: LayerKind, layers: "LayersPlugin", **node: Any
    ) -> None:
        super().__init__(**node)
        self._tested, self._kind, self._layers = tested, kind, layers

    def runtest(self) -> None:
        """Draw cases; a known failure of the library is expected to fail."""
        library = self._kind.library
        if not is_installed(library):
            pytest.skip(f"{library} is not installed; run: {pip_command(extra_of(library))}")
        known = self._kind.under_test.known_failures.get(self._tested.id)
        try:
            result = run_property(
                self._tested,
                self._kind.under_test,
                examples=self._layers.profile.examples,
                seed=self._layers.seed,
                shrink=known is None,
                rerun_command=self._layers.command(self.nodeid),
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
        """Show only the message of a failed property: a traceback is long, and slow to format."""
        if not isinstance(excinfo.value, (PropertyFailed, pytest.xfail.Exception)):
            return super().repr_failure(excinfo, style)
        return str(excinfo.value)


class LayersCollector(pytest.Collector):
    """The virtual collector ``phi3::layers``."""

    def __init__(self, *, layers: "LayersPlugin", **node: Any) -> None:
        super().__init__(**node)
        self._layers = layers

    def collect(self) -> Iterable[pytest.Item]:
        """Yield an item for each chosen property of each kind."""
        for kind in layer_kinds():
            for tested in kind.properties():
                nodeid = f"{ROOT}::{tested.id}[{kind.name}]"
                if self._layers.ids and nodeid not in self._layers.ids:
                    continue
                yield PropertyItem.from_parent(
                    self,
                    name=f"{tested.id}[{kind.name}]",
                    nodeid=nodeid,
                    tested=tested,
                    kind=kind,
                    layers=self._layers,
                )


class LayersPlugin(VirtualRoot):
    """The hooks of a pytest session that tests the libraries' layers."""

    def __init__(self, config: pytest.Config, *, seed: int, only: bool) -> None:
        """Remove the suite's ids from pytest's arguments.

        Raises:
            InputError: An id names an unknown property, or a kind of layer without it.
        """
        self.seed = seed
        self.profile = profile_of(config)
        self.ids, rest = split_node_ids(config.args, ROOT)
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
        """Return the command line that reruns one item with the same draws."""
        words = ["pytest", "--phi3-layers", "--phi3-only", nodeid]
        if self.seed:
            words.append(f"--phi3-seed={self.seed}")
        if self.profile.name != "default":
            words.append(f"--hypothesis-profile={self.profile.name}")
        return shlex.join(words)

    def make_collector(self, session: pytest.Session) -> pytest.Collector:
        """Return the collector of the chosen properties."""
        return LayersCollector.from_parent(session, name=ROOT, nodeid=ROOT, layers=self)

    def pytest_report_header(self) -> str:
        """Return the tested versions and the number of cases."""
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
    """Register our profiles with hypothesis, before it looks up ``--hypothesis-profile``."""
    import hypothesis

    for profile in PROFILES.values():
        if profile.name != "default":
            hypothesis.settings.register_profile(profile.name, max_examples=profile.examples)


def profile_of(config: pytest.Config) -> Profile:
    """Return the profile that ``--hypothesis-profile`` names; the default one for any other."""
    name: Sequence[str] | None = config.getoption("--hypothesis-profile", default=None)
    return PROFILES.get(str(name), PROFILES["default"])
