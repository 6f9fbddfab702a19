"""What docs/transformers.md says works as it stands, on tiny networks of the same classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import secateur as sc

PAGE = Path(__file__).parents[1] / "docs" / "transformers.md"
WORDS = [f"w{number}" for number in range(60)]


def encoder(folder: Path) -> None:
    """A BERT and its tokenizer."""
    config = transformers.BertConfig(
        vocab_size=65, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def vit(folder: Path) -> None:
    """A vision transformer of two blocks."""
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=5,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)


def decoder(folder: Path) -> None:
    """A Llama of two blocks, two queries to a key, whose embedding is tied."""
    config = transformers.LlamaConfig(
        vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def blocks() -> dict[str, str]:
    """The page's code, by the folder that its search is kept in."""
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return {re.search(r'folder="runs/(\w+)"', block)[1]: block for block in found}  # type: ignore[index]


@pytest.mark.parametrize("build", [encoder, vit, decoder])
def test_the_page_runs(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "tiny")
    code = re.sub(r'name = ".*"', f"name = {json.dumps(str(tmp_path / 'tiny'))}", blocks()[build.__name__])
    code = code.replace("trials=30", "trials=3").replace("200", "20").replace("-100", "-20").replace("-50", "-20")
    names: dict[str, Any] = {
        "sc": sc,
        "sentences": [" ".join(WORDS[(i * j) % 60] for j in range(2, 4 + i % 9)) for i in range(60)],
        "images": torch.randn(60, 3, 16, 16),
        "token_numbers": torch.randint(3, 80, (60, 12)),
    }
    exec(code, names)
    study, small = names["study"], names["small"]
    assert study.best.outcome.costs.macs <= study.dense.costs.macs * (0.5 if build is encoder else 0.75)
    assert sum(x.numel() for x in small.parameters()) < study.dense.costs.params
    files = {"encoder": "encoder.onnx", "vit": "vit.onnx", "decoder": "decoder.safetensors"}
    assert (tmp_path / files[build.__name__]).exists()


def test_grouped_queries_and_gated_widths_are_sites_and_a_tied_embedding_stays(tmp_path: Path) -> None:
    decoder(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, use_cache=False).eval()
    tokens = torch.randint(3, 80, (40, 12))
    graph = sc.inspect(model, {"input_ids": tokens[:1]})
    roles = {group.role for group in graph.prunable}
    assert {"heads", "query and key dims", "value dims", "features"} <= roles
    plan = {group.key: 0.5 for group in graph.prunable if "embed" not in group.key and group.role != "heads"}
    small = sc.prune(model, {"input_ids": tokens[:1]}, plan, calibration=[{"input_ids": tokens}])
    assert torch.equal(small.lm_head.weight, model.lm_head.weight) or small.lm_head.weight.shape[1] < 32
    assert small.lm_head.weight is small.model.embed_tokens.weight
