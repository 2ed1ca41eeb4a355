"""Refuses a run with an adapter if the plugin is disabled, as by ``-p no:phi3_lora_qa``.

This is a separate plugin, because a disabled plugin is not imported. Otherwise it does nothing.
"""

import pytest


def _is_off(plugins: pytest.PytestPluginManager) -> bool:
    """Return whether the plugin is disabled: loaded neither by its name nor by its module."""
    return plugins.is_blocked("phi3_lora_qa") and not plugins.hasplugin(
        "phi3_lora_qa.pytest_plugin.plugin"
    )


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the plugin's options, to detect an adapter among them."""
    if _is_off(pluginmanager):
        from phi3_lora_qa.pytest_plugin import plugin

        plugin.pytest_addoption(parser, pluginmanager)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Refuse a run that would not gate the given adapter."""
    if _is_off(early_config.pluginmanager):
        from phi3_lora_qa.pytest_plugin import plugin

        plugin.refuse_if_adapter_given(early_config, args)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """End the run before its first test."""
    if _is_off(config.pluginmanager):
        from phi3_lora_qa.pytest_plugin import plugin

        plugin.end_if_refused(config)
