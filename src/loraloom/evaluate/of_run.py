"""A run that generates the images it is scored by: which prompts, which dataset, which roles.

In: a run or an adapter file, perhaps references. Out: a plan that says what there will be to score before a model is
opened, and then the samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.config.comparing import read_run
from loraloom.config.domains import open_domain
from loraloom.config.evaluate import EvaluateConfig
from loraloom.config.generate import MAX_SEED, GenerateConfig
from loraloom.evaluate.generating import ADAPTER_ON, UNRELATED, generate_role, requests_of, set_scale, without_trigger
from loraloom.evaluate.inputs import References, read_references
from loraloom.evaluate.probing import probes
from loraloom.evaluate.sharing import end_of_share
from loraloom.generate.prompt_sets import find_prompts, read_prompts
from loraloom.generate.session import Session, open_session
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.prompts.notes import Losses
from loraloom.protocols.evaluation import ROLE_NAMES, Available, EvaluationMetric, Role, Sample
from loraloom.protocols.model import ModelSource
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress
from loraloom.utils.rng import permutation
from loraloom.utils.untrusted import is_file, is_there

RUN_FILE = "run.yaml"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImages:
    """What is to be generated and scored.

    Attributes:
        config: Settings of the evaluation.
        file: The adapter.
        base: Source of the model; None where nobody knows.
        model: The same, where the user named it.
        domain: Name of the prompts' domain; None is the adapter's.
        references: With held-out images where there are some.
        prompts: That are generated.
        trigger: Word of the adapter; empty without one.
        captions: For probes: each with whether it was held out.
        prompts_are: What the prompts are, for people.
    """

    config: EvaluateConfig
    file: AdapterFile
    base: str | None
    model: str | None
    domain: str | None
    references: References
    prompts: tuple[str, ...]
    trigger: str
    captions: tuple[tuple[str, bool], ...]
    prompts_are: str

    @property
    def has_trigger(self) -> bool:
        """Whether some prompt has the trigger word in it."""
        return any(without_trigger(prompt, self.trigger) != prompt for prompt in self.prompts)

    def available(self) -> Available:
        """What there will be to score."""
        images = len(self.prompts) * self.config.seeds_per_prompt
        counts: dict[str, int] = {"generated": images, "base": images, "probe": len(self.captions)}
        counts |= {"drift": len(UNRELATED), "drift_base": len(UNRELATED)}
        if self.has_trigger:
            counts |= {"no_trigger": images, "no_trigger_base": images}
        for role in ("reference", "held_out"):
            counts[role] = sum(sample.role == role for sample in self.references.samples)
        domain = open_domain(self._domain, self.file.record.get("domain_settings", {}))
        return Available(
            counts=counts,
            prompts=images,
            most_seeds=self.config.seeds_per_prompt,
            verifies=domain.verifier is not None,
        )

    @property
    def _domain(self) -> str:
        return self.domain or str(self.file.record.get("domain", "freetext"))

    def open(self, losses: Losses) -> Session:
        """The model with the adapter, ready to generate."""
        config = self.config
        settings = GenerateConfig(
            num_images=config.seeds_per_prompt,
            seed=config.seed,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            batch_size=config.batch_size,
            mixed_precision=config.mixed_precision,
            strict=config.strict,
        )
        return open_session(
            settings,
            source=ModelSource(location=self.model) if self.model else None,
            adapters=[(self.file.path, config.adapter_weight)],
            domain=self.domain,
            changing=True,
            say=losses.say,
        )

    def samples(
        self,
        session: Session,
        out: Path,
        metrics: Sequence[EvaluationMetric],
        losses: Losses,
        bar: Callable[[str], Progress],
        say: Say,
    ) -> list[Sample]:
        """References, and of the rest what the metrics read; `base` also as the anchor of `generated`."""
        roles: set[Role] = {role for metric in metrics for role in metric.roles}
        if "generated" in roles:
            roles |= {"base", "held_out"}
        samples = [sample for sample in self.references.samples if sample.role in roles]
        asked: list[Role] = [role for role in ADAPTER_ON if role in roles]
        for role in asked:
            if role in ("no_trigger", "no_trigger_base") and not self.has_trigger:
                continue
            requests = requests_of(session, role, self.prompts, self.trigger, bar(f"{ROLE_NAMES[role]}: texts"))
            if role == "generated":  # the other roles lack the trigger on purpose, or repeat these prompts
                losses.add(*session.losses(requests))
                losses.check()
            set_scale(session, self.config.adapter_weight if ADAPTER_ON[role] else 0.0)
            samples += generate_role(
                session, role, requests, out / "images" / role, bar(f"{ROLE_NAMES[role]}: denoiser steps"), say
            )
        end_of_share()
        if "probe" in roles:
            weight, progress = self.config.adapter_weight, bar("captions that the denoiser is asked about")
            samples += probes(session, self.captions, weight, self.config.seed, progress)
        return samples

    def facts(self) -> dict[str, str]:
        """For the record: what was scored."""
        facts = {"adapter": f"{self.file.path} (sha256 {self.file.sha256[:12]})", "base": self.base or "not known"}
        if self.references.manifest:
            facts["dataset"] = str(self.references.manifest.folder)
        facts["trigger"] = self.trigger or "none"
        facts["prompts are"] = self.prompts_are
        return facts


def plan_run(
    config: EvaluateConfig,
    lora: Path,
    base: str | None,
    domain: str | None,
    references: References,
    losses: Losses,
    prompts_file: Path | None = None,
    *,
    add_triggers: bool = False,
) -> RunImages:
    """What a run will be scored by.

    Args:
        config: Settings.
        lora: Run, checkpoint folder or adapter file.
        base: Model; None takes the adapter's.
        domain: Domain of the prompts; None takes the adapter's.
        references: What was named; empty takes the run's dataset.
        losses: Takes a line for what is not used as it was given.
        prompts_file: Prompts, or the name of a built-in set; None takes captions.
        add_triggers: Whether the trigger word is added to prompts of a file that lack it.

    Raises:
        UserError: No adapter there, its dataset is gone and no other was named, or there are no captions to generate.
    """
    if config.seed + config.seeds_per_prompt - 1 > MAX_SEED:
        raise UserError("--seed is too large for --num-seeds", got=config.seed, expected=f"seeds up to {MAX_SEED:,}")
    file = read_adapter(lora)
    record: Mapping[str, Any] = file.record
    if not references.samples:
        references = read_references(dataset_of(lora), losses)
    if references.manifest and record.get("dataset") not in (None, references.manifest.fingerprint):
        losses.add(f"note: {references.manifest.folder} is not as it was when the adapter was trained, or another one")
    captions = {
        held: list(
            dict.fromkeys(sample.prompt for sample in references.samples if sample.prompt and sample.role == role)
        )
        for role, held in (("reference", False), ("held_out", True))
    }
    trigger = str(record.get("trigger") or references.info.get("trigger") or "")
    if prompts_file is not None:
        read = read_prompts(find_prompts(str(prompts_file)))
        prompts = list(dict.fromkeys(_with_trigger(text, trigger) if add_triggers else text for text in read))
        if len(prompts) < len(read):
            losses.add(f"note: {len(read) - len(prompts):,} prompts of {prompts_file} are there twice and count once")
        prompts_are = f"of {prompts_file}"
        if config.num_prompts != type(config).model_fields["num_prompts"].default:
            losses.add(f"note: --num-prompts is not used: all prompts of {prompts_file} are")
    else:
        prompts, prompts_are = _captions(config, captions, losses)
    asked = [
        (captions[held][place], held)
        for held in (False, True)
        for place in permutation(len(captions[held]), "evaluate", "probes", str(held), config.seed)[: config.num_probes]
    ]
    return RunImages(
        config=config,
        file=file,
        base=base or str((record.get("base") or {}).get("source") or "") or None,
        model=base,
        domain=domain,
        references=references,
        prompts=tuple(prompts),
        trigger=trigger,
        captions=tuple(asked) if references.manifest else (),
        prompts_are=prompts_are,
    )


def _captions(config: EvaluateConfig, captions: Mapping[bool, Sequence[str]], losses: Losses) -> tuple[list[str], str]:
    """Some captions as prompts, held-out ones where there are any, and what they are."""
    usable = captions[True] or captions[False]
    if not usable:
        raise UserError(
            "there are no prompts to generate: the references have no captions",
            fix="name a prepared dataset with --reference, or prompts with --prompts-file",
        )
    if not captions[True]:
        losses.say("note: no caption is held out: the prompts are captions that the adapter may have been trained on")
    chosen = [usable[place] for place in permutation(len(usable), "evaluate", "prompts", config.seed)]
    prompts = chosen[: config.num_prompts]
    if len(prompts) < config.num_prompts:
        losses.say(f"note: {counted(len(prompts), 'prompt')}, not {config.num_prompts:,}: there are no more captions")
    return prompts, "held-out captions" if captions[True] else "captions of the references: none is held out"


def _with_trigger(prompt: str, trigger: str) -> str:
    return f"{trigger}, {prompt}" if trigger and trigger.lower() not in prompt.lower() else prompt


def dataset_of(lora: Path) -> Path:
    """The dataset of a run, by its settings.

    Raises:
        UserError: No settings there, or the dataset is gone.
    """
    folder = lora if lora.is_dir() else lora.parent
    file = next(
        (place / RUN_FILE for place in (folder, *folder.resolve().parents[:2]) if is_file(place / RUN_FILE)), None
    )
    if file is None:
        raise UserError(
            "nobody says which dataset this adapter was trained on",
            got=str(lora),
            fix="name it, or a folder of images, with --reference",
        )
    named = read_run(file).data.dataset
    for place in (Path(named), file.parent / named):
        if named and is_there(place):
            return place
    raise UserError(
        "the dataset of this run is gone", got=named, fix="name it, or a folder of reference images, with --reference"
    )
