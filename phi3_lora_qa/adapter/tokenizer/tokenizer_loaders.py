"""Loads a folder's tokenizer with each library that can load it.

The loaders are transformers, which chooses a class; tokenizers, from tokenizer.json alone; and
sentencepiece, from tokenizer.model alone. Untrusted files are only loaded in the bounded child
process (see `tokenizer_behaviour`).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.tokenizer.tokenizer_files import is_tiktoken
from phi3_lora_qa.reading import read_regular

MAX_TOKENIZER_BYTES = 64 << 20
"""The largest published tokenizer.json has 35 million bytes."""

TokenIds = list[int]


class LoadedTokenizer:
    """A tokenizer made by one loader.

    Attributes:
        encode: Maps texts to token ids; the flag adds special tokens.
        decode: Maps token ids to text.
        added: The added tokens, with their ids.
        vocabulary: All tokens, with their ids.
        bos_id: The id of the start token, or None.
        steps: The serialized steps before and after the model; empty if unknown.
        model: The serialized model; empty if unknown.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a tokenizer
        self,
        encode: Callable[[list[str], bool], list[TokenIds]],
        decode: Callable[[TokenIds], str],
        added: Mapping[str, int],
        vocabulary: Mapping[str, int],
        state: str = "",
        bos_id: int | None = None,
    ) -> None:
        self.encode, self.decode, self.added, self.vocabulary = encode, decode, added, vocabulary
        self.bos_id = bos_id
        # The model comes last and is by far the largest part: it is compared, but never parsed.
        self.steps, _, self.model = state.partition('"model":{')
        self._last: tuple[list[str], list[TokenIds]] = ([], [])

    def ids(self, texts: list[str]) -> list[TokenIds]:
        """Return the ids of all texts, without special tokens; the last result is cached."""
        if self._last[0] is not texts:
            self._last = texts, self.encode(texts, False)
        return self._last[1]


def load_with_transformers(folder: str) -> LoadedTokenizer:
    """Load with AutoTokenizer, which chooses the class, without running code of the folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)

    def encode(texts: list[str], with_special: bool) -> list[TokenIds]:
        if not texts:
            return []
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        return list(tokenizer(texts, add_special_tokens=with_special, **options)["input_ids"])

    return LoadedTokenizer(
        encode,
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)),
        tokenizer.get_added_vocab(),
        tokenizer.get_vocab(),
        backend.to_str() if backend is not None else "",
        tokenizer.bos_token_id,
    )


def load_with_tokenizers(data: str) -> LoadedTokenizer:
    """Load a tokenizer.json; padding and truncation are up to the caller, and switched off."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(data)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    decoder = tokenizer.get_added_tokens_decoder()
    return LoadedTokenizer(
        lambda texts, with_special: [
            found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=with_special)
        ],
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)),
        {entry.content: token_id for token_id, entry in decoder.items()},
        tokenizer.get_vocab(with_added_tokens=True),
        tokenizer.to_str(),
    )


def load_with_sentencepiece(path: str) -> LoadedTokenizer:
    """Load a tokenizer.model, which has no added tokens."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=path)
    token_ids = range(processor.get_piece_size())
    return LoadedTokenizer(
        lambda texts, with_special: [list(processor.encode(text)) for text in texts],
        lambda ids: str(processor.decode(ids)),
        {},
        {processor.id_to_piece(token_id): token_id for token_id in token_ids},
    )


TRANSFORMERS, TOKENIZERS, SENTENCEPIECE = "transformers", "tokenizer.json", "tokenizer.model"
FILES = (TOKENIZERS, SENTENCEPIECE)


def load_all(
    folder: str, errors: dict[str, str], without: Iterable[str] = ()
) -> dict[str, LoadedTokenizer]:
    """Load the tokenizer with every loader that applies to the folder.

    Args:
        folder: The folder of the files.
        errors: Receives the error message of each loader that fails.
        without: Loaders to skip.
    """
    loaders: dict[str, Callable[[], LoadedTokenizer]] = {
        TRANSFORMERS: lambda: load_with_transformers(folder)
    }
    plain, pieces = Path(folder, TOKENIZERS), Path(folder, SENTENCEPIECE)
    if plain.is_file():
        loaders[TOKENIZERS] = lambda: load_with_tokenizers(
            read_regular(plain, MAX_TOKENIZER_BYTES).decode("utf-8")
        )
    if pieces.is_file() and not is_tiktoken(read_regular(pieces, MAX_TOKENIZER_BYTES)):
        loaders[SENTENCEPIECE] = lambda: load_with_sentencepiece(str(pieces))
    loaded = {}
    for name, load in loaders.items():
        if name in without:
            continue
        try:
            loaded[name] = load()
        except MemoryError:
            raise
        except BaseException as error:  # a Rust panic is not an Exception
            errors[name] = f"{type(error).__name__}: {error}"[:400]
    return loaded


def same_files(job: Mapping[str, Any]) -> list[str]:
    """Return the files that are identical to the base's: alone they behave the same."""
    return [
        name
        for name in FILES
        if all(Path(job[side], name).is_file() for side in ("base", "folder"))
        and len(
            {
                read_regular(Path(job[side], name), MAX_TOKENIZER_BYTES)
                for side in ("base", "folder")
            }
        )
        == 1
    ]


def steps_of(tokenizer: LoadedTokenizer) -> dict[str, Any]:
    """Return the steps before and after the model, as in tokenizer.json; empty if unknown."""
    return dict(json.loads(tokenizer.steps.rstrip(",") + "}")) if tokenizer.model else {}


def blank_variants(
    base: Mapping[str, LoadedTokenizer],
) -> dict[str, Callable[[], LoadedTokenizer | None]]:
    """Return loaders of the base's tokenizer with SentencePiece's blanks in other versions' forms.

    Versions of transformers write what SentencePiece does with blanks in several ways.
    """
    source = base.get(TOKENIZERS) or base.get(TRANSFORMERS)
    content = steps_of(source) if source else {}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    forms: dict[str, tuple[Any, Any]] = {"a normalizer": (steps, None)}
    for scheme in ("first", "always"):
        part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
        forms[f"Metaspace, {scheme}"] = (None, part)
    if (
        source is None
        or tuple(map(content.get, ("normalizer", "pre_tokenizer"))) not in forms.values()
    ):
        return {}

    def load(normalizer: Any, pre_tokenizer: Any) -> LoadedTokenizer:
        changed = content | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
        return load_with_tokenizers(f'{json.dumps(changed)[:-1]},"model":{{{source.model}')

    return {name: (lambda form=form: load(*form)) for name, form in forms.items()}  # type: ignore[misc]
