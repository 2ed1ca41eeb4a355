"""Internal: the known base models, where they are, how they load, and how an adapter attaches.

``registry`` finds a base without torch and ``loading`` loads it. ``attach`` puts an adapter on a
base without changing the base, and ``checksum`` proves that it was not changed. ``smollm2``
describes the one base that is neither bundled nor on a hub, and ``smollm2_build`` makes it.
"""
