"""The settings of the engine."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sia_torch.defaults import micro_tokens_of, temperature_of


class Settings(BaseModel):
    """Settings of the engine ``torch``.

    Attributes
    ----------
    policy : ``tiny``, or a pretrained causal LM: ``smollm2``, ``gguf:PATH`` or ``hf:ID`` (:mod:`sia_torch.pretrained`).
    seed : of the weights that start at random.
    rank, alpha : of LoRA.
    targets : names of the linear maps to train; by default those inside attention.
    experts : train a GptOss's experts too: at rank 32, 2.15 billion parameters more for the 120B model.
    chat : how turns are written: by the tokenizer's ``template``, or in gpt-oss's format, ``harmony``.
    effort : of reasoning, which harmony tells the model.
    device : ``cpu``, ``cuda`` or ``cuda:N``; by default a GPU where there is one.
    dtype : that a pretrained base computes in; ``auto`` is bfloat16 where the processor or card
        multiplies it natively. ``tiny``, the adapter and the optimizer are float32 always.
    temperature : of sampling and of training's log-probabilities alike; by default 1 for ``tiny`` and
        harmony, and 0.7 for other pretrained models.
    processes : of one machine that sample and train together, each with the whole base; on GPUs a card each.
    shard : divide the base's layers among the processes; each holds a part of every layer. On a CPU.
    rows : samples that are decoded side by side; a batch is filled up to it where rounding depends on that.
    prefill_rows : prompts that are computed side by side.
    micro_tokens : the most positions of a training micro-batch: by default 2,048 for a pretrained model on a CPU,
        else 8,192.
    vocabulary_chunk : logits are computed for this many ids at a time.
    checkpointing : recompute activations in the backward pass instead of keeping them.
    tolerance : the largest mean difference of log-probabilities between sampler and trainer, in nats; by
        default what rounding explains: 0.002 in float32 and 0.06 in bfloat16, over the temperature.
    tiny : fields of the tiny policy's configuration, such as ``hidden_size``.
    base_text : a file of plain text that ``tiny`` is trained on before it is a base; by default none.
    base_steps : for how many steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str = "tiny"
    seed: int = 0
    rank: int = Field(default=32, ge=1)
    alpha: int = Field(default=32, ge=1)
    targets: tuple[str, ...] = ()
    experts: bool = False
    chat: Literal["template", "harmony"] = "template"
    effort: Literal["low", "medium", "high"] = "low"
    device: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    temperature: float = Field(default_factory=temperature_of, gt=0)
    processes: int = Field(default=1, ge=1)
    shard: bool = False
    rows: int = Field(default=32, ge=1)
    prefill_rows: int = Field(default=4, ge=1)
    micro_tokens: int = Field(default_factory=micro_tokens_of, ge=1)
    vocabulary_chunk: int = Field(default=16384, ge=1)
    checkpointing: bool = False
    tolerance: float | None = Field(default=None, gt=0)
    tiny: dict[str, Any] = Field(default_factory=dict)
    base_text: str = ""
    base_steps: int = Field(default=300, ge=1)

    @model_validator(mode="after")
    def _can_be_divided(self) -> Settings:
        if self.shard and self.processes == 1:
            raise ValueError("shard=true divides a base among processes: set processes=2 or more, too")
        if self.shard and self.policy == "tiny":
            raise ValueError("shard=true divides a pretrained base; tiny is held whole by each process")
        if self.shard and self.device != "cpu" and (self.device or torch.cuda.is_available()):
            raise ValueError("shard=true was tried on a CPU alone: set device=cpu, too")
        return self
