"""The demo's views are what they claim, and the whole way through the files works in small."""

import json
import math

import pytest
import torch

import pydelta

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from pydelta.demo import data, run
from pydelta.demo.compare import LAMBDAS, Comparison
from pydelta.demo.data import PIXELS, VIEWS, features
from pydelta.demo.pipeline import STORES
from pydelta.demo.pipeline import run as pipeline
from pydelta.demo.report import LABELS, table
from pydelta.demo.train import Network, Recipe, train_all

TINY = Recipe(hidden=32, base_epochs=4, tune_epochs=2, base_rate=3e-3, tune_rate=1e-3)
SILENT = {"say": lambda line: None}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    return data.load(5)


@pytest.fixture
def pictures():
    """Three pictures whose pixels all differ, none halfway between black and white."""
    return (torch.randperm(192, generator=torch.Generator().manual_seed(0)).view(3, 8, 8) + 0.25) / 192


def test_eight_views_in_the_order_of_the_table():
    names = "plain inverted rotated mirrored transposed upside-down rolled binarised"
    assert list(VIEWS) == names.split()


@pytest.mark.parametrize(
    ("view", "times"),
    [
        ("plain", 1),
        ("inverted", 2),
        ("mirrored", 2),
        ("transposed", 2),
        ("upside-down", 2),
        ("rolled", 2),
        ("rotated", 4),
    ],
)
def test_a_view_comes_back_after_so_many_times_and_no_sooner(view, times, pictures):
    seen = pictures
    for turn in range(times):
        assert turn == 0 or not torch.allclose(seen, pictures)
        seen = VIEWS[view](seen)
    torch.testing.assert_close(seen, pictures, rtol=0, atol=1e-6)


def test_where_the_views_put_a_pixel():
    corner = torch.zeros(1, 8, 8)
    corner[0, 1, 2] = 1
    place = {name: [tuple(at) for at in VIEWS[name](corner)[0].nonzero().tolist()] for name in VIEWS}
    del place["inverted"]
    assert place == {
        "plain": [(1, 2)],
        "rotated": [(5, 1)],
        "mirrored": [(1, 5)],
        "transposed": [(2, 1)],
        "upside-down": [(6, 5)],
        "rolled": [(5, 6)],
        "binarised": [(1, 2)],
    }
    assert VIEWS["inverted"](corner).sum() == 63


def test_binarised_is_black_and_white(pictures):
    seen = VIEWS["binarised"](pictures)
    assert seen.unique().tolist() == [0, 1]
    assert torch.equal(seen.bool(), pictures > 0.5)


def test_features_enlarge_and_centre(pictures):
    x = features(pictures).view(3, PIXELS, PIXELS)
    assert torch.equal(x[:, ::4, ::4], 2 * pictures - 1)
    assert torch.equal(x[:, 3::4, 1::4], x[:, ::4, ::4])


def test_splits_are_disjoint_and_the_seed_s(digits):
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part.digits) for part in parts] == [1197, 150, 450]
    everything = torch.cat([part.pictures for part in parts])
    other = data.load(6)
    again = torch.cat([part.pictures for part in (other.train, other.validation, other.test)])
    assert not torch.equal(everything, again)
    assert torch.equal(everything.flatten(1).sum(1).sort().values, again.flatten(1).sum(1).sort().values)
    assert torch.equal(data.load(5).test.pictures, digits.test.pictures)


@pytest.mark.usefixtures("one_thread")
def test_training_learns_and_is_the_seed_s(digits):
    recipe = Recipe(hidden=32, base_epochs=6, tune_epochs=0, base_rate=3e-3)
    before = torch.get_rng_state()
    base, tuned = train_all(digits, recipe, 1, **SILENT)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(x.equal(tuned["rolled"][name]) for name, x in base.items())
    assert Comparison(digits, base, tuned, 1).accuracy(base, "plain") > 80
    again, _ = train_all(digits, recipe, 1, **SILENT)
    other, _ = train_all(digits, recipe, 2, **SILENT)
    assert all(x.equal(again[name]) for name, x in base.items())
    assert not any(x.equal(other[name]) for name, x in base.items())


def test_what_is_compared_is_what_the_methods_say(digits):
    """Base and deltas of small integers: the sums are exact."""
    torch.manual_seed(0)
    shapes = {name: x.shape for name, x in Network(16).state_dict().items()}
    base = {name: torch.randint(-8, 9, shape).float() for name, shape in shapes.items()}
    deltas = {
        view: {name: torch.randint(-4, 5, shape).float() for name, shape in shapes.items()}
        for view in ("plain", "rolled")
    }
    tuned = {view: {name: base[name] + x for name, x in delta.items()} for view, delta in deltas.items()}
    comparison = Comparison(digits, base, tuned, 7)
    merged, lam = comparison.task_arithmetic(tuned)
    assert lam in LAMBDAS
    for name, x in base.items():
        total = deltas["plain"][name] + deltas["rolled"][name]
        assert torch.equal(merged[name], x + torch.tensor(lam) * total)
    kept = comparison.superposed(tuned, "sign")
    for name, x in base.items():
        noise = (kept["plain"][name] - tuned["plain"][name]).abs()
        assert torch.equal(noise, deltas["rolled"][name].abs() if x.dim() == 2 else torch.zeros_like(x))
    alone = comparison.superposed(["rolled"], "sign")["rolled"]
    assert all(x.equal(tuned["rolled"][name]) for name, x in alone.items())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The whole demo with tiny networks: its folder and its result."""
    folder = tmp_path_factory.mktemp("demo")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return folder, pipeline(folder, TINY, seed=3, **SILENT)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ["sign", "hadamard", "one_bit"])
def test_another_process_retrieves_what_is_computed_in_memory(method, small, digits):
    def read(folder):
        return {view: pydelta.load_checkpoint(small[0] / folder / view) for view in VIEWS}

    base, tuned = pydelta.load_checkpoint(small[0] / "models/base"), read("models")
    made = STORES[method]
    comparison = Comparison(digits, base, tuned, small[1]["seed"])
    expected = comparison.superposed(tuned, made.transform, made.bits)
    for view, weights in read(f"retrieved-{method}").items():
        assert all(x.equal(expected[view][name]) for name, x in weights.items())
        assert not weights["2.weight"].equal(tuned[view]["2.weight"])


def test_sixteen_models_two_to_a_bucket(small):
    names = [*VIEWS, *(f"{view}-2" for view in VIEWS)]
    store = pydelta.Superposition.open(small[0] / "store-sixteen")
    assert store.models == sorted(names)
    found = store.describe()
    assert [len(bucket["models"]) for bucket in found["buckets"]] == [2] * 8
    assert (found["bits"], found["transform"]) == (1, "hadamard")
    first, second = (pydelta.load_checkpoint(small[0] / "models" / name) for name in ("rolled", "rolled-2"))
    assert not first["0.weight"].equal(second["0.weight"])


def test_accuracies_are_means_over_a_view_s_networks(digits):
    torch.manual_seed(0)
    a, b = Network(16).state_dict(), Network(16).state_dict()
    comparison = Comparison(digits, a, {}, 1)
    found = comparison.accuracies({"plain": a, "plain-2": b, "rolled": b})
    expected = (comparison.accuracy(a, "plain") + comparison.accuracy(b, "plain")) / 2
    assert found == {"plain": expected, "rolled": comparison.accuracy(b, "rolled")}


def test_other_bits_than_in_memory_are_an_error(tmp_path, monkeypatch):
    load = pydelta.load_checkpoint

    def zeros(path):
        return {name: 0 * x for name, x in load(path).items()}

    monkeypatch.setattr("pydelta.load_checkpoint", zeros)
    recipe = Recipe(hidden=16, base_epochs=0, tune_epochs=0)
    with pytest.raises(RuntimeError, match="store-sign gave other bits"):
        pipeline(tmp_path, recipe, seed=3, **SILENT)


def test_the_table_is_whole(small):
    result = small[1]
    assert list(result["methods"]) == list(LABELS)
    for method in result["methods"].values():
        assert list(method["accuracy"]) == list(VIEWS)
        assert all(0 <= score <= 100 for score in method["accuracy"].values())
        assert math.isclose(method["average"], sum(method["accuracy"].values()) / 8)
    for method in STORES:
        assert result["methods"][method]["milliseconds"] > 0
        assert result["methods"][method]["milliseconds_to_checkpoint"] > 0
    size = {name: method["bytes"] for name, method in result["methods"].items()}
    assert size["tuned"] == 8 * size["base"]
    assert size["task_arithmetic"] == size["base"]
    assert 2 * size["base"] < size["sign"] < 3 * size["base"]
    assert size["one_bit"] < size["sixteen"] < size["sign"]
    assert 0 < result["sixteen_tuned"] <= 100
    lines = table(result).splitlines()
    assert [line.split()[0] for line in lines[3:11]] == list(VIEWS)
    assert len({len(line) for line in lines[1:15]}) == 1


def test_the_curve_ends_where_the_table_stands(small):
    curve, methods = small[1]["curve"], small[1]["methods"]
    for name, scores in curve.items():
        assert len(scores) == 8
        assert math.isclose(scores[-1], methods[name]["average"])
    assert curve["sign"][0] == curve["tuned"][0]


def test_the_files(small):
    folder, result = small
    assert json.loads((folder / "demo.json").read_text()) == result
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "retrieved-sign/rolled/config.json").read_text())
    assert config == {"model_type": "digits-perceptron", "pixels": 32, "hidden_size": 32, "classes": 10}


def test_the_command_prints_the_table_or_the_numbers(small, tmp_path, monkeypatch, capsys):
    result = small[1]
    monkeypatch.setattr("pydelta.demo.pipeline.run", lambda *args, **options: result)
    assert run.main(["--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.startswith(table(result))
    assert run.main(["--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=-1"], "argument --seed: must lie in [0, 2**64), got -1"),
        (["--threads=0"], "argument --threads: must be at least 1, got 0"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_usage_errors_take_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"pydelta demo: {message}\n"


def test_only_a_demo_is_replaced_and_only_by_force(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match="already exists; --force replaces it"):
        run.main(["--out", str(tmp_path)])
    with pytest.raises(FileExistsError, match="not the folder of a demo"):
        run.main(["--out", str(tmp_path), "--force"])
    assert kept.read_text() == "mine"


def test_nothing_stays_of_a_demo_that_fails(tmp_path, monkeypatch):
    out = tmp_path / "demo"
    out.mkdir()
    (out / run.MARK).write_text("{}")

    def fail(folder, *args, **options):
        assert folder == out
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("pydelta.demo.pipeline.run", fail)
    with pytest.raises(RuntimeError, match="on fire"):
        run.main(["--out", str(out), "--force"])
    assert not out.exists()


def test_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pydelta\[demo\]'"):
        run.main(["--out", str(tmp_path / "demo")])
    assert not (tmp_path / "demo").exists()
