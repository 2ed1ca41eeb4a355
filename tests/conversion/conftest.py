from tests.tiny_base import tiny

__all__ = ["tiny"]
