"""The same recipe through mergekit and through pydelta: goldens that mergekit made, and each difference."""

import json
import math

import pytest
import torch
from paths import GOLDEN
from safetensors import safe_open

from pydelta import load_checkpoint, merge, save_checkpoint
from pydelta.cli import main
from pydelta.merging.recipes.mergekit_yaml import read_recipe

FOLDER = GOLDEN / "mergekit"
RECIPES = sorted(FOLDER.glob("recipes/*.yml"))


def goldens():
    """name -> state dict."""
    with safe_open(FOLDER / "goldens.safetensors", framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        found = {}
        for name in file.keys():  # noqa: SIM118
            parts = file.get_tensor(name).split([math.prod(shape) for shape in shapes.values()])
            found[name] = {
                tensor: part.view(shape) for (tensor, shape), part in zip(shapes.items(), parts, strict=True)
            }
    return found


GOLDENS = goldens()
BASE, MODELS = GOLDENS["base"], {name: GOLDENS[name] for name in "abc"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("base", *MODELS):
        save_checkpoint(GOLDENS[name], folder / name)
    return folder


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_gives_what_mergekit_made(recipe, inputs, monkeypatch, tmp_path):
    monkeypatch.chdir(inputs)
    flags = ["--mergekit"] if ".mergekit" in recipe.suffixes else []
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--quiet", *flags]) == 0
    found, wanted = load_checkpoint(tmp_path / "out"), GOLDENS[recipe.stem]
    for name, x in wanted.items():
        assert found[name].dtype is x.dtype
        # A handful of roundings in the dtype: mergekit rounds after every step.
        terms = BASE[name].abs() + sum(3 * (model[name] - BASE[name]).abs() for model in MODELS.values())
        bound = 4 * torch.finfo(x.dtype).eps * terms.double()
        assert ((found[name].double() - x.double()).abs() <= bound).all(), name


def test_recipes_that_need_the_option_fail_without_it(inputs, monkeypatch, tmp_path):
    """Otherwise the option would be tested by nothing."""
    monkeypatch.chdir(inputs)
    for recipe in RECIPES:
        if ".mergekit" not in recipe.suffixes or "rescaled" in recipe.stem:
            continue
        out = tmp_path / recipe.stem
        assert main(["merge", str(recipe), str(out), "--quiet"]) == 0
        found = load_checkpoint(out)
        assert any((found[name] - x).abs().max() > 1e-3 for name, x in GOLDENS[recipe.stem].items()), (
            recipe.stem
        )


def deltas(state, base=BASE):
    return {name: state[name].double() - base[name].double() for name in base}


def one(method, mergekit=False, **options):
    """The delta of one model after a merge of it alone."""
    return deltas(merge(BASE, {"a": MODELS["a"]}, method=method, mergekit=mergekit, **options))


def l1(state):
    return {name: x.abs().sum().item() for name, x in state.items()}


def test_random_masks_divide_by_keep_and_not_by_the_l1_norms():
    whole, ours, theirs = deltas(MODELS["a"]), *(one("dare_linear", m, density=0.5) for m in (False, True))
    for name, delta in whole.items():
        kept = ours[name].abs() > 1e-6
        assert torch.allclose(ours[name][kept], 2 * delta[kept], rtol=1e-4, atol=1e-6)
        assert torch.equal(theirs[name].abs() > 1e-6, kept)
        if kept.any():
            assert l1(theirs)[name] == pytest.approx(l1(whole)[name], rel=1e-4)


def test_della_divides_by_its_probabilities_and_not_by_the_l1_norms():
    whole = deltas(MODELS["a"])
    for options in ({"mergekit": True}, {"rescale": "l1"}):
        theirs = one("della_linear", density=0.5, epsilon=0.3, **options)
        for name, norm in l1(theirs).items():
            assert norm == pytest.approx(l1(whole)[name], rel=1e-4) or norm < 1e-6
    plain = one("della_linear", density=0.5, epsilon=0.3, rescale=False)
    ours = one("della_linear", density=0.5, epsilon=0.3)
    for name, delta in whole.items():
        kept = plain[name].abs() > 1e-6
        assert torch.allclose(plain[name][kept], delta[kept], rtol=1e-3, atol=1e-6)
        assert torch.equal(ours[name].abs() > 1e-6, kept)
        factors = ours[name][kept] / delta[kept]
        assert ((factors > 1 / 0.8001) & (factors < 1 / 0.1999)).all()


def test_outliers_go_at_density_1():
    whole, ours, theirs = deltas(MODELS["a"]), *(one("breadcrumbs", m, gamma=0.1) for m in (False, True))
    for name, delta in whole.items():
        dropped = math.floor(0.1 * delta.numel())
        assert (ours[name].abs() < 1e-7).sum() == dropped
        assert (theirs[name].abs() < 1e-7).sum() == 0
        assert ours[name].abs().max() <= delta.abs().max()


def test_gamma_0_drops_no_outlier():
    whole, ours = deltas(MODELS["a"]), one("breadcrumbs", density=0.5, gamma=0.0)
    for name, delta in whole.items():
        assert ours[name].abs().max() == pytest.approx(delta.abs().max().item(), rel=1e-4)
        assert (ours[name].abs() > 1e-7).sum() == math.floor(0.5 * delta.numel())


def test_a_trim_may_keep_nothing():
    ours, theirs = (one("ties", m, density=0.01) for m in (False, True))
    assert all((x == 0).all() for x in ours.values())
    assert all((x != 0).sum() == 1 for x in theirs.values())


def test_a_result_does_not_depend_on_the_order_of_the_models():
    given = {"density": {"a": 0.5, "b": 0.3, "c": 0.7}, "weights": {"a": 1.0, "b": 0.5, "c": 0.25}}
    one = merge(BASE, MODELS, method="dare_ties", **given)
    two = merge(BASE, dict(reversed(MODELS.items())), method="dare_ties", **given)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_keys_that_mergekit_ignores_are_refused(tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text(
        "merge_method: ties\nbase_model: .\nmodels: [{model: .., parameters: {lambda: 2}}]\nlam: 1\n"
    )
    problems = read_recipe(path).problems
    for part in ("key lam of the recipe is not supported", "is one of the whole recipe"):
        assert any(part in problem for problem in problems), part


def test_steps_are_not_rounded_to_the_dtype():
    """1 + 2^-7 twice over 1, in bf16: a sum of deltas rounded at every step would lose the halves."""
    step = 2.0**-7  # bf16's distance between neighbours at 1
    base = {"w": torch.full((4, 4), 1.0, dtype=torch.bfloat16)}
    tuned = {"w": torch.full((4, 4), 1 + step, dtype=torch.bfloat16)}
    weights = {"a": 0.3, "b": 0.3}
    merged = merge(base, dict.fromkeys("ab", tuned), method="task_arithmetic", weights=weights)
    assert float(merged["w"][0, 0]) == 1 + step  # 0.6 of a step, rounded once; 0.3 and 0.3 would round to 0


def test_equal_magnitudes_stay_by_their_index():
    base = {"w": torch.zeros(2, 4)}
    tuned = {"w": torch.tensor([[1.0, -1, 1, 1], [-1, 1, 1, -1]])}
    merged = merge(base, {"a": tuned}, method="ties", density=0.4)
    assert merged["w"].tolist() == [[1, -1, 1, 0], [0, 0, 0, 0]]


def test_dellas_probabilities_fall_by_2_epsilon_over_n():
    """Ranks 0 .. n - 1 of 4 with epsilon 0.2 about 0.5: 0.7, 0.6, 0.5 and 0.4."""
    base, rows = {"w": torch.zeros(20_000, 4)}, torch.tensor([4.0, 3, 2, 1]).repeat(20_000, 1)
    merged = merge(base, {"a": {"w": rows}}, method="della_linear", density=0.5, epsilon=0.2)["w"]
    kept = (merged != 0).double().mean(0)
    assert torch.allclose(kept, torch.tensor([0.7, 0.6, 0.5, 0.4], dtype=torch.float64), atol=0.018)
    factors = merged.max(0).values / rows[0]
    assert torch.allclose(factors, 1 / torch.tensor([0.7, 0.6, 0.5, 0.4]))
