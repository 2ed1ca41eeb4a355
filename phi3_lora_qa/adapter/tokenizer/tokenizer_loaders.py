"""Every tokenizer that a loader makes of a folder's files, each as texts to ids and ids to texts.

By transformers, which chooses a class; of tokenizer.json alone; of tokenizer.model alone. Where the
files are a stranger's this runs in the bounded child (see `tokenizer_behaviour`), and nowhere else.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from phi3_lora_qa.reading import read_regular

MAX_FILE = 64 << 20
"""Bytes; the largest published tokenizer.json has 35 million."""

Ids = list[int]


class Way:
    """One way to make a tokenizer of a folder's files; texts become ids, and ids become texts."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a tokenizer is
        self,
        cut: Callable[[list[str], bool], list[Ids]],
        join: Callable[[Ids], str],
        added: Mapping[str, int],
        words: Mapping[str, int],
        state: str = "",
        start: int | None = None,
    ) -> None:
        self.cut, self.join, self.added, self.words = cut, join, added, words
        self.start = start
        # The vocabulary comes last, and most of it all: it is compared, and never parsed.
        self.steps, _, self.model = state.partition('"model":{')
        self._last: tuple[list[str], list[Ids]] = ([], [])

    def ids(self, texts: list[str]) -> list[Ids]:
        """Return the ids of all texts, without what is put around a text; asked for once."""
        if self._last[0] is not texts:
            self._last = texts, self.cut(texts, False)
        return self._last[1]


def by_transformers(folder: str) -> Way:
    """Make what AutoTokenizer makes, of the class that it chooses, without code of the folder."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    backend = getattr(made, "backend_tokenizer", None)

    def cut(texts: list[str], framed: bool) -> list[Ids]:
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        return list(made(texts, add_special_tokens=framed, **options)["input_ids"]) if texts else []

    return Way(
        cut,
        lambda ids: str(made.decode(ids, skip_special_tokens=False)),
        made.get_added_vocab(),
        made.get_vocab(),
        backend.to_str() if backend is not None else "",
        made.bos_token_id,
    )


def by_tokenizers(data: str) -> Way:
    """Make what tokenizer.json says by itself; how it pads and cuts is set by who calls it."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(data)
    made.no_padding()
    made.no_truncation()
    added = {entry.content: number for number, entry in made.get_added_tokens_decoder().items()}
    return Way(
        lambda texts, framed: [
            found.ids for found in made.encode_batch(texts, add_special_tokens=framed)
        ],
        lambda ids: str(made.decode(ids, skip_special_tokens=False)),
        added,
        made.get_vocab(with_added_tokens=True),
        made.to_str(),
    )


def by_sentencepiece(path: str) -> Way:
    """Make what tokenizer.model says by itself; it knows of no added tokens."""
    from sentencepiece import SentencePieceProcessor

    made = SentencePieceProcessor(model_file=path)
    words = {made.id_to_piece(number): number for number in range(made.get_piece_size())}
    return Way(
        lambda texts, framed: [list(made.encode(text)) for text in texts],
        lambda ids: str(made.decode(ids)),
        {},
        words,
    )


TRANSFORMERS, TOKENIZERS, SENTENCEPIECE = "transformers", "tokenizer.json", "tokenizer.model"
FILES = (TOKENIZERS, SENTENCEPIECE)


def ways(folder: str, failed: dict[str, str], without: Iterable[str] = ()) -> dict[str, Way]:
    """Make every tokenizer that a loader makes of the folder; say why where one cannot be made.

    Args:
        folder: Where the files lie.
        failed: Takes the message of what went wrong, by the way.
        without: Ways that need not be tried.
    """
    makers: dict[str, Callable[[], Way]] = {TRANSFORMERS: lambda: by_transformers(folder)}
    plain, pieces = Path(folder, TOKENIZERS), Path(folder, SENTENCEPIECE)
    if plain.is_file():
        makers[TOKENIZERS] = lambda: by_tokenizers(read_regular(plain, MAX_FILE).decode("utf-8"))
    if pieces.is_file() and not is_tiktoken(pieces):
        makers[SENTENCEPIECE] = lambda: by_sentencepiece(str(pieces))
    made = {}
    for name, make in makers.items():
        if name in without:
            continue
        try:
            made[name] = make()
        except MemoryError:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            failed[name] = f"{type(error).__name__}: {error}"[:400]
    return made


def same_files(job: Mapping[str, Any]) -> list[str]:
    """Return the files that are the base's to the byte: by themselves they do the same."""
    return [
        name
        for name in FILES
        if all(Path(job[side], name).is_file() for side in ("base", "folder"))
        and len({read_regular(Path(job[side], name), MAX_FILE) for side in ("base", "folder")}) == 1
    ]


def is_tiktoken(path: Path) -> bool:
    """Whether a tokenizer.model is a table of words in base64, which sentencepiece cannot read."""
    line = read_regular(path, MAX_FILE).partition(b"\n")[0].split(b" ")
    return len(line) == 2 and line[1].strip().isdigit()


def outside(way: Way) -> dict[str, Any]:
    """Return what a tokenizer does before and behind its model; empty where that is not known."""
    return dict(json.loads(way.steps.rstrip(",") + "}")) if way.model else {}


def spellings(base: Mapping[str, Way]) -> dict[str, Callable[[], Way | None]]:
    """Return the base as versions of transformers spell what SentencePiece does with blanks."""
    source = base.get(TOKENIZERS) or base.get(TRANSFORMERS)
    content = outside(source) if source else {}
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

    def make(normalizer: Any, pre_tokenizer: Any) -> Way:
        changed = content | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
        return by_tokenizers(f'{json.dumps(changed)[:-1]},"model":{{{source.model}')

    return {name: (lambda form=form: make(*form)) for name, form in forms.items()}  # type: ignore[misc]
