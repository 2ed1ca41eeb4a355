"""An untrusted adapter folder: reading it safely, what it must hold, and the rules of the linter.

The way in is `folder.AdapterFolder.open`; `lint.lint` says whether the adapter may be loaded,
`config.read_config` and `matching.Matching` what it means. Nothing here imports torch, and nothing
here loads a model.
"""
