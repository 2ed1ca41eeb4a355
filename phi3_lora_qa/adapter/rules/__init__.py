"""Internal: the rules, one module for each subject of a family.

A rule is a function that takes the `LintContext` and yields a `Violation` for each fault, decorated
with `rule`. To add one, write it into the module of its subject (a new module is listed in
``rule_catalogue.py``), add a fault that it must find to ``tests/adapter/faults``, and add a healthy
variant to ``tests/adapter/healthy.py`` if the rule could ever be wrong.
"""
