"""The optimizers in the real transformers.Trainer, on a tiny random model; and the example's plain loop."""

import importlib.util

import pytest
import torch
from paths import ROOT
from tensors import raises

from pydelta.optim import SAM, AdamR, MergePerturbation, attach

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

ROWS = [
    {"input_ids": torch.tensor([i % 13, 3 * i % 13, 1, 2]), "labels": torch.tensor(i % 2)} for i in range(32)
]


def model_of(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(vocab_size=13, max_position_embeddings=8, num_labels=2, **sizes, **none)
    model = transformers.BertForSequenceClassification(config)
    model.accepts_loss_kwargs = False  # it takes them and does not divide by them: then the trainer must
    return model


def trainer_of(folder, model, optimizer, batch=8, accumulate=1, **options):
    options = {"max_grad_norm": 0.0, "save_strategy": "no", "report_to": [], "disable_tqdm": True} | options
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=4,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        use_cpu=True,
        seed=0,
        lr_scheduler_type="constant",
        **options,
    )
    return transformers.Trainer(model, arguments, train_dataset=ROWS, optimizers=(optimizer, None))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.5)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("max_norm", [0.0, 0.05])
def test_sam_in_the_trainer_is_sam(tmp_path, max_norm):
    """Whole batches, the same in micro-batches, and a plain loop over the same batches: one result."""
    results = []
    for batch, accumulate in ((8, 1), (2, 4)):
        model = model_of()
        sam = SAM(sgd(model), rho=0.5)
        trainer = trainer_of(tmp_path, model, sam, batch, accumulate, max_grad_norm=max_norm)
        attach(trainer).train()
        assert sam.max_norm == (max_norm or None)
        results.append(weights(model))
    model = model_of()
    sam = SAM(sgd(model), rho=0.5, max_norm=max_norm or None)
    loader = trainer_of(tmp_path, model, sam).get_train_dataloader()
    for batch in loader:
        sam.step(lambda batch=batch: model(**batch).loss.backward())
    results.append(weights(model))
    assert float((results[0] - weights(model_of())).abs().max()) > 1e-3
    for found in results[1:]:
        assert torch.allclose(found, results[0], atol=1e-6)


def test_adamr_and_merge_perturbation_need_no_attaching(tmp_path):
    for seed in (0, 1):
        model = model_of()
        base = {name: x.clone() for name, x in model_of(seed).state_dict().items()}
        adamr = AdamR(model.named_parameters(), base, lr=1e-2, weight_decay=0.1)
        trainer_of(tmp_path, model, adamr).train()
        noisy = MergePerturbation(adamr, base, models=8, alpha=0.3, model=model)
        trainer_of(tmp_path, model, noisy, batch=4, accumulate=2).train()
        assert noisy.taken == 4
        assert not noisy._moved
        assert bool(weights(model).isfinite().all())
        assert {adamr.state[p]["step"] for p in model.bert.embeddings.parameters()} == {8}


def test_what_cannot_be_attached(tmp_path):
    model = model_of()
    trainer = trainer_of(tmp_path, model, sgd(model))
    with raises(TypeError, "[attach] trainer must have a pydelta.optim.SAM as its optimizer, got SGD"):
        attach(trainer)
    trainer = trainer_of(tmp_path, model, SAM(sgd(model)))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    message = "[attach] trainer must train without a gradient scaler (bf16 or fp32), got fp16"
    with raises(ValueError, message):
        attach(trainer)


def test_the_example_learns():
    path = ROOT / "examples" / "train.py"
    specification = importlib.util.spec_from_file_location("train", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.main(steps=25) > 0.8
