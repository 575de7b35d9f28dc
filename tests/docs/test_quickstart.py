"""The quickstart runs from its first block to its last, in one folder."""

import pytest
from pages import blocks, run_python, run_shell


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """(the folder, the names that the blocks left)."""
    folder, names = tmp_path_factory.mktemp("quickstart"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, text in blocks("docs/quickstart.md", "python", "sh"):
            if language == "sh":
                run_shell(text, folder)
            else:
                run_python(text, names)
                if "error" in names and "ratio" not in names:
                    names["ratio"] = float(names["error"].norm() / names["delta"].norm())
    return folder, names


def test_a_fine_tune_comes_back(walked):
    folder, names = walked
    assert 0 < names["ratio"] < 1
    assert (folder / "math-again" / "model.safetensors").is_file()


def test_a_batch_mixes_models(walked):
    _, names = walked
    torch = names["torch"]
    torch.testing.assert_close(names["mixed"][[0, 2]], names["y"][[0, 2]], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(names["mixed"][1], names["y"][1], rtol=1e-3, atol=1e-3)


def test_files_are_written(walked):
    folder, names = walked
    for path in ("merged", "pruned", "math-patched", "math.delta", "math.exact"):
        assert (folder / path).exists()
    assert names["h"] is names["c"]
