from pathlib import Path

from phi3_lora_qa.data.training_data import load_training_data
from phi3_lora_qa.training import TrainResult


def test_the_card_has_the_base_the_data_the_recipe_and_the_losses(
    trained: TrainResult, rows: Path
) -> None:
    card = (trained.adapter / "README.md").read_text(encoding="utf-8")
    for part in (
        'base_model: "tiny"',
        load_training_data(rows).sha256,
        f"{trained.loss_before:.4f} before, {trained.loss_after:.4f} after",
        '"learning_rate": 0.003',
        '"lora_alpha": 8',
        "pytest --phi3-adapter",
        "36 to train, 4 to validate",
    ):
        assert part in card
