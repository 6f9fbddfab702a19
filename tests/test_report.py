import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from secateur.errors import StudyError
from secateur.plan import Budget, Costs, Outcome, Plan, Site, Trial
from secateur.report import FineTuneProgress, Report, Row, SearchProgress, headline, page, table, write
from secateur.report.figures import drawings, kept_per_site
from secateur.report.progress import small_bars
from secateur.report.table import runtimes_table
from secateur.report.wording import amount, duration, file_size, three_digits
from secateur.run import Study
from secateur.runtimes import Measured

DENSE = Costs(macs=1_000_000, params=10_000, bytes=40_000)
HALF = Costs(macs=498_000, params=5_500, bytes=22_000)


def a_report(sites=5):
    keys = tuple(f"layer{n}.conv1" for n in range(sites))
    plans = {"uniform": 0.5, "random": 0.6, "amc": 0.4}
    after = {"uniform": 0.9, "random": 0.91, "amc": 0.9789}
    rows = [Row("dense", {}, 0.99, 0.9831, None, DENSE, 41_000, 8.0)]
    for name, keep in plans.items():
        plan = dict.fromkeys(keys, keep)
        rows.append(Row(name, plan, 0.9, after[name] - 0.02, after[name], HALF, 23_000, 5.0))
    return Report(
        title="Digits",
        budget="50.0% of macs",
        made="2025-04-01T12:30:00+00:00",
        machine="2 cores",
        command="secateur compress job.toml",
        rows=tuple(rows),
        rewards={"amc": [-0.4, None, -0.1, -0.2], "random": [-0.3, -0.25, -0.3, -0.2]},
        sites=keys,
        layers=tuple((key, 1000, 400) for key in keys),
        left_alone=(("fc", "its outputs are the network's"), ("stream", "a residual stream")),
        history={"amc": [(0.5, 0.95), (0.4, None), (0.3, 0.97)]},
    )


def with_rows(report, **changes):
    return replace(report, rows=tuple(replace(row, **changes) for row in report.rows))


# ---- The values --------------------------------------------------------------------------------------------


def test_a_report_survives_json():
    report = a_report()
    raw = report.to_json()
    assert raw == json.loads(json.dumps(raw))
    assert Report.from_json(raw) == report


def test_a_report_survives_a_file(tmp_path):
    report = with_rows(a_report(), after=None, latency_ms=None, file_bytes=None, score=None)
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report


def edited(path, value):
    raw = a_report().to_json()
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "report = \\[\\]: give a table"),
        ({}, "report: the key 'title' is missing"),
        (edited(["extra"], 1), "unknown key 'extra'"),
        (edited(["title"], 3), "report.title = 3: give a text"),
        (edited(["rows", 1, "before"], "high"), "report.rows\\[1\\].before = 'high': give a number"),
        (edited(["rows", 1, "before"], True), "give a number"),
        (edited(["rows", 0, "costs", "macs"], 1.5), "costs.macs = 1.5: give a whole number"),
        (edited(["layers", 2], ["conv", 1]), "report.layers\\[2\\] has 2 values; give 3"),
        (edited(["rewards", "amc"], 0.5), "report.rewards.amc = 0.5: give a list"),
        (edited(["rows"], []), "compares nothing"),
    ],
)
def test_a_malformed_report_names_the_field(raw, message):
    with pytest.raises(StudyError, match=message):
        Report.from_json(raw)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"title": 1}'])
def test_a_damaged_file_is_named(tmp_path, content):
    place = tmp_path / "report.json"
    place.write_text(content)
    with pytest.raises(StudyError, match=r"report\.json"):
        Report.load(place)


def test_brackets_in_the_name_of_a_network_are_no_markup():
    text = StringIO()
    found = [Measured("dense", "torch", 1.0, 10), Measured("run[/x]", "torch", 0.5, 5)]
    Console(file=text, width=200).print(runtimes_table(found, 1))
    assert "run[/x]" in text.getvalue()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"cannot read the report .*none\.json"):
        Report.load(tmp_path / "none.json")


@pytest.mark.parametrize("names", [("amc", "dense"), ("dense",), ("dense", "amc", "amc")])
def test_rows_begin_with_dense_and_are_told_apart(names):
    report = a_report()
    with pytest.raises(StudyError, match="give the row 'dense' first"):
        replace(report, rows=tuple(replace(report.rows[0], name=name) for name in names))


def test_the_best_row_is_compared_fairly():
    report = a_report()
    assert report.best.name == "amc"
    # Only random was fine-tuned: what counts is where all stood before.
    rows = [replace(row, after=0.999 if row.name == "random" else None) for row in report.rows]
    assert replace(report, rows=tuple(rows)).best.name == "amc"


# ---- Words and the table -----------------------------------------------------------------------------------


def test_numbers_as_people_write_them():
    numbers = (0, 999, 1000, 99_940, 99_960, 999_400, 999_600, 125_485_706)
    assert [amount(n) for n in numbers] == ["0", "999", "1.0 k", "99.9 k", "100 k", "999 k", "1.0 M", "125 M"]
    assert [file_size(n) for n in (12, 3_435_973)] == ["12 B", "3.4 MB"]
    assert [three_digits(n) for n in (0.1234, 1.234, 12.34, 1234.0)] == ["0.123", "1.23", "12.3", "1234"]
    assert duration(3725.2) == "1:02:05"


def test_the_headline_says_what_was_asked_and_delivered():
    assert headline(a_report()) == (
        "Asked for at most 50.0 % of the MACs; delivered 49.8 % of the MACs and 55.0 % of the parameters, "
        "accuracy 98.31 → 97.89 %, 1.6× faster here."
    )


def test_latency_and_energy_say_who_tells_them():
    report = with_rows(a_report(), costs=replace(DENSE, latency_ms=10.0, energy_mj=2.0))
    last = replace(report.delivered, costs=replace(HALF, latency_ms=5.9, energy_mj=1.2))
    told = {"latency_ms": "the profile of a phone", "energy_mj": "an estimate, not a measurement"}
    report = replace(report, rows=(*report.rows[:-1], last), sources=told, budget="60.0% of latency_ms", measured=0.585)
    assert "Asked for at most 60.0 % of the latency_ms; delivered 59.0 % of the latency_ms, 49.8 %" in headline(report)
    shown, text = plain(rendered(table(report), 160)), page(report)
    for said in (shown, text):
        assert all(words in said for words in told.values())
        assert all(figure in said for figure in ("10.0", "5.90", "2.00", "1.20"))
        assert "measured here, the delivered network takes 58.5 %" in said.replace("Measured", "measured")
    assert Report.from_json(report.to_json()) == report


def test_the_headline_claims_nothing_that_was_not_measured():
    said = headline(with_rows(a_report(), latency_ms=None, after=None))
    assert "faster" not in said
    assert "without fine-tuning" in said
    report = a_report()
    slow = replace(report.delivered, latency_ms=16.0)
    assert "2.0× slower here" in headline(replace(report, rows=(*report.rows[:-1], slow)))


def rendered(renderable, width=80):
    out = StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="standard").print(renderable)
    return out.getvalue()


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_table_fits_eighty_columns_and_shows_every_figure():
    text = rendered(table(a_report()))
    lines = {line.split()[0]: line for line in plain(text).splitlines() if line.strip()}
    assert " ".join(lines["dense"].split()[1:]) == "98.31 – 1.0 M 100.0 10.0 k 100.0 41.0 kB 8.00 1.00"
    assert " ".join(lines["amc"].split()[1:]) == "95.89 97.89 498 k 49.8 5.5 k 55.0 23.0 kB 5.00 1.60"
    assert max(map(len, plain(text).splitlines())) <= 80


def test_a_row_as_wide_as_they_come_stays_whole():
    report, costs = a_report(), replace(HALF, macs=373_900, params=136_400)
    wide = replace(report.rows[-1], name="searched", costs=costs, file_bytes=161_100, latency_ms=0.657)
    (line,) = [x for x in plain(rendered(table(replace(report, rows=(report.dense, wide))))).splitlines() if "161" in x]
    assert re.sub(" +", " ", line.strip()) == "searched 95.89 97.89 374 k 37.4 136 k 1364.0 161 kB 0.657 12.18"


def test_the_best_pruned_row_is_bold():
    lines = [line for line in rendered(table(a_report())).splitlines() if "\x1b[1m" in line]
    names = {plain(line).split()[0] for line in lines}
    assert names & {"dense", "uniform", "random", "amc"} == {"amc"}


def test_a_column_that_nothing_fills_is_left_out():
    text = plain(rendered(table(with_rows(a_report(), latency_ms=None, file_bytes=None))))
    assert "latency" not in text
    assert "speed" not in text
    assert "file" not in text
    report = a_report()
    some = replace(report, rows=(*report.rows[:-1], replace(report.delivered, latency_ms=None)))
    last = next(line for line in plain(rendered(table(some))).splitlines() if line.startswith("amc"))
    assert last.split()[-4:] == ["23.0", "kB", "–", "–"]


def test_markup_in_a_name_is_only_text():
    report = a_report()
    odd = replace(report.delivered, name="[red]amc[/red]")
    assert "[red]amc[/red]" in plain(rendered(table(replace(report, rows=(*report.rows[:-1], odd))), 100))


# ---- Figures -----------------------------------------------------------------------------------------------


def texts(svg):
    root = ElementTree.fromstring(svg)
    return [element.text.strip() for element in root.iter() if element.tag.endswith("}text") and element.text]


def test_every_row_is_named_in_the_figure_of_the_plans():
    assert {"dense", "uniform", "random", "amc", "layer0.conv1"} <= set(texts(kept_per_site(a_report())))


def test_there_is_a_figure_for_whatever_there_is_to_show():
    report = a_report()
    assert [drawing.name for drawing in drawings(report)] == ["keeps", "rewards", "macs", "tuning"]
    assert [drawing.name for drawing in drawings(replace(report, history={"amc": [(0.5, None)]}))] == [
        "keeps",
        "rewards",
        "macs",
    ]
    assert drawings(replace(report, history={}, rewards={"amc": []}, layers=(), sites=())) == ()


def test_figures_are_the_same_each_time_and_carry_no_date():
    first, second = drawings(a_report()), drawings(a_report())
    assert first == second
    assert not any(re.search(r"metadata|dc:date|20\d\d-", drawing.svg) for drawing in first)


@pytest.mark.parametrize("sites", [1, 3, 100])
def test_labels_stay_readable_for_any_number_of_layers(sites):
    said = texts(kept_per_site(a_report(sites)))
    assert 1 <= sum(text.startswith("layer") for text in said) <= 50


def test_figures_bear_failures_and_odd_names():
    report = a_report()
    odd = replace(report.delivered, name='_<a & "b"> $x^2$ 网络')
    history = {odd.name: [(float("nan"), 0.5)]}
    rewards = {odd.name: [None, None], "random": [None, 0.5]}
    report = replace(report, rows=(*report.rows[:-1], odd), rewards=rewards, history=history)
    shown = drawings(report)
    assert [odd.name in texts(drawing.svg) for drawing in shown] == [True, True, True, True]
    assert drawings(replace(report, rewards={"amc": [None]}))


# ---- The page ----------------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Finds elements that are not closed, ids given twice, and whatever the page would load."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.loads, self.said = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self._look(tag, dict(attrs))

    def handle_startendtag(self, tag, attrs):
        self._look(tag, dict(attrs))

    def _look(self, tag, attrs):
        self.ids += [attrs["id"]] if "id" in attrs else []
        references = [attrs.get(name) or "" for name in ("src", "href", "xlink:href", "data", "action")]
        self.loads += [reference for reference in references if reference and not reference.startswith("#")]
        if tag in ("script", "link", "iframe", "img"):
            self.loads.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def test_the_page_stands_alone_and_is_well_formed():
    text = page(a_report())
    found = Checker(text)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert found.loads == []
    assert not re.search(r"https?:|@import|url\((?!#)", text)


def test_the_page_refers_only_to_what_it_holds():
    text = page(a_report())
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(Checker(text).ids)


def test_the_page_says_it_all():
    report = a_report()
    said = " ".join("".join(Checker(page(report)).said).replace("\xa0", " ").split())
    assert said.index(headline(report)) < said.index("At the same budget")
    for part in (
        "97.89",
        "1.60",
        "a residual stream",
        "secateur compress job.toml",
        "2 cores",
        "2025-04-01 12:30",
    ):
        assert part in said
    assert "prefers-color-scheme: dark" in page(report)
    assert page(report) == page(report)


def test_names_are_escaped():
    nasty = '<script>alert("1 & 2")</script>'
    report = a_report()
    report = replace(
        report,
        title=nasty,
        machine=nasty,
        command=nasty,
        budget=nasty,
        made=nasty,
        rows=(*report.rows[:-1], replace(report.delivered, name=nasty)),
        sites=(nasty,),
        layers=((nasty, 2, 1),),
        left_alone=((nasty, nasty),),
        rewards={nasty: [0.1]},
        history={nasty: [(0.1, 0.2)]},
    )
    text = page(report)
    assert "<script" not in text
    found = Checker(text)
    assert found.loads == []
    assert "".join(found.said).count(nasty) >= 8


def test_the_page_bears_what_is_missing():
    report = with_rows(a_report(1), latency_ms=None, file_bytes=None, after=None)
    bare = replace(report, rewards={}, layers=(), left_alone=(), history={})
    said = "".join(Checker(page(bare)).said)
    assert "latency" not in said
    assert "every group was searched" in said


def test_the_page_is_written_whole(tmp_path):
    place = write(a_report(), tmp_path / "new")
    assert place == tmp_path / "new" / "report.html"
    assert place.read_text(encoding="utf-8") == page(a_report())
    assert [path.name for path in place.parent.iterdir()] == ["report.html"]


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, secateur.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- Progress ----------------------------------------------------------------------------------------------


def a_study(sites=3):
    space = SimpleNamespace(sites=tuple(Site(f"s{n}", 16) for n in range(sites)), budget=Budget(macs=0.5))
    return Study(space, Outcome(0.99, DENSE, 0.0, 0.0))


def trial(number, reward=None):
    outcome = None if reward is None else Outcome(reward + 1, HALF, reward, 0.25)
    plan = Plan({"s0": 0.25, "s1": 0.5})
    return Trial(number, 0, plan, outcome, None if outcome else "ValueError: boom")


def finish(study, progress, new):
    study.trials.append(new)
    progress(study, new)


def quiet(width=80, encoding=None):
    out = StringIO()
    if encoding:
        out = SimpleNamespace(write=out.write, flush=out.flush, getvalue=out.getvalue, encoding=encoding)
    return Console(file=out, width=width), out


@pytest.mark.parametrize("trials", [1, 19, 20, 21, 400])
def test_a_search_without_a_terminal_says_a_few_lines(trials):
    console, out = quiet()
    study = a_study()
    with SearchProgress(trials, console=console) as progress:
        for number in range(trials):
            finish(study, progress, trial(number, reward=-1 / (number + 1)))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 21
    assert lines[-1].startswith(f"search {trials}/{trials}")
    best = -1 / trials
    assert f"score {best + 1:.4f}  reward {best:.4f}  macs 49.8 %  params 55.0 %  bytes 55.0 %" in lines[-1]
    assert lines[-1].endswith("keeps ▃▅█")


def test_failures_are_counted_and_the_first_is_explained():
    console, out = quiet()
    study = a_study()
    with SearchProgress(3, console=console) as progress:
        for number in range(3):
            finish(study, progress, trial(number))
    assert out.getvalue().count("trial 0 failed: ValueError: boom") == 1
    assert "search 3/3" in out.getvalue()
    assert "3 failed" in out.getvalue()
    assert "best" not in out.getvalue()


def test_a_trial_that_was_stopped_is_no_best():
    console, out = quiet()
    study = a_study()
    stopped = trial(1, reward=-0.1)
    stopped = replace(stopped, outcome=replace(stopped.outcome, complete=False))
    with SearchProgress(2, console=console) as progress:
        for each in (trial(0, reward=-0.3), stopped):
            finish(study, progress, each)
    assert "best (trial 0)" in out.getvalue().splitlines()[-1]


def test_a_resumed_search_goes_on_counting():
    console, out = quiet()
    study = a_study()
    study.trials = [trial(n, reward=-0.5) for n in range(30)] + [trial(30)]
    study.trials[7] = trial(7, reward=-0.01)
    with SearchProgress(40, console=console) as progress:
        finish(study, progress, trial(31, reward=-0.3))
    assert "search 32/40" in out.getvalue()
    assert "1 failed" in out.getvalue()
    assert "best (trial 7)" in out.getvalue()
    # Eight trials of a quarter of a second are left.
    assert "0:00:02 left  0.25 s each" in out.getvalue()


def test_the_pace_is_measured_by_the_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sys.modules["secateur.report.progress"], "monotonic", lambda: now[0])
    console, out = quiet()
    study = a_study()
    with SearchProgress(20, console=console) as progress:
        for number in range(10):
            now[0] += 4.0
            finish(study, progress, trial(number, reward=-0.5))
    assert "search 10/20  0:00:40 elapsed  0:0" in out.getvalue()
    # The first trial says of itself that it took 0.25 s; the nine after it took 4 s each.
    assert "0:00:36 left  3.62 s each" in out.getvalue()


def test_a_terminal_shows_a_live_display():
    out = StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    study = a_study(sites=300)
    with SearchProgress(2, name="amc", console=console) as progress:
        finish(study, progress, trial(0))
        finish(study, progress, trial(1, reward=-0.1))
    last = out.getvalue().split("amc ")[-1]
    assert "2/2" in last
    assert "1 failed" in last
    assert "keeps" in last
    assert max(map(len, last.splitlines())) <= 100


@pytest.mark.parametrize("terminal", [False, True])
def test_finishing_the_best_plans_is_told_and_what_came_of_it(terminal):
    out = StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, color_system=None)
    study = a_study()
    with SearchProgress(2, console=console) as progress:
        finish(study, progress, trial(0, reward=-0.1))
        assert "finishing" not in out.getvalue()
        finish(study, progress, trial(1, reward=-0.2))
        if not terminal:
            assert "finishing the best plans" in out.getvalue().splitlines()[-1]
        study.checked = {1: trial(1, reward=-0.05).outcome}
    assert "best once finished (trial 1): score 0.9500" in out.getvalue().split("search")[-1]


def test_a_study_found_finished_leaves_no_empty_bar():
    out = StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    with SearchProgress(2, name="amc", console=console):
        pass
    erase_line = "\x1b[2K"
    assert out.getvalue().rstrip().endswith(erase_line)


def test_output_that_knows_only_ascii_is_no_error():
    console, out = quiet(encoding="ascii")
    study = a_study()
    with SearchProgress(1, console=console) as progress:
        finish(study, progress, trial(0, reward=-0.1))
    out.getvalue().encode("ascii")
    assert "keeps" not in out.getvalue()


def test_small_bars_merge_neighbours_where_there_is_no_room():
    assert small_bars([0.01, 1.0], 10) == "▁█"
    assert small_bars([0.0, 0.0, 1.0, 1.0], 2) == "▁█"
    assert small_bars([], 10) == ""
    assert len(small_bars([0.5] * 100, 33)) == 33


def test_fine_tuning_shows_each_epoch():
    console, out = quiet()
    with FineTuneProgress(3, console=console) as progress:
        for number, score in enumerate([0.5, None, 0.75]):
            progress(SimpleNamespace(number=number, loss=1.5 - number, score=score, seconds=2.0))
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("fine-tune 1/3")
    assert lines[1].endswith("loss 0.5000")
    assert lines[2].endswith("loss -0.5000  top-1 0.7500")


def test_a_resumed_fine_tuning_goes_on_counting():
    console, out = quiet()
    with FineTuneProgress(10, console=console) as progress:
        progress(SimpleNamespace(number=6, loss=0.5, score=None, seconds=2.0))
    assert "fine-tune 7/10" in out.getvalue()
    assert "0:00:06 left" in out.getvalue()
    assert "top-1" not in out.getvalue()
