"""Internal: fine-tuning with the settings of TRL and PEFT (or loralib): config, job, run, save."""

from phi3_lora_qa.training.job import TrainResult as TrainResult
from phi3_lora_qa.training.train import train as train
from phi3_lora_qa.training.train import train_from_config as train_from_config
from phi3_lora_qa.training.training_config import TrainConfig as TrainConfig
from phi3_lora_qa.training.training_config import load_config as load_config
