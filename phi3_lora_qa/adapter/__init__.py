"""Internal: reads an untrusted adapter folder safely, derives what it must contain, and lints it.

Start at `folder.AdapterFolder.open`. `lint.lint` decides whether the adapter may be loaded;
`config.read_config` and `target_matching.Matching` interpret its config. Nothing here imports torch
or loads a model.
"""
