"""A dozen of the model classes of docs/architectures.md; ``make architectures`` runs them all."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", minversion="5")
sys.path.insert(0, str(Path(__file__).parents[1] / "architectures"))

import kinds
import run

CHOSEN = [
    "DebertaForMaskedLM",
    "MPNetForMaskedLM",
    "LongformerForMaskedLM",
    "XLNetLMHeadModel",
    "GPTNeoXForCausalLM",
    "DiffLlamaForCausalLM",
    "MixtralForCausalLM",
    "MambaForCausalLM",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
    "Wav2Vec2ForCTC",
    "SwinForImageClassification",
    "LlavaForConditionalGeneration",
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.mark.parametrize("name", CHOSEN)
def test_right_from_file_to_mixed_batch(name):
    (kind,) = (kind for kind in kinds.KINDS if kind.name == name)
    row = run.row_of(kind)
    assert set(row.values()) <= {"right", "-"}, row
    assert list(row) == list(run.STEPS)


def test_the_document_has_every_class_and_nothing_wrong():
    table = DOCUMENT.read_text().split("| model |")[1]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [kind.name for kind in kinds.KINDS]
    assert len(lines) >= 60
    assert not [line for line in lines if "WRONG" in line or "traceback" in line]
