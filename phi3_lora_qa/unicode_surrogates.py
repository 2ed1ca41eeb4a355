"""Lone surrogates in generated text: UTF-8, and so Arrow and Parquet, cannot encode them."""


def escape_surrogates(text: str) -> str:
    r"""Return the text with each lone surrogate written as ``\udXXX``.

    Args:
        text: Any Python string, such as an answer that a tokenizer decoded.

    Returns:
        A text that UTF-8 can encode; unchanged if it has no lone surrogate.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
