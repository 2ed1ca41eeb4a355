"""Fine-tuning with TRL's and PEFT's (or loralib's) own settings: config -> job -> run -> save."""

from phi3_lora_qa.training.job import TrainResult
from phi3_lora_qa.training.train import train, train_from_config
from phi3_lora_qa.training.training_config import TrainConfig, load_config

__all__ = ["TrainConfig", "TrainResult", "load_config", "train", "train_from_config"]
