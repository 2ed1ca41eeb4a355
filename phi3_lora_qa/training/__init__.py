"""Fine-tuning with the source's two dictionaries, through TRL and PEFT."""

from phi3_lora_qa.training.train import TrainResult, train, train_from_config
from phi3_lora_qa.training.training_config import TrainConfig, load_config

__all__ = ["TrainConfig", "TrainResult", "load_config", "train", "train_from_config"]
