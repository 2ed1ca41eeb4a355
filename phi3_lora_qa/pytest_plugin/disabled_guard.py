"""Asks for a verdict where the plugin itself was switched off, as with ``-p no:phi3_lora_qa``.

A plugin of its own, since a plugin that is switched off is not even imported. It does nothing
unless that is so.
"""

import pytest


def _is_off(plugins: pytest.PytestPluginManager) -> bool:
    """Whether nobody else has the plugin's options: it can also be loaded by its module's name."""
    return plugins.is_blocked("phi3_lora_qa") and not plugins.hasplugin(
        "phi3_lora_qa.pytest_plugin.plugin"
    )


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Take the plugin's options, to see whether an adapter is among them."""
    if _is_off(pluginmanager):
        from phi3_lora_qa.pytest_plugin import plugin

        plugin.pytest_addoption(parser, pluginmanager)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Refuse a run that gates nothing though an adapter was asked for."""
    if _is_off(early_config.pluginmanager):
        from phi3_lora_qa.pytest_plugin import plugin

        plugin.refuse_if_asked(early_config, args)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """End the run before its first test."""
    if _is_off(config.pluginmanager):
        from phi3_lora_qa.pytest_plugin import plugin

        plugin.end_if_refused(config)
