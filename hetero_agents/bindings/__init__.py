"""Which model fills a slot now: `hetero.toml` (people), `hetero.lock` (the command line), merged.

Whether a model exists is the engines' question; this room knows names, forms and files only.
"""

from .config import Config, ModelConfig, PrivacyConfig, SlotConfig, TierConfig
from .lock import CacheLock, Calibrator, Certificate, Lock, Router, Score, SlotLock, Specialist, SpecialistId
from .workspace import Binding, Workspace

__all__ = [
    "Binding",
    "CacheLock",
    "Calibrator",
    "Certificate",
    "Config",
    "Lock",
    "ModelConfig",
    "PrivacyConfig",
    "Router",
    "Score",
    "SlotConfig",
    "SlotLock",
    "Specialist",
    "SpecialistId",
    "TierConfig",
    "Workspace",
]
