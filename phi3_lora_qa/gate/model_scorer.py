"""Scores models on an adapter's items: in this process, from the score cache, or on a server."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError, MachineError, escape
from phi3_lora_qa.gate.memory_check import as_gigabytes, needed_bytes
from phi3_lora_qa.gate.model_host import ModelHost, layer_products
from phi3_lora_qa.gate.phase_log import PhaseLog
from phi3_lora_qa.gate.prepare import AdapterJob
from phi3_lora_qa.gate.quantization_effect import QuantizationEffect, compare_quantized
from phi3_lora_qa.models.free_memory import free_bytes
from phi3_lora_qa.models.paths import cache_folder
from phi3_lora_qa.setting_specs import CUDA, UNQUANTIZED, server_of
from phi3_lora_qa.settings import GateSettings

if TYPE_CHECKING:
    from phi3_lora_qa.models.loading import LoadedBase
    from phi3_lora_qa.scoring.engine_choice import EngineChoice
    from phi3_lora_qa.scoring.score_items import ItemScore


class ModelScorer:
    """Scores base and tuned models of a run. A base is scored once for all adapters.

    Attributes:
        server: The address of the server that scores both models; empty without one.
    """

    def __init__(self, settings: GateSettings, models: ModelHost) -> None:
        self.server = server_of(settings.backend)
        self._settings, self._models = settings, models
        self._base_scores: dict[tuple[str, tuple[Item, ...]], tuple[ItemScore, ...]] = {}
        self._server_errors: dict[int, str] = {}

    def score_base(self, job: AdapterJob, log: PhaseLog) -> tuple["ItemScore", ...]:
        """Return the base's scores on an adapter's items; compute them on the first call.

        The base is scored before an adapter is attached to it, or is loaded again.

        Raises:
            BaseModelError: There is no base, or it cannot be loaded or served.
        """
        key = _key(job)
        if key not in self._base_scores:
            self._base_scores[key] = (
                self.score_served("base", job, log)
                if self.server
                else self._score_base_here(job, log)
            )
        return self._base_scores[key]

    def score_model(  # noqa: PLR0913 - what is scored, and where it is logged
        self,
        model: Any,
        tokenizer: Any,
        job: AdapterJob,
        items: Sequence[Item],
        *,
        phase: str,
        log: PhaseLog,
    ) -> tuple["ItemScore", ...]:
        """Return a model's scores on items, compared with the base's scores if these are known.

        Args:
            model: The model, in this process.
            tokenizer: Its tokenizer.
            job: The adapter; its base's scores are looked up.
            items: Some or all of the adapter's items.
            phase: What the timing is called.
            log: Where the work is logged.
        """
        from phi3_lora_qa.scoring.score_items import score_items

        known = self._base_scores.get(_key(job), ())
        # The adapter's layers may have a different dtype from the base's.
        engine = self._models.engine_of(job.require_base())
        log.add_environment(layer_products("tuned", model, engine))
        scorer = partial(score_items, model, tokenizer, items, base_scores=known)
        return self._score(phase, log, scorer)

    def score_served(self, which: str, job: AdapterJob, log: PhaseLog) -> tuple["ItemScore", ...]:
        """Return the scores of ``base`` or ``tuned`` from the server; no model is loaded here.

        Raises:
            BaseModelError: There is no base, or the server does not serve what is needed.
        """
        from phi3_lora_qa.models.loading import load_tokenizer
        from phi3_lora_qa.models.stop_tokens import stop_tokens_from_files
        from phi3_lora_qa.scoring.prompts import template_stop_token
        from phi3_lora_qa.scoring.remote_scoring import Server

        ref = job.require_base()
        if log.adapter in self._server_errors:  # each check would otherwise wait for it again
            raise BaseModelError(self._server_errors[log.adapter])
        try:
            server = Server.from_url(self.server)
            base, tuned = server.served_names(ref, job.name)
            tokenizer = load_tokenizer(ref)
            stops = stop_tokens_from_files(ref, template_stop_token(tokenizer))
            server = replace(server, stops=stops)
            name = base if which == "base" else tuned
            scorer = partial(server.score, name, tokenizer, job.items)
            return self._score(f"score {which}, served as {name}", log, scorer)
        except BaseModelError as error:
            self._server_errors[log.adapter] = str(error)
            raise

    def _score_base_here(self, job: AdapterJob, log: PhaseLog) -> tuple["ItemScore", ...]:
        """Score the base; if it is quantized, also measure what that changes.

        The base that is not quantized is scored first, so that the other one remains loaded.
        """
        quantization = self._settings.quantization
        if quantization == UNQUANTIZED:
            return self._score_loaded_base(job, log)
        plain, reason = self._score_unquantized(job, log)
        scores = self._score_loaded_base(job, log, quantization)
        effect = (
            QuantizationEffect(not_measured=reason) if reason else compare_quantized(plain, scores)
        )
        log.add_environment(effect.notes())
        return scores

    def _score_unquantized(
        self, job: AdapterJob, log: PhaseLog
    ) -> tuple[tuple["ItemScore", ...], str]:
        """Return the scores of the base as it is, or why there are none."""
        self._models.release()
        need = needed_bytes(job, self._settings, UNQUANTIZED)
        free = free_bytes(self._settings.device)
        if free is not None and need > free:
            return (), (
                f"the base that is not quantized needs {as_gigabytes(need)}, and the device has "
                f"{as_gigabytes(free)} free"
            )
        try:
            return self._score_loaded_base(job, log), ""
        except MachineError as error:
            return (), str(error)

    def _score_loaded_base(
        self, job: AdapterJob, log: PhaseLog, quantization: str = UNQUANTIZED
    ) -> tuple["ItemScore", ...]:
        from phi3_lora_qa.scoring.score_cache import ScoreCache
        from phi3_lora_qa.scoring.score_items import score_items

        base = self._models.load_untouched_base(job.require_base(), log, quantization)
        engine = self._models.engine_of(base.ref)
        cache = None
        if self._settings.cache_scores == "on":
            checksum = self._models.original_checksum(base.ref, quantization)
            conditions = _cache_conditions(base, checksum, engine)
            cache = ScoreCache(cache_folder() / "scores", conditions)
        scorer = partial(score_items, base.model, base.tokenizer, job.items, cache=cache)
        phase = "score base" + ("" if quantization == UNQUANTIZED else f" in {quantization}")
        scores = self._score(phase, log, scorer)
        hits, trouble = (cache.hits, cache.write_error) if cache else (0, "")
        lost = f", and new scores cannot be cached ({escape(trouble, 200)})" if trouble else ""
        notes = {"base_scores_cached": f"{hits} of {len(scores)}{lost}", "engine": engine.name}
        notes |= {"engine_fallback": engine.fallback} if engine.fallback else {}
        log.add_environment(notes)
        return scores

    def _score(
        self, phase: str, log: PhaseLog, scorer: Callable[..., tuple["ItemScore", ...]]
    ) -> tuple["ItemScore", ...]:
        """Call a scorer with options and a progress report; log its time and tokens."""
        from phi3_lora_qa.scoring.score_items import ScoringOptions

        scores: tuple[ItemScore, ...] = ()
        options = ScoringOptions(seed=self._settings.seed, engine=self._settings.engine)

        def report(_: str, done: int, total: int) -> None:
            log.on_progress(f"{phase}, {log.name}", done, total)

        with log.timed(phase, lambda: sum(score.tokens for score in scores)):
            scores = scorer(options, report)
        return scores


def _key(job: AdapterJob) -> tuple[str, tuple[Item, ...]]:
    return job.base.id if job.base else "", job.items


def _cache_conditions(
    base: "LoadedBase", checksum: str, engine: "EngineChoice"
) -> dict[str, object]:
    """Return everything besides an item that the base's score of it depends on."""
    import torch

    from phi3_lora_qa.scoring.prepacked_linear import matmul_backends

    return {
        "base": checksum,
        "config": base.model.config.to_json_string(use_diff=False),
        "generation": base.model.generation_config.to_json_string(use_diff=False),
        "versions": {name: version(name) for name in ("phi3-lora-qa", "torch", "transformers")},
        "processor": torch.backends.cpu.get_cpu_capability(),
        "products": dict(matmul_backends(base.model, engine.name)),
        "threads": torch.get_num_threads(),
        **_device_conditions(base.model),
        **({"engine": engine.name} if engine.name != "fast" else {}),
    }


def _device_conditions(model: Any) -> dict[str, object]:
    """Return what a score depends on besides the model's numbers: where and how it is computed."""
    import torch

    from phi3_lora_qa.models.devices import devices_of, hardware_name
    from phi3_lora_qa.models.quantized_base import is_quantized_here

    devices = devices_of(model)
    found: dict[str, object] = {"devices": [(name, hardware_name(name)) for name in devices]}
    found["dtype"] = str(model.dtype)
    if any(name.startswith(CUDA) for name in devices):
        precision = torch.get_float32_matmul_precision()
        found["cuda"] = [torch.version.cuda, torch.version.hip, precision]
    if is_quantized_here(model):
        found["bitsandbytes"] = version("bitsandbytes")
    return found
