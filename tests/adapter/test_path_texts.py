"""Texts that are paths are recognised by their form; ids, names and patterns are not paths."""

import pytest

from phi3_lora_qa.adapter.path_texts import looks_like_path, paths_below


@pytest.mark.parametrize(
    "text",
    [
        "/home/alice/cov.pt", "/mnt", "~/cache", "~bob/cache", "./out", "../x", r"C:\Users\x",
        "D:/models", r"\\server\share", r"..\x", "$HOME/x", "${SCRATCH}/x", r"%TEMP%\x",
        "https://example.com/x", "s3://bucket/key", "file:x", "node17:/scratch/x",
        "git@host.example:me/x.git", "10.0.0.7:29500", "localhost:8080", "cov.pt", "cache.PKL",
        "runs/7/cov", "out/svd.safetensors", "  /padded ",
    ],
)  # fmt: skip
def test_a_path_is_recognised(text: str) -> None:
    assert looks_like_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "microsoft/Phi-3-mini-4k-instruct", "peft.peft_model", "0.21.2", "kpm", "q_proj",
        r"^(model\.layers\.\d+\.mlp\.down_proj)$", "transformers.models.phi3.modeling_phi3",
        "1/2", "and/or", "a note: with a colon", "model", "CAUSAL_LM", "0.18.1.dev0", "...",
        "rank 8/16 of this",
    ],
)  # fmt: skip
def test_other_text_is_not_a_path(text: str) -> None:
    assert not looks_like_path(text)


def test_paths_are_found_at_any_depth_with_their_place() -> None:
    value = {
        "cache_file": "bare", "method": "kpm", "deep": [{"x": "/a"}, 3, None, ["b.pt"]],
        "/as/a/key": 1, "cachePath": "y", "empty_path": "",
    }  # fmt: skip
    assert list(paths_below("corda_config", value)) == [
        ("corda_config.cache_file", "bare"),
        ("corda_config.deep[0].x", "/a"),
        ("corda_config.deep[3][0]", "b.pt"),
        ("corda_config: key", "/as/a/key"),
        ("corda_config.cachePath", "y"),
    ]


def test_a_text_of_a_megabyte_is_read_in_bounded_time() -> None:
    for text in ("a/" * 500_000, "a" * 1_000_000, "/" * 1_000_000, "a.a" * 300_000):
        looks_like_path(text)
