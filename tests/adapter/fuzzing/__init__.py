"""Adapter folders as strangers might send them, drawn by hypothesis, and what holds for them all.

A `Recipe` (recipes.py) is a healthy variant and the steps that spoil it. It is plain data: a
failure prints it, `read_recipe` reads it again, and `python benchmarks/fuzz.py --recipe TEXT` runs
it alone. `recipes` (drawing.py) draws one, and `build` (building.py) makes the folder. Steps stand
by what they change: tensors, documents, bytes, and places on the disk. A new one goes into the
tuple at the end of its module, and into drawing.py.

`check` (oracle.py) lints a folder, and raises `BrokenPromise` where something that SECURITY.md
promises does not hold. On Linux the limit of memory (limits.py) is set for the linter's time, so
that a folder which asks for too much is found before the machine feels it. What the linter does
meanwhile is watched (watching.py).
"""
