"""The base models: which ones are known, where they lie, how they load, and how an adapter joins.

``registry`` finds a base without torch; ``loading`` loads it; ``attach`` puts an adapter on it
without touching it; ``checksum`` proves that it was not touched; ``smollm2`` builds the one
base that is neither bundled nor on a hub.
"""
