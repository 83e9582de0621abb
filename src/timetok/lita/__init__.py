"""LITA (arXiv 2403.19046) built from the pieces: configuration, processor, model, and the whole flow in one call."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from timetok.lita.modeling import LitaConfig, LitaForConditionalGeneration
from timetok.lita.processing import LitaProcessor

AutoConfig.register(LitaConfig.model_type, LitaConfig, exist_ok=True)
AutoProcessor.register(LitaConfig, LitaProcessor, exist_ok=True)
AutoModelForImageTextToText.register(LitaConfig, LitaForConditionalGeneration, exist_ok=True)

__all__ = ["LitaConfig", "LitaForConditionalGeneration", "LitaProcessor"]
