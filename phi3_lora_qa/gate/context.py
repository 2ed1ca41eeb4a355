"""What a process holds while it gates: one base, one attached adapter, the scores.

Everything is made when a check first asks for it, and in the one order that can be trusted: the
base is hashed and scored before any adapter is attached to it.
"""

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.journal import Evidence, Journal
from phi3_lora_qa.gate.prepare import AdapterJob
from phi3_lora_qa.lora import Array
from phi3_lora_qa.models.paths import cache_folder
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef, resolve_base
from phi3_lora_qa.record import Timing
from phi3_lora_qa.setting_specs import STAGES, server_of
from phi3_lora_qa.settings import GateSettings

if TYPE_CHECKING:
    from phi3_lora_qa.models.loading import LoadedBase
    from phi3_lora_qa.scoring.engine_choice import EngineChoice
    from phi3_lora_qa.scoring.score_items import ItemScore

Progress = Callable[[str, int, int], None]
"""Called with the phase's name, the items done and all items."""

PROBE = "The probe: 1 + 2 = 3, and so on."


@dataclass
class Run:
    """One process's share of a gate run."""

    settings: GateSettings
    targets: Sequence[AdapterJob]
    folder: Path
    journal: Journal
    stages: frozenset[str] = frozenset(STAGES)
    """The stages that will run a check: what no check asks for is not computed beforehand."""
    progress: Progress = lambda phase, done, total: None
    benches: dict[int, "Bench"] = field(default_factory=dict)
    _loaded: "LoadedBase | None" = None
    _unloadable: dict[str, str] = field(default_factory=dict)
    _checksums: dict[str, str] = field(default_factory=dict)
    _probes: dict[str, Array] = field(default_factory=dict)
    _scores: dict[tuple[str, tuple[Item, ...]], tuple["ItemScore", ...]] = field(
        default_factory=dict
    )

    def bench(self, index: int) -> "Bench":
        """The workbench of one adapter."""
        if index not in self.benches:
            self.benches[index] = Bench(self, index, self.targets[index])
        return self.benches[index]

    def quietly(self, stage: str) -> AbstractContextManager[object]:
        """Silence other libraries' bars, logs and warnings, whatever the user's filters say.

        The static stage uses no such library, and must not import one to silence it.
        """
        return warnings.catch_warnings(action="ignore") if stage == "static" else quiet()

    @contextmanager
    def timed(
        self, phase: str, adapter: int, count: Callable[[], int] | None = None
    ) -> Iterator[None]:
        """Measure a phase, and its tokens where ``count`` gives them afterwards."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        tokens = count() if count else 0
        self.journal.add_evidence(
            Evidence(
                adapter=adapter,
                timings=[
                    Timing(
                        phase=phase,
                        seconds=seconds,
                        tokens=tokens,
                        tokens_per_second=tokens / seconds if tokens else 0.0,
                    )
                ],
            )
        )

    def base(self, bench: "Bench") -> "LoadedBase":
        """The adapter's base, loaded once, hashed before anything else happens to it."""
        ref = bench.target.base
        if ref is None:
            raise BaseModelError(bench.target.base_missing)
        if self._loaded is None or self._loaded.ref != ref:
            self.release_base()
            self._loaded = self._load(bench, ref)
        return self._loaded

    def _load(self, bench: "Bench", ref: BaseRef) -> "LoadedBase":
        import torch

        from phi3_lora_qa.models.checksum import checksum
        from phi3_lora_qa.models.loading import load_base
        from phi3_lora_qa.scoring.prepacked_linear import matmul_backends

        if ref.id in self._unloadable:  # trying again, a hub would be asked for each check
            raise BaseModelError(self._unloadable[ref.id])
        self.progress(f"loading the base {ref.id}", 0, 0)
        try:
            with self.timed("load base", bench.index):
                base = load_base(ref, self.settings.dtype)
        except BaseModelError as error:
            self._unloadable[ref.id] = str(error)
            raise
        mark = checksum(base.model)
        # A base that is loaded again (after an export) must be the one that was scored.
        if self._checksums.setdefault(ref.id, mark) != mark:
            raise BaseModelError(
                f"the base {ref.id} changed on disk during the run; leave it alone and run again"
            )
        if ref.id not in self._probes:
            self._probes[ref.id] = _logits(base.model, base.tokenizer)
        self.journal.add_evidence(
            Evidence(
                adapter=bench.index,
                environment={
                    "dtype": str(base.model.dtype).removeprefix("torch."),
                    "threads": torch.get_num_threads(),
                    "instruction_set": torch.backends.cpu.get_cpu_capability(),
                    **_named("base", matmul_backends(base.model, self._engine(base).name)),
                },
            )
        )
        return base

    def checksum(self, bench: "Bench") -> str:
        """The base's checksum from before any adapter was attached."""
        return self._checksums[self.base(bench).ref.id]

    def probe_logits(self, bench: "Bench") -> Array:
        """The base's logits on the probe from before any adapter was attached."""
        return self._probes[self.base(bench).ref.id]

    def logits(self, bench: "Bench", model: Any) -> Array:
        """A model's logits on the fixed probe text, float64 (tokens, vocabulary)."""
        return _logits(model, self.base(bench).tokenizer)

    @property
    def server(self) -> str:
        """The address of the server that scores base and tuned model; empty without one."""
        return server_of(self.settings.backend)

    def base_scores(self, bench: "Bench") -> tuple["ItemScore", ...]:
        """The base's scores on the adapter's items, computed once for all adapters."""
        key = self._score_key(bench)
        if key not in self._scores:
            if self.server:
                self._scores[key] = self.score_served(bench, "base")
            else:
                base = self.base(bench)
                bench.require_detached()
                self._scores[key] = self._score_base(bench, base)
        return self._scores[key]

    def _score_base(self, bench: "Bench", base: "LoadedBase") -> tuple["ItemScore", ...]:
        import torch

        from phi3_lora_qa.scoring.prepacked_linear import matmul_backends
        from phi3_lora_qa.scoring.score_cache import ScoreCache
        from phi3_lora_qa.scoring.score_items import score_items

        engine = self._engine(base)
        conditions = {
            "base": self._checksums[base.ref.id],
            "config": base.model.config.to_json_string(use_diff=False),
            "generation": base.model.generation_config.to_json_string(use_diff=False),
            "versions": {name: version(name) for name in ("phi3-lora-qa", "torch", "transformers")},
            "processor": torch.backends.cpu.get_cpu_capability(),
            "products": dict(matmul_backends(base.model, engine.name)),
            "threads": torch.get_num_threads(),
        }
        if engine.name != "fast":
            conditions["engine"] = engine.name
        keep = self.settings.cache_scores == "on"
        kept = ScoreCache(cache_folder() / "scores", conditions) if keep else None
        scorer = partial(score_items, base.model, base.tokenizer, bench.target.items, cache=kept)
        scores = self._timed_scores(bench, "score base", scorer)
        found, trouble = (kept.hits, kept.write_error) if kept else (0, "")
        lost = f", and no new ones can be kept ({escape(trouble, 200)})" if trouble else ""
        note: dict[str, Json] = {"base_scores_kept": f"{found} of {len(scores)}{lost}"}
        note |= {"engine": engine.name}
        note |= {"engine_fallback": engine.fallback} if engine.fallback else {}
        self.journal.add_evidence(Evidence(adapter=bench.index, environment=note))
        return scores

    def _engine(self, base: "LoadedBase") -> "EngineChoice":
        from phi3_lora_qa.scoring.engine_choice import choose_engine

        return choose_engine(self.settings.engine, base.model)

    def _score_key(self, bench: "Bench") -> tuple[str, tuple[Item, ...]]:
        ref = bench.target.base
        return ref.id if ref else "", bench.target.items

    def score(
        self,
        bench: "Bench",
        base: "LoadedBase",
        model: Any,
        phase: str,
        items: Sequence[Item] | None = None,
    ) -> tuple["ItemScore", ...]:
        """Score what stands on ``base``, on the adapter's items or some."""
        from phi3_lora_qa.scoring.prepacked_linear import matmul_backends
        from phi3_lora_qa.scoring.score_items import score_items

        asked = bench.target.items if items is None else items
        known = self._scores.get(self._score_key(bench), ())
        scorer = partial(score_items, model, base.tokenizer, asked, base_scores=known)
        # The adapter's layers may be of another dtype than the base's.
        note = _named("tuned", matmul_backends(model, self._engine(base).name))
        self.journal.add_evidence(Evidence(adapter=bench.index, environment=note))
        return self._timed_scores(bench, phase, scorer)

    def score_served(self, bench: "Bench", which: str) -> tuple["ItemScore", ...]:
        """Score ``base`` or ``tuned`` as the server has it; no model is loaded here."""
        from phi3_lora_qa.models.loading import load_tokenizer
        from phi3_lora_qa.models.stop_tokens import stop_tokens_from_files
        from phi3_lora_qa.scoring.prompts import template_stop_token
        from phi3_lora_qa.scoring.remote_scoring import Server

        ref, once = bench.target.base, f"{self.server} {bench.index}"
        if ref is None:
            raise BaseModelError(bench.target.base_missing)
        if once in self._unloadable:  # it would be waited for in each check
            raise BaseModelError(self._unloadable[once])
        try:
            server = Server.from_url(self.server)
            base, tuned = server.served_names(ref, bench.target.name)
            tokenizer = load_tokenizer(ref)
            stops = stop_tokens_from_files(ref, template_stop_token(tokenizer))
            server = replace(server, stops=stops)
            name, items = base if which == "base" else tuned, bench.target.items
            return self._timed_scores(
                bench,
                f"score {which}, served as {name}",
                partial(server.score, name, tokenizer, items),
            )
        except BaseModelError as error:
            self._unloadable[once] = str(error)
            raise

    def _timed_scores(
        self,
        bench: "Bench",
        phase: str,
        scorer: Callable[..., tuple["ItemScore", ...]],
    ) -> tuple["ItemScore", ...]:
        """Score with what takes options and a progress report."""
        from phi3_lora_qa.scoring.score_items import ScoringOptions

        scores: tuple[ItemScore, ...] = ()
        options = ScoringOptions(seed=self.settings.seed, engine=self.settings.engine)

        def report(_: str, done: int, total: int) -> None:
            self.progress(f"{phase}, {bench.target.name}", done, total)

        with self.timed(phase, bench.index, lambda: sum(score.tokens for score in scores)):
            scores = scorer(options, report)
        return scores

    def score_merged(
        self, bench: "Bench", folder: Path, items: Sequence[Item]
    ) -> tuple["ItemScore", ...]:
        """Load a saved model beside no other, and score it."""
        from phi3_lora_qa.models.loading import load_base

        self.release_base()
        merged = load_base(resolve_base(str(folder)), self.settings.dtype)
        return self.score(bench, merged, merged.model, "score merged", items)

    def score_saved_adapter(
        self, bench: "Bench", folder: Path, items: Sequence[Item]
    ) -> tuple["ItemScore", ...]:
        """Load the base again, put a saved adapter on it, and score that."""
        from phi3_lora_qa.models.attach import attach

        self.release_base()
        base = self.base(bench)
        return self.score(bench, base, attach(base.model, folder), "score exported", items)

    def release_base(self) -> None:
        """Let go of the base and whatever is attached to it."""
        for bench in self.benches.values():
            bench.forget_model()
        self._loaded = None
        gc.collect()


def _named(which: str, products: Mapping[str, str]) -> dict[str, Json]:
    """How a model's layers of each dtype multiply, as notes of their own."""
    return {f"products_{which}_{dtype}": how for dtype, how in products.items()}


def _logits(model: Any, tokenizer: Any) -> Array:
    import torch

    from phi3_lora_qa.models.tensor_conversion import to_float64

    ids = tokenizer(PROBE, return_tensors="pt").input_ids
    with torch.inference_mode():
        return to_float64(model(input_ids=ids).logits[0])
