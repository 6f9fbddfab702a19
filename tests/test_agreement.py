"""Agreement compares networks by what they answer: 1 where they answer the same, less by what matters of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from networks import settled
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.answers import Likeness, cosine, parts_of
from secateur.graph import as_inputs
from secateur.prune import Calibration, disagreement
from secateur.run.score import Staged


class Says(nn.Module):
    """Answers by what `answer` makes of its inputs and of a number that can be changed."""

    def __init__(self, answer: Callable[..., Any], number: float = 0.0) -> None:
        super().__init__()
        self.answer, self.number = answer, nn.Parameter(torch.tensor(number))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer(self.number, *args, **kwargs)


def scores(answer: Callable[..., Any], inputs: Any, *numbers: float, **options: Any) -> list[float]:
    """Of networks with these numbers, how far they agree with the one whose number is 0."""
    evaluate = sc.agreement(Says(answer), inputs, **options)
    return [evaluate(Says(answer, number)) for number in numbers]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- classes ---------------------------------------------------------------------------------------------------------


@dataclass
class Named:
    logits: Tensor
    hidden: Tensor


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "dict": lambda y: {"loss": y.mean(), "logits": y, "hidden": 100 * y[:, :1] ** 3},
    "dataclass": lambda y: Named(y, 100 * y[:, :1] ** 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_of_logits_it_is_their_cosine_about_the_mean_to_the_bit(form: str) -> None:
    def logits(number: Tensor | float, x: Tensor) -> Tensor:
        return torch.tanh(x @ drawn(6, 5)) + number * torch.sin(x @ drawn(6, 5, seed=1))

    def answer(number: Tensor, x: Tensor) -> Any:
        return FORMS[form](logits(number, x))

    x, found = drawn(250, 6), []
    dense = torch.cat([logits(0.0, part) for part in x.split(100)])
    for piece in torch.randperm(250, generator=torch.Generator().manual_seed(0)).split(100):
        mine, wanted = (y - y.mean(1, keepdim=True) for y in (logits(torch.tensor(0.3), x[piece]), dense[piece]))
        found.append(F.cosine_similarity(mine, wanted))
    evaluate = sc.agreement(Says(answer), x)
    *_, values = evaluate.stages(Says(answer, 0.3))
    assert isinstance(evaluate, Staged)
    assert np.array_equal(values, torch.cat(found).numpy())
    assert 0.5 < values.mean() < 0.99


def test_vectors_have_a_direction_and_logits_only_differences() -> None:
    def raised(name: str) -> Callable[[Tensor, Tensor], Any]:
        return lambda number, x: {name: (x + number) * (1 + number)}

    x = drawn(40, 8)
    assert scores(raised("logits"), x, 0.0, 3.0) == pytest.approx([1, 1], abs=1e-6)
    same, other = scores(raised("pooler_output"), x, 0.0, 3.0)
    assert same == pytest.approx(1, abs=1e-6)
    assert other == pytest.approx(float(F.cosine_similarity(x, x + 3).mean()), abs=1e-5)


def test_what_points_nowhere_is_the_same_as_itself() -> None:
    def cut_off(number: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"embeds": F.relu(x + number)}

    x = drawn(40, 8).abs() * torch.tensor([[1.0], [-1.0]] * 20)
    same, other = scores(cut_off, x, 0.0, 0.5)
    assert same == pytest.approx(1)
    assert other < 0.6


def test_pixels_are_compared_class_by_class_and_helping_heads_not_at_all() -> None:
    def segments(number: Tensor, x: Tensor) -> dict[str, Tensor]:
        levels = number * x.square().sum(1, keepdim=True)  # of all classes alike
        return {"out": x + levels, "aux": x + 100 * number}

    x = drawn(10, 4, 6, 6)
    assert scores(segments, x, 0.0, 2.0) == pytest.approx([1, 1], abs=1e-5)
    assert scores(lambda n, x: {"out": x + n * x.flip(1)}, x, 1.0)[0] < 0.95
    assert scores(lambda n, x: x + n * x.square().sum(1, keepdim=True), x, 2.0)[0] < 0.5, "a bare map has no classes"
    assert scores(lambda n, x: x + n * x.square().sum(1, keepdim=True), x, 2.0, by="logits") == pytest.approx([1])


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda y: y[:, 0], lambda y: y[:, :1], lambda y: {"price": y[:, 0]}])
def test_numbers_are_compared_at_the_scale_of_all_examples(form: Callable[[Tensor], Any]) -> None:
    x = 1000 + 50 * drawn(130, 1)
    found = scores(lambda number, x: form(x * (1 + number)), x, 0.0, 0.02, 100.0)
    wanted = 1 / (1 + (0.02 * x[:, 0]).square() / x[:, 0].var(unbiased=False))
    assert found[0] == 1
    assert found[1] == pytest.approx(float(wanted.mean()), rel=1e-4)
    assert 0 < found[2] < 1e-3


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_what_never_varies_is_at_the_scale_of_its_size(level: float) -> None:
    found = scores(lambda number, x: level + 0 * x[:, 0] + number, drawn(30, 2), 0.0, 1e-6, 1.0)
    assert found[0] == 1
    assert found[2] < 1e-4
    assert math.isfinite(found[1])
    assert found[1] > 0.99 or level == 0


def test_every_channel_counts_at_its_own_scale() -> None:
    scale = torch.tensor([1e-4, 1.0, 1e3, 0.0])[:, None]  # the last is a class that never occurs

    def head(number: Tensor, x: Tensor) -> Tensor:
        changed = (torch.arange(4) == number - 1)[:, None]
        return x * scale + 0.5 * changed * scale.clamp_min(1e-9) * x[:, [0, 1, 2, 2]].flip(2)

    same, small, middle, large, idle = scores(head, drawn(60, 4, 25), 0.0, 1.0, 2.0, 3.0, 4.0)
    assert same == 1
    assert small == pytest.approx(large, abs=0.01)
    assert middle == pytest.approx(large, abs=0.01)
    assert 0.9 < large < 0.97, "a quarter of 1 / (1 + 1/4), and the others are the same"
    assert idle >= 0.75, "it takes away its own share alone"


# ---- tokens ----------------------------------------------------------------------------------------------------------


def texts(examples: int = 30, length: int = 9, words: int = 40) -> dict[str, Tensor]:
    """Of different lengths; 0 pads."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, length + 1, (examples, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return {
        "input_ids": torch.randint(1, words, (examples, length), generator=generator) * mask,
        "attention_mask": mask,
    }


TABLE = drawn(40, 12)


def encoder(name: str, padding: bool) -> Callable[..., Any]:
    """Changed by its number where tokens are padded, or where they are not; a vector for each token and each text."""

    def answer(number: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        mask = (input_ids > 0)[..., None]
        x = TABLE[input_ids]
        moved = torch.where(~mask if padding else mask, x + number * x.roll(1, 0).roll(1, 2), x)
        return {name: moved, "pooler_output": (x * mask).sum(1), "past_key_values": 100 * number + x}

    return answer


@pytest.mark.parametrize("name", ["last_hidden_state", "logits"])
def test_padded_tokens_do_not_count(name: str) -> None:
    inputs = texts()
    assert scores(encoder(name, padding=True), inputs, 0.0, 3.0) == pytest.approx([1, 1], abs=1e-5)
    assert scores(encoder(name, padding=False), inputs, 1.0)[0] < 0.9
    assert scores(encoder(name, padding=True), {"input_ids": inputs["input_ids"]}, 3.0)[0] < 0.9
    data = Calibration(as_inputs(inputs))
    padded, inside = (Says(encoder(name, padding=each), 3.0) for each in (True, False))
    dense = Says(encoder(name, padding=True))
    assert disagreement(padded, dense, data) == pytest.approx(0, abs=1e-5)
    assert disagreement(inside, dense, data) > 0.1


def test_tokens_count_alike_within_a_text_and_texts_alike() -> None:
    inputs = texts()
    x = TABLE[inputs["input_ids"]]
    other = x + x.roll(1, 2)
    cosines = zip(F.cosine_similarity(x, other, dim=-1), inputs["attention_mask"] > 0, strict=True)
    wanted = torch.stack([each[counts].mean() for each, counts in cosines])
    given = as_inputs(inputs)
    torch.testing.assert_close(Likeness.to({"": x}, given)({"": other}, {"": x}, given), wanted)
    assert scores(lambda n, input_ids, **_: TABLE[input_ids] + n * TABLE[input_ids].roll(1, 2), inputs, 1.0) == [
        pytest.approx(float(wanted.mean()))
    ]


def test_the_next_word_is_compared_by_its_distribution_kept_in_half_the_room() -> None:
    words = 3000
    table, other = (5 * drawn(40, words, seed=seed) - 100 for seed in (3, 4))
    table[:, ::7] = -torch.inf  # words that never come

    def writer(number: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        return {"logits": table[input_ids] + number * other[input_ids], "past_key_values": ((input_ids.float(),),)}

    inputs = texts(12)
    x, y = table[inputs["input_ids"]].double(), other[inputs["input_ids"]].double()
    mask = inputs["attention_mask"]
    for number in (0.0, 0.03, 0.1, 0.3):
        p, q = (torch.log_softmax(each, -1) for each in (x, x + number * y))
        apart = torch.where(p.isinf(), 0, p.exp() * (p - q)).sum(-1)
        wanted = torch.exp(-(apart * mask).sum(1) / mask.sum(1))
        evaluate = sc.agreement(Says(writer), inputs)
        *_, values = evaluate.stages(Says(writer, number))
        order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(torch.tensor(values).double(), wanted[order], atol=1e-3, rtol=0)
        assert number or values.min() > 1 - 1e-5
    assert evaluate._measure._kept["logits"].dtype == torch.half
    assert 0.05 < values.mean() < 0.9


def test_places_in_a_text_are_chosen_among_its_own_tokens() -> None:
    def answer(number: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = TABLE[input_ids][..., 0]
        return {"start_logits": torch.where(input_ids > 0, x, x + number * drawn(*x.shape, seed=5))}

    inputs = texts()
    assert scores(answer, inputs, 0.0, 3.0) == pytest.approx([1, 1], abs=1e-6)


def test_a_number_for_each_token_is_no_distribution() -> None:
    """A softmax over one class is 1 whatever it is of."""
    found = scores(lambda n, ids: {"logits": TABLE[ids][..., :1] * (1 + n)}, (texts()["input_ids"],), 0.0, 1.0)
    assert found[0] == 1
    assert found[1] < 0.8


def test_a_decoder_goes_by_its_own_mask() -> None:
    def translator(number: Tensor, input_ids: Tensor, attention_mask: Tensor, **more: Tensor) -> dict[str, Tensor]:
        mine = more["decoder_input_ids"]
        late = (torch.arange(9) == 8)[:, None]
        return {"last_hidden_state": TABLE[mine] + number * late * drawn(len(mine), 9, 12, seed=6)}

    inputs = texts()
    inputs["attention_mask"] = inputs["attention_mask"].clone()
    inputs["attention_mask"][:, 8] = 0  # of the text to translate, as long by chance
    inputs["decoder_input_ids"] = texts()["input_ids"].flip(0)
    assert scores(translator, inputs, 5.0)[0] < 0.95
    inputs["decoder_attention_mask"] = inputs["attention_mask"]
    assert scores(translator, inputs, 5.0)[0] == 1


def test_by_says_what_a_tensor_alone_is() -> None:
    inputs = (texts()["input_ids"],)

    def twice(number: Tensor, ids: Tensor) -> Tensor:
        return TABLE[ids] * (1 + number)

    assert scores(twice, inputs, 1.0) == pytest.approx([1], abs=1e-6)
    assert scores(twice, inputs, 1.0, by="vectors") == scores(twice, inputs, 1.0)
    assert 0.05 < scores(twice, inputs, 1.0, by="distributions")[0] < 0.9
    assert 0.3 < scores(twice, inputs, 1.0, by="values")[0] < 0.7
    x = drawn(50, 4)
    assert scores(lambda n, x: x + n, x, 1.0) == pytest.approx([1], abs=1e-6)
    assert scores(lambda n, x: x + n, x, 1.0, by="values") == pytest.approx([0.5], abs=0.1)
    with pytest.raises(sc.EvaluationError, match=r'by "logits" needs two numbers .* \[50\]: compare it by "values"'):
        scores(lambda n, x: x[:, 0], x, by="logits")
    with pytest.raises(sc.EvaluationError, match=r"goes by auto, logits, .* not by 'cosine'"):
        scores(lambda n, x: x, x, by="cosine")


# ---- detections ------------------------------------------------------------------------------------------------------


def boxes(*found: tuple[list[float], float, int]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
        "labels": torch.tensor([label for _, _, label in found], dtype=torch.long),
        "scores": torch.tensor([score for _, score, _ in found]),
        "masks": torch.rand(len(found), 1, 8, 8),
    }


LEFT, RIGHT, HALF = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [0.0, 0, 5, 10]
SEEN = boxes((LEFT, 0.9, 1), (RIGHT, 0.6, 2))


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (SEEN, 1),
        (boxes((RIGHT, 0.6, 2), (LEFT, 0.9, 1)), 1),
        (boxes(), 0),
        (boxes((LEFT, 0.9, 1)), 0.9 / 1.5),
        (boxes((LEFT, 0.9, 1), (RIGHT, 0.6, 3)), 0.9 / 2.1),
        (boxes((HALF, 0.9, 1), (RIGHT, 0.3, 2)), (0.45 + 0.3) / (1.5 + 1.2 - 1.2)),
        (boxes((LEFT, 0.9, 1), (RIGHT, 0.6, 2), (HALF, 0.5, 1)), 1.5 / 2.0),
    ],
)
def test_detections_are_matched_box_by_box(found: dict[str, Tensor], value: float) -> None:
    inputs = as_inputs([torch.rand(3, 8, 8)])
    wanted = parts_of([SEEN], inputs)
    likeness = Likeness.to(wanted, inputs)
    assert likeness(parts_of([found], inputs), wanted, inputs).tolist() == pytest.approx([value])


def test_a_box_is_matched_once_by_the_surest_first() -> None:
    inputs = as_inputs([torch.rand(3, 8, 8)])
    wanted, found = ({"detections": [each]} for each in (boxes((HALF, 0.3, 1), (LEFT, 0.9, 1)), boxes((LEFT, 0.9, 1))))
    assert Likeness.to(wanted, inputs)(found, wanted, inputs).tolist() == pytest.approx([0.9 / 1.2])


def test_detectors_of_images_of_any_size_are_compared() -> None:
    def detector(number: Tensor, images: list[Tensor]) -> list[dict[str, Tensor]]:
        nothing, point = boxes(), boxes(([1.0, 1, 1, 1], 0.5, 1), ([1.0, 1, 1, 1], 0.4, 1))
        seen = [boxes((LEFT, 0.9, 1), (RIGHT, 0.9, 1)) for _ in images]
        for each in seen:
            each["boxes"] = each["boxes"] + number
        return [
            point if len(x[0]) == 5 else nothing if len(x[0]) == 6 else y for x, y in zip(images, seen, strict=True)
        ]

    images = [torch.rand(3, 5 + number % 4, 7) for number in range(20)]
    same, moved, lost = scores(detector, images, 0.0, 5.0, 1000.0, batch=7)
    assert same == 1
    overlap = 25 / 175
    assert moved == pytest.approx(0.5 + 0.5 * overlap), "what is seen in half of the images has moved"
    assert lost == pytest.approx(0.5)
    data, dense = Calibration(as_inputs(images)), Says(detector)
    assert disagreement(dense, dense, data) == 0
    assert disagreement(Says(detector, 5.0), dense, data) == pytest.approx(1 - moved)
    with pytest.raises(sc.EvaluationError, match="finds no box in any image"):
        sc.agreement(Says(detector), [torch.rand(3, 6, 7) for _ in range(4)])


# ---- how answers are taken apart -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Tensor
    right: tuple[Tensor, dict[str, Tensor]]


def test_all_that_goes_by_examples_counts_alike() -> None:
    def answer(number: Tensor, x: Tensor) -> Pair:
        more = {"map": x[..., None] * 1e3, "loss": number * x[:, 0], "indices": x.long()}
        return Pair(x, (x[:, :1] * (1 + 9e3 * number), {**more, "table": drawn(3, 4) * number}))

    same, one_of_three = scores(answer, drawn(50, 5), 0.0, 1.0)
    assert same == pytest.approx(1, abs=1e-6)
    assert one_of_three == pytest.approx(2 / 3, abs=0.01)
    parts = parts_of(answer(torch.zeros(()), drawn(50, 5)), as_inputs(drawn(50, 5)))
    assert list(parts) == ["left", "right.0", "right.1.map"]


def test_what_compares_the_examples_of_a_batch_is_left_out() -> None:
    """They come in another order, and batch, each time."""

    def pairs(number: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"logits_per_image": x @ x.T, "embeds": x + number}

    x = drawn(100, 6)
    assert scores(pairs, x, 0.0, 0.0) == pytest.approx([1, 1])
    with pytest.raises(sc.EvaluationError, match=r"answers by a dict \(logits_per_image \[100, 100\] of float32\)"):
        scores(lambda n, x: {"logits_per_image": x @ x.T}, x)


def test_answers_in_a_list_one_an_example_are_stacked() -> None:
    def answer(number: Tensor, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"depth": x[:, :2, :2] * (1 + number), "size": torch.tensor(x.shape)} for x in images]

    same, other = scores(answer, [torch.rand(3, 4 + number % 3, 5) for number in range(9)], 0.0, 1.0)
    assert same == 1
    assert other < 0.5


def test_nodes_of_a_graph_are_one_example() -> None:
    def answer(number: Tensor, nodes: Tensor, edges: Tensor) -> Tensor:
        return nodes.index_add(0, edges[1], nodes[edges[0]]) + number * nodes.flip(1)

    edges = torch.randint(12, (2, 30), generator=torch.Generator().manual_seed(0))
    evaluate = sc.agreement(Says(answer), (drawn(12, 4), edges))
    assert [len(values) for values in evaluate.stages(Says(answer))] == [evaluate.examples] == [1]
    assert evaluate(Says(answer)) == pytest.approx(1)
    assert evaluate(Says(answer, 1.0)) < 0.95


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda n, x: "a text", "answers by a str: score it by a function of your own"),
        (lambda n, x: None, "answers by a NoneType: score it"),
        (lambda n, x: {"loss": x[:, 0], "mean": x.mean()}, r"answers by a dict \(mean \[\] of float32\)"),
        (lambda n, x: x.argmax(1), r"answers by a Tensor \(a tensor \[20\] of int64\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(answer: Callable[..., Any], says: str) -> None:
    with pytest.raises(sc.EvaluationError, match=says):
        scores(answer, drawn(20, 4))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda n, x: {"maps": x[..., : 3 + int(n)]}, r"by maps \[N, 3, 3\], and from the network .* maps \[N, 3, 4\]"),
        (lambda n, x: x if n else {"maps": x}, r"by maps \[N, 3, 5\], and from the network .* comes no maps: let"),
        (lambda n, x: None if n else x, r"by \[N, 3, 5\], and from the network .* comes no tensor alone: let"),
        (lambda n, x: [boxes()] * len(x) if n else x, r"comes no tensor alone"),
    ],
)
def test_networks_that_answer_otherwise_are_refused(answer: Callable[..., Any], says: str) -> None:
    with pytest.raises(sc.EvaluationError, match=says):
        scores(answer, drawn(20, 3, 5), 1.0)


def test_answers_of_another_shape_by_batch_are_refused() -> None:
    with pytest.raises(sc.EvaluationError, match=r"by \[N, 3\], and for some examples comes \[N, 2\]"):
        scores(lambda n, x: x[:, : 3 if len(x) == 4 else 2], drawn(10, 5), batch=4)


# ---- in a search -----------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Two layers of hidden units for each token, of which the second hardly matters; padded tokens come out wild."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(40, 12), nn.LayerNorm(12)
        self.busy, self.back = nn.Linear(12, 24), nn.Linear(24, 12)
        self.idle, self.home = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        x = x + self.back(F.gelu(self.busy(x)))
        x = self.norm(x + 0.03 * self.home(F.gelu(self.idle(x))))
        return {"last_hidden_state": x, "pooler_output": (x * attention_mask[..., None]).sum(1)}


def searched(inputs: dict[str, Tensor]) -> sc.Study:
    model = settled(Reader())
    return sc.search(
        model,
        {name: x[:2] for name, x in inputs.items()},
        evaluate=sc.agreement(model, inputs),
        calibration=[texts(60)],
        budget=sc.Budget(macs=0.6),
        searcher=sc.Random(seed=0),
        trials=25,
        settings=sc.SearchSettings(race=True, space=sc.SpaceSettings(streams=False)),
    )


def test_a_search_over_tokens_races_and_finds_what_matters() -> None:
    inputs = texts(400)
    study = searched(inputs)
    stopped = [trial for trial in study.succeeded if not trial.outcome.complete]
    assert stopped, "hopeless plans are looked at no further"
    assert all(trial.outcome.score < study.best.outcome.score for trial in stopped)
    assert study.best.plan["busy"] > study.best.plan["idle"] + 0.3
    assert 0.9 < study.best.outcome.score < 1
    spoilt = {**inputs, "input_ids": torch.where(inputs["attention_mask"] > 0, inputs["input_ids"], 39)}
    again = searched(spoilt)
    assert [trial.outcome.score for trial in again.trials] == [trial.outcome.score for trial in study.trials]


def test_rows_that_are_the_same_throughout_are_the_same() -> None:
    assert cosine(torch.zeros(2, 4), torch.zeros(2, 4)).tolist() == [1, 1]
    assert cosine(torch.full((2, 4), 3.0), torch.full((2, 4), 2.0)).tolist() == [0, 0]


def test_it_warns_of_a_network_that_does_not_agree_with_itself() -> None:
    class Mixes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / x.std(0))

    with pytest.warns(UserWarning, match="asked again in another batch"):
        sc.agreement(Mixes(6, 4), torch.randn(150, 6) * torch.arange(1, 151)[:, None])
