"""Every setting and every derived length, as frozen dataclasses without torch.

Knows what can be chosen, its defaults, and which combinations are impossible; does nothing. A string under a field is
the help line of its option. The named sizes of the published systems and the presets are in ``presets``.
"""

from flowreel.config.base import check_scale, flat, from_dict, to_dict
from flowreel.config.commands import (
    ConvertConfig,
    GenerateConfig,
    InfoConfig,
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
from flowreel.config.sampling import ResolvedSampling, SamplingConfig
from flowreel.config.training import (
    CodecTrainConfig,
    DataConfig,
    EMAConfig,
    FlowOptimConfig,
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
    "FlowOptimConfig",
    "GenerateConfig",
    "LatentShape",
    "InfoConfig",
    "LoopConfig",
    "MelConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PipelineConfig",
    "PrepareConfig",
    "ResolvedSampling",
    "RoleShares",
    "SamplingConfig",
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
