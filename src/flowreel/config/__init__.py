"""Every setting and every derived length, as frozen dataclasses. Torch-free, so that the command line starts at once.

Knows: what can be chosen, its defaults, and which combinations are impossible. Does not know: how anything is done.
The named sizes of the published systems and the presets are in ``presets.py``.
"""

from flowreel.config.base import check_scale, flat, from_dict, to_dict
from flowreel.config.commands import (
    ConvertConfig,
    GenerateConfig,
    LoadConfig,
    PrepareConfig,
    ServeConfig,
    SynchronyConfig,
    WorldConfig,
)
from flowreel.config.pipeline import (
    FORMAT_VERSION,
    AudioCodecConfig,
    CodecConfig,
    LatentShape,
    MelConfig,
    ModelConfig,
    PipelineConfig,
    Timing,
    Trained,
    VideoCodecConfig,
    VideoKind,
)
from flowreel.config.training import (
    CodecTrainConfig,
    DataConfig,
    EMAConfig,
    LoopConfig,
    ObjectiveConfig,
    OptimConfig,
    RoleShares,
    SinusoidsTrainConfig,
    TrainConfig,
    VocoderTrainConfig,
)

__all__ = [
    "AudioCodecConfig",
    "CodecConfig",
    "CodecTrainConfig",
    "ConvertConfig",
    "DataConfig",
    "EMAConfig",
    "FORMAT_VERSION",
    "GenerateConfig",
    "LatentShape",
    "LoadConfig",
    "LoopConfig",
    "MelConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PipelineConfig",
    "PrepareConfig",
    "RoleShares",
    "ServeConfig",
    "SinusoidsTrainConfig",
    "SynchronyConfig",
    "Timing",
    "TrainConfig",
    "Trained",
    "VideoCodecConfig",
    "VideoKind",
    "VocoderTrainConfig",
    "WorldConfig",
    "check_scale",
    "flat",
    "from_dict",
    "to_dict",
]
