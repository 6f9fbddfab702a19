"""A small language model of Python code, trained once on the sources of packages: nothing is downloaded.

    python benchmarks/language_model.py

It is built like Llama (transformers' own class): rotary embeddings, RMSNorm, gated MLPs, queries in groups of three
that share keys and values; 11 million parameters, so that the file in half precision stays under 25 MB. It learns
from the Python files of torch (which the calibration text is drawn from, too) and is tested on those of networkx, which
other people wrote. Two hours on one busy core; goes on where it was stopped. Prints the perplexity on pieces of both,
and keeps the weights in benchmarks/models.
"""

from __future__ import annotations

import json
import math
import random
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import record
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "language_model"
MODELS = record.HERE / "models"
WEIGHTS, TOKENIZER = MODELS / f"{NAME}.safetensors", MODELS / f"{NAME}_tokenizer.json"
TOKENS, CONTEXT = 4096, 256
STEPS, WARM, RATE = 2600, 100, 2e-3
BATCHES, BATCH = 2, 4
"""So many pieces go through at once, and so often before a step: more at once are slower here."""


def files(package: str, seed: int = 0) -> list[str]:
    """The Python files of an installed package, in an order of their own."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.rglob("*.py"))
    random.Random(seed).shuffle(found)
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in found]
    return [text for text in texts if len(text) > 500]


def tokenizer() -> Tokenizer:
    """Pairs of bytes merged, as torch's sources have them; learned once."""
    if TOKENIZER.exists():
        return Tokenizer.from_file(str(TOKENIZER))
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=["<file>"], initial_alphabet=alphabet)
    found.train_from_iterator(files("torch"), trainer)
    found.save(str(TOKENIZER))
    return found


@cache
def _stream(package: str) -> Tensor:
    """All its files as one row of token numbers, each begun by `<file>`."""
    kept = record.HERE / "runs" / NAME / f"{package}.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        coded = tokenizer().encode_batch(["<file>" + text for text in files(package)])
        row = torch.tensor([number for each in coded for number in each.ids], dtype=torch.int32)
        save_file({"tokens": row}, kept)
    return load_file(kept)["tokens"].long()


def drawn(package: str, examples: int, seed: int, length: int = CONTEXT) -> Tensor:
    """Pieces of its sources from anywhere, [examples, length]."""
    row = _stream(package)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(row) - length, (examples,), generator=generator)
    return row[starts[:, None] + torch.arange(length)]


class LanguageModel(nn.Module):
    """Logits of the next token [N, T, tokens]."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=TOKENS, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, use_cache=False,
            attn_implementation="eager",
        )  # fmt: skip
        self.llama = LlamaForCausalLM(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token numbers [N, T]."""
        logits: Tensor = self.llama(input_ids=input_ids).logits
        return logits


def trained() -> nn.Module:
    """The committed model, in eval mode."""
    model = LanguageModel()
    state = {name: value.float() for name, value in load_file(WEIGHTS).items()}
    model.load_state_dict({**state, "llama.lm_head.weight": state["llama.model.embed_tokens.weight"]})
    return model.eval()


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """Of each next token, in pieces [N, T]."""
    losses = [F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()) for x in tokens.split(10)]
    return math.exp(torch.stack(losses).mean())


def _rate(step: int) -> float:
    """Warm up, stay, and cool down linearly over the last two fifths."""
    return min((step + 1) / WARM, 1.0, (STEPS - step) / (0.4 * STEPS))


def train() -> None:
    """From nothing, or from where it was stopped."""
    torch.manual_seed(0)
    model = LanguageModel().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    kept, first, began = record.HERE / "runs" / NAME / "training.pt", 0, time.time()
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, STEPS):
        optimizer.param_groups[0]["lr"] = RATE * _rate(step)
        total = 0.0
        for x in drawn("torch", BATCHES * BATCH, seed=step).split(BATCH):
            loss = F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()) / BATCHES
            loss.backward()
            total += float(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}/{STEPS}: loss {total:.3f}, {time.time() - began:.0f} s", flush=True)
        if step % 100 == 99:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, kept)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if "lm_head" not in name}
    save_file(state, WEIGHTS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if not WEIGHTS.exists():
        train()
    found = {name: perplexity(trained(), drawn(name, 200, seed=1)) for name in ("torch", "networkx")}
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))
