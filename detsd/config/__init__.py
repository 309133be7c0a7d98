"""What a YAML may say; the only reader of hyperparameters."""

from detsd.config.concepts import ConceptsConfig, Folder, Word
from detsd.config.experiment import Experiment
from detsd.config.finetune import (
    EarlyStopConfig,
    FinetuneConfig,
    TrainingConfig,
)
from detsd.config.grid import GridConfig
from detsd.config.hub import hub_token, hub_variable, is_exposed, model_folder
from detsd.config.inference import InferenceConfig
from detsd.config.method import (
    FullConfig,
    LoraConfig,
    MethodConfig,
    PriorConfig,
    TextualInversionConfig,
)
from detsd.config.model import ModelConfig
from detsd.config.read import ConfigError, read

__all__ = [
    "ConceptsConfig",
    "ConfigError",
    "EarlyStopConfig",
    "Experiment",
    "FinetuneConfig",
    "FullConfig",
    "Folder",
    "GridConfig",
    "InferenceConfig",
    "LoraConfig",
    "MethodConfig",
    "ModelConfig",
    "PriorConfig",
    "TextualInversionConfig",
    "TrainingConfig",
    "Word",
    "hub_token",
    "hub_variable",
    "is_exposed",
    "model_folder",
    "read",
]
